#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A block device as a disk: who writes to it behind the export is noticed, another one under the same number, too; what is
# written through the export is tracked; a restore goes in place.
. "$(dirname "$0")/lib.sh"
need losetup
need_root "loop devices"

random_image "$WORK/back" 16
random_image "$WORK/other" 16
device=$(losetup -f --show "$WORK/back") || skip "no loop device to be had"
at_exit losetup -d "$device"

start_daemon
vm_add vm1 "root=$device"
job=$(backup full vm1)
first=$(jq -r .uuid <<<"$job")
cp "$device" "$WORK/first"

expect_incremental() { # WHAT DIRTY REASON
  job=$(backup incremental vm1)
  assert_eq "$1: dirty" "$(jq .dirty <<<"$job")" "$2"
  assert_has "$1: reason" "$(jq -r .reason <<<"$job")" "$3"
  restore_matches "$(jq -r .uuid <<<"$job")" root "$device"
}

expect_incremental "nothing written" 0 null
random_bytes_at "$device" 1000000 100000
expect_incremental "written without an export" $((16 * MIB)) "count of writes changed"
expect_incremental "nothing written since" 0 null

io "$(uri_of vm1)" "write -P 7 1M 64k" "discard 4M 1M" flush
cbt --quiet export stop vm1 >/dev/null
expect_incremental "written through the export" $((17 * CLUSTER)) null

losetup -d "$device"
losetup "$device" "$WORK/other"
expect_incremental "another device under the number" $((16 * MIB)) "count of writes changed"

expect_exit 1,4 "exists already" cbt restore "$first" --target "root=$device"
cbt --quiet restore "$first" --target "root=$device" --in-place >/dev/null
assert_same_file "restore in place" "$device" "$WORK/first"
expect_incremental "after the restore" $((16 * MIB)) "restored into the image"

say "a device that is written while it is read without an export gives no point"
id=$(start_backup full vm1 --speed 8M)
wait_until 10 bitmap_is vm1/root frozen || fail "the bitmap does not freeze"
random_bytes_at "$device" 0 512
job=$(wait_job "$id")
assert_eq "the torn backup" "$(jq -r .status <<<"$job")" error
assert_has "the torn backup" "$(jq -r .errmsg <<<"$job")" "written by another program"
expect_incremental "after the torn backup" $((16 * MIB)) "count of writes changed"
stop_daemon
