#!/bin/bash
# Runs a master and its replicas on this machine, to try things on, with their logs side by side;
# Ctrl-C stops them.
set -eu -o pipefail

usage() {
    cat <<'TEXT'
usage: scripts/dev-cluster.sh [OPTION...]

Starts a master and its replicas on 127.0.0.1, creates an admin, prints the addresses and
the admin's password, and then the logs of all servers, each line with the name of its server.
Ctrl-C stops them, the replicas first. If one ends by itself, the others are stopped too, and
the exit code is 1.

  --replicas N    replicas (default 2, at most 16; 0 for a master alone)
  --port PORT     port of the master; the replicas use the next ones (default: free ports)
  --dir DIR       folder for the data and logs of the servers, one folder each; it is kept, and
                  the next run continues with it (default: a temporary folder)
  --binary PATH   server to run (default: target/release/vski, dist/vski, then $PATH)
  --help          this text

Options of the server, such as LOG or TOKEN_HOURS, are read from the environment and apply to
all servers; the default of SYNC_INTERVAL is 1 here.
TEXT
}

# shellcheck source-path=SCRIPTDIR source=common/shell.sh
. "$(dirname "${BASH_SOURCE[0]}")/common/shell.sh"

replicas=2 port='' dir='' binary=''
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --replicas | --port | --dir | --binary)
            [ $# -gt 1 ] || fail "$1 needs a value"
            declare "${1#--}=$2"
            shift
            ;;
        *) fail "unknown option: $1 (see --help)" ;;
    esac
    shift
done
case $replicas in
    '' | *[!0-9]* | ???*) fail "--replicas takes a number from 0 to 16: $replicas" ;;
esac
replicas=$((10#$replicas))
[ "$replicas" -le 16 ] || fail "--replicas takes a number from 0 to 16: $replicas"
case $port in
    *[!0-9]* | ??????*) fail "--port takes a port: $port" ;;
    ?*)
        port=$((10#$port))
        if [ "$port" -lt 1 ] || [ $((port + replicas)) -gt 65535 ]; then
            fail "--port takes a port that leaves room for one port per replica above it: $port"
        fi
        ;;
esac
need curl od sed tail

binary=$(find_server "$binary")

throw_away=no
if [ -z "$dir" ]; then
    dir=$(mktemp -d "${TMPDIR:-/tmp}/vski-cluster.XXXXXX")
    throw_away=yes
else
    mkdir -p "$dir" || fail "cannot create $dir"
fi

# Each server and each reader of a log has its own process group: Ctrl-C reaches only this script,
# which stops them in order.
set -m

names=() followers=() ended=no # ended: a server, by itself
declare -A pids=() urls=()

clean_up() {
    local code=$? name follower i
    [ "$ended" = no ] || code=1
    trap '' INT TERM HUP
    trap - EXIT
    # The replicas first, so that none reports a missing master.
    for ((i = ${#names[@]} - 1; i >= 0; i--)); do
        name=${names[i]}
        stop "$name" || code=1
    done
    for follower in "${followers[@]}"; do
        wait "$follower" 2>/dev/null || true
    done
    if [ "$throw_away" = yes ]; then
        rm -rf "$dir"
    else
        echo "kept: $dir"
    fi
    exit "$code"
}
trap clean_up EXIT
# The normal end.
trap 'echo; echo "stopping"; exit 0' INT TERM HUP

# Stops a server, which gets some seconds for an orderly stop.
stop() { # stop NAME
    local pid=${pids[$1]:-} code=0
    [ -n "$pid" ] || return 0
    unset "pids[$1]"
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 150); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    if kill -0 "$pid" 2>/dev/null; then
        echo "$1 does not stop and is killed" >&2
        kill -9 "$pid" 2>/dev/null || true
    fi
    wait "$pid" 2>/dev/null || code=$?
    [ "$code" -eq 0 ] || echo "$1 exited with code $code" >&2
    return "$code"
}

# Starts a server and waits until it prints its address.
start() { # start NAME PORT [VARIABLE=VALUE...]
    local name=$1 home=$dir/$1 url=''
    local -a settings=(HOST=127.0.0.1 "PORT=${2:-0}" "DATA_DIR=$dir/$1/data")
    shift 2
    settings+=("$@")
    mkdir -p "$home"
    : >"$home/out"
    : >"$home/log"
    (
        # Not as arguments of env, because command lines are public.
        export "${settings[@]}"
        exec "$binary" serve
    ) >"$home/out" 2>"$home/log" </dev/null &
    pids[$name]=$!
    names+=("$name")
    for _ in $(seq 200); do
        url=$(sed -n 's/.* listening on \(http:[^ ,]*\).*/\1/p' "$home/out")
        [ -z "$url" ] || break
        if ! kill -0 "${pids[$name]}" 2>/dev/null; then
            unset "pids[$name]"
            fail "$name exited at once: $(tail -n 1 "$home/log")"
        fi
        sleep 0.05
    done
    [ -n "$url" ] || fail "$name did not print its address"
    urls[$name]=$url
}

# The first admin of new data; that of old data is as the last run recorded it.
make_admin() {
    local code email=admin@example.com password
    if [ ! -f "$dir/admin" ]; then
        password=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
        (umask 077 && printf '%s %s\n' "$email" "$password" >"$dir/admin")
    fi
    read -r email password <"$dir/admin"
    code=$(printf '{"email":"%s","password":"%s"}' "$email" "$password" |
        curl -sS --noproxy '*' --max-time 20 -o /dev/null -w '%{http_code}' -H 'Content-Type: application/json' \
            --data-binary @- "${urls[master]}/api/admins/init") || true
    case $code in
        200 | 403) printf '%-10s %s, password %s\n' admin "$email" "$password" ;;
        *) fail "cannot create an admin: the master answers $code" ;;
    esac
}

# Shows the log of a server until that ends.
follow() { # follow NAME COLOUR
    local label
    printf -v label '%-*s | ' "$width" "$1"
    if [ -t 1 ]; then
        printf -v label '\033[%sm%s\033[0m' "$2" "$label"
    fi
    tail -n +1 -s 0.1 -f --pid="${pids[$1]}" "$dir/$1/log" 2>/dev/null | sed -u "s/^/$label/" &
    followers+=("$!")
}

unset JWT_SECRET REPLICA_MODE MASTER_URL REPLICA_ID PUBLIC_URL
start master "$port"
# The master has generated a secret, and the replicas need the same one.
secret=$(cat "$dir/master/data/secret")
for ((i = 1; i <= replicas; i++)); do
    start "replica$i" "${port:+$((port + i))}" REPLICA_MODE=replica "MASTER_URL=${urls[master]}" \
        "REPLICA_ID=replica$i" "JWT_SECRET=$secret" "SYNC_INTERVAL=${SYNC_INTERVAL:-1}"
done

width=0
for name in "${names[@]}"; do
    printf '%-10s %s\n' "$name" "${urls[$name]}"
    [ "${#name}" -le "$width" ] || width=${#name}
done
make_admin
[ "$throw_away" = yes ] || printf '%-10s %s\n' data "$dir"
printf '%-10s %s replica status --data-dir %s --port %s\n' state "$binary" "$dir/master/data" "${urls[master]##*:}"
echo "Ctrl-C stops all servers"
echo

colours=(32 36 35 33 34 31)
for i in "${!names[@]}"; do
    follow "${names[i]}" "${colours[i % ${#colours[@]}]}"
done

code=0
{ wait -n "${pids[@]}" || code=$?; } 2>/dev/null
for name in "${names[@]}"; do
    if ! kill -0 "${pids[$name]}" 2>/dev/null; then
        unset "pids[$name]"
        echo "$name exited with code $code; stopping the others" >&2
    fi
done
ended=yes
