#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The catalogue and the chunk index can be deleted: vms, policies, points and bases come back from the store, by
# themselves or by command, whenever that is interrupted, and the next incremental reads only what changed.
. "$(dirname "$0")/lib.sh"
need nbdkit sqlite3 xxhsum

seed
points=6 kills=12 sets=3
[ -z "$LONG" ] || { points=30 kills=300 sets=100; }
random_image "$WORK/root.img" 8
random_image "$WORK/data.img" 4
random_image "$WORK/two.img" 4
echo "memory=1" >"$WORK/one.conf"

### what there is

# everything: all that must be the same after a rebuild. What a vm's disks are dirty by is in the bitmaps. What a policy
# did last is in the catalogue alone.
done_last='["last-run", "last-result", "errmsg", "last-job", "removed", "failures", "next-retry"]'
policy_of() { # VM: what was asked for
  cbt_json policy show "$1" | jq -S "delpaths($done_last | map([.]))"
}
everything() {
  local vm disk
  cbt_json vm list | jq -S 'sort_by(.name)'
  for vm in one two; do
    cbt_json list "$vm" | jq -S .
    for disk in $(cbt_json vm show "$vm" | jq -r '.disks[].name'); do
      cbt_json bitmap list "$vm/$disk" | jq -S 'map(del(.generation))'
    done
    policy_of "$vm"
  done
}
expect_everything() { # WHAT
  everything >"$WORK/after.json"
  diff "$WORK/before.json" "$WORK/after.json" >&2 || fail "$1: not all came back"
}
lose_catalogue() { rm -f "$STATE"/catalogue.sqlite*; }
# spoil_policy FILE: a vm file with a sound checksum, and a key in its policy that nobody knows.
spoil_policy() {
  local path=$STATE/store/vms/$1 sum
  head -n -1 "$path" | sed 's/^text=.*/&; keep-centennial=1/' >"$WORK/spoilt"
  sum=$(xxhsum -H3 <"$WORK/spoilt" | grep -o '[0-9a-f]\{16\}')
  printf '# xxh3-64: %s\n' "$sum" | cat "$WORK/spoilt" - >"$path"
}
lose_all() { rm -f "$STATE"/catalogue.sqlite* "$STATE/store/index"; }

offset=0
change() { # writes a cluster of root through the running export
  offset=$((offset + CLUSTER))
  io "$(uri_of one root)" "write -P $((offset / CLUSTER)) $offset 64k" flush
}
# goes_on WHAT: the next incremental reads what one write changed, nothing else, and its point is right.
goes_on() {
  local job
  change
  job=$(backup incremental one)
  assert_eq "$1: kind, reason, dirty" "$(jq -c '[.kind, .reason, .dirty]' <<<"$job")" "[\"incremental\",null,$CLUSTER]"
  assert_le "$1: bytes read" "$(jq .read <<<"$job")" "$CLUSTER"
  restore_matches one@latest root "$WORK/root.img"
  restore_matches one@latest data "$WORK/data.img"
}

### a store with some of everything

start_daemon
cbt --quiet vm add one --disk "root=$WORK/root.img" --disk "data=$WORK/data.img" --config "$WORK/one.conf" --granularity 64K
cbt --quiet vm add two --disk "root=$WORK/two.img"
assert_eq "vm files" "$(find "$STATE/store/vms" -name '*.vm' -printf '%f\n' | sort | tr '\n' ' ')" "one.vm two.vm "
cbt --quiet export start one >/dev/null
cbt --quiet bitmap add one/root:weekly
cbt --quiet bitmap add one/data:weekly
# At a time half a day away, so that nothing is due.
far_time=$(date -d '12 hours' +%H:%M)
cbt --quiet policy set one --schedule "weekly mon,tue,wed,thu,fri,sat,sun $far_time" --keep-last 3 --keep-yearly 2 \
  --bitmap weekly --speed 5M --verify-share 7 --no-gc
cbt --quiet policy set two --schedule "daily $far_time" --keep-daily 7 --disable
assert_has "the file" "$(cat "$STATE/store/vms/two.vm")" \
  "text=schedule=daily $far_time; bitmap=default; keep-daily=7; gc=yes; enabled=no"
backup full one --note "the first" >/dev/null
backup incremental one --bitmap weekly >/dev/null
for ((i = 0; i < points; i++)); do
  change
  backup incremental one >/dev/null
done
backup full two >/dev/null
cbt --quiet note one@1 "before the upgrade; \"quoted\""
cbt --quiet protect one@1
everything >"$WORK/before.json"
say "$(jq -s 'length' "$WORK/before.json") documents, $(points one | wc -l) points of one"

### by itself, at the start

say "catalogue and index deleted, the export still running: all comes back, and the export is found again"
pid=$(export_pid one)
stop_daemon
lose_all
start_daemon
expect_everything "lost while the daemon was down"
assert_eq "the export's process" "$(export_pid one)" "$pid"
assert_has "the log" "$(cat "$WORK/daemon.log")" "the catalogue is lost"
goes_on "after the loss"
change
job=$(backup incremental one --bitmap weekly)
assert_eq "the other bitmap goes on as well" "$(jq -c '[.kind, .reason]' <<<"$job")" '["incremental",null]'
restore_matches one@latest root "$WORK/root.img"
assert_eq "what the first one has yet to read" "$(backup incremental one | jq .dirty)" "$CLUSTER"
assert_eq "vm two: nothing is read" "$(backup incremental two | jq -c '[.kind, .reason, .dirty, .read]')" '["incremental",null,0,0]'

say "without an export as well"
cbt --quiet export stop one
everything >"$WORK/before.json"
stop_daemon
lose_all
start_daemon
expect_everything "lost without an export"
cbt --quiet export start one >/dev/null
goes_on "without an export"

say "only the database deleted, its log left behind: the log is not played back into the new one"
everything >"$WORK/before.json"
kill_daemon
rm "$STATE/catalogue.sqlite"
start_daemon
expect_everything "a stale log"
goes_on "after a stale log"

say "frozen for a point that is committed: it abdicates; for one that is not: it is given back"
change
id=$(start_backup incremental one)
wait_job "$id" >/dev/null
for ((i = 0; i < 3; i++)); do
  change
  id=$(start_backup incremental one)
  pause "0.0$((RANDOM % 10))"
  kill_daemon
  lose_all
  start_daemon
  assert_eq "bitmap" "$(bitmap_state one/root)" active
  job=$(backup incremental one)
  assert_eq "kind, reason" "$(jq -c '[.kind, .reason]' <<<"$job")" '["incremental",null]'
  assert_le "dirty" "$(jq .dirty <<<"$job")" "$CLUSTER"
  restore_matches one@latest root "$WORK/root.img"
done

### killed in the middle

everything >"$WORK/before.json"
stop_daemon
for ((i = 0; i < kills; i++)); do
  lose_all
  "$BUILD/bin/cbt-backupd" --state-dir "$STATE" --runtime-dir "$RUN" >>"$WORK/daemon.log" 2>&1 &
  DAEMON_PID=$!
  pause "0.0$(printf %02d $((RANDOM % 60)))"
  kill_daemon
done
say "killed $kills times while it was at it, started once more"
start_daemon
expect_everything "killed in the middle"
goes_on "killed in the middle"

say "an older catalogue that does not know of a running export: it is found"
everything >"$WORK/before.json"
stop_daemon
sqlite3 "$STATE/catalogue.sqlite" "DELETE FROM exports"
start_daemon
expect_everything "an export that the catalogue does not know"
goes_on "an export that the catalogue does not know"

### by command

say "rebuild-catalogue on a running daemon changes nothing where nothing is wrong"
everything >"$WORK/before.json"
answer=$(cbt_json rebuild-catalogue)
assert_eq "the answer" "$(jq -c '[.vms, .damaged, .problems]' <<<"$answer")" '[2,0,[]]'
assert_eq "its points" "$(jq .points <<<"$answer")" "$(($(points one | wc -l) + $(points two | wc -l)))"
expect_everything "nothing was wrong"
assert_ne "job history" "$(cbt_json job list | jq length)" 0
goes_on "by command"

say "also when the files were deleted under it"
everything >"$WORK/before.json"
jobs=$(cbt_json job list | jq length)
lose_all
assert_has "in words" "$(cbt rebuild-catalogue)" "2 vms"
test -s "$STATE/catalogue.sqlite" || fail "the catalogue's file is not there again"
assert_eq "mode of the catalogue" "$(stat -c %a "$STATE/catalogue.sqlite")" 600
expect_everything "deleted while it ran"
assert_eq "jobs, which only the catalogue has" "$(cbt_json job list | jq length)" "$jobs"
stop_daemon
start_daemon
expect_everything "deleted while it ran, after a restart"
goes_on "deleted while it ran"

say "not while a job runs"
id=$(start_backup full one --speed 1M)
expect_status 409 "jobs run" POST /v1/rebuild-catalogue
expect_exit 4 "jobs run" cbt rebuild-catalogue
cbt --quiet job cancel "$id"
wait_job "$id" >/dev/null

### damage

say "a damaged catalogue: the daemon does not start, says why and what to do, and --rebuild-catalogue does it"
everything >"$WORK/before.json"
stop_daemon
damaged_start() { # WHAT: refused by name; then made again
  expect_exit "1 6" "--rebuild-catalogue" timeout 20 "$BUILD/bin/cbt-backupd" --state-dir "$STATE" --runtime-dir "$RUN"
  DAEMON_OPTIONS=(--rebuild-catalogue)
  start_daemon
  DAEMON_OPTIONS=()
  expect_everything "$1"
  stop_daemon
}
head -c 4096 /dev/urandom >"$STATE/catalogue.sqlite"
damaged_start "no database at all"
find "$STATE" -maxdepth 1 -name 'catalogue.sqlite.2*Z' -size +0 | grep -q . || fail "the damaged file is not kept"
size=$(stat -c %s "$STATE/catalogue.sqlite")
for ((at = 4096; at < size; at += 4096)); do random_bytes_at "$STATE/catalogue.sqlite" "$at" 100; done
damaged_start "pages without sense"
sqlite3 "$STATE/catalogue.sqlite" "UPDATE points SET parent = 'nonsense' WHERE rowid = 2"
damaged_start "a row without sense"
start_daemon
goes_on "after damage"

say "policies: the catalogue's counts at the start and is written into the file; by command the file's counts"
everything >"$WORK/before.json"
stop_daemon
sqlite3 "$STATE/catalogue.sqlite" "UPDATE policies SET keep_last = 9, last_result = 'done' WHERE vm = 'one'; \
  DELETE FROM policies WHERE vm = 'two'"
start_daemon
assert_eq "keep-last, of the catalogue" "$(policy_of one | jq '."keep-last"')" 9
assert_has "the file" "$(cat "$STATE/store/vms/one.vm")" "keep-last=9;"
cbt --quiet policy set one --keep-last 3
expect_everything "the policy that only the file had"
sqlite3 "$STATE/catalogue.sqlite" "UPDATE policies SET keep_last = 9 WHERE vm = 'one'; \
  UPDATE policies SET schedule = 'now and then' WHERE vm = 'two'"
expect_exit 6 "makes no sense" cbt policy show two
assert_eq "what was wrong" "$(cbt_json rebuild-catalogue | jq -c '[.damaged, .problems]')" '[0,[]]'
expect_everything "policies of the files"
cbt --quiet policy set one --keep-last 4
cbt --quiet policy set one --keep-last 3
assert_eq "what was wrong" "$(cbt_json rebuild-catalogue | jq -c '[.damaged, .problems]')" '[0,[]]'
expect_everything "policies that are equal"

say "killed right after, or while, a policy is set: the catalogue and the file agree at the next start"
for ((i = 0; i < sets; i++)); do
  (cbt --quiet policy set two --keep-daily $((10 + i)) >/dev/null 2>&1 || true) &
  pause "0.0$((RANDOM % 5))"
  kill_daemon
  wait $! || true
  start_daemon
  assert_has "the file" "$(cat "$STATE/store/vms/two.vm")" "keep-daily=$(policy_of two | jq '."keep-daily"');"
done
cbt --quiet policy set two --keep-daily 7
expect_everything "killed while a policy was set"

say "a policy of which the file makes no sense is named and left out, its vm comes; one that is removed stays away"
stop_daemon
lose_all
cp "$STATE/store/vms/two.vm" "$WORK/two.vm"
spoil_policy two.vm
start_daemon
assert_has "the log" "$(cat "$WORK/daemon.log")" "'keep-centennial' is unknown"
expect_exit 3 "no policy" cbt policy show two
assert_eq "vms" "$(cbt_json vm list | jq length)" 2
cbt --quiet policy set two --schedule "daily $far_time" --keep-daily 7 --disable
expect_everything "set again"
cbt --quiet policy remove two
assert_eq "lines on policies in the file" "$(grep -c "policy\|schedule" "$STATE/store/vms/two.vm" || true)" 0
stop_daemon
lose_all
start_daemon
expect_exit 3 "no policy" cbt policy show two
stop_daemon
lose_all
cp "$WORK/two.vm" "$STATE/store/vms/two.vm"
start_daemon
expect_everything "the file put back"

say "rows that say something else than the files: note and protection are taken at the start, the rest by command"
everything >"$WORK/before.json"
stop_daemon
sqlite3 "$STATE/catalogue.sqlite" "UPDATE points SET note = 'wrong', protected = 1 - protected"
start_daemon
expect_everything "wrong notes"
stop_daemon
sqlite3 "$STATE/catalogue.sqlite" "UPDATE points SET reason = 'wrong', parent = NULL; UPDATE disks SET path = path || '.wrong'"
start_daemon
assert_has "the log" "$(tail -n 20 "$WORK/daemon.log")" "says something else"
cbt --quiet rebuild-catalogue
expect_everything "wrong rows"

say "damaged point files that the catalogue still has are written again; the damaged ones are kept"
victim=$(points one | sed -n 3p)
flip() { printf '\377' | dd of="$1" bs=1 seek=90 conv=notrunc status=none; }
flip "$STATE/store/points/$victim.point"
expect_exit 6 "damaged" cbt rebuild-catalogue
expect_everything "a damaged point file, the catalogue there"
test "$(find "$STATE/store/points" -name "$victim.point.damaged-*" | wc -l)" = 1 || fail "the damaged file is not kept"
cbt --quiet rebuild-catalogue
rm "$STATE/store/points/$victim.point"
flip "$STATE/store/vms/two.vm"
assert_eq "what was wrong" "$(cbt_json rebuild-catalogue | jq -c '[.damaged, (.problems | length)]' || true)" '[1,2]'
expect_everything "a missing point file, a damaged vm file, the catalogue there"

say "with the catalogue lost as well: the damaged one is named and left as it is, the rest comes back"
stop_daemon
lose_all
flip "$STATE/store/points/$victim.point"
cp "$STATE/store/points/$victim.point" "$WORK/victim"
flip "$STATE/store/vms/two.vm"
start_daemon
assert_has "the log" "$(cat "$WORK/daemon.log")" "$victim.point: "
assert_same_file "the damaged file" "$WORK/victim" "$STATE/store/points/$victim.point"
jq -s --arg victim "$victim" '[.[1][] | select(.uuid != $victim) | .uuid]' "$WORK/before.json" >"$WORK/expected"
cbt_json list one | jq 'map(.uuid)' >"$WORK/found"
assert_same_file "the other points" "$WORK/expected" "$WORK/found"
goes_on "with a damaged point"
expect_exit 3 "no policy" cbt policy show two
cbt --quiet policy set two --schedule "daily $far_time" --keep-daily 7 --disable
assert_eq "vm two, of its newest point" "$(backup incremental two | jq -c '[.kind, .reason, .dirty]')" '["incremental",null,0]'

say "the newest point file gone as well: its bitmap is not believed"
victim=$(points two | head -n 1)
stop_daemon
lose_all
rm "$STATE/store/points/$victim.point"
start_daemon
assert_has "reason" "$(backup incremental two | jq -r .reason)" "another state"
restore_matches two@latest root "$WORK/two.img"

say "the state directory moved: nothing is read again; nothing but the store saved: read again, little stored"
cbt --quiet export stop one
backup incremental one >/dev/null
backup incremental two >/dev/null
everything >"$WORK/before.json"
stop_daemon
cp -a "$STATE" "$WORK/moved"
STATE=$WORK/moved
start_daemon
expect_everything "moved"
assert_eq "moved" "$(backup incremental one | jq -c '[.kind, .reason, .dirty]')" '["incremental",null,0]'
stop_daemon
mkdir "$WORK/saved"
mv "$STATE/store" "$WORK/elsewhere"
ln -s "$WORK/elsewhere" "$WORK/saved/store"
STATE=$WORK/saved
start_daemon
job=$(backup incremental one)
assert_eq "saved" "$(jq -r .kind <<<"$job")" incremental
assert_ne "reason" "$(jq -r .reason <<<"$job")" null
assert_le "stored" "$(jq .stored <<<"$job")" "$CLUSTER"
restore_matches one@latest root "$WORK/root.img"

say "a vm that was removed does not come back, its points do"
cbt --quiet vm remove two
stop_daemon
lose_all
start_daemon
assert_eq "vms" "$(cbt_json vm list | jq -c 'map(.name)')" '["one"]'
assert_ne "points" "$(points two | wc -l)" 0
stop_daemon
