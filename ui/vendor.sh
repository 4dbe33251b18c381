#!/bin/sh
# Fetches the libraries of the dashboard from npm into ui/vendor, and checks them against ui/vendor/SHA256SUMS.
# Each stands in one file with its licence at the top; imports by name become imports of the neighbouring file.
set -eu

usage() {
    cat <<'TEXT'
usage: ui/vendor.sh [--update]

Fetches the pinned versions and writes ui/vendor. Fails if a file differs from SHA256SUMS.
  --update   writes SHA256SUMS instead, after a change of a version here
TEXT
}

preact=11.2.0
htm=3.1.1
signals=2.11.4
signals_core=1.14.5
uplot=1.6.32

case ${1:-} in
    '' | --update) ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fetch() { # fetch NAME VERSION
    file=${1##*/}-$2.tgz
    curl -fsSL "https://registry.npmjs.org/$1/-/$file" -o "$scratch/$file"
    mkdir -p "$scratch/$1"
    tar -xzf "$scratch/$file" -C "$scratch/$1" --strip-components=1
}

# vendor NAME VERSION SOURCE TARGET [LAST LINE]
vendor() {
    {
        printf '/*! %s %s, see https://www.npmjs.com/package/%s\n' "$1" "$2" "$1"
        cat "$scratch/$1/LICENSE"
        printf '*/\n'
        grep -v '^//# sourceMappingURL=' "$scratch/$1/$3" | sed \
            -e 's#from *"preact/hooks"#from"./hooks.js"#g' \
            -e 's#from *"preact"#from"./preact.js"#g' \
            -e 's#from *"@preact/signals-core"#from"./signals-core.js"#g'
        printf '%s\n' "${5:-}"
    } > "$here/vendor/$4"
}

fetch preact $preact
fetch htm $htm
fetch @preact/signals $signals
fetch @preact/signals-core $signals_core
fetch uplot $uplot
mkdir -p "$here/vendor"
vendor preact $preact dist/preact.mjs preact.js
vendor preact $preact hooks/dist/hooks.mjs hooks.js
vendor htm $htm dist/htm.module.js htm.js
vendor @preact/signals $signals dist/signals.module.js signals.js
vendor @preact/signals-core $signals_core dist/signals-core.module.js signals-core.js
vendor uplot $uplot dist/uPlot.iife.min.js uplot.js 'export default uPlot;'
vendor uplot $uplot dist/uPlot.min.css uplot.css

cd "$here/vendor"
if [ "${1:-}" = --update ]; then
    sha256sum -- *.js *.css > SHA256SUMS
else
    sha256sum --quiet --check SHA256SUMS
fi
