#!/bin/bash
# Measures the delay of replicas and the cost of following, as one Markdown table.
set -eu

usage() {
    cat <<'TEXT'
usage: tools/bench-replication.sh [OPTION...]

Builds vski, starts masters and replicas on temporary directories, and prints one table:
results, goals, and whether they are met. The parts:

  lag     from the master's answer to a create until a read of a replica shows it
  cost    creates per second on a master with two replicas, beside one without replicas and one
          that its replicas have left
  idle    requests and bytes of a sync cycle over 100 databases that do not change
  load    the first load of a large database, beside dd of the same file over loopback
  reads   reads of a replica at rest, and while its master takes 200 writes per second
  files   10,000 small files and one of 2 GiB on a new replica, beside rsync; needs rsync and 10 GiB

with the memory and the CPU of the servers after each. Takes about eight minutes.

  --quick         shorter runs and a smaller database, for trying the script
  --only A,B      only these parts
  --size MIB      size of the large database (default 1024, with --quick 128); needs four
                  times as much disk
  --binary PATH   this vski and no build
  --help          this text

Variables:
  BENCH_OUT       the table, and the data while it runs (default target/bench)

Needs python3, cargo, and for cost and reads wrk. The machine should have nothing else to do.
TEXT
}

# shellcheck source-path=SCRIPTDIR source=../scripts/common/shell.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/common/shell.sh"

vski=''
passed_on=()
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --quick) passed_on+=("$1") ;;
        --binary | --only | --size)
            [ $# -gt 1 ] || fail "$1 needs a value"
            if [ "$1" = --binary ]; then vski=$2; else passed_on+=("$1" "$2"); fi
            shift
            ;;
        *) fail "unknown option: $1 (see --help)" ;;
    esac
    shift
done

need python3 dd df
script=$root/tools/bench/replication.py
python3 "$script" --check "${passed_on[@]}"
vski=$(build_server "$vski")

exec python3 "$script" --vski "$vski" --out "${BENCH_OUT:-$root/target/bench}" "${passed_on[@]}"
