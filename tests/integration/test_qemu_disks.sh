#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The disks of a real QEMU are found however they are given to it: virtio-blk, SCSI and IDE, -drive and -blockdev, with
# and without iothread; what cannot be backed up is left out; plugged and unplugged ones are noticed.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-guest.sh"

for n in 0 1 2 3 4 5 6; do qemu-img create -q -f qcow2 "$WORK/$n.qcow2" $((10 + n))M; done
truncate -s 7M "$WORK/7.raw"

start_qemu q1 -S -object iothread,id=io0 -object iothread,id=io1 \
  -drive "if=none,id=drive0,file=$WORK/0.qcow2" -device virtio-blk-pci,drive=drive0,serial=s0,iothread=io0,id=vd0 \
  -blockdev "driver=qcow2,node-name=disk1,file.driver=file,file.filename=$WORK/1.qcow2" \
  -device virtio-blk-pci,drive=disk1,addr=0x15 \
  -device virtio-scsi-pci,id=scsi0,iothread=io1 -device virtio-scsi-pci,id=scsi1 \
  -drive "if=none,id=drive2,file=$WORK/2.qcow2" -device scsi-hd,drive=drive2,bus=scsi0.0,serial=s2 \
  -blockdev "driver=qcow2,node-name=disk3,file.driver=file,file.filename=$WORK/3.qcow2" \
  -device scsi-hd,drive=disk3,bus=scsi1.0,id=sd3 \
  -drive "if=ide,file=$WORK/4.qcow2,format=qcow2" -drive if=ide,media=cdrom,index=2 \
  -drive "if=none,id=ro5,file=$WORK/5.qcow2,readonly=on" -device virtio-blk-pci,drive=ro5 \
  -blockdev "driver=qcow2,node-name=unused,file.driver=file,file.filename=$WORK/6.qcow2" \
  -drive "if=virtio,file=$WORK/7.raw,format=raw"
socket=$WORK/q1.qmp

disk() { probe disks "$socket" "$1" | jq -er "$2"; } # NAME FIELDS
names() { probe disks "$socket" | jq -r 'select(has("left-out") | not) | .name' | sort | tr '\n' ' '; }

say "all that can be written are found"
assert_eq "disks" "$(names)" "disk1 disk3 drive0 drive2 ide0-hd0 virtio0 "
shown=$(disk drive0 '"\(.serial) \(.iothread) \(.format) \(.size / 1048576)"')
assert_eq "virtio-blk with -drive" "$shown" "s0 io0 qcow2 10"
shown=$(disk disk1 '"\(.serial) \(.iothread) \(.node) \(.pci)"')
assert_eq "virtio-blk with -blockdev" "$shown" "null null disk1 pci.0:15.0"
assert_eq "SCSI with an iothread" "$(disk s2 '"\(.drive) \(.iothread) \(.size / 1048576)"')" "drive2 io1 12"
assert_eq "SCSI without" "$(disk disk3 '"\(.serial) \(.iothread)"')" "null null"
assert_eq "by its device" "$(disk sd3 .node)" disk3
assert_eq "IDE" "$(disk ide0-hd0 '"\(.format) \(.iothread)"')" "qcow2 null"
assert_eq "raw" "$(disk virtio0 '"\(.format) \(.size / 1048576) \(.file)"')" "raw 7 $WORK/7.raw"
assert_eq "made-up node names are no lasting names" "$(disk drive0 '.node | startswith("#block")')" true

say "others are left out, and said why"
expect_exit 4 "The disk ro5 of QEMU is read-only" probe disks "$socket" ro5
expect_exit 4 "is empty" probe disks "$socket" ide1-cd0
expect_exit 3 "no disk that is called unused" probe disks "$socket" unused

say "plugged, given a bitmap, and unplugged"
qmp q1 device_add '{"driver":"virtio-blk-pci","drive":"unused","id":"new","serial":"s6"}' >/dev/null
qmp q1 block-dirty-bitmap-add '{"node":"unused","name":"cbt-1"}' >/dev/null
assert_eq "the new disk" "$(disk s6 '"\(.node) \(.bitmaps)"')" "unused 1"
qmp q1 device_del '{"id":"sd3"}' >/dev/null
qmp q1 cont >/dev/null
is_unplugged() { ! probe disks "$socket" sd3; }
wait_until 10 is_unplugged || fail "sd3 is still there"
assert_eq "disks" "$(names)" "disk1 drive0 drive2 ide0-hd0 unused virtio0 "
stop_guest_vm q1
