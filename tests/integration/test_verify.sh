#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Verify reads each chunk once, names what is damaged and every place that uses it, and remembers the verdict with each
# point; a backup of the same bytes heals; a run that was cut off goes on where it was.
. "$(dirname "$0")/lib.sh"
need python3
seed

verify() { cbt_json verify "$@"; }
# expect_damage WHAT...: a verify that finds damage; sets $job.
expect_damage() {
  local result=0
  job=$(verify "$@" 2>"$WORK/verify.err") || result=$?
  assert_eq "exit status of verify $* ($job)" "$result" 6
  assert_eq "status of the job" "$(jq -r '.status + " " + .code' <<<"$job")" "error corrupt"
  assert_has "what to do next" "$(cat "$WORK/verify.err")" "--repair"
}
# damage TYPE NUMBER: flips a bit in the payload of the record with that number of TYPE (1 data, 2 page,
# 3 config); prints "PACK OFFSET". What is on disk is what the daemon reads.
damage() {
  python3 - "$1" "$2" "$STATE"/store/packs/*.pack <<'END'
import os, sys
wanted, number = int(sys.argv[1]), int(sys.argv[2])
for path in sys.argv[3:]:
    with open(path, "r+b") as pack:
        data = pack.read()
        at = 64
        while data[at:at + 4] == b"CBTR":
            length = int.from_bytes(data[at + 12:at + 16], "little")
            if data[at + 4] == wanted:
                if number == 0:
                    pack.seek(at + 48 + length // 2)
                    pack.write(bytes([data[at + 48 + length // 2] ^ 4]))
                    print(os.path.basename(path)[:8], at)
                    sys.exit()
                number -= 1
            at += (48 + length + 15) // 16 * 16
sys.exit("there is no such record")
END
}
point_json() { cbt_json show "$1"; }

SIZE_MIB=12 # two leaves
random_image "$WORK/web.raw" $SIZE_MIB
random_image "$WORK/small.raw" 2
head -c 3000 /dev/urandom | base64 >"$WORK/web.conf"
start_daemon
cbt --quiet vm add web --disk "root=$WORK/web.raw" --config "$WORK/web.conf"
uri=$(uri_of web)
old=$(backup full web | jq -r .uuid)
cp "$WORK/web.raw" "$WORK/old.raw"
head -c "$CLUSTER" /dev/urandom >"$WORK/new.data"
io "$uri" "write -s $WORK/new.data $((150 * CLUSTER)) $CLUSTER"
new=$(backup incremental web | jq -r .uuid)
distinct=$((192 + 3 + 1 + 1 + 2)) # clusters, pages, file; the new cluster and its pages

say "what to verify must be said"
expect_exit 2 "Say what to verify" cbt verify
expect_exit 2 "leave 'web' out" cbt verify web --all
expect_exit 3 "nobody" cbt verify nobody
expect_exit 2 "4K" cbt verify web --speed 12
expect_status 400 "one of" POST /v1/verify '{}'
expect_status 400 "one of" POST /v1/verify '{"vm":"web","all":true}'
expect_status 400 "fast" POST /v1/verify '{"all":true,"fast":true}'
expect_status 404 "nobody" POST /v1/verify '{"vm":"nobody"}'

say "sound points are read once, whatever they share, and are marked"
assert_eq "verified before" "$(point_json "$old" | jq .verified)" null
job=$(verify web)
assert_keys "the job" "$job" type vm read chunks-read bytes-read points-verified points-damaged points-gone damaged \
  damaged-count resumed-from points-skipped chunks-skipped
assert_eq "verify" "$(jq -r '"\(.type) \(.status) \(.vm) \(."points-verified") \(."points-damaged")"' <<<"$job")" \
  "verify done web 2 0"
assert_eq "chunks read" "$(jq '."chunks-read"' <<<"$job")" "$distinct"
assert_eq "damaged" "$(jq -c .damaged <<<"$job")" "[]"
assert_ge "bytes read" "$(jq '."bytes-read"' <<<"$job")" $((193 * CLUSTER))
for point in "$old" "$new"; do
  assert_eq "verdict of $point" "$(point_json "$point" | jq -c '[.verified > 0, .damaged]')" '[true,null]'
done
assert_has "verify for people" "$(cbt verify "$old")" "1 recovery point verified, 0 damaged"
assert_eq "verify --quiet" "$(cbt --quiet verify web@latest)" ""
cp "$WORK/old.raw" "$WORK/twin.raw"
vm_add twin "root=$WORK/twin.raw"
backup full twin >/dev/null
assert_eq "chunks of everything" "$(verify --all | jq '."chunks-read"')" "$distinct"

say "a damaged cluster is named with every place that uses it"
verified=$(point_json "$old" | jq .verified)
read -r pack at <<<"$(damage 1 40)"
expect_damage --all
assert_eq "the chunk" "$(jq -c '[.damaged[] | [.pack, .offset, .type]]' <<<"$job")" "[[\"$pack\",$at,\"data\"]]"
places=$(jq -r '[.damaged[0]."used-by"[] | "\(.vm) \(.disk) \(.length)"] | sort | join(",")' <<<"$job")
assert_eq "its places" "$places" \
  "twin root $CLUSTER,web root $CLUSTER,web root $CLUSTER"
its_points=$(jq -r '[.damaged[0]."used-by"[] | select(.vm == "web") | .point] | sort | join(" ")' <<<"$job")
assert_eq "its points" "$its_points" \
  "$(printf '%s\n' "$old" "$new" | sort | tr '\n' ' ' | sed 's/ $//')"
assert_eq "points that are damaged" "$(jq -c '[."points-damaged", (."damaged-points" | length)]' <<<"$job")" "[3,3]"
offset=$(jq '.damaged[0]."used-by"[0].offset' <<<"$job")
head -c "$((offset + CLUSTER))" "$WORK/old.raw" | tail -c "$CLUSTER" >"$WORK/lost.data"
assert_eq "what is remembered" "$(point_json "$old" | jq -c '[.verified == '"$verified"', .damaged > 0]')" '[true,true]'
assert_has "list" "$(cbt list web)" "DAMAGED"
assert_has "show" "$(cbt show "$old")" "Damaged"
assert_has "status" "$(cbt status)" "2 of the recovery points of vm web are damaged"
expect_damage web --repair
assert_eq "repaired, places of what is not" "$(jq -c '[."repaired-count", .damaged[0]."used-by-count"]' <<<"$job")" "[0,2]"
text=$(cbt verify web 2>/dev/null) && fail "verify of a damaged vm succeeds"
assert_has "verify for people" "$text" "$pack"
assert_has "verify for people" "$text" "2 damaged"
stop_daemon
assert_has "the point file" "$(cat "$STATE/store/points/$old.point")" "damaged="
start_daemon
assert_eq "what is remembered by the next daemon" "$(point_json "$old" | jq '.damaged > 0')" true

say "the next backup that meets the same bytes heals"
cp "$WORK/lost.data" "$WORK/other.raw"
vm_add other "root=$WORK/other.raw"
backup full other >/dev/null
assert_eq "verify after that" "$(verify --all | jq -c '[."points-verified", ."points-damaged"]')" '[4,0]'
assert_eq "what is remembered" "$(point_json "$old" | jq .damaged)" null
restore_matches "$old" root "$WORK/old.raw"

say "below a damaged page all is lost, and a damaged file is named"
damage 2 0 >/dev/null
damage 3 0 >/dev/null
expect_damage "$old"
lost=$(jq -c '[.damaged[] | select(.type == "page") | ."used-by"[] | [.disk, .offset, .length]]' <<<"$job")
assert_eq "the page" "$lost" \
  "[[\"root\",0,$((128 * CLUSTER))]]"
assert_eq "the file" "$(jq -c '[.damaged[] | select(.type == "config") | ."used-by"[] | [.disk, .config]]' <<<"$job")" \
  '[[null,"web.conf"]]'
assert_eq "verify of another vm" "$(verify other | jq -r .status)" "done"
backup full web >/dev/null
assert_eq "after a full backup" "$(verify web | jq '."points-damaged"')" 0

say "a missing point file is named and written again"
rm "$STATE/store/points/$old.point"
expect_exit 6 "point files" cbt verify "$old"
assert_eq "point file" "$(test -s "$STATE/store/points/$old.point" && echo there)" there
assert_eq "verify after that" "$(verify "$old" | jq -r .status)" "done"

say "what is damaged is repaired from an image that has it, cluster and page, and from nothing else"
damage 1 70 >/dev/null
damage 2 1 >/dev/null # of the old point alone
expect_exit 2 "add --repair" cbt verify web --from "$WORK/old.raw"
expect_exit 2 "DISK=PATH" cbt verify web --repair --from root=
expect_exit 3 "gone.raw" cbt verify web --repair --from "$WORK/gone.raw"
expect_exit 3 "nobody@latest" cbt verify web --repair --from nobody@latest
expect_status 400 "'repair'" POST /v1/verify '{"vm":"web","from":"/x"}'
expect_status 400 "not absolute" POST /v1/verify '{"vm":"web","repair":true,"from":"root=x"}'
qemu-img create -q -f qcow2 "$WORK/other.qcow2" 12M
expect_exit 1 "qcow2" cbt verify web --repair --from "$WORK/other.qcow2"
for from in none "$new" "$WORK/small.raw" "data=$WORK/old.raw"; do
  options=(--repair)
  [ "$from" = none ] || options+=(--from "$from")
  expect_damage web "${options[@]}"
  assert_eq "repaired from $from" "$(jq '."repaired-count"' <<<"$job")" 0
done
job=$(verify web --repair --from "root=$WORK/old.raw")
assert_eq "repaired" "$(jq -c '[.status, ."repaired-count", ."points-damaged"]' <<<"$job")" '["done",2,0]'
assert_eq "what was damaged" "$(jq -c '[.damaged[].repaired]' <<<"$job")" '[true,true]'
assert_eq "what is remembered" "$(point_json "$old" | jq .damaged)" null
assert_eq "verify after that" "$(verify --all | jq '."damaged-count"')" 0
restore_matches "$old" root "$WORK/old.raw"
damage 1 71 >/dev/null
text=$(cd "$WORK" && cbt verify web --repair --from old.raw)
assert_has "repair for people" "$text" "1 damaged chunk, 1 repaired"

say "a run that was cancelled, or whose daemon was killed, goes on where it was"
vm_add small "root=$WORK/small.raw"
backup full small >/dev/null
total=$(verify --all | jq '."chunks-read"')
progress_is_noted() { grep -q 'finished=.' "$STATE"/verify/*.progress; }
for way in cancel kill; do
  id=$(cbt_json verify --all --speed 1500K --no-wait | jq -r .id)
  wait_until 30 progress_is_noted || fail "no progress is noted"
  if [ $way = cancel ]; then
    cbt --quiet job cancel "$id"
    assert_eq "job" "$(wait_job "$id" | jq -r .status)" cancelled
  else
    kill_daemon
    start_daemon
    assert_eq "job" "$(job_status "$id")" error
  fi
  job=$(verify --all)
  assert_ge "points skipped after $way" "$(jq '."points-skipped"' <<<"$job")" 1
  assert_ge "chunks skipped after $way" "$(jq '."chunks-skipped"' <<<"$job")" 32
  assert_le "chunks read after $way" "$(jq '."chunks-read"' <<<"$job")" $((total - 32))
  assert_eq "run that was gone on with" "$(jq '."resumed-from" > 0' <<<"$job")" true
  assert_eq "progress at the end" "$(find "$STATE/verify" -type f | wc -l)" 0
  assert_eq "chunks of the next run" "$(verify --all | jq '."chunks-read"')" "$total"
done
id=$(cbt_json verify --all --speed 1500K --no-wait | jq -r .id)
wait_until 30 progress_is_noted || fail "no progress is noted"
cbt --quiet job cancel "$id"
wait_job "$id" >/dev/null
job=$(verify --all --restart)
assert_eq "chunks of a run that begins anew" "$(jq '."chunks-read"' <<<"$job")" "$total"

say "verify keeps nothing from being pruned but what it reads"
id=$(cbt_json verify --all --speed 64K --no-wait | jq -r .id)
wait_until 20 cbt_json forget "$old" || fail "forget beside a verify"
cbt --quiet job cancel "$id"
wait_job "$id" >/dev/null
stop_daemon
text=$("$BUILD/bin/cbt-backup" store check --quiet --store "$STATE/store") || fail "not sound after all that: $text"
