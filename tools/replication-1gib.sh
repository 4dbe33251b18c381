#!/bin/bash
# Replicates a database that grows over 1 GiB, where SQLite has a page that it never uses, and
# shrinks below it again.
set -eu

usage() {
    cat <<'TEXT'
usage: tools/replication-1gib.sh [OPTION...]

Starts a master and a replica, lets another program change a database of the master's through
SQL while they run, until it is larger than 1 GiB and smaller again, and looks after each step:
every page of the replica is as on the master (but for the twelve bytes that SQLite writes by
itself, and the page at 1 GiB), PRAGMA integrity_check says ok, and a record that was just made is
there. Prints PASS or FAIL for each step; exit code 0 only if all passed. Takes about two minutes.

Needs 5 GiB of disk, and 2.5 GiB more for each further replica; python3.

  --replicas N    replicas (default 1, at most 4)
  --dir DIR       where to work: in a folder of its own in there (default: $TMPDIR or /tmp)
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
