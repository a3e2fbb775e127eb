#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Disks that an iothread serves, beside one that none does: all are pushed, which the job says, with the reason. QEMU lives
# through backups that succeed, are cancelled, lose their daemon or have no room, and the points are right.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-guest.sh"
. "$(dirname "$0")/lib-live.sh"
need qemu-nbd
seed

# Plain disks as elsewhere, and two with an iothread: the device's own, and its controller's.
LIVE_OPTIONS[g1]="-object iothread,id=io0 -object iothread,id=io1 -device virtio-scsi-pci,id=scsi,iothread=io1
  -drive if=none,id=fast,file=$WORK/g1.fast,format=qcow2 -device virtio-blk-pci,drive=fast,iothread=io0,id=vd-fast
  -drive if=none,id=disk,file=$WORK/g1.disk,format=raw -device scsi-hd,bus=scsi.0,drive=disk,id=sd-disk,serial=S-disk"
new_live_disk g1 fast=qcow2
new_live_disk g1 disk=raw
start_live g1 data=raw
LIVE_DISKS[g1]+=" fast=qcow2 disk=raw"
start_daemon
cbt --quiet vm add g1 --qmp "$WORK/g1.qmp"

is_pushed() { # of $job
  assert_has "notes" "$(jq -c .notes <<<"$job")" "push: "
  assert_has "notes" "$(jq -c .notes <<<"$job")" "iothread io"
}
next_is_right() {
  guest_writes_all g1 "$((RANDOM % 200))" 3
  live_backup g1
  assert_eq "kind, reason" "$(jq -c '[.kind, .reason]' <<<"$job")" '["incremental",null]'
  is_pushed
}
is_reading() { api GET "/v1/jobs/$1" && jq -e '.transferred > 0' >/dev/null <<<"$body"; }

guest_writes_all g1 0 16
live_backup g1
is_pushed
assert_has "reason" "$(jq -r .reason <<<"$job")" "no earlier recovery point"
next_is_right
for disk in data fast disk; do assert_eq "dirty of $disk" "$(dirty_of "$disk")" $((3 * CLUSTER)); done

say "the guest writes over what is being pushed and read"
guest_writes_all g1 0 256
for disk in data fast disk; do cp "$WORK/g1.$disk.oracle" "$WORK/then.$disk"; done
id=$(start_backup incremental g1 --speed 16M)
wait_until 20 is_reading "$id" || fail "the backup does not begin: $body"
guest_writes_all g1 0 256
job=$(wait_job "$id")
assert_eq "status: $(jq -r .errmsg <<<"$job")" "$(jq -r .status <<<"$job")" "done"
cbt --quiet restore "$(jq -r .uuid <<<"$job")" --to "$WORK/point" >/dev/null
for disk in data fast disk; do assert_same_file "$disk" "$WORK/point/$disk.raw" "$WORK/then.$disk"; done
next_is_right

say "it is cancelled"
guest_writes_all g1 0 128
id=$(start_backup incremental g1 --speed 512K)
wait_until 20 is_reading "$id" || fail "the backup does not begin: $body"
api DELETE "/v1/jobs/$id"
assert_eq "status" "$(wait_job "$id" | jq -r .status)" cancelled
expect_nothing_of_backup g1 "after a cancel"
next_is_right

say "the daemon is killed"
guest_writes_all g1 0 128
for _ in 1 2 3; do
  start_backup incremental g1 --speed 512K >/dev/null
  pause "0.$((RANDOM % 6))"
  kill_daemon
  start_daemon
  guest_is g1 running || fail "the guest is $(guest_state g1)"
  guest_writes_all g1 "$((RANDOM % 200))" 2
done
next_is_right

say "there is no room"
stop_daemon
printf '[export]\nfleece-limit=1M\n' >"$WORK/cbt.conf"
DAEMON_OPTIONS=(--config "$WORK/cbt.conf")
start_daemon
guest_writes_all g1 0 128
result=0
text=$(cbt --incremental g1 2>&1) || result=$?
say "$text"
assert_eq "code" "$(cbt_json job list | jq -r '.[0].code')" no-space
assert_has "why" "$text" "fleece-limit"
expect_nothing_of_backup g1 "no room"
stop_daemon
DAEMON_OPTIONS=()
start_daemon
next_is_right

expect_no_failed_write g1
stop_guest_vm g1
qemu-img check -q "$WORK/g1.fast" || fail "the guest's image is damaged"
stop_daemon
