#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The guest agent's client against the real qemu-ga: one on this host, which may not freeze, and the one in a real guest
# with two disks that are written without pause.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-guest.sh"
need mkfs.xfs

say "an agent on a socket of this host"
mkdir "$WORK/ga"
G_DEBUG='' qemu-ga -m unix-listen -p "$WORK/host.qga" -t "$WORK/ga" -f "$WORK/ga/pid" \
  -b guest-fsfreeze-freeze,guest-fsfreeze-freeze-list,guest-shutdown,guest-suspend-disk,guest-suspend-ram,guest-fstrim \
  >"$WORK/ga.err" 2>&1 &
agent=$!
at_exit kill "$agent"
wait_until 10 test -S "$WORK/host.qga" || fail "qemu-ga does not start: $(cat "$WORK/ga.err")"
assert_has "the version" "$(qemu-ga --version)" "$(probe qga "$WORK/host.qga" info)"
assert_eq "what a program says" "$(probe qga "$WORK/host.qga" exec /bin/echo hello)" hello
expect_exit 1 "it ended with 3" probe qga "$WORK/host.qga" exec /bin/sh -c 'exit 3'
assert_eq "the answer after one that came late" "$(probe qga "$WORK/host.qga" late "$agent" /bin/echo mine)" mine
PROBE_TIMEOUT_MS=300 expect_exit 5 "did not end in time" probe qga "$WORK/host.qga" exec /bin/sleep 5
expect_exit 1 "has been disabled" probe qga "$WORK/host.qga" freeze
kill -STOP "$agent"
PROBE_TIMEOUT_MS=300 expect_exit 5 "No guest agent answers" probe qga "$WORK/host.qga" info
kill -CONT "$agent"
assert_eq "the agent that goes on" "$(probe qga "$WORK/host.qga" exec /bin/echo again)" again

say "the agent of a guest that writes on two disks"
truncate -s 64M "$WORK/a.raw"
mkfs.ext4 -q -F "$WORK/a.raw"
truncate -s 320M "$WORK/b.raw" # xfs takes no less than 300 MiB
mkfs.xfs -q "$WORK/b.raw"
GUEST_APPEND=cbt.writer start_guest_vm g1 \
  -drive "if=none,id=a,file=$WORK/a.raw,format=raw" -device virtio-blk-pci,drive=a,serial=cbt-a,addr=0x10 \
  -drive "if=none,id=b,file=$WORK/b.raw,format=raw" -device virtio-blk-pci,drive=b,serial=cbt-b,addr=0x11
say "$(cat "$WORK/g1.serial") after $SECONDS s"
qga=$WORK/g1.qga
assert_has "what the agent can" "$(probe qga "$qga" info)" freeze-list
filesystems=$(probe qga "$qga" fsinfo)
assert_has "file systems" "$filesystems" "/mnt/vda ext4 vda virtio serial=cbt-a dev=/dev/vda pci=00:10.0"
assert_has "file systems" "$filesystems" "/mnt/vdb xfs vdb virtio serial=cbt-b dev=/dev/vdb pci=00:11.0"
assert_has "disks" "$(probe qga "$qga" disks)" "/dev/vdb virtio serial=cbt-b"
wait_until 30 writer_is_past g1 2 || fail "the guest does not write: $(guest g1 'cat /run/writer.log')"

say "frozen, a copy of the disks is right and of one instant; thawed, the guest writes on"
assert_eq "the status" "$(probe qga "$qga" status)" thawed
assert_eq "file systems frozen" "$(probe qga "$qga" freeze)" 2
assert_eq "the status" "$(probe qga "$qga" status)" frozen
expect_exit 1 "refused guest-exec" guest g1 true
cp --sparse=always "$WORK/a.raw" "$WORK/a.copy"
cp --sparse=always "$WORK/b.raw" "$WORK/b.copy"
assert_eq "file systems thawed" "$(probe qga "$qga" thaw)" 2
assert_eq "file systems thawed again" "$(probe qga "$qga" thaw)" 0
n=$(writer_n g1)
wait_until 30 writer_is_past g1 "$n" || fail "the guest writes no more"
assert_eq "calls of the hook" "$(guest g1 'cat /run/hook.log' | tr '\n' ' ')" "freeze thaw thaw "

say "one of two, a hook that fails, and a mount point that is not there"
assert_eq "file systems frozen" "$(probe qga "$qga" freeze /mnt/vdb /mnt/none)" 1
assert_eq "file systems thawed" "$(probe qga "$qga" thaw)" 1
guest g1 'printf "#!/bin/sh\nexit 1\n" >/run/hook; chmod +x /run/hook'
expect_exit 1 "guest-fsfreeze-freeze" probe qga "$qga" freeze
assert_eq "the status after it" "$(probe qga "$qga" status)" thawed

say "an agent that died"
# shellcheck disable=SC2016 # is for the guest's shell
PROBE_TIMEOUT_MS=500 expect_exit 5 "" guest g1 'kill -9 $(cat /run/qga.pid)'
PROBE_TIMEOUT_MS=500 expect_exit 5 "No guest agent answers" probe qga "$qga" info
stop_guest_vm g1

if [ "$(id -u)" -eq 0 ] && grep -q xfs /proc/filesystems; then
  say "what was copied mounts without its journals"
  a=$(losetup -f --show -r "$WORK/a.copy") && at_exit losetup -d "$a"
  b=$(losetup -f --show -r "$WORK/b.copy") && at_exit losetup -d "$b"
  mkdir "$WORK/a" "$WORK/b"
  mount -t ext4 -o ro,noload "$a" "$WORK/a" && at_exit umount_hard "$WORK/a"
  mount -t xfs -o ro,norecovery "$b" "$WORK/b" && at_exit umount_hard "$WORK/b"
  say "right up to round $(guest_disk_is_right "$WORK/a" "$WORK/b")"
fi
