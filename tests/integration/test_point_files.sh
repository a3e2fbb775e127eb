#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A sound point file is worth more than the catalogue's row of it: it is never written over with what a damaged row
# says, and nothing that it needs is collected. An older catalogue that is put back brings nothing back that is gone.
. "$(dirname "$0")/lib.sh"
need sqlite3

sql() { sqlite3 -cmd '.timeout 10000' "$STATE/catalogue.sqlite" "$1"; }
file_of() { echo "$STATE/store/points/$1.point"; }
# damage_row POINT: another root, which no chunk has.
damage_row() {
  sql "UPDATE point_disks SET root = lower(hex(randomblob(16)))
    WHERE point = (SELECT seq FROM points WHERE uuid = '$1')"
}
random_image "$WORK/web.raw" 2
start_daemon
vm_add web "root=$WORK/web.raw"
first=$(backup full web | jq -r .uuid)
cp "$WORK/web.raw" "$WORK/first.raw"
io "$(uri_of web)" 'write -P 1 0 256k'
second=$(backup incremental web | jq -r .uuid)
cbt --quiet export stop web

say "a damaged row: a note, a protection and a verdict are refused, and the file stays as it is"
damage_row "$first"
cp "$(file_of "$first")" "$WORK/sound.point"
expect_exit 6 "rebuild-catalogue" cbt note "$first" "a note"
expect_exit 6 "$first" cbt protect "$first"
expect_exit 6 "rebuild-catalogue" cbt verify --all
assert_same_file "the point file" "$WORK/sound.point" "$(file_of "$first")"
assert_eq "the row" "$(cbt_json show "$first" | jq -c '[.note, .protected, .verified]')" '[null,false,null]'
assert_eq "the other point" "$(cbt_json show "$second" | jq '.verified > 0')" true
cbt --quiet note "$second" "a note"
cbt --quiet rebuild-catalogue
restore_matches "$first" root "$WORK/first.raw"
cbt --quiet note "$first" "a note"
assert_has "the file" "$(cat "$(file_of "$first")")" "note=a note"

say "a damaged file is set aside before it is written again, a missing one is written"
printf '\377' | dd of="$(file_of "$first")" bs=1 seek=90 conv=notrunc status=none
cp "$(file_of "$first")" "$WORK/damaged.point"
cbt --quiet note "$first" "another note"
aside=$(find "$STATE/store/points" -name "$first.point.damaged-*")
assert_same_file "what was set aside" "$WORK/damaged.point" "$aside"
rm "$(file_of "$second")"
cbt --quiet protect "$second"

assert_eq "what was wrong" "$(cbt_json rebuild-catalogue | jq -c '[.damaged, .problems]')" '[0,[]]'
assert_eq "verify of both" "$(cbt_json verify --all --restart | jq -c '[.status, ."points-verified"]')" '["done",2]'

say "a row that has another point's chunks: nothing is collected until the catalogue is right again"
cbt --quiet unprotect "$second"
sql "UPDATE point_disks SET root = (SELECT root FROM point_disks d JOIN points p ON p.seq = d.point
  WHERE p.uuid = '$second') WHERE point = (SELECT seq FROM points WHERE uuid = '$first')"
before=$(packs_bytes)
expect_exit 6 "rebuild-catalogue" cbt gc
assert_eq "bytes of packs" "$(packs_bytes)" "$before"
cbt --quiet rebuild-catalogue
cbt --quiet gc
restore_matches "$first" root "$WORK/first.raw"

say "a point whose file is missing or damaged keeps what its row has"
printf '\377' | dd of="$(file_of "$first")" bs=1 seek=90 conv=notrunc status=none
rm "$(file_of "$second")"
cbt --quiet gc
restore_matches "$first" root "$WORK/first.raw"
restore_matches "$second" root "$WORK/web.raw"

say "an older catalogue put back: what was pruned and collected stays away, and everything that is listed restores"
policy=(--schedule "daily $(date -d '12 hours' +%H:%M)" --keep-last 3)
random_image "$WORK/gone.raw" 1
vm_add gone "root=$WORK/gone.raw"
backup full gone >/dev/null
cbt --quiet policy set gone "${policy[@]}"
stop_daemon
cp "$STATE/catalogue.sqlite" "$WORK/older.sqlite"
assert_eq "its log" "$(find "$STATE" -name 'catalogue.sqlite-wal' -size +0 | wc -l)" 0
put_older_back() { rm -f "$STATE"/catalogue.sqlite* && cp "$WORK/older.sqlite" "$STATE/catalogue.sqlite"; }
listed() { cbt_json list | jq -c 'map(.uuid) | sort'; }
start_daemon
for n in 2 3; do
  io "$(uri_of web)" "write -P $n ${n}00k 256k"
  backup incremental web >/dev/null
done
cbt --quiet export stop web
cbt --quiet vm remove gone --forget-points
cbt --quiet prune web --keep-last 2
cbt --quiet gc
expected=$(listed)
assert_eq "points that are left" "$(jq length <<<"$expected")" 2
stop_daemon
put_older_back
start_daemon
assert_eq "points" "$(listed)" "$expected"
for point in "$first" "$second"; do
  assert_has "the log" "$(grep -F "$point" "$WORK/daemon.log")" "taken out of the catalogue"
  test ! -e "$(file_of "$point")" || fail "the file of $point is there again"
done
assert_has "the log" "$(cat "$WORK/daemon.log")" "cbt-backup vm remove gone"
cbt --quiet vm remove gone
cbt --quiet gc
assert_eq "verify" "$(cbt_json verify --all | jq -c '[.status, ."points-verified"]')" '["done",2]'
restore_matches web@latest root "$WORK/web.raw"
backup incremental web >/dev/null
restore_matches web@latest root "$WORK/web.raw"
expected=$(listed)

say "so it is by command"
cp "$WORK/older.sqlite" "$WORK/rows.sqlite"
sql "ATTACH '$WORK/rows.sqlite' AS older;
  UPDATE older.points SET seq = seq + 1000; UPDATE older.point_disks SET point = point + 1000 WHERE point < 1000;
  INSERT INTO points SELECT * FROM older.points; INSERT INTO point_disks SELECT * FROM older.point_disks"
assert_eq "points in the catalogue" "$(listed | jq length)" 6
expect_exit 0 "not there any more" cbt rebuild-catalogue
assert_eq "points" "$(listed)" "$expected"
cbt --quiet gc

say "and with --rebuild-catalogue, vms that were removed stay away as well"
stop_daemon
put_older_back
DAEMON_OPTIONS=(--rebuild-catalogue)
start_daemon
assert_eq "points" "$(listed)" "$expected"
assert_eq "vms" "$(cbt_json vm list | jq -c 'map(.name)')" '["web"]'
assert_eq "the next one" "$(backup incremental web | jq -c '[.reason, .dirty]')" '[null,0]'
restore_matches web@latest root "$WORK/web.raw"
stop_daemon
