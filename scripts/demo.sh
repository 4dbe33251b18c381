#!/bin/bash
# A tour with real data: imports the package list of this Debian system through the API, queries
# it, and compares the answers with those of dpkg.
#
# The admin sets up collections with rules, an account and an API key; a program with the key
# imports the packages; the account runs the queries. Replicas follow all the time, and have the
# same data at the end.
#
# Each part is one function named step_...; STEPS gives their order. A step selects the caller
# with `as`, uses `api` for requests, leaves rows for `compare`, and shares only the files in $work
# with other steps.
set -eu -o pipefail
export LC_ALL=C

STEPS="start collections access packages relations copyrights limits questions verify replicas workflows copies"

usage() {
    cat <<'TEXT'
usage: scripts/demo.sh [OPTION...]

Starts a server on a temporary data directory and a free port, imports the package list of
this Debian system and the copyright files of its packages with an API key, runs six queries
as a signed-in user, and compares every answer with dpkg's and every file with the original.
Exit code 0 only if all of them match, and if forbidden requests of the key, the user and an
anonymous caller were refused. Replicas follow the import; they must answer the queries as their
master does, and have the same databases, page by page. On one of them a workflow for each
package computes its transitive dependencies and writes them to the master.

  --binary PATH   server to run (default: target/release/vski, dist/vski, then $PATH)
  --url URL       use a running server instead, without collections named packages and
                  readers, which it leaves there
  --token TOKEN   admin token for --url
  --status FILE   package list to import (default: /var/lib/dpkg/status)
  --batch N       requests in one call of /api/batch (default 100, at most 1000)
  --replicas N    replicas (default 2, at most 16; 0 for none); not with --url
  --keep          keep the data directories and say where they are
  --help          this text
TEXT
}

# shellcheck source-path=SCRIPTDIR source=common/shell.sh
. "$(dirname "${BASH_SOURCE[0]}")/common/shell.sh"

here=$(cd "$(dirname "$0")" && pwd)
records=/api/collections/packages/records

binary='' url='' token='' status=/var/lib/dpkg/status batch=100 replicas='' keep=no
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --keep) keep=yes ;;
        --binary | --url | --token | --status | --batch | --replicas)
            [ $# -gt 1 ] || fail "$1 needs a value"
            declare "${1#--}=$2"
            shift
            ;;
        *) fail "unknown option: $1 (see --help)" ;;
    esac
    shift
done
case $batch in
    '' | *[!0-9]*) fail "--batch takes a number: $batch" ;;
esac
if [ "$batch" -lt 1 ] || [ "$batch" -gt 1000 ]; then
    fail "--batch takes 1 to 1000: $batch"
fi
case $replicas in
    '') [ -n "$url" ] && replicas=0 || replicas=2 ;;
    *[!0-9]* | ???*) fail "--replicas takes a number from 0 to 16: $replicas" ;;
esac
replicas=$((10#$replicas))
[ "$replicas" -le 16 ] || fail "--replicas takes a number from 0 to 16: $replicas"
[ -z "$url" ] || [ "$replicas" -eq 0 ] || fail "--replicas cannot be used with --url"
[ -z "$url" ] || [ -n "$token" ] || fail "--url needs --token"
need curl perl awk diff xargs sha256sum dpkg dpkg-query
[ -r "$status" ] || fail "cannot read $status: the input is the package list of a Debian system"

# Process ids and addresses by name: master, replica1 and so on.
declare -A servers=() urls=()
end_processes() {
    local name
    # An associative array has no order; the direction of a pair no longer matters.
    for name in "${!servers[@]}"; do
        kill "${servers[$name]}" 2>/dev/null || true
    done
    for name in "${!servers[@]}"; do
        wait "${servers[$name]}" 2>/dev/null || true
    done
}
make_work demo

# ---- shared by the steps ----

tab=$(printf '\t')

packages_pl() {
    perl "$here/demo/packages.pl" "$@"
}

now_ms() {
    local now=$EPOCHREALTIME
    echo $(((${now%.*} * 1000000 + 10#${now#*.}) / 1000))
}

# Sets the caller of the next requests: admin, key, reader or stranger.
as() { # as WHO
    who=$1
}

# Credentials are passed in a file, because command lines are public.
credentials() { # credentials WHO HEADER
    printf 'header = "%s"\n' "$2" >"$work/as.$1"
}

# One request. Leaves the status in $code, the answer in $work/answer and the milliseconds
# in $took.
request() { # request METHOD PATH [CURL ARGUMENT...]
    local method=$1 path=$2
    shift 2
    read -r code took < <(curl -sS --max-time 120 -K "$work/curl.conf" -K "$work/as.$who" -o "$work/answer" \
        -w '%{http_code} %{time_total}\n' -X "$method" "$@" "$url$path") || true
    [ "${code:-000}" != 000 ] || fail "$method $path: no answer from $url"
    took=$(awk -v s="$took" 'BEGIN { printf "%.1f", s * 1000 }')
}

# One request that must succeed.
api() { # api METHOD PATH [CURL ARGUMENT...]
    request "$@"
    case $code in
        2??) ;;
        *) fail "$1 $2: $code $(head -c 400 "$work/answer")" ;;
    esac
}

# One request that must be refused.
refused() { # refused STATUS WHAT METHOD PATH [CURL ARGUMENT...]
    local wanted=$1 what=$2
    shift 2
    request "$@"
    [ "$code" = "$wanted" ] || fail "the $who, $what: $code and not $wanted: $(head -c 400 "$work/answer")"
    printf '   %-8s  %-40s  %s %s\n' "$who" "$what" "$code" "$(packages_pl get message <"$work/answer")"
}

send_json() { # send_json METHOD PATH JSON, or @FILE for JSON
    api "$1" "$2" -H 'Content-Type: application/json' --data-binary "$3"
}

heading() {
    printf '\n== %s\n' "$*"
}

# A progress bar: redrawn on a terminal, printed once at the end elsewhere.
progress() { # progress DONE TOTAL STARTED_MS
    local done_now=$1 total=$2 elapsed rate filled bar
    elapsed=$(($(now_ms) - $3))
    [ "$elapsed" -gt 0 ] || elapsed=1
    [ -t 1 ] || [ "$done_now" -eq "$total" ] || return 0
    rate=$((done_now * 1000 / elapsed))
    filled=$((total > 0 ? done_now * 30 / total : 30))
    bar=$(printf '%*s' "$filled" '' | tr ' ' '#')
    [ ! -t 1 ] || printf '\r'
    printf '[%-30s] %d/%d  %d/s  %d.%02d s' "$bar" "$done_now" "$total" "$rate" \
        $((elapsed / 1000)) $((elapsed % 1000 / 10))
    [ "$done_now" -lt "$total" ] || echo
}

# Sends all batches that packages.pl wrote into a folder. Batches and not single requests:
# 711 packages took 0.13 s in batches of 100, 0.26 s one by one over 16 connections.
send_batches() { # send_batches FOLDER
    local file count total sent=0 started
    total=$(awk '{ n += $2 } END { print n + 0 }' "$1/counts")
    started=$(now_ms)
    progress 0 "$total" "$started"
    while read -r file count; do
        send_json POST /api/batch "@$file"
        sent=$((sent + count))
        progress "$sent" "$total" "$started"
    done <"$1/counts"
}

# Many requests at a time, all must succeed. Reads rows of a method, a path, the file for the
# answer, and for a form its field: name=@file.
send_many() { # send_many <rows
    local config=$work/many.conf good total file
    awk -F '\t' -v url="$url" -v all="$work/curl.conf" -v own="$work/as.$who" '
        BEGIN { while ((getline line <all) > 0 || (getline line <own) > 0) head = head line "\n" }
        {
            # Every request has its own options.
            printf "%s%smax-time = 120\n", (NR > 1 ? "next\n" : ""), head
            printf "request = \"%s\"\nurl = \"%s%s\"\noutput = \"%s\"\n", $1, url, $2, $3
            if ($4 != "") printf "form = \"%s\"\n", $4
            printf "write-out = \"%%{http_code} %%{filename_effective}\\n\"\n"
        }' >"$config"
    total=$(grep -c '^url = ' "$config" || true)
    [ "$total" -gt 0 ] || return 0
    # In this mode curl draws its progress bars even with --silent.
    curl --parallel --parallel-max 16 -K "$config" >"$work/many.codes" 2>"$work/many.errors" || true
    good=$(grep -c '^200 ' "$work/many.codes" || true)
    [ "$good" -ne "$total" ] || return 0
    grep -v '^200 ' "$work/many.codes" >"$work/many.bad" || cp "$work/many.errors" "$work/many.bad"
    read -r code file <"$work/many.bad" || true
    fail "$good of $total requests succeeded, another: $code $(head -c 400 "$file" 2>/dev/null || echo "$file")"
}

# All pages of the collection, a page at a time to a command that reads an answer.
each_page() { # each_page FIELDS COMMAND...
    local fields=$1 page=1 pages
    shift
    while :; do
        api GET "$records?page=$page&perPage=500&sort=name&fields=$fields"
        "$@" <"$work/answer"
        pages=$(packages_pl get totalPages <"$work/answer")
        [ "$page" -lt "$pages" ] || return 0
        page=$((page + 1))
    done
}

# Compares rows from the server with rows from dpkg. Differences are recorded in a file and
# not in a variable, because this can run at the end of a pipe.
compare() { # compare WHAT SERVER_FILE DPKG_FILE
    if cmp -s "$2" "$3"; then
        echo "   same as dpkg: $1"
    else
        echo "$1" >>"$work/wrong"
        echo "   NOT same as dpkg: $1 (< server, > dpkg)"
        diff "$2" "$3" | head -n 6 | sed 's/^/     /' || true
    fi
}

# ---- steps ----

step_start() {
    heading "Server"
    : >"$work/curl.conf"
    : >"$work/as.stranger"
    as stranger
    if [ -z "$url" ]; then
        start_servers
        printf 'noproxy = "*"\n' >>"$work/curl.conf"
        printf '{"email":"demo@example.com","password":"%s"}' "$(new_secret)" >"$work/admin.json"
        send_json POST /api/admins/init "@$work/admin.json"
        token=$(packages_pl get token <"$work/answer")
    fi
    credentials admin "Authorization: Bearer $token"
    api GET /api/health
    echo "$url answers, health in $took ms"
}

new_secret() {
    od -An -N16 -tx1 /dev/urandom | tr -d ' \n'
}

start_servers() {
    local number secret
    binary=$(find_server "$binary")
    unset JWT_SECRET REPLICA_MODE MASTER_URL REPLICA_ID SYNC_INTERVAL
    start_server master
    url=${urls[master]}
    # The master has generated a secret, and the replicas need the same one.
    secret=$(cat "$work/master/secret")
    for ((number = 1; number <= replicas; number++)); do
        start_server "replica$number" REPLICA_MODE=replica "REPLICA_ID=replica$number" "MASTER_URL=$url" \
            "JWT_SECRET=$secret" SYNC_INTERVAL=1 WORKFLOW_LEASE_SECONDS=3
    done
}

start_server() { # start_server NAME [VARIABLE=VALUE...]
    local name=$1 found=''
    local -a settings=(HOST=127.0.0.1 PORT=0 "DATA_DIR=$work/$1")
    shift
    settings+=("$@")
    mkdir "$work/$name"
    (
        # Not as arguments of env, because command lines are public.
        export "${settings[@]}"
        exec "$binary" serve
    ) >"$work/$name.out" 2>"$work/$name.log" &
    servers[$name]=$!
    for _ in $(seq 200); do
        found=$(sed -n 's/.* listening on \(http:[^ ,]*\).*/\1/p' "$work/$name.out")
        [ -z "$found" ] || break
        kill -0 "${servers[$name]}" 2>/dev/null ||
            fail "$name exited at once: $(tail -n 1 "$work/$name.log")"
        sleep 0.05
    done
    [ -n "$found" ] || fail "$name did not print its address"
    urls[$name]=$found
    echo "$name: $(head -n 1 "$work/$name.out")"
}

step_collections() {
    heading "Collections, by the admin: readers, who sign in, and packages, for them to read"
    as admin
    send_json POST /api/collections '{
        "name": "readers", "type": "auth",
        "viewRule": "id = @request.auth.id", "updateRule": "id = @request.auth.id",
        "fields": [{"name": "name", "type": "text"}]
    }'
    echo "readers created in $took ms"
    send_json POST /api/collections '{
        "name": "packages", "type": "base",
        "listRule": "@request.auth.id != \"\"", "viewRule": "@request.auth.id != \"\"",
        "fields": [
            {"name": "name", "type": "text", "required": true, "unique": true},
            {"name": "version", "type": "text", "required": true},
            {"name": "section", "type": "text"},
            {"name": "priority", "type": "select",
             "values": ["required", "important", "standard", "optional", "extra"]},
            {"name": "installed_kb", "type": "number"},
            {"name": "essential", "type": "bool"},
            {"name": "architecture", "type": "text"},
            {"name": "maintainer", "type": "text"},
            {"name": "homepage", "type": "url"},
            {"name": "summary", "type": "text"},
            {"name": "description", "type": "editor"},
            {"name": "depends", "type": "relation", "collectionId": "packages", "maxSelect": 1000},
            {"name": "copyright", "type": "file", "protected": true}
        ],
        "indexes": [{"fields": ["installed_kb"]}, {"fields": ["section"]}]
    }'
    echo "packages created in $took ms"
}

step_access() {
    heading "Who gets in: a reader and an API key, made by the admin"
    local secret
    secret=$(new_secret)
    as admin
    printf '{"email":"reader@example.com","password":"%s","name":"Reader"}' "$secret" >"$work/reader.json"
    send_json POST /api/collections/readers/records "@$work/reader.json"
    send_json POST /api/keys "{\"name\": \"demo import\", \"scopes\": [\"read\", \"write\"],
        \"collections\": [\"packages\"], \"expires\": \"$(date -u -d '1 hour' +%Y-%m-%dT%H:%M:%SZ)\"}"
    packages_pl get id <"$work/answer" >"$work/key.id"
    credentials key "X-API-Key: $(packages_pl get key <"$work/answer")"
    echo "the key reads and writes packages, for an hour"

    as stranger
    printf '{"identity":"reader@example.com","password":"%s"}' "$secret" >"$work/sign-in.json"
    send_json POST /api/collections/readers/auth-with-password "@$work/sign-in.json"
    credentials reader "Authorization: Bearer $(packages_pl get token <"$work/answer")"
    echo "the reader signed in in $took ms"
}

step_packages() {
    heading "Packages, with the key: batches of $batch through POST /api/batch"
    as key
    arch=$(dpkg --print-architecture)
    # One copy for both imports: the system may change meanwhile.
    cp "$status" "$work/status"
    mkdir "$work/records"
    packages_pl records "$arch" "$work/records" "$batch" <"$work/status"
    send_batches "$work/records"
}

step_relations() {
    heading "Dependencies as relations, with the key: of each the first alternative that is installed"
    as key
    each_page id,name packages_pl rows name id >"$work/ids.tsv"
    mkdir "$work/relations"
    packages_pl relations "$arch" "$work/relations" "$batch" "$work/ids.tsv" <"$work/status"
    send_batches "$work/relations"
}

# The hashes alone, in the order of the files.
hashes() { # hashes <paths
    tr '\n' '\0' | xargs -0 -r sha256sum | cut -d ' ' -f 1
}

step_copyrights() {
    heading "Copyright files: sent with the key, as forms, and fetched by the reader"
    local name id path count bytes started
    mkdir "$work/sent" "$work/fetched"
    : >"$work/copyrights.tsv"
    : >"$work/without"
    while IFS=$tab read -r name id; do
        path=/usr/share/doc/${name%%:*}/copyright # often a link, or in a folder that is one
        if [ -f "$path" ] && [ -r "$path" ]; then
            printf '%s\t%s\t%s\n' "$name" "$id" "$path" >>"$work/copyrights.tsv"
        else
            echo "$name" >>"$work/without"
        fi
    done <"$work/ids.tsv"
    count=$(wc -l <"$work/copyrights.tsv")
    echo "$count packages have one, $(wc -l <"$work/without") have none$(head -n 5 "$work/without" |
        awk '{ printf "%s %s", (NR > 1 ? "," : ":"), $1 } END { if (NR == 5) printf ", ..." }')"

    cut -f 3 "$work/copyrights.tsv" | hashes >"$work/originals"
    as key
    started=$(now_ms)
    awk -F '\t' -v OFS='\t' -v records="$records" -v to="$work/sent" \
        '{ print "PATCH", records "/" $2, to "/" $2, "copyright=@" $3 }' "$work/copyrights.tsv" | send_many
    echo "$count sent in $(($(now_ms) - started)) ms"

    as reader
    each_page id,name,copyright packages_pl rows id copyright | awk -F '\t' '$2 != ""' >"$work/links.tsv"
    started=$(now_ms)
    awk -F '\t' -v OFS='\t' -v to="$work/fetched" \
        '{ print "GET", "/api/files/packages/" $1 "/" $2, to "/" $1 }' "$work/links.tsv" | send_many
    bytes=$(find "$work/fetched" -type f -printf '%s\n' | awk '{ n += $1 } END { print n + 0 }')
    echo "$(wc -l <"$work/links.tsv") fetched in $(($(now_ms) - started)) ms, $bytes bytes"

    awk -F '\t' -v to="$work/fetched" '{ print to "/" $2 }' "$work/copyrights.tsv" | hashes >"$work/copies"
    if [ "$(wc -l <"$work/links.tsv")" -eq "$count" ] && cmp -s "$work/originals" "$work/copies"; then
        echo "   as the originals: $count files, by their SHA-256"
    else
        echo "copyright files" >>"$work/wrong"
        echo "   NOT as the originals:"
        paste "$work/copyrights.tsv" "$work/originals" "$work/copies" |
            awk -F '\t' '$4 != $5 { print "     " $1 ": " $5 " and not " $4 }' | head -n 6
    fi
}

step_limits() {
    heading "What is refused"
    local json='Content-Type: application/json' one
    one=$records/$(head -n 1 "$work/ids.tsv" | cut -f 2)
    as key
    refused 403 "change the collection packages" PATCH /api/collections/packages -H "$json" -d '{"listRule": ""}'
    refused 403 "make a collection" POST /api/collections -H "$json" -d '{"name": "mine"}'
    refused 403 "read the readers" GET /api/collections/readers/records
    as reader
    refused 403 "change a package" PATCH "$one" -H "$json" -d '{"essential": true}'
    refused 403 "list the other readers" GET /api/collections/readers/records
    as stranger
    refused 403 "add a package" POST "$records" -H "$json" -d '{"name": "mine", "version": "1"}'
    refused 403 "list the readers" GET /api/collections/readers/records
    refused 404 "read a package" GET "$one"
    [ ! -s "$work/links.tsv" ] || refused 404 "read a copyright file" GET \
        "/api/files/packages/$(head -n 1 "$work/links.tsv" | tr '\t' '/')"
    refused 401 "list the collections" GET /api/collections
    api GET "$records"
    [ "$(packages_pl get totalItems <"$work/answer")" = 0 ] || fail "a stranger sees packages"
    printf '   %-8s  %-40s  %s, and none of them\n' "$who" "list the packages" "$code"

    # The key is no longer needed.
    as admin
    api DELETE "/api/keys/$(cat "$work/key.id")"
    as key
    refused 401 "read with it after it was deleted" GET "$records"
}

# The answers of dpkg, computed by other means than the import:
#   dpkg.tsv   name, installed_kb, essential, section, priority, summary
#   edges.tsv  name, name of a dependency
ask_dpkg() {
    dpkg-query --admindir="$work/admin" -W -f '${db:Status-Status}\t${Package}\t${Architecture}\t${Installed-Size}\t${Essential}\t${Section}\t${Priority}\t${binary:Summary}\t${Pre-Depends},${Depends}\n' |
        awk -F '\t' -v arch="$arch" -v edges="$work/edges" '
            $1 == "installed" {
                suffix = $3 == arch || $3 == "all" ? "" : ":" $3
                name = $2 suffix
                size[name] = $4 + 0
                print name "\t" size[name] "\t" ($5 == "yes" ? "true" : "false") "\t" $6 "\t" $7 "\t" $8
                order[++n] = name
                wants[name] = $9
                suffixes[name] = suffix
            }
            END {
                for (i = 1; i <= n; i++) {
                    name = order[i]
                    groups = split(wants[name], group, ",")
                    for (g = 1; g <= groups; g++) {
                        choices = split(group[g], choice, "|")
                        for (c = 1; c <= choices; c++) {
                            sub(/^ */, "", choice[c])
                            sub(/[ :(].*/, "", choice[c])
                            found = choice[c] suffixes[name] in size ? choice[c] suffixes[name] : choice[c]
                            if (found in size) {
                                if (found != name) print name "\t" found >edges
                                break
                            }
                        }
                    }
                }
            }' | sort >"$work/dpkg.tsv"
    sort -u "$work/edges" >"$work/edges.tsv"
}

number=0
# Runs one query and shows the answer; the rows are left in $work/rows.
ask() { # ask QUESTION COLUMNS PARAMETER...
    local columns=$2 parameter shown=''
    local -a arguments=() column_list
    number=$((number + 1))
    printf '\n%d. %s\n' "$number" "$1"
    shift 2
    for parameter in "$@"; do
        shown="$shown${shown:+&}$parameter"
        arguments+=(--data-urlencode "$parameter")
    done
    echo "   GET $records?$shown"
    api GET "$records" -G "${arguments[@]}"
    printf '%s\n' "${arguments[@]}" >"$work/question.$number"
    cp "$work/answer" "$work/answer.$number"
    total=$(packages_pl get totalItems <"$work/answer")
    read -r -a column_list <<<"${columns//,/ }"
    packages_pl rows "${column_list[@]}" <"$work/answer" >"$work/rows"
    if [ -n "$columns" ]; then
        show_rows "${column_list[@]}"
    fi
}

show_rows() { # show_rows HEADING...
    head -n 10 "$work/rows" | packages_pl table "$@"
    local rows
    rows=$(wc -l <"$work/rows")
    echo "   $((rows < 10 ? rows : 10)) of $total shown, answered in $took ms"
}

# Compares the total that the server counted and the rows it sent with rows computed from dpkg.
compare_list() { # compare_list WHAT LIMIT <rows from dpkg
    cat >"$work/expected.all"
    head -n "$2" "$work/expected.all" >"$work/expected"
    wc -l <"$work/expected.all" | tr -d ' ' >>"$work/expected"
    echo "$total" >>"$work/rows"
    compare "$1" "$work/rows" "$work/expected"
}

by_size() {
    sort -t "$tab" -k 2,2nr -k 1,1
}

step_questions() {
    heading "Questions of the reader"
    as reader
    mkdir "$work/admin"
    cp "$work/status" "$work/admin/status"
    ask_dpkg

    ask "Which packages take the most room?" name,installed_kb,section \
        'sort=-installed_kb,name' 'perPage=10' 'fields=name,installed_kb,section'
    awk -F '\t' '{ print $1 "\t" $2 "\t" $4 }' "$work/dpkg.tsv" | by_size |
        compare_list "the ten largest" 10

    ask "Which packages are essential?" name,installed_kb,summary \
        'filter=essential = true' 'sort=name' 'perPage=500' 'fields=name,installed_kb,summary'
    awk -F '\t' '$3 == "true" { print $1 "\t" $2 "\t" $6 }' "$work/dpkg.tsv" |
        compare_list "the essential packages" 500

    ask "Which libraries of 1 MB and more need zlib1g by way of another package?" \
        name,installed_kb,section \
        'filter=(section = "libs" || section = "oldlibs") && installed_kb >= 1000 && depends.depends.name ?= "zlib1g"' \
        'sort=-installed_kb,name' 'perPage=500' 'fields=name,installed_kb,section'
    awk -F '\t' -v edges="$work/edges.tsv" '
        { size[$1] = $2; section[$1] = $4 }
        END {
            while ((getline <edges) > 0) {
                if ($2 == "zlib1g") direct[$1] = 1
                from[++n] = $1
                to[n] = $2
            }
            for (i = 1; i <= n; i++) if (to[i] in direct) indirect[from[i]] = 1
            for (name in indirect)
                if ((section[name] == "libs" || section[name] == "oldlibs") && size[name] >= 1000)
                    print name "\t" size[name] "\t" section[name]
        }' "$work/dpkg.tsv" | by_size | compare_list "those libraries" 500

    ask "What depends on libc6, the largest first?" name,installed_kb,section \
        'filter=depends.name ?= "libc6"' 'sort=-installed_kb,name' 'perPage=500' 'fields=name,installed_kb,section'
    awk -F '\t' -v edges="$work/edges.tsv" '
        { row[$1] = $1 "\t" $2 "\t" $4 }
        END { while ((getline <edges) > 0) if ($2 == "libc6") print row[$1] }' "$work/dpkg.tsv" |
        by_size | compare_list "what depends on libc6" 500

    ask "What does dpkg need, and what do those packages need?" "" \
        'filter=name = "dpkg"' 'expand=depends.depends'
    packages_pl tree <"$work/answer" >"$work/rows"
    show_tree
    awk -F '\t' '
        { near[$1] = near[$1] "\t" $2 }
        END {
            n = split(substr(near["dpkg"], 2), name, "\t")
            for (i = 1; i <= n; i++) {
                m = split(substr(near[name[i]], 2), far, "\t")
                for (k = 1; k <= m; k++) print name[i] "\t" far[k]
                if (m == 0) print name[i] "\t"
            }
        }' "$work/edges.tsv" | sort >"$work/expected"
    sort -o "$work/rows" "$work/rows"
    compare "the dependencies of dpkg, two levels deep" "$work/rows" "$work/expected"

    ask "What has to do with compression?" name,summary \
        'filter=summary ~ "compress"' 'sort=name' 'perPage=500' 'fields=name,summary'
    awk -F '\t' 'tolower($6) ~ /compress/ { print $1 "\t" $6 }' "$work/dpkg.tsv" |
        compare_list "the summaries with compress in them" 500
}

show_tree() {
    awk -F '\t' '
        !($1 in far) { order[++n] = $1; far[$1] = "" }
        $2 != "" { far[$1] = far[$1] (far[$1] == "" ? "" : ", ") $2 }
        END { for (i = 1; i <= n; i++) printf "   %-14s %s\n", order[i], far[order[i]] == "" ? "-" : far[order[i]] }
    ' "$work/rows"
    echo "   answered in $took ms"
}

# Compares everything again: every package and every dependency.
step_verify() {
    heading "Everything that the reader sees, against dpkg"
    as reader
    each_page name,installed_kb,essential,section,priority,summary \
        packages_pl rows name installed_kb essential section priority summary >"$work/all.tsv"
    compare "$(wc -l <"$work/dpkg.tsv" | tr -d ' ') packages" "$work/all.tsv" "$work/dpkg.tsv"

    each_page id,name,depends packages_pl edges depends >"$work/edges.ids"
    awk -F '\t' 'NR == FNR { name[$2] = $1; next } { print $1 "\t" name[$2] }' \
        "$work/ids.tsv" "$work/edges.ids" | sort >"$work/edges.server"
    compare "$(wc -l <"$work/edges.tsv" | tr -d ' ') dependencies" "$work/edges.server" "$work/edges.tsv"
}

step_replicas() {
    [ "$replicas" -gt 0 ] || return 0
    local name question master_url=$url i same
    local -a arguments
    heading "The replicas, which have followed all the while"
    as admin
    await_replicas

    for ((i = 1; i <= replicas; i++)); do
        await_files "replica$i"
    done
    url=$master_url

    as reader
    for ((i = 1; i <= replicas; i++)); do
        name=replica$i same=0
        url=${urls[$name]}
        for ((question = 1; question <= number; question++)); do
            mapfile -t arguments <"$work/question.$question"
            api GET "$records" -G "${arguments[@]}"
            if cmp -s "$work/answer" "$work/answer.$question"; then
                same=$((same + 1))
            else
                echo "question $question, asked of $name" >>"$work/wrong"
            fi
        done
        echo "$name answers $same of $number queries like the master, byte for byte"
    done
    as admin
    refused 403 "write to a replica" DELETE /api/collections/packages
    url=$master_url
}

# Waits until all replicas have the state of the master, and prints the time.
await_replicas() {
    local started
    started=$(now_ms)
    while :; do
        api GET /api/replica/status
        packages_pl states <"$work/answer" >"$work/states"
        # The master reports databases only of replicas that it knows.
        if [ "$(cut -f 1 "$work/states" | sort -u | wc -l)" -eq "$replicas" ] &&
            ! cut -f 3 "$work/states" | grep -qvx current; then
            break
        fi
        [ $(($(now_ms) - started)) -lt 30000 ] || fail "the replicas do not catch up: $(paste -s -d ';' "$work/states")"
        sleep 0.05
    done
    echo "all current after $(($(now_ms) - started)) ms more"
}

# Waits until a replica has all files, and prints its progress.
await_files() { # await_files NAME
    local started files last=''
    started=$(now_ms)
    url=${urls[$1]}
    while :; do
        api GET /api/replica/status
        files=$(perl -MJSON::PP -0777 -ne '
            my $files = decode_json($_)->{replica}{files};
            printf "%s %d of %d journal entries, %d files fetched, %d pending",
                $files->{state}, $files->{cursor} // 0, $files->{last}, $files->{fetched}, $files->{pending};
        ' <"$work/answer")
        [ "$files" = "$last" ] || echo "$1 files: $files"
        last=$files
        case $files in
            current*) return ;;
        esac
        [ $(($(now_ms) - started)) -lt 60000 ] || fail "the files of $1 do not arrive: $files"
        sleep 0.2
    done
}

# A run for each package on a replica, whose worker reads there and writes at the master.
step_workflows() {
    [ "$replicas" -gt 0 ] || return 0
    heading "Workflows on a replica: what each package needs in the end"
    if ! command -v python3 >/dev/null; then
        echo "skipped: no python3 on this system"
        return 0
    fi
    local master_url=$url id
    as admin
    send_json POST /api/collections '{"name": "closures", "fields": [
        {"name": "package", "type": "text", "required": true}, {"name": "size", "type": "number"},
        {"name": "names", "type": "json"}, {"name": "word", "type": "text"}]}'
    send_json POST /api/keys '{"name": "closures", "scopes": ["read", "write", "service"]}'
    export VSKI_REPLICA=${urls[replica1]} VSKI_MASTER=$master_url
    VSKI_KEY=$(packages_pl get key <"$work/answer")
    id=$(packages_pl get id <"$work/answer")
    export VSKI_KEY
    await_key
    start_worker first
    start_worker second
    python3 "$here/demo/closures.py" ask "$work/edges.tsv" "${servers[first]}" ||
        fail "the workflows: $(cat "$work/second.log")"
    kill "${servers[second]}"
    {
        wait "${servers[first]}" || true
        wait "${servers[second]}" || true
    } 2>/dev/null
    unset "servers[first]" "servers[second]"
    url=$master_url
    # The server writes the last use of a key now and then; after this it has nothing more to write.
    as admin
    api DELETE "/api/keys/$id"
    await_replicas
}

# Waits until the replica knows the key.
await_key() {
    local try
    printf 'header = "X-API-Key: %s"\n' "$VSKI_KEY" >"$work/as.worker"
    as worker
    url=$VSKI_REPLICA
    for try in $(seq 100); do
        request GET /api/workflow/queue
        [ "$code" != 200 ] || return 0
        sleep 0.1
    done
    fail "the replica does not accept the key after $try tries: $code"
}

start_worker() { # start_worker NAME
    python3 "$here/demo/closures.py" work >"$work/$1.log" 2>&1 &
    servers[$1]=$!
    # Keeps the shell from reporting its end.
    disown "${servers[$1]}"
}

# The number of files in a storage, and one digest over the path and the SHA-256 of each.
files_of() { # files_of SERVER
    (
        cd "$work/$1/storage"
        [ -z "$(find . -path './.*' -type f)" ] || fail "$1: an incomplete file is left"
        find . -type f ! -path './.*' | sort | xargs -r -d '\n' sha256sum >"$work/$1.files"
        printf '%s\t%s\n' "$(wc -l <"$work/$1.files")" "$(sha256sum <"$work/$1.files" | cut -d ' ' -f 1)"
    )
}

# Our own servers must stop on request, with exit code 0.
stop_server() { # stop_server NAME
    local code=0 pid=${servers[$1]}
    kill "$pid"
    wait "$pid" || code=$?
    unset "servers[$1]"
    [ "$code" -eq 0 ] || fail "the $1 exited with code $code: $(tail -n 1 "$work/$1.log")"
}

# The pages of a database and their SHA-256, without the twelve bytes in which SQLite counts its
# commits and keeps its version: every program that writes the file sets them itself.
pages_of() { # pages_of FILE
    local -a digest
    [ ! -s "$1-wal" ] || fail "$1: the WAL is not empty"
    read -r -a digest < <(perl -e '
        binmode STDIN;
        binmode STDOUT;
        read(STDIN, my $head, 100) == 100 or exit 1;
        substr($head, 24, 4) = "\0" x 4;
        substr($head, 92, 8) = "\0" x 8;
        print $head;
        print $_ while read STDIN, $_, 1 << 16' <"$1" | sha256sum)
    printf '%s\t%s\n' "$(perl -e '
        binmode STDIN;
        read(STDIN, my $head, 100) == 100 or exit 1;
        my $size = unpack "n", substr $head, 16, 2;
        print +(-s STDIN) / ($size == 1 ? 65536 : $size)' <"$1")" "${digest[0]}"
}

# The files on the disks, once nothing changes them any more.
step_copies() {
    [ "$replicas" -gt 0 ] || return 0
    heading "The databases of all servers, which are stopped, by the SHA-256 of their pages"
    local file database name i wanted
    local -a all=(master)
    for ((i = 1; i <= replicas; i++)); do
        all+=("replica$i")
        stop_server "replica$i"
    done
    stop_server master
    for file in "$work"/master/*.db; do
        database=$(basename "$file" .db)
        case $database in
            local | stats | workflows) continue ;; # what concerns a server alone
        esac
        wanted=$(pages_of "$file")
        for name in "${all[@]}"; do
            [ -f "$work/$name/$database.db" ] || fail "$name has no database $database"
            printf '%s\t%s\t%s\n' "$database" "$name" "$(pages_of "$work/$name/$database.db")" >>"$work/pages.tsv"
            [ "$(tail -n 1 "$work/pages.tsv" | cut -f 3,4)" = "$wanted" ] ||
                echo "the database $database of $name" >>"$work/wrong"
        done
    done
    packages_pl table database server pages sha256 <"$work/pages.tsv" | sed 's/^   //'
    grep -qs '^the database' "$work/wrong" || echo "all the same"

    heading "The files of records in the storages of all servers, by the SHA-256 of all their hashes"
    wanted=$(files_of master)
    for name in "${all[@]}"; do
        printf '%s\t%s\n' "$name" "$(files_of "$name")" >>"$work/trees.tsv"
        [ "$(tail -n 1 "$work/trees.tsv" | cut -f 2,3)" = "$wanted" ] ||
            echo "the files of $name" >>"$work/wrong"
    done
    packages_pl table server files sha256 <"$work/trees.tsv" | sed 's/^   //'
    grep -qs '^the files' "$work/wrong" || echo "all the same"
}

for step in $STEPS; do
    "step_$step"
done
[ -z "${servers[master]:-}" ] || stop_server master
echo
if [ -s "$work/wrong" ]; then
    fail "differences: $(paste -s -d ';' "$work/wrong" | sed 's/;/; /g')"
fi
echo "all answers match"
