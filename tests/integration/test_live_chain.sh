#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Somebody else makes external snapshots of the disks of a running QEMU: the next backup takes the bitmap over from the image
# below and reads that and what the overlays hold, and no more; the points are right, also while the guest writes all the time.
# Where the bitmap below is not good for that, all is read, with the reason.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-guest.sh"
. "$(dirname "$0")/lib-live.sh"
need nbdkit
seed

overlays=0
snapshot() { # DISK...: of g1, all at one instant, as `virsh snapshot-create --disk-only` has QEMU do
  local disk actions=()
  overlays=$((overlays + 1))
  for disk in "$@"; do
    actions+=("{\"type\":\"blockdev-snapshot-sync\",\"data\":{\"device\":\"$disk\",\"format\":\"qcow2\",\"snapshot-file\":\"$WORK/g1.$disk.$overlays\"}}")
  done
  qmp g1 transaction "{\"actions\":[$(IFS=,; echo "${actions[*]}")]}" >/dev/null
}
guest_zeroes() { # DISK COMMAND CLUSTER: by a command of qemu-io
  hmp g1 "qemu-io $1 \"$2 $(($3 * CLUSTER)) $CLUSTER\"" >/dev/null
  dd if=/dev/zero of="$WORK/g1.$1.oracle" bs="$CLUSTER" seek="$3" count=1 conv=notrunc status=none
}
expect_read() { # WHAT DISK CLUSTERS: of $job
  assert_eq "$1: kind, reason" "$(jq -c '[.kind, .reason]' <<<"$job")" '["incremental",null]'
  assert_eq "$1: clusters of $2" "$(($(dirty_of "$2") / CLUSTER))" "$3"
}
expect_all_read() { # WHAT WHY: of $job
  assert_has "$1" "$(jq -r .reason <<<"$job")" "$2"
  assert_ge "$1: dirty" "$(dirty_of root)" "$((LIVE_MIB * MIB))"
}
bitmap_of() { our_bitmaps g1 "$1"; } # DISK: QEMU's name of it, on the image that is written

start_live g1 root=qcow2 data=raw
start_daemon
cbt --quiet vm add g1 --qmp "$WORK/g1.qmp" --disk root=root --disk data=data
guest_writes_all g1 0 32
backup full g1 >/dev/null
guest_writes_all g1 40
live_backup g1

say "one overlay: what was written before it, and into it, and what became zeros there"
guest_writes_all g1 3
snapshot root data
guest_writes_all g1 5 2
guest_writes_all g1 100
guest_zeroes root "discard -q" 7
guest_zeroes data "write -q -z" 8
live_backup g1
expect_read "one overlay" root 5
expect_read "one overlay" data 5
assert_has "notes" "$(jq -r '.notes | join("; ")' <<<"$job")" "was taken over from an image below"
guest_writes_all g1 200
live_backup g1
expect_read "after that" root 1

say "two overlays, of one disk of two"
guest_writes_all g1 9
snapshot root
guest_writes g1 root 10
snapshot root
guest_writes g1 root 11
guest_writes g1 root 10
live_backup g1
expect_read "two overlays" root 3
expect_read "two overlays" data 1

say "QEMU ends on the overlays, and is started on them"
guest_writes_all g1 12
stop_guest_vm g1
start_again() { # FILE-OF-ROOT FILE-OF-DATA
  start_qemu g1 -drive "if=none,id=root,file=$1,format=qcow2,discard=unmap" -device virtio-blk-pci,drive=root,serial=S-root \
    -drive "if=none,id=data,file=$2,format=qcow2,discard=unmap" -device virtio-blk-pci,drive=data,serial=S-data
}
start_again "$WORK/g1.root.3" "$WORK/g1.data.1"
live_backup g1
expect_read "another QEMU" root 1
guest_writes_all g1 13
snapshot root data
stop_guest_vm g1
start_again "$WORK/g1.root.4" "$WORK/g1.data.4"
guest_writes_all g1 14
live_backup g1
expect_read "an overlay that another QEMU made" root 2
expect_read "an overlay that another QEMU made" data 2

say "the guest writes all the time"
cat >"$WORK/writer.py" <<'END'
import json, os, random, socket, sys
monitor, stop, n, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
oracles = {disk: os.open(path, os.O_WRONLY) for disk, path in (word.split("=") for word in sys.argv[5:])}
qmp = socket.socket(socket.AF_UNIX)
qmp.connect(monitor)
lines = qmp.makefile("rw")
lines.readline()
def ask(command, **arguments):
    lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
    lines.flush()
    while True:
        answer = json.loads(lines.readline())
        if "event" not in answer:
            assert answer["return"] in ({}, ""), answer
            return
ask("qmp_capabilities")
random.seed(seed)
while not os.path.exists(stop):
    for disk, oracle in oracles.items():
        at, pattern = random.randrange(n) * 65536, random.randrange(256)
        ask("human-monitor-command", **{"command-line": f'qemu-io {disk} "write -q -P {pattern} {at} 64k"'})
        os.pwrite(oracle, bytes([pattern]) * 65536, at)
print("ended")
END
for ((i = 0; i < ${LONG:+10} + 1; i++)); do
  rm -f "$WORK/stop"
  guest_writes_all g1 20
  snapshot root data
  guest_writes_all g1 21
  python3 "$WORK/writer.py" "$WORK/g1.ctl" "$WORK/stop" $((LIVE_MIB * 16)) "$RANDOM" \
    "root=$WORK/g1.root.oracle" "data=$WORK/g1.data.oracle" >"$WORK/writer.out" &
  job=$(backup incremental g1)
  touch "$WORK/stop"
  wait $! || fail "the writer failed"
  assert_eq "the writer" "$(cat "$WORK/writer.out")" ended
  assert_eq "while it is written: reason" "$(jq -c .reason <<<"$job")" null
  live_backup g1
  assert_eq "after that: reason" "$(jq -c .reason <<<"$job")" null
done

say "no bitmap below"
qmp g1 block-dirty-bitmap-remove "{\"node\":\"root\",\"name\":\"$(bitmap_of root)\"}" >/dev/null
snapshot root data
live_backup g1
expect_all_read "no bitmap below" "another state than the catalogue knows"

say "a disk that has grown, and one whose bitmap QEMU lost"
snapshot root data
qmp g1 block_resize "{\"device\":\"data\",\"size\":$(((LIVE_MIB + 1) * MIB))}" >/dev/null
truncate -s "$((LIVE_MIB + 1))M" "$WORK/g1.data.oracle"
live_backup g1
assert_has "grown" "$(jq -r .reason <<<"$job")" "data: the disk has another image"
assert_has "grown" "$(jq -r .reason <<<"$job")" "one has another size"
assert_eq "clusters of root beside it" "$(dirty_of root)" 0
stop_guest_vm g1 # now they are in the images
start_again "$WORK/g1.root.$overlays" "$WORK/g1.data.$overlays"
for disk in root data; do hmp g1 "qemu-io $disk flush" >/dev/null; done
kill_guest_vm g1
start_again "$WORK/g1.root.$overlays" "$WORK/g1.data.$overlays"
snapshot root data
live_backup g1
expect_all_read "a lost bitmap" "QEMU ended unclean"

say "the daemon is killed while it takes the bitmap over"
: >"$WORK/control"
start_live g2 root=qcow2
python3 "$SOURCE/tests/integration/tools/qmp_proxy.py" "$WORK/proxy.qmp" "$WORK/g2.qmp" "$WORK/control" \
  "$WORK"/g2.root{,.{0..99}} 2>"$WORK/proxy.err" &
at_exit kill $!
wait_until 10 test -S "$WORK/proxy.qmp" || fail "the proxy does not start"
cbt --quiet vm add g2 --qmp "$WORK/proxy.qmp" --disk root=root
guest_writes g2 root 0 32
backup full g2 >/dev/null
n_overlays=0
strike() { # N before|after: at that command of a backup on a new overlay
  guest_writes g2 root 33
  qmp g2 blockdev-snapshot-sync "{\"device\":\"root\",\"format\":\"qcow2\",\"snapshot-file\":\"$WORK/g2.root.$n_overlays\"}" >/dev/null
  n_overlays=$((n_overlays + 1))
  guest_writes g2 root $((34 + n_overlays))
  rm -f "$WORK/control.log"
  echo "$1 $2 kill $DAEMON_PID" >"$WORK/control"
  api POST /v1/vms/g2/backups '{"kind":"incremental"}'
  wait_until 60 daemon_is_gone || fail "the daemon was not killed $2 command $1"
  : >"$WORK/control"
  wait "$DAEMON_PID" 2>/dev/null || true
  guest_writes g2 root $((35 + n_overlays))
  start_daemon
  live_backup g2
  say "killed $2 command $1: $(jq -c .reason <<<"$job")"
}
# The twelfth is the transaction in which the bitmap is exchanged.
steps=($((RANDOM % 11 + 1)))
[ -z "$LONG" ] || mapfile -t steps < <(seq 11)
for n in "${steps[@]}"; do
  [ -z "$LONG" ] || strike "$n" before
  strike "$n" after
done
strike 12 before
assert_has "before the exchange" "$(jq -r .reason <<<"$job")" "it has no base"
strike 12 after
expect_read "after the exchange" root 3
stop_guest_vm g2

say "nothing is damaged"
stop_guest_vm g1
for ((i = 1; i <= overlays; i++)); do
  for file in "$WORK/g1.root.$i" "$WORK/g1.data.$i"; do
    [ ! -e "$file" ] || qemu-img check -q "$file" || fail "$file is damaged"
  done
done
