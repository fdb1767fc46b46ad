#!/usr/bin/env bash
# Real programs on a mount, each checked for a right answer. Then everything is committed, and a second pod with nothing on its
# machine mounts the volume at the same place: there the checks must pass again.
# usage: apps.sh [PROGRAM...]      (root; git, cargo, sqlite3, python3-venv, postgresql, npm; pip and npm use the network)
. "$(dirname "$0")/common.sh"
MNT=$WORK/mnt
LOG=$WORK/log
PROGRAMS=${*:-git cargo sqlite sqlite_writers venv postgres tar npm notebook}
OK=0 SKIPPED=0 FAILED=0

# says_nothing_of PATTERN: reads all, fails when a line is of that kind.
says_nothing_of() { [ "$(grep -c "$1")" = 0 ]; }

# ---- git: the same history as on the local disk ----
history() {
    git init -q -b main "$1"
    (
        cd "$1"
        git config user.name someone
        git config user.email someone@example.org
        git config gc.auto 0
        export GIT_AUTHOR_DATE='1750000000 +0000' GIT_COMMITTER_DATE='1750000000 +0000'
        for round in $(seq 50); do
            mkdir -p "part$((round % 6))/sub$((round % 4))"
            for file in 1 2 3 4 5; do
                seq $((round * file)) $((round * file + 150)) >"part$((round % 6))/sub$((round % 4))/file$file-$round"
            done
            git add -A
            git commit -q -m "round $round"
            [ $((round % 10)) != 0 ] || git branch "at$round"
        done
    )
}
git_make() {
    history repository
    history "$WORK/reference"
    git clone -q repository clone
    git -C clone repack -adfq
    git -C clone gc -q --prune=now
    git -C repository checkout -q at20
    git -C repository checkout -q main
}
git_check() {
    [ "$(git -C repository rev-parse HEAD)" = "$(git -C "$WORK/reference" rev-parse HEAD)" ]
    [ -z "$(git -C repository status --porcelain)" ]
    git -C clone fsck --full --strict
    diff -r --exclude=.git repository "$WORK/reference"
    git -C repository switch -q -c "new-$RANDOM"
    git -C repository switch -q main
}

# ---- cargo: builds, and knows afterwards that nothing has changed ----
cargo_make() {
    cargo new -q --vcs none hello
    cd hello
    for number in $(seq 30); do
        echo "pub fn f(x: u64) -> u64 { x.wrapping_mul($number).rotate_left(3) ^ $number }" >"src/m$number.rs"
    done
    {
        for number in $(seq 30); do echo "mod m$number;"; done
        echo 'fn main() { let mut x = 1u64;'
        for number in $(seq 30); do echo "x = m$number::f(x);"; done
        echo 'println!("{x}"); }'
    } >src/main.rs
    cargo build -q --offline
    ./target/debug/hello >answer
}
cargo_check() {
    cd hello
    [ "$(./target/debug/hello)" = "$(cat answer)" ]
    # Times to the nanosecond decide that.
    cargo build -v --offline 2>&1 | says_nothing_of 'Dirty\|Compiling\|Running'
    touch src/m7.rs
    cargo build -q --offline
    [ "$(./target/debug/hello)" = "$(cat answer)" ]
}

# ---- SQLite: every journal mode, and several processes ----
sqlite_make() {
    for mode in delete truncate persist wal; do
        sqlite3 "$mode.db" "pragma journal_mode=$mode; pragma synchronous=full;
            create table t(a integer primary key, b text);
            with recursive c(i) as (select 1 union all select i + 1 from c where i < 4000)
            insert into t select i, hex(zeroblob(80)) from c;
            update t set b = 'changed ' || a where a % 3 = 0; delete from t where a % 7 = 0; vacuum;" >/dev/null
        sqlite3 "$mode.db" 'select count(*), sum(length(b)), sum(a) from t' >"$mode.sum"
    done
    [ "$(cat delete.sum)" = "$(cat wal.sum)" ] && [ "$(cut -d '|' -f 1 wal.sum)" = 3429 ]
}
sqlite_check() {
    for mode in delete truncate persist wal; do
        [ "$(sqlite3 "$mode.db" 'pragma integrity_check')" = ok ]
        [ "$(sqlite3 "$mode.db" 'select count(*), sum(length(b)), sum(a) from t')" = "$(cat "$mode.sum")" ]
        sqlite3 "$mode.db" 'begin; update t set b = b || 1; rollback;'
    done
}
sqlite_writers_make() {
    sqlite3 counter.db 'create table n(x int); insert into n values(0);'
    local writers=()
    for _ in 1 2 3 4; do
        (for _ in $(seq 40); do sqlite3 -cmd '.timeout 30000' counter.db 'update n set x = x + 1'; done) &
        writers+=($!)
    done
    local writer
    for writer in "${writers[@]}"; do wait "$writer"; done
}
sqlite_writers_check() { [ "$(sqlite3 counter.db 'select x from n')" = 160 ]; }

# ---- Python: an environment with packages ----
venv_make() {
    python3 -m venv env
    env/bin/pip install -q --disable-pip-version-check --no-cache-dir idna==3.7 six==1.16.0
    env/bin/python -m compileall -q env/lib >/dev/null
}
venv_check() {
    env/bin/python -c 'import idna, six; assert idna.encode("ドメイン.テスト") == b"xn--eckwd4c7c.xn--zckzah"'
    env/bin/pip check
    # Compiled files are still newer than their sources.
    env/bin/python -v -c 'import idna' 2>&1 | says_nothing_of 'wrote.*idna'
}

# ---- PostgreSQL: a crash, recovery, and another crash before the commit ----
postgres_run() { # SHELL_COMMANDS with $BIN, $DATA, $SOCKET
    chown postgres "$SOCKET"
    setpriv --reuid postgres --regid postgres --init-groups env BIN="$BIN" DATA="$PWD/data" SOCKET="$SOCKET" HOME=/tmp sh -ec "cd /; $1"
}
postgres_find() {
    BIN=$(find /usr/lib/postgresql -maxdepth 2 -name bin | sort | tail -1)
    SOCKET=$(mktemp -d "$WORK/socket.XXXX")
}
POSTGRES_START='"$BIN/pg_ctl" -D "$DATA" -w -l "$SOCKET/log" -o "-c listen_addresses= -c unix_socket_directories=$SOCKET -c shared_buffers=16MB" start >/dev/null'
POSTGRES_SUM='[ "$("$BIN/psql" -h "$SOCKET" -Atc "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)" postgres)" = t ]'
postgres_make() {
    postgres_find
    mkdir data
    chown postgres data
    chmod 700 data
    postgres_run '"$BIN/initdb" -D "$DATA" -A trust >/dev/null'
    postgres_run "$POSTGRES_START"
    postgres_run '"$BIN/pgbench" -h "$SOCKET" -q -i -s 1 postgres && "$BIN/pgbench" -h "$SOCKET" -c 4 -t 150 postgres >/dev/null
        "$BIN/pg_ctl" -D "$DATA" -m immediate stop >/dev/null'
}
postgres_check() {
    postgres_find
    postgres_run "$POSTGRES_START; $POSTGRES_SUM; \"\$BIN/pg_ctl\" -D \"\$DATA\" -m immediate stop >/dev/null"
}

# ---- tar and cp: a tree there and back ----
tar_make() {
    tar -C /usr/lib/python3 -cf "$WORK/tree.tar" dist-packages
    tar -xf "$WORK/tree.tar"
    cp -a dist-packages copy
    mv copy moved
}
tar_check() {
    tar -df "$WORK/tree.tar"
    diff -r --no-dereference dist-packages moved
}

npm_make() { npm init -y >/dev/null && npm install --silent --no-audit --no-fund semver@7.6.0 >/dev/null; }
npm_check() { node -e 'if (!require("semver").gt("2.0.0", "1.9.9")) process.exit(1)'; }

# ---- what a notebook server does: write beside, fsync, rename over ----
notebook_make() {
    python3 - <<'PYTHON'
import json, os
for number in range(300):
    with open(".notebook.tmp", "w") as f:
        json.dump({"cells": [{"source": "x" * number}], "number": number}, f)
        f.flush()
        os.fsync(f.fileno())
    os.replace(".notebook.tmp", "notebook.ipynb")
    assert json.load(open("notebook.ipynb"))["number"] == number
PYTHON
}
notebook_check() { python3 -c 'import json; assert json.load(open("notebook.ipynb"))["number"] == 299'; }

missing() { # PROGRAM: what this machine lacks for it
    case $1 in
    npm) command -v npm node >/dev/null || echo npm ;;
    postgres) [ -d /usr/lib/postgresql ] || echo postgresql ;;
    sqlite*) command -v sqlite3 >/dev/null || echo sqlite3 ;;
    esac
}

phase() { # make|check WHERE
    local program status
    for program in $PROGRAMS; do
        [ -z "$(missing "$program")" ] || continue
        [ ! -e "$WORK/failed-$program" ] || continue
        mkdir -p "$MNT/$program"
        status=0
        # A shell of its own: `set -e` means nothing in the condition of an `if`.
        (cd "$MNT/$program" && set -e && "${program}_$1") >"$LOG" 2>&1 &
        wait $! || status=$?
        if [ "$status" != 0 ]; then
            touch "$WORK/failed-$program"
            echo "$program: $1 $2: FAILED ($status)"
            tail -5 "$LOG"
        fi
    done
}

chmod_all() { chmod 755 "$WORK" "$MNT"; }
STARTED=$SECONDS
up a "$MNT"
chmod_all
phase make 'in the first pod'
phase check 'in the first pod'
sv a commit "$MNT" -m applications >/dev/null
down a "$MNT"
up b "$MNT"
phase check 'in a second pod, after the commit'
sv b commit "$MNT" -m 'checked' >/dev/null
down b "$MNT"
for program in $PROGRAMS; do
    if [ -n "$(missing "$program")" ]; then
        SKIPPED=$((SKIPPED + 1))
        echo "$program: skipped, needs $(missing "$program")"
    elif [ -e "$WORK/failed-$program" ]; then
        FAILED=$((FAILED + 1))
    else
        OK=$((OK + 1))
    fi
done
echo "applications: ok=$OK skipped=$SKIPPED failed=$FAILED seconds=$((SECONDS - STARTED))"
exit $((FAILED > 0))
