#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A real guest under a stock QEMU writes on two disks without a pause (qcow2 with ext4, raw with xfs): full and
# incrementals, quiesced and not. Each point is of one instant, its files are right, and an incremental reads what changed.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-guest.sh"
need nbdkit mkfs.xfs
need_root "it mounts file systems"

rounds=3
[ -z "$LONG" ] || rounds=10
truncate -s 96M "$WORK/root.raw"
mkfs.ext4 -q -F "$WORK/root.raw"
qemu-img convert -q -O qcow2 "$WORK/root.raw" "$WORK/root.qcow2"
rm "$WORK/root.raw"
truncate -s 320M "$WORK/data.raw" # xfs takes no less than 300 MiB
mkfs.xfs -q "$WORK/data.raw"
GUEST_APPEND=cbt.writer start_guest_vm g1 \
  -drive "if=none,id=root,file=$WORK/root.qcow2,format=qcow2" -device virtio-blk-pci,drive=root,serial=cbt-root \
  -drive "if=none,id=data,file=$WORK/data.raw,format=raw" -device virtio-blk-pci,drive=data,serial=cbt-data
start_daemon
cbt --quiet vm add g1 --qmp "$WORK/g1.qmp" --qga "$WORK/g1.qga"
mkdir "$WORK/mnt.root" "$WORK/mnt.data"

# mounted CHECK OPTION-OF-EXT4 OPTION-OF-XFS: with both disks of $WORK/point mounted.
mounted() {
  local result=0
  mount -t ext4 -o "loop,$2" "$WORK/point/root.raw" "$WORK/mnt.root" || fail "ext4 does not mount with $2"
  at_exit umount "$WORK/mnt.root"
  mount -t xfs -o "loop,nouuid,$3" "$WORK/point/data.raw" "$WORK/mnt.data" || fail "xfs does not mount with $3"
  at_exit umount "$WORK/mnt.data"
  "$1" || result=$?
  umount "$WORK/mnt.root" "$WORK/mnt.data"
  return $result
}
both_are_right() { tick=$(guest_disk_is_right "$WORK/mnt.root" "$WORK/mnt.data"); }

last=0
check_point() { # POINT fs|crash
  rm -rf "$WORK/point"
  cbt --quiet restore "$1" --to "$WORK/point" >/dev/null
  # Frozen file systems need no replay: what is there without one is right.
  if [ "$2" = fs ]; then mounted both_are_right ro,noload ro,norecovery; else mounted both_are_right rw rw; fi
  say "  tick $tick"
}
expect_nothing_in_qemu() {
  local nodes
  nodes=$(qmp g1 query-named-block-nodes | jq -r '.[]."node-name"'; qmp g1 query-block-jobs | jq -r '.[].device'
    qmp g1 query-block-exports | jq -r '.[].id')
  ! grep -q '^cbt-' <<<"$nodes" || fail "left in QEMU: $(grep '^cbt-' <<<"$nodes" | tr '\n' ' ')"
  assert_eq "status of the guest" "$(qmp g1 query-status | jq -r .status)" running
  assert_eq "state of the agent" "$(probe qga "$WORK/g1.qga" status)" thawed
}
point_of() { # KIND LEVEL [SNAPSHOT]: a backup; its job in $job
  local n
  n=$(writer_n g1)
  wait_until 30 writer_is_past g1 "$n" || fail "the guest does not write"
  job=$(backup "$1" g1 --quiesce "$2" --snapshot "${3:-none}")
  say "$1, $2: $(jq -c '{read, dirty, "frozen-ms", "hold-ms", consistency, "consistency-reason", reason, notes}' <<<"$job")"
  assert_eq "consistency" "$(jq -r .consistency <<<"$job")" "${2/none/crash}"
  expect_nothing_in_qemu
  check_point "$(jq -r .uuid <<<"$job")" "${2/none/crash}"
  assert_ge "the tick" "$tick" "$last"
  last=$tick
}

point_of full fs
for ((round = 1; round <= rounds; round++)); do
  level=fs
  [ $((round % 3)) -ne 2 ] || level=none
  point_of incremental "$level"
  assert_eq "kind, reason" "$(jq -c '[.kind, .reason]' <<<"$job")" '["incremental",null]'
  assert_le "bytes read" "$(jq .read <<<"$job")" "$(($(jq .dirty <<<"$job") * 11 / 10))"
done
for level in fs none; do
  point_of incremental "$level" external
  assert_eq "kind, reason" "$(jq -c '[.kind, .reason]' <<<"$job")" '["incremental",null]'
  rounds=$((rounds + 1))
done
points=$(cbt_json list g1)
assert_eq "points that say how they were taken" "$(jq '[.[] | select(.consistency)] | length' <<<"$points")" $((rounds + 1))
assert_ge "the longest freeze, ms" "$(jq 'map(."frozen-ms") | max' <<<"$points")" 1
assert_le "the longest freeze, ms" "$(jq 'map(."frozen-ms") | max' <<<"$points")" 5000

say "the guest stops writing: the last point equals the disks"
guest g1 'touch /run/writer.stop; while [ ! -e /run/writer.stopped ]; do sleep 1; done; umount /mnt/vda /mnt/vdb' >/dev/null
backup incremental g1 --quiesce none >/dev/null
cbt --quiet restore g1@latest --to "$WORK/last" >/dev/null
stop_guest_vm g1
qemu-img compare -f raw -F qcow2 "$WORK/last/root.raw" "$WORK/root.qcow2" >/dev/null || fail "root differs"
assert_same_file "data" "$WORK/last/data.raw" "$WORK/data.raw"
qemu-img check -q "$WORK/root.qcow2" || fail "the guest's image is damaged"
stop_daemon
