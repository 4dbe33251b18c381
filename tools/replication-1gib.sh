#!/bin/bash
# Replicates a database that grows beyond 1 GiB, where SQLite has a page that it never uses, and
# shrinks again.
set -eu

usage() {
    cat <<'TEXT'
usage: tools/replication-1gib.sh [OPTION...]

Starts a master and a replica. Another program changes a database of the master through SQL while
they run, until it is larger than 1 GiB and smaller again. After each step every page of the
replica must equal the master's (except the twelve bytes that SQLite writes by itself, and the page
at 1 GiB), PRAGMA integrity_check must say ok, and a new record must have arrived. Prints PASS or FAIL for each step; exit code 0 only if all passed. Takes about two minutes.

Needs 5 GiB of disk, and 2.5 GiB more for each further replica; python3.

  --replicas N    replicas (default 1, at most 4)
  --dir DIR       where to create the working folder (default: $TMPDIR or /tmp)
  --keep          keep the data and the logs and say where they are
  --binary PATH   server to run (default: target/release/vski, dist/vski, then $PATH)
  --help          this text
TEXT
}

# shellcheck source-path=SCRIPTDIR source=../scripts/common/shell.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/common/shell.sh"

binary=''
passed_on=()
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --keep) passed_on+=("$1") ;;
        --binary | --replicas | --dir)
            [ $# -gt 1 ] || fail "$1 needs a value"
            if [ "$1" = --binary ]; then binary=$2; else passed_on+=("$1" "$2"); fi
            shift
            ;;
        *) fail "unknown option: $1 (see --help)" ;;
    esac
    shift
done

need python3
binary=$(find_server "$binary")

exec python3 "$root/tools/bench/lockpage.py" --vski "$binary" "${passed_on[@]}"
