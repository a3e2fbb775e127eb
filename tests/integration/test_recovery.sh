#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A lost, damaged or foreign bitmap is never believed: the next incremental reads again, says why, stores only what differs,
# and its point is right. Exports outlive the daemon, and nothing that is written while it is away is missed.
. "$(dirname "$0")/lib.sh"

ext4_image "$WORK/one.img" 64 40
random_image "$WORK/two.img" 8
start_daemon
vm_add vm1 "root=$WORK/one.img"
backup full vm1 >/dev/null
one_bitmap=$(find "$STATE/bitmaps" -type f -name '*.bitmap')
vm_add vm2 "root=$WORK/two.img"
backup full vm2 >/dev/null
two_bitmap=$(find "$STATE/bitmaps" -type f -name '*.bitmap' ! -path "$one_bitmap")
test -f "$one_bitmap" -a -f "$two_bitmap" || fail "no bitmap files below $STATE/bitmaps"

offset=0
write_while_exported() { # one cluster of vm1 through its export, then the export stops
  offset=$((offset + MIB))
  io "$(uri_of vm1)" "write -P $((offset / MIB)) $offset 64k" flush
  cbt --quiet export stop vm1
}

# reads_again WHAT [FRAGMENT]: the next incremental re-reads, says why, stores little; the one after it is ordinary again.
reads_again() {
  local job
  job=$(backup incremental vm1)
  assert_ne "$1: reason" "$(jq -r .reason <<<"$job")" null
  assert_has "$1: reason" "$(jq -r .reason <<<"$job")" "${2:-}"
  say "$1: $(jq -r .reason <<<"$job")"
  assert_ge "$1: read" "$(jq .read <<<"$job")" "$((30 * MIB))"
  assert_le "$1: stored" "$(jq .stored <<<"$job")" "$MIB"
  assert_eq "$1: the point's reason" "$(cbt_json show vm1@latest | jq -r .reason)" "$(jq -r .reason <<<"$job")"
  restore_matches vm1@latest root "$WORK/one.img"
  write_while_exported
  job=$(backup incremental vm1)
  assert_eq "$1: the next is ordinary" "$(jq -c '[.kind, .reason, .dirty]' <<<"$job")" "[\"incremental\",null,$CLUSTER]"
  restore_matches vm1@latest root "$WORK/one.img"
}

# while_stopped COMMAND...: with neither daemon nor export.
while_stopped() {
  stop_daemon
  "$@"
  start_daemon
}

say "nothing is wrong: an incremental reads nothing"
while_stopped true
assert_eq "reason, dirty" "$(backup incremental vm1 | jq -c '[.reason, .dirty]')" '[null,0]'

# damage FILE OFFSET: 64 bytes of a header; there are two of them, 4 KiB apart (docs/formats/bitmap.md).
damage() { head -c 64 /dev/urandom | dd of="$1" bs=1 seek="$2" conv=notrunc status=none; }
say "one of the two headers damaged: the other one serves"
write_while_exported
while_stopped damage "$one_bitmap" 16
assert_eq "reason, dirty" "$(backup incremental vm1 | jq -c '[.reason, .dirty]')" "[null,$CLUSTER]"
write_while_exported
while_stopped damage "$one_bitmap" 4112
assert_eq "reason, dirty" "$(backup incremental vm1 | jq -c '[.reason, .dirty]')" "[null,$CLUSTER]"
restore_matches vm1@latest root "$WORK/one.img"

damage_both() { damage "$1" 16 && damage "$1" 4112; }
write_while_exported
while_stopped damage_both "$one_bitmap"
reads_again "a bitmap file with damaged headers"
write_while_exported
while_stopped truncate -s 100 "$one_bitmap"
reads_again "a bitmap file that was cut"
write_while_exported
while_stopped truncate -s 0 "$one_bitmap"
reads_again "an empty bitmap file"
write_while_exported
while_stopped truncate -s "-1" "$one_bitmap"
reads_again "a bitmap file without its last byte"
write_while_exported
while_stopped rm "$one_bitmap"
reads_again "a bitmap file that is gone"
write_while_exported
while_stopped cp "$two_bitmap" "$one_bitmap"
reads_again "the bitmap file of another disk"

write_while_exported
old_bitmap() { cp "$WORK/old.bitmap" "$one_bitmap"; }
stop_daemon
cp "$one_bitmap" "$WORK/old.bitmap"
start_daemon
write_while_exported
backup incremental vm1 >/dev/null
while_stopped old_bitmap
reads_again "a bitmap file from before the last backup"

write_while_exported
while_stopped random_bytes_at "$WORK/one.img" 5000 10
reads_again "an image that was written behind the tracker" "image"
random_bytes_at "$WORK/one.img" 9000 10
reads_again "an image written while the daemon runs, but no export" "image"
replace_image() { cp "$WORK/one.img" "$WORK/copy.img" && random_bytes_at "$WORK/copy.img" 70000 10 && mv "$WORK/copy.img" "$WORK/one.img"; }
while_stopped replace_image
reads_again "another file in the image's place"

say "an export is found again by a restarted daemon, and what was written meanwhile is in the next backup"
uri=$(uri_of vm1)
pid=$(export_pid vm1)
stop_daemon
kill -0 "$pid" || fail "the export ended with the daemon"
io "$uri" 'write -P 77 20M 192k' flush
start_daemon
assert_eq "the export" "$(cbt_json export list | jq -c '[.[] | .vm, .pid, .state, .uri]')" "[\"vm1\",$pid,\"running\",\"$uri\"]"
job=$(backup incremental vm1)
assert_eq "after a clean stop" "$(jq -c '[.kind, .reason, .dirty]' <<<"$job")" "[\"incremental\",null,$((3 * CLUSTER))]"
restore_matches vm1@latest root "$WORK/one.img"
kill_daemon
io "$uri" 'write -P 78 30M 64k' flush
start_daemon
assert_eq "the same export" "$(export_pid vm1)" "$pid"
job=$(backup incremental vm1)
assert_eq "after a crash" "$(jq -c '[.kind, .reason, .dirty]' <<<"$job")" "[\"incremental\",null,$CLUSTER]"
restore_matches vm1@latest root "$WORK/one.img"

say "a second daemon on the same state is refused, whatever its runtime directory"
expect_exit "1 4" "$STATE" timeout 20 "$BUILD/bin/cbt-backupd" --state-dir "$STATE" --runtime-dir "$WORK/run2"
expect_exit "1 4" "" timeout 20 "$BUILD/bin/cbt-backupd" --state-dir "$STATE" --runtime-dir "$RUN"
assert_eq "the first one still answers" "$(cbt_json vm list | jq length)" 2

say "an export and its image are of one process: no second one, no second owner"
assert_eq "start again is the same export" "$(uri_of vm1)" "$uri"
assert_eq "its pid" "$(export_pid vm1)" "$pid"

say "SIGTERM in the middle of a job ends it; the next incremental has all"
io "$uri" 'write -P 79 40M 256k' flush
id=$(start_backup full vm1 --speed 5M)
wait_until 10 bitmap_is vm1/root frozen || fail "the bitmap does not freeze"
stop_daemon
start_daemon
assert_ne "the job after the restart" "$(job_status "$id")" active
assert_ne "the job after the restart" "$(job_status "$id")" "done"
job=$(backup incremental vm1)
assert_eq "kind, reason, dirty" "$(jq -c '[.kind, .reason, .dirty]' <<<"$job")" "[\"incremental\",null,$((4 * CLUSTER))]"
restore_matches vm1@latest root "$WORK/one.img"

say "SIGINT stops it as cleanly; a stale socket is no hindrance"
result=0
kill -INT "$DAEMON_PID"
wait "$DAEMON_PID" || result=$?
assert_eq "exit status" "$result" 0
stale_socket() { nbdkit -f -U "$SOCKET" null & local p=$!; wait_until 5 test -S "$SOCKET"; kill -KILL "$p"; wait "$p" 2>/dev/null || true; }
stale_socket
start_daemon

say "an export that was killed is started again, at the same URI"
kill_export vm1
assert_eq "the URI" "$(uri_of vm1)" "$uri"
io "$uri" 'write -P 80 45M 64k' flush
job=$(backup incremental vm1)
assert_eq "reason, dirty" "$(jq -c '[.reason, .dirty]' <<<"$job")" "[null,$CLUSTER]"
restore_matches vm1@latest root "$WORK/one.img"

say "an export that was killed while the daemon was away loses nothing either"
stop_daemon
io "$uri" 'write -P 81 46M 64k' flush

for pid in $(processes_of_test); do kill -KILL "$pid" 2>/dev/null || true; done
start_daemon
job=$(backup incremental vm1)
assert_eq "kind, reason, dirty" "$(jq -c '[.kind, .reason, .dirty]' <<<"$job")" "[\"incremental\",null,$CLUSTER]"
restore_matches vm1@latest root "$WORK/one.img"

say "the other vm was never touched by all this"
assert_eq "vm2" "$(backup incremental vm2 | jq -c '[.kind, .reason, .dirty]')" '["incremental",null,0]'
cbt --quiet export stop vm1 || true
stop_daemon
