#!/bin/bash
# Tests the dashboard in Chromium against a vski server.
set -eu

usage() {
    cat <<'TEXT'
usage: scripts/ui-check.sh [OPTION...]

Checks the types of ui/ (JSDoc) with tsc. Then it starts a server on a temporary data directory and
a free port, and uses the dashboard in Chromium: a journey from the first admin to an application
with data, then every screen, wide and light, 390 pixels and dark. It fails for an error in the
console, a violation of the policy of the page, a finding of axe-core, content that is wider than
the screen, stored HTML that runs or is markup, an endpoint of admins that answers to another caller,
and a page of another origin that frames or reads it. Exit code 0: all passed.

  --binary PATH   server to test (default: build it)
  --full          every screen in all four of these looks
  --shots DIR     also writes the pictures of docs/dashboard.md into DIR
  --keep          keep the temporary directory and say where it is
  --help          this text

Needs node 20 and npm. Installs Debian's chromium if there is none and it may (apt-get, as root); the
versions of the npm packages are in scripts/ui-check/package-lock.json.
TEXT
}

# shellcheck source-path=SCRIPTDIR source=common/shell.sh
. "$(dirname "${BASH_SOURCE[0]}")/common/shell.sh"

binary='' keep=no shots='' full=''
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --keep) keep=yes ;;
        --full) full=yes ;;
        --binary | --shots)
            [ $# -gt 1 ] || fail "$1 needs a value"
            case $1 in
                --binary) binary=$2 ;;
                --shots) shots=$2 ;;
            esac
            shift
            ;;
        *) fail "unknown option: $1 (see --help)" ;;
    esac
    shift
done

need node npm timeout
end_processes() { :; }
make_work ui

# Prints the path of the browser.
find_chromium() {
    command -v chromium || command -v chromium-browser || {
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            { apt-get update && apt-get install -y --no-install-recommends chromium; } >"$work/apt" 2>&1 ||
                fail "apt-get cannot install chromium: $(tail -n 5 "$work/apt")"
            command -v chromium
        else
            fail "no chromium on this system: install it"
        fi
    }
}

# Checks a copy in which the declarations of ui/types stand for the libraries, which have no types of their own.
check_types() {
    mkdir -p "$work/ui" "$work/sdk"
    cp -r "$root"/ui/{app,parts,screens,tsconfig.json} "$work/ui"
    cp -r "$root/ui/types" "$work/ui/vendor"
    cp -r "$root/sdk/js" "$work/sdk/js"
    (cd "$work" && timeout --foreground 120 node_modules/.bin/tsc -p ui) || fail "tsc finds errors in ui"
    echo "ok  the types"
}

chromium=$(find_chromium)
cp "$root"/scripts/ui-check/*.mjs "$root"/scripts/ui-check/package*.json "$work"
(cd "$work" && timeout --foreground 120 npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >"$work/npm" 2>&1) ||
    fail "npm cannot install the tools: $(tail -n 5 "$work/npm")"
check_types
binary=$(build_server "$binary")
[ -z "$shots" ] || mkdir -p "$shots"
case $binary in
    /*) ;;
    *) binary=$PWD/$binary ;;
esac
SHOTS=${shots:+$(cd "$shots" && pwd)} FULL=$full CHROMIUM=$chromium VSKI_BINARY=$binary \
    timeout --foreground -k 5 400 node "$work/check.mjs" || fail "the dashboard does not pass"
