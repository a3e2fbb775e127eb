#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A real guest writes without a pause on disks that an iothread serves, while it is backed up again and again: QEMU and the
# guest live, each point is of one instant and its files are right. (Without a guest, no request is under way in the
# iothread, which is when QEMU 7.2 aborts at commands that are harmless else.)
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-guest.sh"
need qemu-nbd
need_root "it mounts file systems"

rounds=8
[ -z "$LONG" ] || rounds=60
for disk in root data; do
  truncate -s 64M "$WORK/$disk.raw"
  mkfs.ext4 -q -F "$WORK/$disk.raw"
done
qemu-img convert -q -O qcow2 "$WORK/root.raw" "$WORK/root.qcow2"
GUEST_APPEND=cbt.writer start_guest_vm g1 -object iothread,id=io0 \
  -drive "if=none,id=root,file=$WORK/root.qcow2,format=qcow2" -device virtio-blk-pci,drive=root,iothread=io0 \
  -drive "if=none,id=data,file=$WORK/data.raw,format=raw" -device virtio-blk-pci,drive=data,iothread=io0
start_daemon
cbt --quiet vm add g1 --qmp "$WORK/g1.qmp" --qga "$WORK/g1.qga"
writes_go_on() {
  local n
  n=$(writer_n g1)
  wait_until 60 writer_is_past g1 "$n" || fail "the guest does not write"
  assert_eq "what the writer complains of" "$(guest g1 'cat /run/writer.log')" ""
}

for ((round = 0; round <= rounds; round++)); do
  writes_go_on
  level=none
  [ $((round % 4)) -ne 1 ] || level=fs
  result=0
  job=$(cbt_json --incremental g1 --quiesce "$level") || result=$?
  ! vm_is_gone g1 || fail "round $round: QEMU ended: $(cat "$WORK/g1.qemu.err")"
  assert_eq "round $round: status ($(jq -r .errmsg <<<"$job"))" "$(jq -r .status <<<"$job")" "done"
  assert_has "notes" "$(jq -c .notes <<<"$job")" "push: root has the iothread io0"
done
say "the last of $((rounds + 1)): $(jq -c '{read, dirty, "hold-ms", notes}' <<<"$job")"

mapfile -t uuids < <(points g1)
assert_eq "points" "${#uuids[@]}" $((rounds + 1))
for uuid in "${uuids[0]}" "${uuids[rounds / 2]}" "${uuids[rounds]}"; do
  rm -rf "$WORK/point"
  cbt --quiet restore "$uuid" --to "$WORK/point" >/dev/null
  for disk in root data; do mount_at "$WORK/point/$disk.raw" "$WORK/mnt.$disk" || fail "$disk does not mount"; done
  say "tick $(guest_disk_is_right "$WORK/mnt.root" "$WORK/mnt.data")"
  umount "$WORK/mnt.root" "$WORK/mnt.data"
done

writes_go_on
assert_eq "errors in the guest" "$(guest g1 dmesg | grep -E 'I/O error|EXT4-fs (error|warning)' || true)" ""
stop_guest_vm g1
qemu-img check -q "$WORK/root.qcow2" || fail "the guest's image is damaged"
stop_daemon
