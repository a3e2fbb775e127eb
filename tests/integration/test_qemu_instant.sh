#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Instants of two disks of a real guest that writes without pause, in each way: what is read at leisure is right and of
# one instant, fulls and incrementals; no write of the guest fails, whatever becomes of the instant; nothing is left.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-guest.sh"
need qemu-nbd nbdinfo mount
need_root "to mount what was read"
export PROBE_TIMEOUT_MS=30000
mkdir "$WORK/scratch"

# start_vm NAME OPTION-OF-DEVICES OPTION...: with a qcow2 disk a and a raw one b.
start_vm() {
  local name=$1 devices=$2
  shift 2
  truncate -s 64M "$WORK/$name.raw"
  mkfs.ext4 -q -F "$WORK/$name.raw"
  qemu-img convert -O qcow2 "$WORK/$name.raw" "$WORK/$name.qcow2"
  GUEST_APPEND=cbt.writer start_guest_vm "$name" "$@" \
    -blockdev "driver=qcow2,discard=unmap,node-name=a,file.driver=file,file.filename=$WORK/$name.qcow2" \
    -device "virtio-blk-pci,drive=a,id=va$devices" \
    -drive "if=none,id=b,discard=unmap,file=$WORK/$name.raw,format=raw" -device "virtio-blk-pci,drive=b$devices"
  vm=$name
  wait_until 30 writer_is_past "$vm" 2 || fail "the guest does not write: $(guest "$vm" 'cat /run/writer.log')"
}
expect_guest_writes() { # ROUNDS more; nothing failed up to now
  local n
  n=$(writer_n "$vm")
  wait_until 60 writer_is_past "$vm" "$((n + $1))" || fail "the guest writes no more: $(guest "$vm" dmesg | tail -n 3)"
  assert_eq "what the writer complains of" "$(guest "$vm" 'cat /run/writer.log')" ""
  assert_eq "errors in the guest" "$(guest "$vm" dmesg | grep -E 'I/O error|EXT4-fs (error|warning)' || true)" ""
}
expect_nothing_left() { # (QEMU lists the descriptors of a paused guest until it runs)
  local left
  left=$(qmp "$vm" query-named-block-nodes '{"flat":true}' | jq -r '.[]."node-name" | select(startswith("cbt-t"))'
    qmp "$vm" query-jobs | jq -r '.[].id'
    qmp "$vm" query-block-exports | jq -r '.[].id'
    [ "$(qmp "$vm" query-status | jq .running)" = false ] || qmp "$vm" query-fdsets | jq -r '.[].fds[].opaque'
    find "$WORK/scratch" -mindepth 1 ! -name 'cbt-t-*')
  assert_eq "left" "$left" ""
}
node_of_b() { qmp "$vm" query-block | jq -r '.[] | select(.device == "b").inserted."node-name"'; }
remove_bitmaps() { # NAME: of both disks
  local node
  for node in a "$(node_of_b)"; do
    qmp "$vm" block-dirty-bitmap-remove "{\"node\":\"$node\",\"name\":\"$1\"}" >/dev/null
  done
}

# begin_instant WAY CHANGES|- RECORDER: until it can be read. end_instant ends it.
begin_instant() {
  offered='' failure=''
  coproc INSTANT {
    probe instant "$WORK/$vm.qmp" "$1" "$WORK/scratch" cbt-t a "$2" "$3" b "$2" "$3" 2>"$WORK/steps"
    echo "status $?"
  }
  local line
  while read -r line <&"${INSTANT[0]}" && [ "$line" != ready ]; do
    [[ $line != status* ]] || { failure=$(grep -v ^step "$WORK/steps"); return 1; }
    offered+=$line$'\n'
  done
}
end_instant() {
  local lines input=${INSTANT[1]}
  exec {input}>&-
  lines=$(cat <&"${INSTANT[0]}")
  wait "$INSTANT_PID" || true
  assert_has "the end of an instant" "$lines" "status 0"
  expect_nothing_left
}
uri_of_disk() { sed -n "s/^$1 \([^ ]*\).*/\1/p" <<<"$offered"; }
# read_disk DISK BITMAP|-: into $WORK/DISK.copy; prints how many bytes were data, and zeros.
read_disk() { probe read "$(uri_of_disk "$1")" "$2" "$WORK/$1.copy"; }
copies_are_right() { # prints the tick
  local disk
  for disk in a b; do
    cp "$WORK/$disk.copy" "$WORK/$disk.mounted" # its journal is replayed
    mount_at "$WORK/$disk.mounted" "$WORK/mnt.$disk" || fail "the copy of $disk does not mount"
  done
  guest_disk_is_right "$WORK/mnt.a" "$WORK/mnt.b"
  umount "$WORK/mnt.a" "$WORK/mnt.b"
}
dirty_bytes() { # BITMAP: of disk a
  qmp "$vm" query-named-block-nodes '{"flat":true}' | jq --arg name "$1" \
    '.[] | select(."node-name" == "a")."dirty-bitmaps"[] | select(.name == $name).count'
}

# chain WAY EXPECTED-WAY N: a full, then N incrementals on it.
chain() {
  local way=$1 old=- new tick=0 last i read dirty
  rm -f "$WORK/a.copy" "$WORK/b.copy"
  for ((i = 0; i <= $3; i++)); do
    new=cbt-$way-$i
    begin_instant "$way" "$old" "$new" || fail "$way: $failure"
    assert_has "$way" "$offered" "$2:"
    expect_guest_writes 5
    read=$(read_disk a "$old") || fail "$way: reading disk a"
    read_disk b "$old" >/dev/null || fail "$way: reading disk b"
    [ "$old" = - ] || dirty=$(dirty_bytes "$old")
    end_instant
    last=$tick
    tick=$(copies_are_right)
    say "$way, $old to $new: $(head -n 1 <<<"$offered"); read $read (dirty ${dirty:-all}); tick $tick"
    assert_ge "the tick of a later instant" "$tick" "$last"
    if [ "$old" != - ]; then
      assert_le "bytes of data and zeros read of what is dirty" "$((${read% *} + ${read#* }))" "$dirty"
      assert_ge "bytes read" "${read% *}" 65536
      remove_bitmaps "$old"
    fi
    old=$new
    expect_guest_writes 2
  done
  remove_bitmaps "$old"
}

start_vm g1 ""
rounds=${LONG:+8}
chain auto filter "${rounds:-2}"
chain fleece fleece "${rounds:-1}"
chain push push "${rounds:-1}"

say "the scratch is full: the guest writes on, reads fail"
guest g1 'dd if=/dev/urandom of=/mnt/vda/big bs=1M count=6 conv=fsync 2>&1' >/dev/null
PROBE_LIMIT=1048576 begin_instant filter - cbt-full || fail "$failure"
guest g1 'dd if=/dev/urandom of=/mnt/vda/big bs=1M count=6 conv=notrunc,fsync 2>&1' >/dev/null ||
  fail "a write of the guest failed"
expect_guest_writes 5
expect_exit 1 "Invalid argument" read_disk a -
end_instant
remove_bitmaps cbt-full
PROBE_LIMIT=1048576 begin_instant fleece - cbt-full && fail "a fleece that could fail the guest was taken"
assert_has "why not" "$failure" "so that no write of the guest fails; its limit is 1.0 MiB"
PROBE_LIMIT=1048576 begin_instant push - cbt-full && fail "more was pushed than there is room for"
assert_has "why not" "$failure" "QEMU could not push the disk"
expect_guest_writes 2
expect_nothing_left
remove_bitmaps cbt-full

say "killed while the guest stands still: it goes on by itself, or with the next contact"
guest_runs() { [ "$(qmp g1 query-status | jq -r .status)" = running ]; }
begin_instant filter - cbt-x || fail "$failure"
end_instant
remove_bitmaps cbt-x
cp "$WORK/steps" "$WORK/all-steps"
for step in transaction qom-set cont; do
  n=$(grep -n -m 1 ": $step" "$WORK/all-steps" | cut -d : -f 1)
  PROBE_DIE_AT=$n begin_instant filter - cbt-x && fail "it was not killed"
  wait_until 5 guest_runs || fail "the guest stands still, killed at $step"
  expect_guest_writes 1
  assert_has "found" "$(probe leftovers "$WORK/g1.qmp" cbt-t)" "the mark of a guest that was stopped"
  [ "$step" = transaction ] || remove_bitmaps cbt-x
  expect_nothing_left
done
qmp g1 blockdev-add '{"driver":"null-co","node-name":"cbt-t-stopped"}' >/dev/null
qmp g1 stop >/dev/null
assert_has "found" "$(probe leftovers "$WORK/g1.qmp" cbt-t)" "a guest that was stopped"
guest_runs || fail "the guest stands still"
expect_guest_writes 2

say "a guest that its owner has paused stays so"
qmp g1 stop >/dev/null
begin_instant filter - cbt-x || fail "$failure"
assert_has "the pause" "$offered" "stood still for 0 us"
read_disk a - >/dev/null || fail "reading disk a"
read_disk b - >/dev/null || fail "reading disk b"
end_instant
assert_eq "the guest" "$(qmp g1 query-status | jq -r .status)" paused
copies_are_right >/dev/null
qmp g1 cont >/dev/null
remove_bitmaps cbt-x
expect_guest_writes 2
stop_guest_vm g1

say "disks with an iothread are pushed, or refused"
start_vm g2 ",iothread=io0" -object iothread,id=io0
chain auto push "${rounds:-1}"
begin_instant filter - cbt-x && fail "a pull from an iothread's disk"
assert_has "why not" "$failure" "has the iothread io0, with which a reader of QEMU's NBD server that leaves can abort QEMU"
expect_guest_writes 2
stop_guest_vm g2
qemu-img check -q "$WORK/g1.qcow2" || fail "the image of g1 is damaged"
qemu-img check -q "$WORK/g2.qcow2" || fail "the image of g2 is damaged"
