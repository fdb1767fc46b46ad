#!/usr/bin/env bash
# stress-ng's filesystem stressors one after another, fs_mark, dbench and postmark on a mount; then the daemon is looked at.
# usage: stress.sh [SECONDS_EACH=3] [INSTANCES=2]      (root; Debian packages stress-ng fsmark dbench postmark)
#
# Fails when a program fails, hangs or finds wrong data; when a process is left in D state, a request is left waiting in the
# kernel's queue; or when the daemon is left with more descriptors or (second pass against first) more memory.
. "$(dirname "$0")/common.sh"
SECONDS_EACH=${1:-3} INSTANCES=${2:-2}
# Some programs leave notes where they are called.
cd "$WORK"
MNT=$WORK/mnt
LOG=$WORK/log
STRESSORS='access chdir chmod chown copy-file dentry dir dirdeep dirmany dup fallocate fcntl fiemap file-ioctl filename flock
    fpunch fstat getdent hdd inode-flags io iomix lease link locka lockf lockofd metamix mknod mmap msync open readahead
    rename revio seal seek sendfile splice symlink sync-file touch unlink utime verity xattr'
OK=0 FAILED=0 SKIPPED=0

verdict() { # NAME STATUS
    case $2 in
    0) OK=$((OK + 1)) ;;
    # What stress-ng says when a stressor finds nothing to do here.
    3 | 4 | 7) SKIPPED=$((SKIPPED + 1)); echo "$1: skipped" ;;
    124) FAILED=$((FAILED + 1)); echo "$1: HANGS" ;;
    *) FAILED=$((FAILED + 1)); echo "$1: FAILED ($2)"; grep -iE 'fail|error|cannot' "$LOG" | head -5 || tail -5 "$LOG" ;;
    esac
}

attempt() { # NAME COMMAND...
    local name=$1 status=0
    shift
    timeout $((SECONDS_EACH * 10 + 120)) "$@" >"$LOG" 2>&1 || status=$?
    verdict "$name" "$status"
}

waiting() { # Requests that the kernel holds for the mount.
    local device
    device=$(stat -c %d "$MNT")
    cat "$CONNECTIONS/$device/waiting"
}

settled() { # What was closed is released in the background: waits until nothing is left of it.
    local descriptors=0
    for _ in $(seq 100); do
        descriptors=$(find "/proc/$PID/fd" -mindepth 1 | wc -l)
        [ "$(waiting)" = 0 ] && [ "$descriptors" -le "$1" ] && return 0
        sleep 0.2
    done
    echo "left: $(waiting) waiting requests, $descriptors descriptors (allowed: $1)"
    return 1
}

memory_kib() { awk '/^VmRSS/ { print $2 }' "/proc/$PID/status"; }

CONNECTIONS=/sys/fs/fuse/connections
if [ -z "$(ls "$CONNECTIONS")" ]; then
    CONNECTIONS=$WORK/connections
    mkdir "$CONNECTIONS"
    mount -t fusectl none "$CONNECTIONS"
fi
stress-ng --help >"$WORK/known" 2>&1
up a "$MNT"
PID=$(daemon a)
echo x >"$MNT/first"
sv a commit "$MNT" >/dev/null
DESCRIPTORS=$(find "/proc/$PID/fd" -mindepth 1 | wc -l)
# The cache may keep 256 files open, the pool of bodies some more.
ALLOWED=$((DESCRIPTORS + 300))
STARTED=$SECONDS
for pass in 1 2; do
    OK=0 FAILED_BEFORE=$FAILED
    mkdir "$MNT/stress"
    chmod 777 "$MNT/stress"
    for stressor in $STRESSORS; do
        grep -q -- "--$stressor N" "$WORK/known" || { SKIPPED=$((SKIPPED + 1)); continue; }
        attempt "stress-ng $stressor" stress-ng --temp-path "$MNT/stress" "--$stressor" "$INSTANCES" \
            --timeout "${SECONDS_EACH}s" --verify --hdd-bytes 64m --iomix-bytes 64m
    done
    # It takes no path of 40 bytes or more.
    cd "$MNT/stress"
    attempt fs_mark fs_mark -d fs_mark -n 500 -s 8192 -t 2 -S 1 -l "$WORK/fs_log"
    cd "$WORK"
    attempt dbench dbench -c /usr/share/dbench/client.txt -D "$MNT/stress" -t $((SECONDS_EACH * 3)) -R 1000 2
    printf 'set location %s\nset number 1000\nset transactions 3000\nset size 500 20000\nrun\nquit\n' "$MNT/stress" >"$WORK/postmark"
    attempt postmark postmark "$WORK/postmark"
    rm -rf "$MNT/stress"
    sv a commit "$MNT" >/dev/null
    # The kernel forgets inodes only when told to; what it remembers the daemon must remember.
    echo 2 >/proc/sys/vm/drop_caches
    settled "$ALLOWED" || FAILED=$((FAILED + 1))
    stuck=$(ps -eo pid,state,args | awk -v work="$WORK" '$2 ~ /^D/ && (index($0, work) || /stress-ng|fs_mark|dbench|postmark/)')
    [ -z "$stuck" ] || { FAILED=$((FAILED + 1)); echo "in D state: $stuck"; }
    eval "MEMORY_$pass=$(memory_kib)"
    echo "pass $pass: ok=$OK failed=$((FAILED - FAILED_BEFORE)) memory=$(memory_kib) KiB descriptors=$(find "/proc/$PID/fd" -mindepth 1 | wc -l)"
done
# The allocator may keep some of the peak; a leak of a pass would be there twice.
if [ $((MEMORY_2 - MEMORY_1)) -gt 65536 ]; then
    FAILED=$((FAILED + 1))
    echo "the daemon grew by $((MEMORY_2 - MEMORY_1)) KiB in the second pass"
fi
down a "$MNT"
echo "stress: ok=$OK skipped=$SKIPPED failed=$FAILED seconds=$((SECONDS - STARTED))"
exit $((FAILED > 0))
