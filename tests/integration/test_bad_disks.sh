#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A store disk that is full, an image that cannot be read in its middle, and a store of a newer format each fail with the
# reason, lose nothing, and work again when the cause is gone.
. "$(dirname "$0")/lib.sh"
need_root "loop devices and mounts"
need losetup

loop_on() { # FILE: sets $loop
  loop=$(losetup -f --show "$1") || skip "no loop devices here"
  at_exit losetup -d "$loop"
}

say "the disk of the store gets full in a backup"
truncate -s 160M "$WORK/store.img"
mkfs.ext4 -q -F "$WORK/store.img"
loop_on "$WORK/store.img"
STATE=$WORK/small
mount_at "$loop" "$STATE" || skip "mount is not allowed here"
random_image "$WORK/disk.img" 48
start_daemon
vm_add vm1 "root=$WORK/disk.img"
uri=$(uri_of vm1)
backup full vm1 >/dev/null
cp --sparse=always "$WORK/disk.img" "$WORK/first.img"
fallocate -l 80M "$STATE/ballast"

random_image "$WORK/new" 40
io "$uri" "write -s $WORK/new 0 40M" flush
for _ in 1 2; do
  id=$(start_backup incremental vm1)
  job=$(wait_job "$id")
  assert_eq "status" "$(jq -r .status <<<"$job")" error
  assert_eq "code" "$(jq -r .code <<<"$job")" no-space
  assert_has "errmsg" "$(jq -r .errmsg <<<"$job")" "space"
  assert_has "hint" "$(jq -r .hint <<<"$job")" "make room"
  assert_eq "bitmap" "$(cbt_json bitmap show vm1/root | jq -c '[.state, .count]')" "[\"active\",$((40 * MIB))]"
done
expect_exit 1 space cbt --incremental vm1
assert_eq "points" "$(points vm1 | wc -l)" 1
say "the guest can go on, and the old point restores, with the disk full"
io "$uri" 'write -P 7 44M 64k' flush
restore_matches vm1@latest root "$WORK/first.img"

say "with room again, the same daemon goes on; and after a restart, too"
rm "$STATE/ballast"
job=$(backup incremental vm1)
assert_eq "kind, reason, dirty" "$(jq -c '[.kind, .reason, .dirty]' <<<"$job")" "[\"incremental\",null,$((40 * MIB + CLUSTER))]"
restore_matches vm1@latest root "$WORK/disk.img"
stop_daemon
start_daemon
restore_matches vm1@latest root "$WORK/disk.img"
restore_matches vm1@1 root "$WORK/first.img"
assert_eq "incremental" "$(backup incremental vm1 | jq -c '[.reason, .dirty]')" '[null,0]'

say "a restore onto a full disk fails with the reason"
fallocate -l 100M "$STATE/ballast" 2>/dev/null || true
expect_exit 1 space cbt restore vm1@latest --to "$STATE/restored"
rm -rf "$STATE/ballast" "$STATE/restored"
cbt --quiet export stop vm1
stop_daemon

say "a block device that cannot be read in the middle"
STATE=$WORK/state
random_image "$WORK/cut.img" 32
cp "$WORK/cut.img" "$WORK/whole.img"
loop_on "$WORK/cut.img"
start_daemon
vm_add vm2 "root=$loop"
backup full vm2 >/dev/null
restore_matches vm2@latest root "$WORK/whole.img"
truncate -s 20M "$WORK/cut.img"
blockdev --flushbufs "$loop"
echo 3 >/proc/sys/vm/drop_caches
for _ in 1 2 3; do
  id=$(start_backup full vm2)
  job=$(wait_job "$id")
  assert_eq "status" "$(jq -r .status <<<"$job")" error
  assert_eq "code" "$(jq -r .code <<<"$job")" io
  assert_has "errmsg names the image" "$(jq -r .errmsg <<<"$job")" "$loop"
done
expect_exit 1 "$loop" cbt --full vm2
assert_eq "points" "$(points vm2 | wc -l)" 1
assert_eq "bitmap" "$(bitmap_state vm2/root)" active
restore_matches vm2@latest root "$WORK/whole.img"
say "the device reads again"
truncate -s 32M "$WORK/cut.img"
blockdev --flushbufs "$loop"
cp "$WORK/cut.img" "$WORK/now.img"
backup full vm2 >/dev/null
restore_matches vm2@latest root "$WORK/now.img"

say "a block device is served, tracked, and backed up incrementally"
uri=$(uri_of vm2)
io "$uri" 'write -P 5 1M 64k' 'discard 3M 64k' flush
assert_eq "dirty" "$(backup incremental vm2 | jq .dirty)" "$((2 * CLUSTER))"
nbdcopy "$uri" "$WORK/now.img"
restore_matches vm2@latest root "$WORK/now.img"
cbt --quiet export stop vm2
stop_daemon

say "a store of a newer format is refused by name and left alone"
test -s "$STATE/store/format" || fail "no format file"
cp -a "$STATE/store/format" "$WORK/format.good"
printf '\377' | dd of="$STATE/store/format" bs=1 seek=8 conv=notrunc status=none # the version, docs/formats/store.md
before=$(find "$STATE/store" -type f -exec cksum {} + | sort)
expect_exit 1 "version" timeout 20 "$BUILD/bin/cbt-backupd" --state-dir "$STATE" --runtime-dir "$RUN"
assert_eq "the store" "$(find "$STATE/store" -type f -exec cksum {} + | sort)" "$before"
cp -a "$WORK/format.good" "$STATE/store/format"
say "a damaged format file, too"
printf 'XX' | dd of="$STATE/store/format" bs=1 seek=3 conv=notrunc status=none
expect_exit "1 6" "format" timeout 20 "$BUILD/bin/cbt-backupd" --state-dir "$STATE" --runtime-dir "$RUN"
cp -a "$WORK/format.good" "$STATE/store/format"
say "a catalogue of a newer schema"
sqlite3 "$STATE/catalogue.sqlite" 'PRAGMA user_version' >"$WORK/schema"
sqlite3 "$STATE/catalogue.sqlite" 'PRAGMA user_version = 999'
expect_exit 1 "version" timeout 20 "$BUILD/bin/cbt-backupd" --state-dir "$STATE" --runtime-dir "$RUN"
sqlite3 "$STATE/catalogue.sqlite" "PRAGMA user_version = $(cat "$WORK/schema")"
start_daemon
restore_matches vm2@latest root "$WORK/now.img"
stop_daemon
