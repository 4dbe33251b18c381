#!/bin/bash
# Measures the cost of subscribers and the delay of events, vski beside PocketBase, as Markdown tables.
set -eu

usage() {
    cat <<'TEXT'
usage: tools/bench-realtime.sh [OPTION...]

Fetches PocketBase, builds vski and the program that simulates the subscribers, and runs the parts: each run with its own
server, all servers in turns, every event of every connection accounted for. Prints medians, and ratios to PocketBase.
All parts take about fifteen minutes.

  --parts A,B        only these (default all):
                       fan     many subscribers to one collection that all can see
                       small   the same with 1,000 subscribers and 10 writes/s
                       rules   accounts that see only their own records; writes change random ones
                       churn   1,000 connections subscribe, unsubscribe and connect again under 50 writes/s (vski alone)
  --quick            one round of 5 s, 1,000 subscribers, 200 accounts
  --servers A,B      default vski,vski-sse,pocketbase (vski: over WebSockets; the others: server-sent events)
  --subscribers N    of fan (default 5000; the limit of open files must allow it, ulimit -Hn)
  --accounts N       of rules (default 1000)
  --rate N           writes per second of fan and rules (default 100)
  --seconds N        of one run (default 20)
  --rounds N         runs of each case and server, of which the medians are shown (default 3)
  --binary PATH      this vski and no build
  --json PATH        append the results of each run to this file, one line of JSON each
  --help             this text

Variables:
  BENCH_CACHE     where PocketBase is kept (default ~/.cache/vski-bench)
  BENCH_OUT       the data while it runs, and the program of the subscribers (default target/bench)

Needs python3 with pip, a C compiler (cc), and cargo. The machine should have nothing else to do.
TEXT
}

# shellcheck source-path=SCRIPTDIR source=../scripts/common/shell.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/common/shell.sh"

vski=''
passed_on=()
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --quick) passed_on+=(--rounds 1 --seconds 5 --subscribers 1000 --accounts 200) ;;
        --binary | --parts | --servers | --subscribers | --accounts | --rate | --seconds | --rounds | --json)
            [ $# -gt 1 ] || fail "$1 needs a value"
            if [ "$1" = --binary ]; then vski=$2; else passed_on+=("$1" "$2"); fi
            shift
            ;;
        *) fail "unknown option: $1 (see --help)" ;;
    esac
    shift
done

out=${BENCH_OUT:-$root/target/bench}
need python3
command -v cc >/dev/null || fail "no C compiler: apt-get install gcc"
# For servers and subscribers, which all inherit it.
ulimit -n "$(ulimit -Hn)"
script=$root/tools/bench/realtime.py
python3 "$script" --check "${passed_on[@]}"
pocketbase=$("$root/tools/bench.sh" --fetch-only | tail -n 1)
[ -x "$pocketbase" ] || fail "PocketBase cannot be fetched"
mkdir -p "$out"
cc -O2 -std=gnu11 -Wall -Wextra -o "$out/subscribers" "$root/tools/bench/subscribers.c" ||
    fail "subscribers.c does not build"
vski=$(build_server "$vski")

exec python3 "$script" --vski "$vski" --pocketbase "$pocketbase" --subscribers-binary "$out/subscribers" \
    --out "$out" "${passed_on[@]}"
