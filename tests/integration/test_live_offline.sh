#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A live vm whose guest is off: its images are read at rest, by the bitmaps that QEMU stored in them, and it goes on
# incrementally when the guest is back. An image that somebody has is refused.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-guest.sh"
need nbdkit

qemu-img create -q -f raw "$WORK/below.raw" 32M
qemu-io -f raw -c 'write -q -P 9 1M 1M' "$WORK/below.raw"
qemu-img create -q -f qcow2 -b "$WORK/below.raw" -F raw "$WORK/root.qcow2"
truncate -s 16M "$WORK/data.raw"
start_it() {
  start_qemu g1 -drive "if=none,id=root,file=$WORK/root.qcow2,format=qcow2" -device virtio-blk-pci,drive=root,id=vd-root \
    -drive "if=none,id=data,file=$WORK/data.raw,format=raw" -device virtio-blk-pci,drive=data,id=vd-data
}
write_on() { # DISK OFFSET PATTERN
  qmp g1 human-monitor-command "{\"command-line\":\"qemu-io $1 \\\"write -q -P $3 $2 64k\\\"\"}" >/dev/null
}
# expect_right: the latest point has what the images have.
expect_right() {
  rm -rf "$WORK/point"
  cbt --quiet restore g1@latest --to "$WORK/point" >/dev/null
  qemu-img compare -U -f raw -F qcow2 "$WORK/point/root.raw" "$WORK/root.qcow2" >/dev/null || fail "root differs"
  assert_same_file "data" "$WORK/point/data.raw" "$WORK/data.raw"
}
reasons() { cbt_json show g1@latest | jq -c '[.disks[] | .reason != null]'; }
dirty() { cbt_json show g1@latest | jq -c '[.disks[].dirty]'; }

start_it
start_daemon
cbt --quiet vm add g1 --qmp "$WORK/g1.qmp"
write_on root 4M 1
write_on data 4M 1
backup full g1 >/dev/null
write_on root 8M 2
write_on data 8M 2
stop_guest_vm g1

say "off: the qcow2 image by its bitmap, the raw one as a whole, and why"
job=$(backup incremental g1)
assert_has "notes" "$(jq -c .notes <<<"$job")" "the guest is off"
assert_eq "reasons" "$(reasons)" '[false,true]'
assert_eq "dirty of root" "$(dirty | jq '.[0]')" 65536
expect_right
assert_eq "bitmaps at rest" "$(cbt_json bitmap list g1/root | jq -c '[.[] | [.name, .state]]')" '[["default","active"]]'
say "again: nothing to read of it"
backup incremental g1 >/dev/null
assert_eq "dirty of root" "$(dirty | jq '.[0]')" 0
expect_right

say "back again: it goes on where it was"
start_it
write_on root 12M 3
write_on data 12M 3
backup incremental g1 >/dev/null
assert_eq "reasons" "$(reasons)" '[false,true]'
assert_has "why" "$(cbt_json show g1@latest | jq -r .reason)" "raw image keeps none"
assert_eq "dirty of root" "$(dirty | jq '.[0]')" 65536
write_on data 2M 4
backup incremental g1 >/dev/null
assert_eq "dirty" "$(dirty)" '[0,65536]'
qmp g1 stop >/dev/null
expect_right
stop_guest_vm g1

say "cut and grown again at rest: the bitmap does not know, and is not believed"
for when in off on; do
  bitmaps=$(qemu-img info --output=json "$WORK/root.qcow2" | jq -r '."format-specific".data.bitmaps[].name')
  cp "$WORK/root.qcow2" "$WORK/kept.qcow2"
  qemu-img resize -q --shrink "$WORK/root.qcow2" 6M 2>"$WORK/resize.err" || { cat "$WORK/resize.err"; fail "resize"; }
  qemu-img resize -q "$WORK/root.qcow2" 32M
  assert_eq "bitmaps" "$(qemu-img info --output=json "$WORK/root.qcow2" | jq -r '."format-specific".data.bitmaps[].name')" "$bitmaps"
  [ "$when" = off ] || start_it
  expect_exit 4 "cut and grown again" cbt changes g1/root --from g1@latest --to live
  backup incremental g1 >/dev/null
  cbt --quiet changes g1/root --from g1@latest --to live >/dev/null || fail "changes since a point after the cut"
  assert_eq "reasons" "$(reasons)" '[true,true]'
  assert_has "why" "$(cbt_json show g1@latest | jq -r '.disks[0].reason')" "cut and grown again"
  [ "$when" = off ] || qmp g1 stop >/dev/null
  expect_right
  [ "$when" = off ] || { qmp g1 cont >/dev/null; stop_guest_vm g1; }
  if [ "$when" = off ]; then # data behind the cut once more
    start_it
    write_on root 12M 5
    backup incremental g1 >/dev/null
    assert_eq "reasons" "$(reasons)" '[false,true]'
    stop_guest_vm g1
  fi
done

say "an image that somebody has is refused"
for image in root.qcow2 data.raw; do
  start_qemu other -drive "if=none,id=d,file=$WORK/$image,format=${image#*.}" -device virtio-blk-pci,drive=d
  expect_exit 4 "$image" cbt --incremental g1
  stop_guest_vm other
done
backup incremental g1 >/dev/null
expect_right
qemu-img check -q "$WORK/root.qcow2" || fail "the guest's image is damaged"
stop_daemon
