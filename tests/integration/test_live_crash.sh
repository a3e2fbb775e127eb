#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# QEMU is killed, or ends, in the middle of a backup, and is started again on the same socket: the job fails in seconds, the
# next one is right and says why it read again where it did, and nothing of the old one is in the new QEMU or in the journal.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-guest.sh"
. "$(dirname "$0")/lib-live.sh"
seed

has_read() { api GET "/v1/jobs/$1" && jq -e '.transferred > 0' >/dev/null <<<"$body"; }
begin_slowly() { # a backup that reads for many seconds more; sets $id
  guest_writes_all g1 64 128
  id=$(start_backup incremental g1 --speed 1M)
  wait_until 20 has_read "$id" || fail "$what: the backup does not begin: $body"
  guest_writes_all g1 100 4
}
expect_failed() { # the job, in seconds
  ended=$(wait_job "$id" 30)
  assert_eq "$what: status" "$(jq -r .status <<<"$ended")" error
  say "$what: [$(jq -r .code <<<"$ended")] $(jq -r .errmsg <<<"$ended"); $(jq -c .notes <<<"$ended")"
}
next_is_right() { # root's reason, data's reason; - for none
  local disk reason
  guest_writes_all g1 30 2
  live_backup g1
  for disk in root data; do
    reason=$1
    shift
    if [ "$reason" = - ]; then
      ! jq -r '.reason // ""' <<<"$job" | grep -q "\b$disk: " || fail "$what: $disk is read again"
    else
      assert_has "$what: why $disk is read again" "$(jq -r '.reason // ""' <<<"$job")" "$disk: bitmap 'default'"
      assert_has "$what: why $disk is read again" "$(jq -r '.reason // ""' <<<"$job")" "$reason"
    fi
  done
}

### what happens

qemu_is_killed() {
  begin_slowly
  kill_guest_vm g1
  expect_failed
  take_over_images g1
  restart_live g1
  next_is_right "gone" "gone"
}
qemu_is_killed_that_had_stored_bitmaps() {
  stop_guest_vm g1
  restart_live g1
  begin_slowly
  kill_guest_vm g1
  expect_failed
  take_over_images g1
  restart_live g1
  next_is_right "unclean" "gone"
}
guest_is_powered_off() {
  begin_slowly
  stop_guest_vm g1
  expect_failed
  restart_live g1
  next_is_right - "gone"
}
qemu_is_started_anew_before_the_job_has_ended() {
  begin_slowly
  stop_guest_vm g1
  restart_live g1
  expect_failed
  next_is_right - "gone"
}
daemon_and_qemu_are_killed() {
  begin_slowly
  kill_daemon
  kill_guest_vm g1
  take_over_images g1
  assert_ne "$what: journal" "$(journal_of g1)" ""
  start_daemon
  restart_live g1
  next_is_right "gone" "gone"
}
declare -A cases=([filter]="qemu_is_killed guest_is_powered_off daemon_and_qemu_are_killed"
  [fleece]="qemu_is_killed_that_had_stored_bitmaps qemu_is_started_anew_before_the_job_has_ended")
[ -z "$LONG" ] || cases=([filter]="${cases[*]}" [fleece]="${cases[*]}")

start_live g1 root=qcow2 data=raw
for way in filter fleece; do
  printf '[qemu]\nway=%s\n' "$way" >"$WORK/cbt.conf"
  DAEMON_OPTIONS=(--config "$WORK/cbt.conf")
  start_daemon
  what="$way: at first"
  [ "$(cbt_json vm list)" != '[]' ] || cbt --quiet vm add g1 --qmp "$WORK/g1.qmp"
  live_backup g1

  for case in ${cases[$way]}; do
    what="$way: $case"
    "$case"
  done
  guest_writes_all g1 40 1
  live_backup g1
  assert_eq "$way: the last one" "$(jq -c '[.kind, .reason]' <<<"$job")" '["incremental",null]'
  stop_daemon
done

expect_no_failed_write g1
stop_guest_vm g1
qemu-img check -q "$WORK/g1.root" || fail "the guest's image is damaged"
