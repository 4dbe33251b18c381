#!/bin/bash
# Measures the cost and speed of workflows, beside OpenWorkflow, as one Markdown table with the goals.
set -eu

openworkflow_version=0.10.1
node_version=22.23.3

usage() {
    cat <<'TEXT'
usage: tools/bench-workflows.sh [OPTION...]

Builds vski, fetches OpenWorkflow, and runs the parts one after the other, each with its own server and
DB_SYNCHRONOUS=full. Prints one table of results and goals. All parts take about four minutes.

  --parts A,B        only these (default all):
                       throughput    four-step workflows, 100 in flight, one worker process
                       latency       from the start of a run to its first step, with nothing else to do
                       steps         runs of 1,000, 2,000 and 4,000 steps
                       sleeping      a server with many sleeping runs is killed and started again
                       idle          10,000 workers without work, and a restart of the server
                       cluster       a master and two replicas run workflows while records sync
                       openworkflow  the first two cases with OpenWorkflow on SQLite
  --quick            one round of throughput, fewer of everything
  --binary PATH      this vski and no build
  --runs N           runs of one round of throughput (default 5000)
  --rounds N         rounds of throughput, of which the median is shown (default 3)
  --samples N        starts of the latency part (default 500)
  --sleepers A,B     sleeping runs (default 10000,100000)
  --workers N        idle workers (default 10000; the limit of open files must allow it, ulimit -n)
  --idle-seconds N   how long they are watched (default 30)
  --fetch-only       only fetch OpenWorkflow
  --help             this text

Variables:
  BENCH_CACHE     where OpenWorkflow is kept (default ~/.cache/vski-bench)
  BENCH_OUT       the data while it runs (default target/bench)

Needs python3, cargo, and npm for the part openworkflow, which is skipped without it. The machine should have nothing
else to do; the table says how much of it other processes used.
TEXT
}

# shellcheck source-path=SCRIPTDIR source=../scripts/common/shell.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/common/shell.sh"

# With a Node of its own, for it needs 22.5 or newer.
fetch_openworkflow() {
    openworkflow=$1/openworkflow-$openworkflow_version/node_modules/openworkflow
    [ ! -d "$openworkflow" ] || return 0
    command -v npm >/dev/null || return 1
    local scratch
    mkdir -p "$1"
    scratch=$(mktemp -d "$1/fetch.XXXXXX")
    echo "fetching OpenWorkflow $openworkflow_version and Node $node_version"
    if ! npm install --silent --no-audit --no-fund --prefix "$scratch" \
        "openworkflow@$openworkflow_version" "node@$node_version" >/dev/null; then
        rm -rf "$scratch"
        return 1
    fi
    mv "$scratch" "$1/openworkflow-$openworkflow_version"
}

vski='' fetch_only=no parts=throughput,latency,steps,sleeping,idle,openworkflow
passed_on=()
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --quick)
            passed_on+=(--rounds 1 --runs 2000 --samples 200 --sleepers 10000 --workers 2000 --idle-seconds 5) ;;
        --fetch-only) fetch_only=yes ;;
        --binary | --parts | --runs | --rounds | --samples | --sleepers | --workers | --idle-seconds)
            [ $# -gt 1 ] || fail "$1 needs a value"
            case $1 in
                --binary) vski=$2 ;;
                --parts) parts=$2 ;;
                *) passed_on+=("$1" "$2") ;;
            esac
            shift
            ;;
        *) fail "unknown option: $1 (see --help)" ;;
    esac
    shift
done

need python3
script=$root/tools/bench/workflows.py
python3 "$script" --check --vski none --parts "$parts" "${passed_on[@]}"
case ,$parts, in
    *,openworkflow,*)
        if fetch_openworkflow "${BENCH_CACHE:-$HOME/.cache/vski-bench}"; then
            passed_on+=(--openworkflow "$openworkflow")
        else
            echo "OpenWorkflow cannot be fetched: left out"
        fi
        ;;
esac
[ "$fetch_only" = no ] || exit 0
vski=$(build_server "$vski")

exec python3 "$script" --vski "$vski" --parts "$parts" --out "${BENCH_OUT:-$root/target/bench}" "${passed_on[@]}"
