#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# An image that another program uses is neither restored into nor exported, and not backed up while it is written past an
# export; and QEMU does not open for writing what we export.
. "$(dirname "$0")/lib.sh"
need qemu-nbd qemu-storage-daemon

image=$WORK/root.raw
random_image "$image" 16
cp "$image" "$WORK/first"
start_daemon
vm_add vm1 "root=$image"
first=$(backup full vm1 | jq -r .uuid)

restore_in_place() { cbt restore "$first" --target "root=$image" --in-place; }

# expect_in_use PROGRAM: all that would harm is refused, and says who has the image.
expect_in_use() {
  expect_exit 4 "($1)" restore_in_place
  expect_exit 4 "into another file" restore_in_place
  expect_exit 4 "($1)" cbt export start vm1
  expect_exit 4 "($1)" cbt --incremental vm1
  expect_exit 4 "cbt-backup export start vm1" cbt --full vm1
  assert_eq "bitmap" "$(bitmap_state vm1/root)" active
}
expect_free() {
  job=$(backup incremental vm1)
  cbt --quiet export start vm1 >/dev/null
  cbt --quiet export stop vm1
  restore_in_place >/dev/null
  assert_same_file "restored" "$image" "$WORK/first"
  backup incremental vm1 >/dev/null
}

# hold COMMAND...: runs it until let_go.
hold() {
  "$@" >>"$WORK/holder.err" 2>&1 &
  holder=$!
}
let_go() {
  kill "$holder"
  wait "$holder" 2>/dev/null || true
}
locked_bytes() { sed -n "s/.*OFDLCK.*:$(stat -c %i "$1") \([0-9]* [0-9]*\)\$/\1/p" /proc/locks; }
is_read() { locked_bytes "$1" | grep -q '^100 '; }
is_written() { locked_bytes "$1" | grep -q ' 101$'; }

say "qemu-nbd"
hold qemu-nbd -f raw -k "$WORK/nbd.sock" -t "$image"
wait_until 10 is_written "$image" || fail "qemu-nbd does not lock the image: $(cat "$WORK/holder.err")"
expect_in_use qemu-nbd
let_go
expect_free

say "qemu-storage-daemon"
hold qemu-storage-daemon --blockdev "driver=file,node-name=f,filename=$image" \
  --nbd-server "addr.type=unix,addr.path=$WORK/qsd.sock" --export type=nbd,id=e,node-name=f,writable=on
wait_until 10 is_written "$image" || fail "qemu-storage-daemon does not lock the image: $(cat "$WORK/holder.err")"
expect_in_use qemu-storage-da # as the kernel cuts it
let_go
expect_free

if command -v qemu-system-x86_64 >/dev/null; then
  say "a guest"
  hold qemu-system-x86_64 -machine accel=tcg -m 64 -display none -monitor none -serial none -S \
    -drive "file=$image,format=raw,if=virtio"
  wait_until 20 is_written "$image" || fail "qemu does not lock the image: $(cat "$WORK/holder.err")"
  expect_in_use qemu-system-x86
  let_go
  expect_free
fi

say "one who only reads is in the way of a restore alone"
hold qemu-nbd -r -f raw -k "$WORK/nbd.sock" -t "$image"
wait_until 10 is_read "$image" || fail "qemu-nbd does not lock the image: $(cat "$WORK/holder.err")"
expect_exit 4 "(qemu-nbd)" restore_in_place
backup incremental vm1 >/dev/null
let_go

say "a restore of two disks writes neither if one is in use"
random_image "$WORK/a.raw" 2
random_image "$WORK/b.raw" 2
vm_add vm2 "a=$WORK/a.raw" "b=$WORK/b.raw"
backup full vm2 >/dev/null
random_bytes_at "$WORK/a.raw" 0 4096
cp "$WORK/a.raw" "$WORK/a.before"
backup incremental vm2 >/dev/null
hold qemu-nbd -f raw -k "$WORK/nbd.sock" -t "$WORK/b.raw"
wait_until 10 is_written "$WORK/b.raw" || fail "qemu-nbd does not lock the image: $(cat "$WORK/holder.err")"
expect_exit 4 "b.raw" cbt restore vm2@1 --target "a=$WORK/a.raw" --target "b=$WORK/b.raw" --in-place
let_go
assert_same_file "the disk that nobody uses" "$WORK/a.raw" "$WORK/a.before"
assert_eq "its next backup" "$(backup incremental vm2 --disk a | jq -c '[.reason, .dirty]')" '[null,0]'

say "QEMU does not open for writing what is exported, and a killed export comes back"
uri=$(uri_of vm1)
kill_export vm1
expect_exit 1 lock qemu-io -f raw -c "write -P 9 0 64k" "$image"
expect_exit 1 lock timeout 10 qemu-nbd -f raw -k "$WORK/nbd.sock" "$image"
assert_same_file "the image" "$image" "$WORK/first"
io "$uri" "read 0 64k"
qemu-io -r -f raw -c "read 0 64k" "$image" >/dev/null || fail "qemu-io cannot read it"
backup incremental vm1 >/dev/null
cbt --quiet export stop vm1
qemu-io -f raw -c "write -P 9 0 64k" "$image" >/dev/null || fail "the locks stay when the export has ended"
backup incremental vm1 >/dev/null
restore_matches vm1@latest root "$image"

[ "$(id -u)" -eq 0 ] || { stop_daemon; exit 0; }
say "a mounted device"
truncate -s 16M "$WORK/fs"
mkfs.ext4 -q -F "$WORK/fs"
device=$(losetup -f --show "$WORK/fs") || { say "no loop device to be had"; stop_daemon; exit 0; }
at_exit losetup -d "$device"
vm_add vm3 "root=$device"
third=$(backup full vm3 | jq -r .uuid)
if mount_at "$device" "$WORK/mnt"; then
  touch "$WORK/mnt/file"
  expect_exit 4 "mounted at $WORK/mnt" cbt restore "$third" --target "root=$device" --in-place
  expect_exit 4 "mounted at $WORK/mnt" cbt export start vm3
  test -f "$WORK/mnt/file" || fail "the mounted file system lost a file"
  umount "$WORK/mnt"
  cbt --quiet export start vm3 >/dev/null
  ! mount "$device" "$WORK/mnt" 2>/dev/null || fail "what is exported can be mounted"
  backup incremental vm3 >/dev/null
  cbt --quiet export stop vm3
fi
cbt --quiet restore "$third" --target "root=$device" --in-place >/dev/null
restore_matches "$third" root "$device"
stop_daemon
