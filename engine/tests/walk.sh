#!/usr/bin/env bash
# A walk through the promises, on two servers with stores of their own: one is killed with -9 and its
# stores are tampered with while the other is written to; after the restart all six stores are equal.
#
#     engine/tests/walk.sh                 # builds Tidelock, then walks
#     TIDELOCK=path/to/tidelock engine/tests/walk.sh
#
# WALK_SECONDS: how long a recovery may take (5). Needs bash 5, and the sqlite3 command to reach behind
# the servers' backs; ends with 77 where there is none. Its data is in a new folder, removed at the end.
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=${WALK_SECONDS:-5}
if ! command -v sqlite3 >/dev/null; then
    echo "there is no sqlite3 command: install it (apt-get install sqlite3, brew install sqlite)" >&2
    exit 77
fi
if [ -z "${TIDELOCK:-}" ]; then
    cargo build --quiet -p tidelock-engine
    TIDELOCK=${CARGO_TARGET_DIR:-target}/debug/tidelock
fi
unset TIDELOCK_URL TIDELOCK_TOKEN

root=$(mktemp -d)
declare -A pid=()
finish() {
    for site in "${!pid[@]}"; do kill -9 "${pid[$site]}" 2>/dev/null || true; done
    rm -rf "$root"
}
trap finish EXIT

say() { printf '== %s\n' "$*"; }
fail() {
    echo "FAILED: $*" >&2
    tail -n 20 "$root"/*.log >&2
    exit 1
}
at() { # SITE VERB..: a verb at a site's server
    local site=$1 verb=$2
    shift 2
    "$TIDELOCK" "$verb" "$@" --data "$root/$site"
}
sql() { sqlite3 -cmd '.timeout 5000' "$root/$1/stores/$2.sqlite" "$3"; }
quietly() { "$@" >/dev/null 2>&1; }

within() { # SECONDS WHAT COMMAND..: until it succeeds
    local limit=$1 what=$2 begun=$EPOCHREALTIME
    shift 2
    until quietly "$@"; do
        if (($(ms_since "$begun") > limit * 1000)); then fail "not within $limit s: $what"; fi
        sleep 0.1
    done
    say "$what, after $(ms_since "$begun") ms"
}
ms_since() { echo $(((${EPOCHREALTIME/[^0-9]/} - ${1/[^0-9]/}) / 1000)); }

start() { # SITE ADDRESS
    rm -f "$root/$1/address"
    # Nobody looks over the stores by himself: what a scan alone can find is found when we say so.
    "$TIDELOCK" serve --data "$root/$1" --config "$root/$1.toml" --listen "$2" \
        >"$root/$1.out" 2>>"$root/$1.log" &
    pid[$1]=$!
    disown # its end is told by nobody but us
    within 60 "site $1 serves" at "$1" status
}
equal() { at a verify && at b verify; }
holds() { # KEY VALUE: in each store of both sites
    local site store
    for site in a b; do
        for store in d1 kv r2; do
            [ "$(at "$site" get notes "$1" --store "$store")" = "$2" ] || return 1
        done
    done
}
gone() { # KEY: from each store of both sites
    local site
    for site in a b; do
        [ -z "$(sql "$site" d1 "SELECT 1 FROM tidelock_records WHERE key = '$1'")" ] || return 1
        [ -z "$(sql "$site" kv "SELECT 1 FROM kv WHERE key = 'notes/$1'")" ] || return 1
        [ -z "$(sql "$site" r2 "SELECT 1 FROM objects WHERE key = 'notes/$1'")" ] || return 1
    done
}

say "two sites, each with its own KV, D1 and R2"
number=0
for site in a b; do
    number=$((number + 1))
    mkdir -m 700 "$root/$site"
    (umask 077 && echo "the-same-secret-at-both" >"$root/$site/peer-token")
    cat >"$root/$site.toml" <<CONFIG
node = $number
site = $number

[[dataset]]
name = "notes"
kind = "text"
d1 = {}
kv = { prefix = "notes/" }
r2 = { prefix = "notes/" }
reconcile = { every = "never" }
CONFIG
    start "$site" 127.0.0.1:0
done
address_a=$(cat "$root/a/address")
quietly at a peer add 2 "$(cat "$root/b/address")" --site 2
quietly at b peer add 1 "$address_a" --site 1

say "ten records, written at a"
for n in {0..9}; do echo -n "note $n" | quietly at a put notes "n$n" -; done
within 60 "both sites hold them" holds n9 "note 9"
within 60 "all stores are equal" equal

say "a dies by kill -9; b goes on"
kill -9 "${pid[a]}"
while kill -0 "${pid[a]}" 2>/dev/null; do sleep 0.05; done
echo -n "low water at noon" | quietly at b put notes tide -
echo -n "note 1, again" | quietly at b put notes n1 -

say "behind a's back: a row deleted, copies lost, a value changed in place"
sql a d1 "DELETE FROM tidelock_records WHERE dataset = 'notes' AND key = 'n2'"
sql a r2 "DELETE FROM objects WHERE key IN ('notes/n3', 'notes/n4')"
sql a kv "DELETE FROM kv WHERE key IN ('notes/n4', 'notes/n5')"
sql a kv "UPDATE kv SET value = CAST('changed by hand' AS BLOB) WHERE key = 'notes/n6'"

say "a starts again"
start a "${address_a#http://}"
within "$seconds" "what b wrote is in every store of a" holds tide "low water at noon"
within "$seconds" "so is what it wrote over" holds n1 "note 1, again"
within "$seconds" "the deleted row is deleted everywhere: a trigger saw it" gone n2
if quietly equal; then fail "what was lost in KV and R2 shows in no feed; verify must tell of it"; fi

say "a looks over its KV and R2"
quietly at a sync
within "$seconds" "all stores are equal" equal
for n in 3 4 5; do
    within "$seconds" "n$n was put again" holds "n$n" "note $n"
done
within "$seconds" "what was changed in place is a version of its own" holds n6 "changed by hand"
kept=$(sql a d1 "SELECT value FROM tidelock_losers WHERE dataset = 'notes' AND key = 'n6'")
[ "$kept" = "note 6" ] || fail "what it replaced is not kept beside it: '$kept'"
say "and what it replaced is kept beside it"
say "done"
