#!/usr/bin/env bash
# fsx on a mount: random reads, writes, mappings, truncations, holes and copies on one file, checked against memory.
# usage: fsx.sh [SEEDS=50] [OPERATIONS=20000] [FIRST_SEED=1]      (root; needs fsx: cargo install --locked fsx@0.3.2)
#
# Each seed runs three times:
#   plain     a file of up to 256 KiB
#   commits   the same with a commit every 1,000 operations
#   small     a file of up to 40 MiB under a cache of 64 MiB, with commits, and other bytes read through the cache in between
# MODES names fewer of them. At the end of each mode all files are committed, and a pod without local state must read the
# same bytes.
. "$(dirname "$0")/common.sh"
SEEDS=${1:-50} OPERATIONS=${2:-20000} FIRST=${3:-1}
command -v fsx >/dev/null || { echo "fsx is missing: cargo install --locked fsx@0.3.2" >&2; exit 2; }
MNT=$WORK/mnt
FAILED=0

configuration() { # LENGTH OPERATION_SIZE
    cat <<TOML
flen = $1
[opsize]
max = $2
[weights]
close_open = 1
invalidate = 1
mapread = 5
mapwrite = 5
read = 5
write = 5
truncate = 3
fsync = 0.2
fdatasync = 0.2
posix_fallocate = 1
punch_hole = 1
sendfile = 1
posix_fadvise = 1
copy_file_range = 1
TOML
}

# Passes on the last lines, and runs a command after every thousandth.
every_thousand() {
    local lines=0 line
    while IFS= read -r line; do
        lines=$((lines + 1))
        echo "$line" >&3
        [ $((lines % 1000)) != 0 ] || "$@"
    done
}

commit() { sv a commit "$MNT" >/dev/null 2>&1 || echo "a commit failed" >"$WORK/commit-failed"; }
commit_and_read() { commit; cat "$MNT/noise" >/dev/null; }

run() { # SEED MODE
    local seed=$1 mode=$2 log=$WORK/log
    mkdir -p "$WORK/artifacts"
    local command=(timeout 1800 fsx -N "$OPERATIONS" -S "$seed" -P "$WORK/artifacts" -f "$WORK/fsx.toml")
    case $mode in
    plain) "${command[@]}" "$MNT/f$seed" >"$log" 2>&1 ;;
    commits) "${command[@]}" -v "$MNT/f$seed" 2>&1 | every_thousand commit 3>"$log" ;;
    small) "${command[@]}" -v "$MNT/f$seed" 2>&1 | every_thousand commit_and_read 3>"$log" ;;
    esac
}

# fsx gives up at a posix_fallocate of no bytes, which some seeds come to (208 with 20,000 operations): the same operations end
# at the same place without sailvol then.
fails_without() { # SEED
    local last
    last=$(tail -1 "$WORK/log")
    mkdir -p "$WORK/local"
    ! timeout 1800 fsx -N "$OPERATIONS" -S "$1" -P "$WORK/artifacts" -f "$WORK/fsx.toml" "$WORK/local/f" >"$WORK/local.log" 2>&1 &&
        [ "$(tail -1 "$WORK/local.log")" = "$last" ]
}

for mode in ${MODES:-plain commits small}; do
    started=$SECONDS
    options=()
    configuration 262144 65536 >"$WORK/fsx.toml"
    if [ "$mode" = small ]; then
        options=(--cache-size 64M)
        configuration 41943040 1048576 >"$WORK/fsx.toml"
    fi
    up a "$MNT" "${options[@]}"
    [ "$mode" != small ] || { head -c 50331648 /dev/urandom >"$MNT/noise"; commit; }
    failed=0
    for seed in $(seq "$FIRST" $((FIRST + SEEDS - 1))); do
        if ! run "$seed" "$mode" || [ -e "$WORK/commit-failed" ]; then
            if [ ! -e "$WORK/commit-failed" ] && fails_without "$seed"; then
                echo "$mode, seed $seed: ends on the local filesystem in the same way ($(grep -v '^\[' "$WORK/log" | head -1))"
            else
                failed=$((failed + 1))
                echo "$mode, seed $seed: FAILED"
                tail -5 "$WORK/log"
            fi
            rm -f "$WORK/commit-failed"
        fi
        # Large files of many seeds would be nothing but room.
        [ "$mode" != small ] || [ $((seed % 5)) = 0 ] || rm -f "$MNT/f$seed"
    done
    sv a commit "$MNT" >/dev/null
    (cd "$MNT" && find . -type f -print0 | sort -z | xargs -0 sha256sum) >"$WORK/sums"
    up fresh "$WORK/fresh-mnt"
    (cd "$WORK/fresh-mnt" && sha256sum --quiet -c "$WORK/sums") || { failed=$((failed + 1)); echo "$mode: a fresh pod reads other bytes"; }
    down fresh "$WORK/fresh-mnt"
    rm -rf "$WORK/fresh" "${MNT:?}"/*
    down a "$MNT"
    echo "fsx $mode: seeds=$SEEDS operations=$OPERATIONS failed=$failed seconds=$((SECONDS - started))"
    FAILED=$((FAILED + failed))
done
exit $((FAILED > 0))
