#!/bin/bash
# Tests the JavaScript client, sdk/js, against a vski server.
set -eu

usage() {
    cat <<'TEXT'
usage: scripts/sdk-js-check.sh [OPTION...]

Runs node --test over sdk/js/test: each file starts servers of its own on free ports and temporary
directories. That takes half a minute and needs only node. Exit code 0: all passed.

  --full          also what needs npm: the types (tsc), the package as an archive that is installed
                  into an empty folder, the sizes, and /sdk.js in Chromium if it is installed
  --node VERSION  also run the tests with this version of node from npm, for example 20, 22 or 24;
                  can be repeated
  --binary PATH   server to test against (default: build it)
  --keep          keep the temporary directory and say where it is
  --help          this text

Needs node 20; for --full and --node npm too.
TEXT
}

# shellcheck source-path=SCRIPTDIR source=common/shell.sh
. "$(dirname "${BASH_SOURCE[0]}")/common/shell.sh"

binary='' keep=no full=no versions=''
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --full) full=yes ;;
        --keep) keep=yes ;;
        --binary | --node)
            [ $# -gt 1 ] || fail "$1 needs a value"
            case $1 in
                --binary) binary=$2 ;;
                --node) versions="$versions $2" ;;
            esac
            shift
            ;;
        *) fail "unknown option: $1 (see --help)" ;;
    esac
    shift
done

need node timeout
[ "$full$versions" = no ] || need npm
PACKED_BYTES_MAX=25000

end_processes() { :; }
make_work sdk-js

# Runs the tests with one version of node.
run_tests() { # run_tests NODE
    echo "sdk/js with node $("$1" --version)"
    (cd "$root/sdk/js" && VSKI_BINARY=$binary timeout --foreground -k 5 300 "$1" --test --test-timeout=60000 \
        test/*.test.js >"$work/tests" 2>&1) || { grep -A 30 '^not ok' "$work/tests" >&2 || tail -n 40 "$work/tests" >&2; fail "the tests of sdk/js failed"; }
    grep -E '^(# |ℹ )(tests|pass) ' "$work/tests"
}

# Installs npm packages and prints their folder.
install() { # install NAME PACKAGE...
    local folder=$work/$1
    shift
    mkdir -p "$folder"
    echo '{"private": true, "type": "module"}' >"$folder/package.json"
    (cd "$folder" && timeout --foreground 300 npm install --no-audit --no-fund --loglevel=error "$@" >"$work/npm" 2>&1) ||
        fail "npm cannot install $*: $(tail -n 5 "$work/npm")"
    echo "$folder"
}

# The package is built in a copy, and installed from its archive into an empty folder.
check_package() {
    local tools archive user
    tools=$(install tools typescript@5.9 @types/node@22 esbuild@0.25)
    cp -r "$root/sdk/js" "$work/package"
    rm -rf "$work/package/node_modules" "$work/package/types"
    ln -s "$tools/node_modules" "$work/package/node_modules"
    (cd "$work/package" && npm run --silent check) || fail "tsc finds errors in sdk/js"
    archive=$work/package/$(cd "$work/package" && npm pack --silent 2>"$work/npm") || fail "npm cannot pack sdk/js: $(tail -n 5 "$work/npm")"
    (cd "$work/package" && node_modules/.bin/tsc -p test) || fail "the types are not as test/types.ts says"
    echo "types: ok"
    user=$(install user "$archive")
    cp "$root/sdk/js/test/types.ts" "$root/sdk/js/test/tsconfig.json" "$user"
    "$tools/node_modules/.bin/tsc" -p "$user" || fail "the types of the installed package are not as test/types.ts says"
    (cd "$user" && node --input-type=module -e 'import { VskiClient } from "vski"; new VskiClient("http://localhost:1");') ||
        fail "the installed package cannot be imported"
    echo "package: ok, $(stat -c %s "$archive") bytes"
    check_size "$tools" "$user"
}

# What a bundler makes of the package, and of an import of one function.
check_size() { # check_size TOOLS USER
    local bundle bytes shaken worker
    bundle="$1/node_modules/.bin/esbuild --bundle --minify --format=esm --platform=browser --log-level=warning"
    bytes=$(echo 'export * from "vski"' | (cd "$2" && $bundle --loader=js) | gzip -9 | wc -c)
    # shellcheck disable=SC2016 # JavaScript
    shaken=$(echo 'import { filter } from "vski"; console.log(filter`a = ${1}`)' | (cd "$2" && $bundle --loader=js) | gzip -9 | wc -c)
    echo "client: $bytes bytes minified and compressed; an import of filter alone: $shaken"
    worker=$(echo 'export * from "vski/worker"' | (cd "$2" && $bundle --platform=node --loader=js) | gzip -9 | wc -c)
    echo "worker, with what it uses of the client: $worker bytes"
    [ "$worker" -le "$PACKED_BYTES_MAX" ] || fail "the worker is larger than $PACKED_BYTES_MAX bytes"
    [ "$bytes" -le "$PACKED_BYTES_MAX" ] || fail "the client is larger than $PACKED_BYTES_MAX bytes"
    [ "$shaken" -le 2000 ] || fail "the package cannot be tree-shaken"
}

check_browser() {
    local chromium tools
    chromium=$(command -v chromium || command -v chromium-browser || true)
    if [ -z "$chromium" ]; then
        echo "skipped: no chromium on this system"
        return
    fi
    tools=$(install browser playwright-core@1)
    NODE_PATH=$tools/node_modules CHROMIUM=$chromium VSKI_BINARY=$binary \
        timeout --foreground -k 5 120 node "$root/sdk/js/test/browser.mjs" "$tools" || fail "the client does not work in Chromium"
}

binary=$(build_server "$binary")
case $binary in
    /*) ;;
    *) binary=$PWD/$binary ;;
esac
run_tests node
for version in $versions; do
    tools=$(install "node-$version" "node@$version")
    run_tests "$tools/node_modules/node/bin/node"
done
if [ "$full" = yes ]; then
    check_package
    check_browser
fi
