# Sourced by the campaigns: a volume in a directory store, mounted by the release build in a scratch directory, by pods that
# have a state, a cache and a mount point each. Everything is unmounted and deleted at the end.
#
# SCRATCH         where the scratch directory is made (default: /tmp); state and cache lie there too
# MOUNT_OPTIONS   more options for every `sailvol mount`, e.g. '--passthrough off'
# SAILVOL         the program (default: target/release/sailvol, built when it is missing)
set -euo pipefail
REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
SAILVOL=${SAILVOL:-$REPOSITORY/target/release/sailvol}
[ -x "$SAILVOL" ] || (cd "$REPOSITORY" && cargo build --release --workspace --bins)
[ "$(id -u)" = 0 ] || { echo "run this as root: programs take on other users' identities" >&2; exit 2; }
WORK=$(mktemp -d "${SCRATCH:-/tmp}/sailvol-campaign.XXXXXX")
chmod 755 "$WORK"
export SAILVOL_STORE="file://$WORK/store"

# sv POD ARGUMENT...: the program as a pod sees the world.
sv() {
    local pod=$1
    shift
    mkdir -p "$WORK/$pod"
    SAILVOL_STATE_DIR="$WORK/$pod/state" SAILVOL_CACHE_DIR="$WORK/$pod/cache" SAILVOL_RUNTIME_DIR="$WORK/$pod/run" \
        "$SAILVOL" "$@"
}

# up POD DIR [OPTION...]: mounts the volume "campaign" there.
up() {
    local pod=$1 dir=$2
    shift 2
    mkdir -p "$dir"
    # shellcheck disable=SC2086
    sv "$pod" mount campaign "$dir" --create ${MOUNT_OPTIONS:-} "$@" >/dev/null
}

# down POD DIR: unmounts, and waits for the daemon's end.
down() {
    local pid
    pid=$(daemon "$1")
    sv "$1" umount "$2" >/dev/null
    for _ in $(seq 300); do [ -d "/proc/$pid" ] || return 0; sleep 0.1; done
    echo "the daemon $pid does not end" >&2
    return 1
}

# daemon POD: its process.
daemon() { sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' "$WORK/$1"/run/*.json | head -1; }

finish() {
    local status=$?
    local dir
    cd /
    while read -r dir; do
        umount "$dir" 2>/dev/null || umount -l "$dir" || true
    done < <(awk -v work="$WORK/" 'index($5, work) == 1 { print $5 }' /proc/self/mountinfo)
    if [ "$status" != 0 ] && [ -n "${KEEP:-}" ]; then
        echo "kept: $WORK" >&2
    else
        rm -rf "$WORK"
    fi
    exit "$status"
}
trap finish EXIT
