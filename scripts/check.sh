#!/bin/sh
# The gate: every change must pass it. It installs and changes nothing.
set -eu

usage() {
    cat <<'TEXT'
usage: scripts/check.sh [STEP...]

Runs the steps named, or all of them in this order:
  format   cargo fmt --check
  lint     cargo clippy, warnings denied
  test     cargo test, for the vendored HTTP engine too
  ui       scripts/ui-check.sh: the dashboard in Chromium, against the program that the tests built
  hostile  scripts/hostile.py for half a minute, against the program that the tests built
  docs     cargo doc, warnings denied
  sdk-js   scripts/sdk-js-check.sh, against the program that the tests built
  scripts  shellcheck over scripts/ and tools/
and prints the number of packages in Cargo.lock.

A step whose tool is not installed (rustfmt, clippy, python3, node, npm, shellcheck) is skipped, with a message.
Exit code 0: all steps that ran passed.
TEXT
}

fail() {
    echo "check.sh: $*" >&2
    exit 1
}

# Packages under vendor/ are path dependencies and not workspace members: these commands
# do not include them unless --all or --workspace is given.
format() {
    skip_without rustfmt "cargo fmt --version" || return 0
    cargo fmt --check
}

lint() {
    skip_without clippy "cargo clippy --version" || return 0
    cargo clippy --locked --all-targets -- -D warnings
}

# `test` is a shell builtin, hence the name. A fixed seed for generated tests gives the same tree
# the same verdict; plain `cargo test` uses new seeds.
run_tests() {
    export VSKI_SEED="${VSKI_SEED:-1}"
    # Most tests wait for a server, a clock or a disk.
    cargo test --locked --bin vski && cargo test --locked --test it -- --test-threads=4 && cargo test --locked -p tiny_http
}

# The time limit of the client allows for an unoptimised program on a busy machine. By default,
# with the release binary, the script requires one second.
hostile() {
    skip_without python3 "python3 --version" || return 0
    python3 scripts/hostile.py --binary "${CARGO_TARGET_DIR:-target}/debug/vski" --seconds 30 --p99 10
}

ui() {
    skip_without npm "npm --version" || return 0
    scripts/ui-check.sh --binary "${CARGO_TARGET_DIR:-target}/debug/vski"
}

docs() {
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
}

sdk_js() {
    skip_without node "node --version" || return 0
    scripts/sdk-js-check.sh --binary "${CARGO_TARGET_DIR:-target}/debug/vski"
}

scripts() {
    skip_without shellcheck "shellcheck --version" || return 0
    find scripts tools -name '*.sh' -exec shellcheck -x {} +
}

skip_without() { # skip_without COMPONENT PROBE
    if $2 >/dev/null 2>&1; then
        return 0
    fi
    echo "skipped: $1 is not installed"
    skipped="$skipped $1"
    return 1
}

run() { # run STEP FUNCTION
    echo "== $1"
    "$2" || fail "$1 failed"
}

for step in "$@"; do
    case $step in
        --help | -h) usage; exit 0 ;;
        format | lint | test | ui | hostile | docs | sdk-js | scripts) ;;
        *) fail "unknown step: $step (see --help)" ;;
    esac
done
[ $# -gt 0 ] || set -- format lint test ui hostile docs sdk-js scripts

cd "$(dirname -- "$0")/.."
command -v cargo >/dev/null || fail "no cargo: install Rust first"
[ -f Cargo.lock ] || fail "Cargo.lock is missing; restore it from the repository"

skipped=
for step in "$@"; do
    case $step in
        test) run test run_tests ;;
        sdk-js) run sdk-js sdk_js ;;
        *) run "$step" "$step" ;;
    esac
done

echo "== packages in Cargo.lock: $(grep -c '^\[\[package\]\]' Cargo.lock)"
echo "all passed${skipped:+ (skipped, not installed:$skipped)}"
