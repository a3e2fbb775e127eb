#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What happens to the disks and bitmaps of a QEMU behind our back: each time the next backup is right, and reads all
# again, with the reason, where it must, and only there.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-guest.sh"
. "$(dirname "$0")/lib-live.sh"
seed

LIVE_OPTIONS[g1]="-device virtio-scsi-pci,id=scsi"
start_live g1 root=qcow2 data=raw
start_daemon
cbt --quiet vm add g1 --qmp "$WORK/g1.qmp"
guest_writes_all g1 0 8
full_mib=$((LIVE_MIB * MIB))

# incremental VM DISK=REASON...: a backup in which these, and only these, are read as a whole, for that reason.
incremental() {
  local vm=$1 disk name want
  shift
  guest_writes_all "$vm" "$((RANDOM % 200 + 1))" 2
  live_backup "$vm"
  for disk in ${LIVE_DISKS[$vm]}; do
    name=${disk%=*} want=
    for reason in "$@"; do [ "${reason%%=*}" != "$name" ] || want=${reason#*=}; done
    if [ -n "$want" ]; then
      assert_has "why $name is read again" "$(jq -r '.reason // ""' <<<"$job")" "$name: "
      assert_has "why $name is read again" "$(jq -r '.reason // ""' <<<"$job")" "$want"
    else
      ! jq -r '.reason // ""' <<<"$job" | grep -q "\b$name: " || fail "$name is read again: $(jq -r .reason <<<"$job")"
      assert_le "dirty of $name" "$(dirty_of "$name")" $((8 * CLUSTER))
    fi
  done
  [ $# -gt 0 ] || assert_eq "reason" "$(jq -r .reason <<<"$job")" null
}

incremental g1 root="no earlier recovery point" data="no earlier recovery point"
incremental g1

say "a bitmap is removed by hand"
qmp g1 block-dirty-bitmap-remove "{\"node\":\"root\",\"name\":\"$(our_bitmaps g1 root)\"}" >/dev/null
incremental g1 root="was gone"
incremental g1

say "a second backup tool has bitmaps, also one that looks like ours, and a checkpoint in use"
for name in vendor-1 cbt-0badcafe-default-none-00000000 cbt-0badcafe; do
  qmp g1 block-dirty-bitmap-add "{\"node\":\"root\",\"name\":\"$name\",\"persistent\":true}" >/dev/null
done
qmp g1 block-dirty-bitmap-disable '{"node":"root","name":"vendor-1"}' >/dev/null
others() { live_bitmaps g1 root | jq -c '[.[] | select(.[0] | test("^vendor|0badcafe"))]'; }
before=$(others)
live_stores=3
assert_eq "theirs" "$(jq length <<<"$before")" 3
LIVE_DISKS[g1]=root=qcow2
job=$(backup incremental g1)
LIVE_DISKS[g1]="root=qcow2 data=raw"
live_is_right g1 "$job"
assert_eq "reason" "$(jq -r .reason <<<"$job")" null
assert_eq "theirs, after a backup" "$(others)" "$before"

say "QEMU ends clean and is started again: what an image keeps is used, what it cannot keep is read again"
guest_writes_all g1 20 2
stop_guest_vm g1
restart_live g1
assert_eq "theirs, after a restart" "$(others)" "$before"
for name in vendor-1 cbt-0badcafe-default-none-00000000 cbt-0badcafe; do
  qmp g1 block-dirty-bitmap-remove "{\"node\":\"root\",\"name\":\"$name\"}" >/dev/null
done
live_stores=1
incremental g1 data="was gone"
incremental g1

say "QEMU is killed: its persistent bitmaps are inconsistent"
stop_guest_vm g1 # stores them
restart_live g1
guest_writes_all g1 40 2
kill_guest_vm g1
take_over_images g1
restart_live g1
assert_has "in QEMU" "$(live_bitmaps g1 root)" ",true]"
incremental g1 root="ended unclean" data="was gone"
incremental g1
kill_guest_vm g1 # and those that were never stored are gone
take_over_images g1
restart_live g1
incremental g1 root="was gone" data="was gone"

say "the image is put back to an older copy, whose bitmap has an older base"
stop_guest_vm g1
cp "$WORK/g1.root" "$WORK/older"
cp "$WORK/g1.root.oracle" "$WORK/older.oracle"
restart_live g1
guest_writes_all g1 100 3
incremental g1 data="was gone"
stop_guest_vm g1
mv "$WORK/older" "$WORK/g1.root"
mv "$WORK/older.oracle" "$WORK/g1.root.oracle"
restart_live g1
incremental g1 root="of another state" data="was gone"
incremental g1

say "a disk is resized while QEMU runs"
for disk in root data; do
  hmp g1 "block_resize $disk $((LIVE_MIB + 4))M" >/dev/null
  truncate -s "$((LIVE_MIB + 4))M" "$WORK/g1.$disk.oracle"
done
guest_writes_all g1 $(((LIVE_MIB + 2) * MIB / CLUSTER)) 4
incremental g1 root="its size changed" data="its size changed"
assert_eq "sizes that are known" "$(cbt_json vm show g1 | jq -c '[.disks[].size]')" "[$((full_mib + 4 * MIB)),$((full_mib + 4 * MIB))]"
incremental g1

say "disks are plugged in and out"
for disk in hot=qcow2 hot2=raw; do
  new_live_disk g1 "$disk"
  hmp g1 "drive_add 0 if=none,id=${disk%=*},file=$WORK/g1.${disk%=*},format=${disk#*=}" >/dev/null
  LIVE_DISKS[g1]+=" $disk"
done
qmp g1 device_add '{"driver":"virtio-blk-pci","drive":"hot","id":"vd-hot"}' >/dev/null
qmp g1 device_add '{"driver":"scsi-hd","bus":"scsi.0","drive":"hot2","id":"sd-hot2","serial":"S-hot2"}' >/dev/null
guest_writes g1 hot 3
guest_writes g1 hot2 7
incremental g1 hot="no earlier recovery point" hot2="no earlier recovery point"
assert_has "notes" "$(jq -c .notes <<<"$job")" "'hot2' is new"
incremental g1
qmp g1 device_del '{"id":"sd-hot2"}' >/dev/null
no_hot2() { ! qmp g1 query-block | jq -e '.[] | select(.device == "hot2")' >/dev/null; }
wait_until 10 no_hot2 || fail "hot2 stays"
LIVE_DISKS[g1]=${LIVE_DISKS[g1]% *}
incremental g1
assert_has "notes" "$(jq -c .notes <<<"$job")" "'hot2' is not in QEMU any more"
assert_eq "disks of the job" "$(jq -c '[.disks[].name] | sort' <<<"$job")" '["data","hot","root"]'
assert_eq "disks of the point" "$(cbt_json list g1 | jq -c '.[0].disks | [.[].name] | sort')" '["data","hot","root"]'
say "a disk that comes back after it was written elsewhere"
random_bytes_at "$WORK/g1.hot2" $((9 * CLUSTER)) "$CLUSTER"
cp "$WORK/g1.hot2" "$WORK/g1.hot2.oracle"
hmp g1 "drive_add 0 if=none,id=hot2,file=$WORK/g1.hot2,format=raw" >/dev/null
qmp g1 device_add '{"driver":"scsi-hd","bus":"scsi.0","drive":"hot2","id":"sd-hot2","serial":"S-hot2"}' >/dev/null
LIVE_DISKS[g1]+=" hot2=raw"
incremental g1 hot2="was gone"

say "vm remove takes away our bitmaps and nobody else's"
qmp g1 block-dirty-bitmap-add '{"node":"root","name":"vendor-1"}' >/dev/null
cbt --quiet vm remove g1
assert_eq "bitmaps" "$(live_bitmaps g1 root | jq -c '[.[][0]]')$(our_bitmaps g1 data)" '["vendor-1"]'

expect_no_failed_write g1
stop_guest_vm g1
for disk in root hot; do qemu-img check -q "$WORK/g1.$disk" || fail "the image of $disk is damaged"; done
stop_daemon
