#!/bin/sh
# Installs vski as a systemd service: binary, unit, environment file, account, and vskictl for operators.
#
# Run again with a newer binary to upgrade. The environment file and the data are
# never overwritten and never removed.
set -eu

usage() {
    cat <<'TEXT'
usage: scripts/install.sh [--uninstall] [BINARY]

Installs BINARY (default: dist/vski-standalone, dist/vski or target/release/vski,
the first that exists), the systemd unit, /etc/vski/vski.env, the account vski and
vskictl: vski with the account, the data and the settings of the service.

  --uninstall   stop the service, remove binaries and unit; keep settings and data
  --help        this text

Variables:
  PREFIX        where binary and unit are installed (default /usr/local)
  DESTDIR       prefix of every path, for packages: no account is created and
                systemd is not reloaded
TEXT
}

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(dirname -- "$here")
prefix=${PREFIX:-/usr/local}
destdir=${DESTDIR:-}
account=vski
binary_to=$prefix/bin/vski
operator_to=$prefix/bin/vskictl
config_to=/etc/vski/vski.env
state_dir=/var/lib/vski
# Both prefixes are on systemd's search path; for any other prefix the unit is installed in
# the administrator's folder, where systemd always finds it.
case $prefix in
    /usr | /usr/local) unit_to=$prefix/lib/systemd/system/vski.service ;;
    *) unit_to=/etc/systemd/system/vski.service ;;
esac

# True when this machine was booted with systemd and is the one to be changed.
systemd_runs() {
    [ -z "$destdir" ] && [ -d /run/systemd/system ]
}

find_binary() {
    if [ -n "$1" ]; then
        [ -f "$1" ] || fail "no such binary: $1"
        echo "$1"
        return
    fi
    for path in dist/vski-standalone dist/vski target/release/vski; do
        if [ -f "$root/$path" ]; then
            echo "$root/$path"
            return
        fi
    done
    fail "no binary in dist/ or target/release/: build one (cargo build --release) or name one"
}

make_account() {
    if getent passwd "$account" >/dev/null; then
        return
    fi
    command -v useradd >/dev/null || fail "no useradd: create the system user '$account' and run again"
    useradd --system --user-group --home-dir "$state_dir" --no-create-home \
        --shell /usr/sbin/nologin "$account" || fail "cannot create the system user '$account'"
    echo "account      $account"
}

# Writes a temporary file and renames it, so that a running server keeps its old binary and
# a failed copy leaves no partial file.
put() { # put MODE FROM TO
    mkdir -p "$destdir$(dirname "$3")" || fail "cannot create the folder of $destdir$3"
    install -m "$1" "$2" "$destdir$3.new" || fail "cannot write $destdir$3"
    mv -f "$destdir$3.new" "$destdir$3" || fail "cannot write $destdir$3"
}

environment_file() {
    cat <<'TEXT'
# Settings of the vski service, read by systemd: NAME=value, one per line.
# `vski help` prints all of them. Restart after a change: systemctl restart vski

# Address to listen on. Behind a reverse proxy on this machine keep 127.0.0.1.
HOST=127.0.0.1
PORT=3000

# Signs all tokens, at least 32 bytes. If unset, the server generates one and keeps it in
# /var/lib/vski/secret.
#JWT_SECRET=

# Durability of a commit: full (a 2xx is on disk) or normal (faster, but a power cut can lose
# the last commits).
#DB_SYNCHRONOUS=full

# URL under which clients reach this server; links in mails begin with it.
#PUBLIC_URL=https://api.example.com
# Addresses or networks of proxies in front of it, and origins whose pages can call it.
#TRUSTED_PROXIES=127.0.0.1
#CORS_ORIGINS=https://app.example.com

# Server for outgoing mail, and the sender. Without a server the links in mails are written
# to the log.
#SMTP_URL=smtps://user:password@mail.example.com
#MAIL_FROM="vski <vski@example.com>"

# Trusted certificate authorities that replace the built-in ones, for a master, bucket, mail
# server or webhooks with certificates of your own.
#SSL_CERT_FILE=/etc/vski/authorities.pem

#MAX_CONNECTIONS=1024
#LOG=info
TEXT
}

# The commands of vski work on the data directory, so files that they create must belong to the
# account of the service; they also need its settings to reach it.
operator_script() {
    cat <<TEXT
#!/bin/sh
# vski with the account, the data and the settings of the service: vskictl admin list,
# vskictl replica status, vskictl backup DIR. Run as root or as $account.
set -eu
PATH=\$PATH:/usr/sbin:/sbin
settings=$config_to
if [ "\$(id -un)" != $account ] && [ "\$(id -u)" -ne 0 ]; then
    echo "vskictl: run it as root or as $account" >&2
    exit 1
fi
command=\${1:-help}
# The unit sets the data directory, unless the settings do, and runs in it.
if grep -q '^[[:space:]]*DATA_DIR[[:space:]]*=' "\$settings"; then
    named=\$(sed -n 's/^[[:space:]]*DATA_DIR[[:space:]]*=[[:space:]]*//p' "\$settings" | tail -n 1 |
        sed "s/[[:space:]]*\\\$//; s/^[\"']//; s/[\"']\\\$//")
    case \$named in
        /*) data= ;;
        *) data=DATA_DIR=$state_dir/\${named:-data} ;;
    esac
else
    data=DATA_DIR=$state_dir
fi
# Passes no other variables of the caller: the service does not have them either.
set -- env -i "PATH=\$PATH" "ENV_FILE=\$settings" \${data:+"\$data"} $binary_to "\$@"
# A restore may have to move the directory; the restored files belong to the owner of the directory.
if [ "\$(id -un)" = $account ] || [ "\$command" = restore ]; then
    exec "\$@"
fi
exec runuser -u $account -- "\$@"
TEXT
}

install_all() {
    binary=$(find_binary "$1")
    if [ -z "$destdir" ]; then
        "$binary" version >/dev/null || fail "$binary does not run here: '$binary version' failed"
    fi

    put 0755 "$binary" "$binary_to"
    echo "binary       $destdir$binary_to"

    temporary=$(mktemp)
    trap 'rm -f "$temporary"' EXIT
    operator_script >"$temporary"
    put 0755 "$temporary" "$operator_to"
    echo "commands     $destdir$operator_to"

    sed "s|^ExecStart=/usr/local/bin/vski |ExecStart=$binary_to |" "$root/vski.service" >"$temporary"
    put 0644 "$temporary" "$unit_to"
    echo "unit         $destdir$unit_to"

    if [ -z "$destdir" ]; then
        make_account
        # The unit would create it too, but the first admin is created before its first start.
        install -d -m 0700 -o "$account" -g "$account" "$state_dir" || fail "cannot create $state_dir"
        echo "data         $state_dir"
    fi

    if [ -e "$destdir$config_to" ]; then
        echo "settings     $destdir$config_to (kept)"
    else
        environment_file >"$temporary"
        put 0640 "$temporary" "$config_to"
        # It can contain secrets: root writes it, the service's group reads it.
        if [ -z "$destdir" ]; then
            chown "root:$account" "$config_to" || fail "cannot set the group of $config_to to $account"
        fi
        echo "settings     $destdir$config_to"
    fi

    if systemd_runs; then
        systemctl daemon-reload
    fi
    next_steps
}

# The two steps after an installation, or the one after an upgrade.
next_steps() {
    [ -z "$destdir" ] || return 0
    if systemd_runs && systemctl --quiet is-active vski; then
        echo
        echo "vski still runs the old binary; to switch: systemctl restart vski"
        return
    fi
    if [ -e "$state_dir/default.db" ]; then
        echo
        echo "Data exists already; to start: systemctl enable --now vski"
        return
    fi
    port=$(sed -n 's/^PORT=\([0-9][0-9]*\).*/\1/p' "$config_to" | tail -n 1)
    cat <<TEXT

Next:
  1. Create the first admin (asks for a password):
       $operator_to admin create you@example.com
  2. Start it and look at its health:
       systemctl enable --now vski && sleep 1 && curl http://127.0.0.1:${port:-3000}/api/health
TEXT
}

uninstall() {
    if systemd_runs && systemctl cat vski >/dev/null 2>&1; then
        systemctl disable --now vski || fail "cannot stop the service vski"
    fi
    rm -f "$destdir$binary_to" "$destdir$operator_to" "$destdir$unit_to"
    if systemd_runs; then
        systemctl daemon-reload
    fi
    echo "removed      $destdir$binary_to, $destdir$operator_to"
    echo "removed      $destdir$unit_to"
    echo "kept         $destdir$config_to, $destdir$state_dir and the account $account"
}

action=install
binary=
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --uninstall) action=uninstall ;;
        -*) fail "unknown option: $1 (see --help)" ;;
        *)
            [ -z "$binary" ] || fail "more than one binary given: $1"
            binary=$1
            ;;
    esac
    shift
done
if [ -z "$destdir" ] && [ "$(id -u)" -ne 0 ]; then
    fail "must run as root (or set DESTDIR)"
fi

case $action in
    install) install_all "$binary" ;;
    uninstall) uninstall ;;
esac
