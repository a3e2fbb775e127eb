#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Where there is no room for old content, be it for fleece-limit or for a full file system, the guest's writes go on, the backup
# fails and says what to do, the next one misses nothing, and the room is there again.
. "$(dirname "$0")/lib.sh"
need nbdkit fio

seed
guest_image "$WORK/disk.img" 64
fleece=$WORK/fleece
mkdir "$fleece"

# write_config KEY=VALUE...
write_config() {
  printf '%s\n' "[export]" "fleece-dir=$fleece" "$@" >"$WORK/config"
  DAEMON_OPTIONS=(--config "$WORK/config")
}

# expect_full WHAT: a slow backup under heavy overwriting fails for want of room, within bounds, and what comes after it is right.
expect_full() {
  local kind id job
  for kind in full incremental; do
    expect_guest_writes "before the backup"
    id=$(start_backup "$kind" vm1 --speed 100K)
    job=$(wait_job "$id" 60)
    say "$1: $(jq -c '[.status, .code, .errmsg, .hint]' <<<"$job")"
    assert_eq "status" "$(jq -r .status <<<"$job")" error
    assert_eq "code" "$(jq -r .code <<<"$job")" no-space
    assert_has "errmsg" "$(jq -r .errmsg <<<"$job")" fleece
    assert_has "hint" "$(jq -r .hint <<<"$job")" "$2"
    assert_eq "bitmap" "$(bitmap_state vm1/root)" active
    expect_guest_writes "after the fleece was full"
    expect_nothing_left "$pid" "$fleece"
  done
}

start_one() {
  start_daemon
  uri=$(uri_of vm1)
  pid=$(export_pid vm1)
  start_guest "$uri" "$WORK/disk.img" --rate_iops=3000
}

# finish_one: the next incremental has all, whatever failed before.
finish_one() {
  local job
  stop_guest 5000
  job=$(backup incremental vm1)
  assert_eq "kind, reason" "$(jq -c '[.kind, .reason]' <<<"$job")" '["incremental",null]'
  restore_matches vm1@latest root "$WORK/disk.img"
}

say "fleece-limit"
write_config fleece-limit=1M
start_daemon
vm_add vm1 "root=$WORK/disk.img"
backup full vm1 >/dev/null
stop_daemon
start_one
expect_full "limit of 1M" "fleece-limit"
finish_one
stop_daemon

if [ "$(id -u)" -eq 0 ] && mount -t tmpfs -o size=1m cbt-test "$fleece"; then
  at_exit umount_hard "$fleece"
  say "a full file system"
  write_config
  start_one
  free=$(stat -f -c %f "$fleece")
  expect_full "1 MiB of room" "fleece-dir"
  assert_eq "free blocks of the fleece's file system" "$(stat -f -c %f "$fleece")" "$free"
  finish_one

  say "no room even for the empty file"
  head -c 2M /dev/zero >"$fleece/filler" 2>/dev/null || true
  mount -o remount,nr_inodes=2 "$fleece"
  id=$(start_backup incremental vm1)
  job=$(wait_job "$id")
  say "$(jq -c '[.status, .code, .errmsg, .hint]' <<<"$job")"
  assert_eq "status" "$(jq -r .status <<<"$job")" error
  assert_eq "code" "$(jq -r .code <<<"$job")" no-space
  assert_has "errmsg" "$(jq -r .errmsg <<<"$job")" fleece
  assert_eq "bitmap" "$(bitmap_state vm1/root)" active
  stop_daemon
  umount "$fleece"
fi
