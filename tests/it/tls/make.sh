#!/bin/sh
# Makes the certificates of this folder, which are for tests alone: the keys are public.
#
#   authority.pem        signs the servers below
#   other.pem            signs nothing that is used
#   server.pem           for localhost and 127.0.0.1
#   elsewhere.pem        for elsewhere.test
#   expired.pem          for localhost and 127.0.0.1, until 2021
#   own.pem              for localhost and 127.0.0.1, signed by itself
#   own-authority.pem    the same, as an authority
#   server.key           the key of these five
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/ca.conf" <<CONF
[ca]
default_ca = own
[own]
database = $work/index
new_certs_dir = $work
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = \${ENV::NAMES}
[both]
basicConstraints = critical, CA:TRUE
subjectAltName = \${ENV::NAMES}
CONF
: > "$work/index"
export NAMES=DNS:none

key() {
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"
}
# KEY NAME SECTION UNTIL OUT and more for openssl
sign() {
    openssl req -new -config /dev/null -key "$1" -subj "/CN=$2" -out "$work/request"
    section=$3 end=$4 out=$5
    shift 5
    openssl ca -batch -notext -config "$work/ca.conf" -extensions "$section" -in "$work/request" \
        -startdate 20200101000000Z -enddate "$end" -out "$out" "$@"
}

for name in authority other; do
    key "$work/$name.key"
    sign "$work/$name.key" "vski test $name" authority 21200101000000Z "$name.pem" \
        -selfsign -keyfile "$work/$name.key"
done
key server.key
by="-cert authority.pem -keyfile $work/authority.key"
here=DNS:localhost,IP:127.0.0.1
# shellcheck disable=SC2086
{
    NAMES=$here sign server.key server server 21200101000000Z server.pem $by
    NAMES=DNS:elsewhere.test sign server.key elsewhere server 21200101000000Z elsewhere.pem $by
    NAMES=$here sign server.key expired server 20210101000000Z expired.pem $by
    by="-selfsign -keyfile server.key"
    NAMES=$here sign server.key own server 21200101000000Z own.pem $by
    NAMES=$here sign server.key own both 21200101000000Z own-authority.pem $by
}
