#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A disk of a running QEMU read through a snapshot of it (copy-before-write filter, snapshot-access): what was changed
# is as it was at the instant, although the disk is written meanwhile, by a bitmap that is finer than a cluster; a
# snapshot that broke, and a QEMU that goes away, are errors that say so.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-guest.sh"
need qemu-nbd
seed

image=$WORK/disk.qcow2
size_kib=$((48 * 1024 + 24)) # the last cluster is not whole
random_writes() { # PATTERN COUNT: prints qemu-io commands
  local i
  for ((i = 0; i < $2; i++)); do
    echo "write -q -P $1 $(($(random_below $((size_kib - 16))) / 4 * 4))k $((RANDOM % 3 * 4 + 4))k"
  done
}
write_image() { # commands on standard input
  qemu-io -d unmap -f qcow2 "$image" >"$WORK/qemu-io.log" 2>&1 || fail "qemu-io: $(cat "$WORK/qemu-io.log")"
}
do_qmp() { qmp q1 "$@" >/dev/null || fail "$*"; }

qemu-img create -q -f qcow2 "$image" "${size_kib}K"
{ echo "write -q -P 1 0 ${size_kib}k"; random_writes 2 40; } | write_image
qemu-img convert -f qcow2 -O raw "$image" "$WORK/base"
qemu-img bitmap --add -g 4096 "$image" cbt-1
{ random_writes 3 40; echo "discard 8M 1M"; echo "write -q -P 4 $((size_kib - 4))k 4k"; } | write_image
qemu-img convert -f qcow2 -O raw "$image" "$WORK/instant"

# start_snapshot SCRATCH: a QEMU with a snapshot of the disk, and the disk itself to be written, both over NBD.
start_snapshot() {
  start_qemu q1 -S -blockdev "driver=qcow2,node-name=disk0,file.driver=file,file.filename=$image"
  rm -f "$WORK/scratch"
  truncate -s "${size_kib}K" "$WORK/scratch"
  do_qmp blockdev-add "$1"
  do_qmp block-dirty-bitmap-disable '{"node":"disk0","name":"cbt-1"}'
  do_qmp blockdev-add '{"driver":"copy-before-write","node-name":"cbw0","file":"disk0","target":"scr0",
    "on-cbw-error":"break-snapshot","bitmap":{"node":"disk0","name":"cbt-1"}}'
  do_qmp blockdev-add '{"driver":"snapshot-access","node-name":"snap0","file":"cbw0"}'
  do_qmp nbd-server-start "{\"addr\":{\"type\":\"unix\",\"data\":{\"path\":\"$WORK/nbd.sock\"}}}"
  do_qmp block-export-add '{"type":"nbd","id":"x0","node-name":"snap0","name":"d0",
    "bitmaps":[{"node":"disk0","name":"cbt-1"}]}'
  do_qmp block-export-add '{"type":"nbd","id":"x1","node-name":"cbw0","name":"guest","writable":true}'
}
uri="nbd+unix:///d0?socket=$WORK/nbd.sock"
write_as_guest() { io "nbd+unix:///guest?socket=$WORK/nbd.sock" "$@"; }
scratch='{"driver":"raw","node-name":"scr0","file":{"driver":"file","filename":"'$WORK/scratch'"}}'

# overlay MAP BASE NEW: BASE with the ranges of NEW that MAP does not call clean.
overlay() {
  local offset length kind
  while read -r offset length kind; do
    [ "$kind" = clean ] ||
      dd if="$3" of="$2" bs=64K iflag=skip_bytes,count_bytes oflag=seek_bytes conv=notrunc status=none \
        skip="$offset" seek="$offset" count="$length"
  done <"$1"
}

say "what the bitmap marks, rounded to clusters, as it was at the instant; the disk is written meanwhile"
start_snapshot "$scratch"
probe map "$uri" cbt-1 >"$WORK/map" || fail "the map of the snapshot"
write_as_guest "write -P 9 0 20M" "write -P 9 40M $((size_kib - 40 * 1024))k"
probe copy "$uri" cbt-1 "$WORK/changes" || fail "reading the snapshot"
write_as_guest "write -P 10 20M 20M"
probe copy "$uri" cbt-1 "$WORK/changes-again" || fail "reading the snapshot once more"
assert_same_file "two readings" "$WORK/changes" "$WORK/changes-again"
overlay "$WORK/map" "$WORK/base" "$WORK/changes"
assert_same_file "the disk before, with the changes" "$WORK/base" "$WORK/instant"
odd=$(awk -v end="$((size_kib * 1024))" '$3 == "clean" && ($1 % 65536 || ($1 + $2) % 65536 && $1 + $2 != end)' \
  "$WORK/map")
assert_eq "clean ranges that are not in clusters" "$odd" ""

say "a QEMU that is killed is unreachable"
kill_guest_vm q1
expect_exit 5 "connecting" probe copy "$uri" cbt-1 "$WORK/changes"
rm -f "$WORK/nbd.sock"

say "a snapshot that broke says so; what the guest writes is written"
qemu-img bitmap --remove "$image" cbt-1 # the kill made it inconsistent
qemu-img bitmap --add "$image" cbt-1
echo "write -q -P 5 0 2M" | write_image
start_snapshot '{"driver":"blkdebug","node-name":"scr0","image":'"${scratch/scr0/scr1}"',
  "inject-error":[{"event":"none","iotype":"write","errno":28}]}'
probe copy "$uri" cbt-1 "$WORK/changes" || fail "reading a snapshot that has not broken yet"
write_as_guest "write -P 11 1M 64k" "read -P 11 1M 64k"
expect_exit 1 "at offset 0: Invalid argument (errno 22)" probe copy "$uri" cbt-1 "$WORK/changes"
expect_exit 1 "scratch space ran full" probe copy "$uri" cbt-1 "$WORK/changes"
stop_guest_vm q1
