# shellcheck shell=bash
# Functions for the scripts in scripts/ and tools/, which source this file: errors, tools, the server.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export PYTHONDONTWRITEBYTECODE=1

fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

need() { # need TOOL...
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || fail "no $tool on this system"
    done
}

# Makes the temporary directory $work, which is deleted at the end unless $keep is yes. At the end, also at a signal, a
# script first runs its own function end_processes.
make_work() { # make_work NAME
    work=$(mktemp -d "${TMPDIR:-/tmp}/vski-$1.XXXXXX")
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

clean_up() {
    end_processes
    if [ "${keep:-no}" = yes ]; then
        echo "kept: $work"
    else
        rm -rf "$work"
    fi
}

# Prints the path of the server: the one named, if any, else one that was built before.
find_server() { # find_server PATH
    local candidate
    for candidate in "$1" "${CARGO_TARGET_DIR:-$root/target}/release/vski" "$root/dist/vski" "$(command -v vski || true)"; do
        if [ -x "$candidate" ]; then
            echo "$candidate"
            return
        fi
        [ -z "$1" ] || fail "no such binary: $1"
    done
    fail "no server binary: build one (cargo build --release) or name one with --binary"
}

# Prints the path of the server: the one named, if any, else one that is built now.
build_server() { # build_server PATH
    if [ -z "$1" ]; then
        command -v cargo >/dev/null || fail "no cargo: install Rust, or name a server with --binary"
        (cd "$root" && cargo build --locked --release >&2) || fail "the release build failed"
        echo "${CARGO_TARGET_DIR:-$root/target}/release/vski"
        return
    fi
    [ -x "$1" ] || fail "no such binary: $1"
    echo "$1"
}
