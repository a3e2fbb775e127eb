#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Prune removes what retention does not keep, and nothing else: a dry run changes nothing and says the bytes exactly;
# what is protected or being read stays; all that is left restores.
. "$(dirname "$0")/lib.sh"
need sqlite3 python3

RECORD=$((CLUSTER + 48)) # a cluster that does not compress, in a pack
SIZE_MIB=16
export TZ=Europe/Berlin # the daemon's
[ "$(date -d @0 +%H)" = 01 ] || skip "needs tzdata; scripts/install-packages brings it"

state_sum() { find "$STATE/store/packs" "$STATE/store/points" -type f -exec sha256sum {} + | sort | sha256sum; }
prune() { cbt_json prune "$@"; }
freed() { jq -r '."bytes-freed"'; }
verdicts() { jq -r '[.points[] | .action + ":" + .rule] | join(" ")'; }

# round NAME CLUSTER...: writes one random cluster at each of these, keeps it as $WORK/NAME.data, and an oracle; makes a
# backup and prints its job.
round() {
  local name=$1 cluster commands=()
  shift
  head -c "$CLUSTER" /dev/urandom >"$WORK/$name.data"
  for cluster in "$@"; do commands+=("write -s $WORK/$name.data $((cluster * CLUSTER)) $CLUSTER"); done
  io "$uri" "${commands[@]}"
  cp "$WORK/web.raw" "$WORK/$name.oracle"
  backup incremental web
}

random_image "$WORK/web.raw" $SIZE_MIB
start_daemon
vm_add web "root=$WORK/web.raw"
uri=$(uri_of web)
cp "$WORK/web.raw" "$WORK/p0.oracle"
p0=$(backup full web | jq -r .uuid)
before=$(packs_bytes)
p1=$(round p1 3 200 | jq -r .uuid)
grown=$(($(packs_bytes) - before))
p2=$(round p2 3 200 | jq -r .uuid)

say "without rules nothing goes"
for options in "" "web" "web --keep-last 0 --keep-yearly 0"; do
  # shellcheck disable=SC2086 # words
  answer=$(prune $options)
  assert_eq "prune $options" "$(verdicts <<<"$answer")" "keep:no-rules keep:no-rules keep:no-rules"
  assert_eq "bytes of prune $options" "$(freed <<<"$answer")" 0
done
assert_eq "points" "$(points web | wc -l)" 3

say "a dry run changes nothing, and says the bytes exactly"
cbt --quiet protect "$p0"
sum=$(state_sum)
answer=$(prune web --keep-last 1 --dry-run)
assert_eq "dry run" "$(verdicts <<<"$answer")" "keep:keep-last remove:unmatched keep:protected"
assert_eq "its points" "$(jq -r '[.points[].uuid] | join(" ")' <<<"$answer")" "$p2 $p1 $p0"
assert_keys "a point of it" "$(jq '.points[0]' <<<"$answer")" uuid vm time action rule
# Nothing of the second point is in the others, so what it added to the packs is what comes free.
assert_eq "bytes that would come free" "$(freed <<<"$answer")" "$grown"
assert_eq "what the second backup stored" "$(cbt_json show "$p1" | jq '[.disks[].stored] | add')" "$grown"
assert_eq "packs and points after a dry run" "$(state_sum)" "$sum"
text=$(cbt prune web --keep-last 1 --dry-run)
assert_has "a dry run for people" "$text" "Would remove 1 of 3 recovery points"
assert_has "a dry run for people" "$text" "unmatched"

say "what is shared stays"
io "$uri" "write -s $WORK/p1.data $((7 * CLUSTER)) $CLUSTER"
cp "$WORK/web.raw" "$WORK/p3.oracle"
p3=$(backup incremental web | jq -r .uuid)
# Both clusters of the second point held the same, which the newest holds now elsewhere.
assert_eq "bytes without the shared chunk" "$(prune web --keep-last 2 --dry-run | freed)" $((grown - RECORD))
cp "$WORK/p1.oracle" "$WORK/twin.raw"
vm_add twin "root=$WORK/twin.raw"
backup full twin >/dev/null
assert_eq "bytes when another vm has it all" "$(prune web --keep-last 2 --dry-run | freed)" 0
cbt --quiet vm remove twin
answer=$(prune --keep-last 1 --dry-run)
assert_eq "each vm by itself" "$(jq -r '[.points[] | .vm + ":" + .action] | join(" ")' <<<"$answer")" \
  "twin:keep web:keep web:remove web:remove web:keep"
cbt --quiet forget twin@latest

say "prune removes just that"
answer=$(prune web --keep-last 2)
assert_eq "prune" "$(verdicts <<<"$answer")" "keep:keep-last keep:keep-last remove:unmatched keep:protected"
assert_eq "bytes" "$(freed <<<"$answer")" $((grown - RECORD))
assert_eq "points" "$(points web | tr '\n' ' ')" "$p3 $p2 $p0 "
assert_eq "point files" "$(find "$STATE/store/points" -type f | wc -l)" 3
expect_exit 3 "$p1" cbt show "$p1"
for point in "$p0 p0" "$p2 p2" "$p3 p3"; do restore_matches "${point% *}" root "$WORK/${point#* }.oracle"; done
answer=$(prune web --keep-last 2)
assert_eq "prune again" "$(verdicts <<<"$answer")" "keep:keep-last keep:keep-last keep:protected"
assert_eq "bytes of prune again" "$(freed <<<"$answer")" 0
assert_eq "what prune prints with --quiet" "$(cbt --quiet prune web --keep-last 2)" ""
job=$(round p4 9)
assert_eq "the next incremental's reason" "$(jq .reason <<<"$job")" null
restore_matches "$(jq -r .uuid <<<"$job")" root "$WORK/p4.oracle"

say "what a job reads stays"
api POST "/v1/points/$p2/archive" "{\"path\":\"$WORK/slow.vma\",\"speed\":65536}"
id=$(jq -er .id <<<"$body")
answer=$(prune web --keep-last 1)
assert_eq "prune beside a job" "$(verdicts <<<"$answer")" \
  "keep:keep-last remove:unmatched keep:in-use keep:protected"
expect_exit 4 "job wait $id" cbt forget "$p2"
expect_status 409 "reads recovery point $p2" DELETE "/v1/points/$p2"
cbt --quiet job cancel "$id" >/dev/null
wait_job "$id" >/dev/null
assert_eq "prune when it has ended" "$(prune web --keep-last 1 | verdicts)" \
  "keep:keep-last remove:unmatched keep:protected"
io "$uri" "write -s $WORK/p1.data 0 $((8 * MIB))"
id=$(start_backup incremental web --speed 65536)
wait_until 20 bitmap_is web/root frozen || fail "the bitmap does not freeze"
expect_exit 4 "a backup reads recovery point" cbt forget web@latest
cbt --quiet job cancel "$id" >/dev/null
wait_job "$id" >/dev/null

say "periods are those of the local clock"
for _ in 1 2 3 4; do backup incremental web >/dev/null; done
stop_daemon
set_time() { sqlite3 "$STATE/catalogue.sqlite" "UPDATE points SET time = $(date -d "$2" +%s)000000 WHERE uuid = '$1'"; }
mapfile -t uuids < <(sqlite3 "$STATE/catalogue.sqlite" "SELECT uuid FROM points WHERE NOT protected ORDER BY seq DESC")
times=("2024-10-27 01:50Z" "2024-10-27 00:10Z" "2024-10-26 23:59Z" "2024-10-26 12:00Z" "2024-10-20 21:59Z")
assert_eq "points to move" "${#uuids[@]}" "${#times[@]}"
for i in "${!times[@]}"; do set_time "${uuids[i]}" "${times[i]}"; done
set_time "$p0" "2024-10-20 10:00Z"
start_daemon
# 02:50 CET, 02:10 CEST, 01:59 CEST, the day before, and a Sunday
answer=$(prune web --keep-hourly 2 --keep-daily 1 --keep-weekly 1 --dry-run)
assert_eq "the hour that comes twice" "$(verdicts <<<"$answer")" \
  "keep:keep-hourly remove:keep-hourly keep:keep-hourly keep:keep-daily keep:keep-weekly keep:protected"
answer=$(prune --keep-weekly 1)
assert_eq "a week" "$(verdicts <<<"$answer")" \
  "keep:keep-weekly remove:keep-weekly remove:keep-weekly remove:keep-weekly remove:unmatched keep:protected"
restore_matches "$p0" root "$WORK/p0.oracle"

say "bad values are refused by name"
expect_exit 2 "--keep-last" cbt prune web --keep-last x
expect_exit 2 "--keep-daily" cbt prune web --keep-daily -1
expect_exit 2 "--keep-weekly" cbt prune web --keep-weekly 1.5
expect_exit 2 "keep-minutely" cbt prune web --keep-minutely 1
expect_exit 3 "nobody" cbt prune nobody --keep-last 1
for value in -1 1.5 '"3"' true '[1]' 1e300; do
  expect_status 400 "keep-monthly" POST /v1/prune "{\"keep-monthly\":$value}"
done
expect_status 400 "keep-minutely" POST /v1/prune '{"keep-minutely":1}'
expect_status 400 "dry-run" POST /v1/prune '{"dry-run":"yes"}'
expect_status 400 "vm" POST /v1/prune '{"vm":"../x","keep-last":1}'
expect_status 404 "nobody" POST /v1/prune '{"vm":"nobody","keep-last":1}'
assert_eq "points at the end" "$(points web | wc -l)" 2

say "where pages are damaged prune works, and says that the bytes are not exact"
backup full web >/dev/null
assert_eq "warning without damage" "$(prune web --keep-last 1 --dry-run | jq .warning)" null
cbt --quiet export stop web
stop_daemon
python3 - "$STATE"/store/packs/*.pack <<'END'
import sys
for path in sys.argv[1:]:
    with open(path, "r+b") as pack:
        data = bytearray(pack.read())
        for at in range(64, len(data) - 48, 16):
            here = (at // 16).to_bytes(4, "little")
            if data[at:at + 5] == b"CBTR\x02" and data[at + 36:at + 40] == here:
                data[at + 60] ^= 1
        pack.seek(0)
        pack.write(data)
END
start_daemon
answer=$(prune web --keep-last 1)
assert_eq "prune of a damaged store" "$(verdicts <<<"$answer")" "keep:keep-last remove:unmatched keep:protected"
assert_has "its warning" "$(jq -r .warning <<<"$answer")" "manifest page"
assert_eq "points" "$(points web | wc -l)" 2
stop_daemon
