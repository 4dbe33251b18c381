#!/bin/bash
# Runs a master and replicas with every feature under mixed load, kills and cuts, and checks that nothing grows.
set -eu

usage() {
    cat <<'TEXT'
usage: tools/soak.sh [OPTION...]

Starts a master and replicas on 127.0.0.1 with clients and workers that use all features, kills and
stops servers and workers, cuts the connection between master and replicas, and samples memory,
descriptors, threads and files. At the end every record must exist, on every replica too, every
event and webhook must have been delivered and every run finished, and memory, descriptors and threads
of no server may have grown. Exit code 0 if so, else 1.

  --minutes N     duration of the load (default 60)
  --rate X        amount of load; 1 takes the servers about a quarter of a core (default 1)
  --replicas N    replicas (default 2, at most 8)
  --seed S        seed of all random choices (default: the time)
  --out DIR       data, logs, samples.json, curves.svg, summary.txt (default: a temporary
                  folder, which is kept)
  --binary PATH   server to run (default: target/release/vski, dist/vski, then $PATH)
  --help          this text

In the second half of the time, but for at most 15.5 minutes, no server is killed, so that each
lives long enough to be judged: descriptors and threads need 5 minutes, memory 15. So runs of less
than 31 minutes say nothing about memory. Needs only python3.
TEXT
}

# shellcheck source-path=SCRIPTDIR source=../scripts/common/shell.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/common/shell.sh"

minutes=60 rate=1 replicas=2 seed=$(date +%s) out='' binary=''
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --minutes | --rate | --replicas | --seed | --out | --binary)
            [ $# -gt 1 ] || fail "$1 needs a value"
            declare "${1#--}=$2"
            shift
            ;;
        *) fail "unknown option: $1 (see --help)" ;;
    esac
    shift
done
number='^[0-9]{1,6}([.][0-9]{1,3})?$'
[[ $minutes =~ $number ]] || fail "--minutes takes a number: $minutes"
[[ $rate =~ $number && $rate =~ [1-9] ]] || fail "--rate takes a number above 0: $rate"
[[ $replicas =~ ^[0-8]$ ]] || fail "--replicas takes a number from 0 to 8: $replicas"
need python3

binary=$(find_server "$binary")
[ -n "$out" ] || out=$(mktemp -d "${TMPDIR:-/tmp}/vski-soak.XXXXXX")
mkdir -p "$out" || fail "cannot make $out"
out=$(cd "$out" && pwd)
[ ! -e "$out/master" ] || fail "$out has the data of another run"

exec python3 "$root/tools/soak/main.py" "$(realpath "$binary")" "$out" "$minutes" "$rate" "$replicas" "$seed"
