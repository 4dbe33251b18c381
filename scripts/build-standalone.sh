#!/bin/sh
# Builds the two artefacts of a release:
#   dist/vski             dynamic, linked to the system's C library
#   dist/vski-standalone  fully static, needs only a kernel
# and tests the second in an otherwise empty root directory.
set -eu

usage() {
    cat <<'TEXT'
usage: scripts/build-standalone.sh [--only-static]

  --only-static  do not build the dynamic binary
  --help         this text

CARGO_TARGET_DIR is honoured. The test needs root or user namespaces (unshare -r);
without either, the script builds the binary and says that it is not tested.
TEXT
}

fail() {
    echo "build-standalone.sh: $*" >&2
    exit 1
}

ordinary=yes
for argument in "$@"; do
    case $argument in
        --help | -h) usage; exit 0 ;;
        --only-static) ordinary=no ;;
        *) fail "unknown option: $argument (see --help)" ;;
    esac
done

cd "$(dirname -- "$0")/.."
command -v cargo >/dev/null || fail "no cargo: install Rust first"
host=$(rustc -vV | sed -n 's/^host: //p')
[ -n "$host" ] || fail "cannot tell the host triple from rustc -vV"
case $host in
    *-linux-*) ;;
    *) fail "static binaries can be built only on Linux, this is $host" ;;
esac
target_dir=${CARGO_TARGET_DIR:-target}
mkdir -p dist

copy() { # copy FROM TO; by rename, so that a running binary can be replaced
    cp "$1" "$2.new"
    mv -f "$2.new" "$2"
}

# The flags must not reach build scripts and procedural macros, which are shared
# objects: cargo separates them only if a target is given, even if it is the host.
# Random bytes straight from the kernel: the crate looks for getrandom at run time, cannot
# find it in a static binary and would need /dev/urandom instead.
# Less inlining is as fast and smaller, see .cargo/config.toml.
flags='-C target-feature=+crt-static -C llvm-args=-inline-threshold=50 --cfg getrandom_backend="linux_getrandom"'
RUSTFLAGS=$flags cargo build --locked --release --target "$host" ||
    fail "the static build failed"
copy "$target_dir/$host/release/vski" dist/vski-standalone

if [ "$ordinary" = yes ]; then
    cargo build --locked --release || fail "the dynamic build failed"
    copy "$target_dir/release/vski" dist/vski
fi

# The test.

if command -v readelf >/dev/null && readelf -lW dist/vski-standalone | grep -q INTERP; then
    fail "dist/vski-standalone is not static: it names a dynamic loader"
fi

if [ "$(id -u)" -eq 0 ]; then
    enter="chroot"
elif unshare -r true 2>/dev/null; then
    enter="unshare -r chroot"
else
    enter=
fi

empty=$(mktemp -d)
server=
clean_up() {
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$empty"
}
trap clean_up EXIT
trap 'exit 1' INT TERM

# An exited process stays in the process table until it is waited for.
is_alive() {
    grep -q '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$1/status" 2>/dev/null
}

# Waits up to ten seconds for the line with the address of the server.
listening_url() {
    for _ in $(seq 100); do
        url=$(sed -n 's/.* listening on \(http:[^ ,]*\).*/\1/p' "$empty/out")
        if [ -n "$url" ]; then
            echo "$url"
            return
        fi
        is_alive "$server" || fail "dist/vski-standalone exited at once: $(tail -n 1 "$empty/err")"
        sleep 0.1
    done
    fail "dist/vski-standalone did not print its address"
}

prove() {
    mkdir "$empty/root"
    cp dist/vski-standalone "$empty/root/vski"
    # shellcheck disable=SC2086 # two words on purpose
    $enter "$empty/root" /vski version || fail "dist/vski-standalone does not run in an empty root"
    # shellcheck disable=SC2086
    env -i "PATH=$PATH" HOST=127.0.0.1 PORT=0 DATA_DIR=/data $enter "$empty/root" /vski serve >"$empty/out" 2>"$empty/err" &
    server=$!
    url=$(listening_url)
    answer=$(curl -fsS --noproxy '*' --max-time 10 "$url/api/health") ||
        fail "dist/vski-standalone does not answer $url/api/health in an empty root"
    echo "$answer"
    kill "$server"
    code=0
    wait "$server" || code=$?
    server=
    [ "$code" -eq 0 ] || fail "dist/vski-standalone exited with code $code on SIGTERM"
    echo "tested: dist/vski-standalone runs and serves in an empty root ($enter)"
}

if [ -z "$enter" ]; then
    echo "not tested: an empty root requires root or user namespaces"
elif ! command -v curl >/dev/null; then
    echo "not tested: requires curl"
else
    prove
fi

for binary in dist/vski-standalone dist/vski; do
    if [ -f "$binary" ]; then
        bytes=$(wc -c <"$binary")
        echo "$binary: $bytes bytes ($(awk -v b="$bytes" 'BEGIN { printf "%.2f MB", b / 1e6 }'))"
    fi
done
