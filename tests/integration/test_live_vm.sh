#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A vm of a running QEMU: its disks are found or named, and its bitmaps are QEMU's own, beside those of others.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-guest.sh"

qemu-img create -q -f qcow2 "$WORK/root.qcow2" 64M
truncate -s 32M "$WORK/data.raw" "$WORK/cd.raw"
start_qemu g1 -drive "if=none,id=drive-root,file=$WORK/root.qcow2,format=qcow2,discard=unmap" \
  -device virtio-blk-pci,drive=drive-root,serial=S-root \
  -blockdev "driver=raw,node-name=data,file.driver=file,file.filename=$WORK/data.raw" \
  -device virtio-blk-pci,drive=data,id=vdb \
  -drive "if=none,id=cd,media=cdrom,readonly=on,file=$WORK/cd.raw,format=raw" -device ide-cd,drive=cd
start_daemon

bitmaps_of() { # NODE-OR-DRIVE: names, sorted
  qmp g1 query-block | jq -c --arg name "$1" '[.[] | select(.device == $name or .inserted."node-name" == $name)
    | .inserted."dirty-bitmaps" // [] | .[].name] | sort'
}
state_of() { jq -c '[.state, .count, .successor]'; }

### adding

say "refused, by name: a socket that is none, a disk that is not there, one that is read-only"
expect_exit "1 5" "nobody listens" cbt vm add g1 --qmp "$WORK/nothing"
expect_exit 3 "nodisk" cbt vm add g1 --qmp "$WORK/g1.qmp" --disk x=nodisk
expect_exit 4 "read-only" cbt vm add g1 --qmp "$WORK/g1.qmp" --disk x=cd
expect_exit "1 2" "same" cbt vm add g1 --qmp "$WORK/g1.qmp" --disk x=data --disk x=drive-root
assert_eq "vms" "$(cbt_json vm list)" '[]'
assert_eq "bitmaps" "$(bitmaps_of data)" '[]'

say "disks are found: those that a guest writes"
cbt --quiet vm add g1 --qmp "$WORK/g1.qmp"
vm=$(cbt_json vm show g1)
assert_eq "disks" "$(jq -c '[.disks[] | [.name, .node, .format, .size, .path]]' <<<"$vm")" \
  "[[\"drive-root\",\"drive-root\",\"qcow2\",67108864,\"$WORK/root.qcow2\"],[\"data\",\"data\",\"raw\",33554432,\"$WORK/data.raw\"]]"
assert_eq "qmp" "$(jq -r .qmp <<<"$vm")" "$WORK/g1.qmp"
expect_exit 4 "already vm 'g1'" cbt vm add g2 --qmp "$WORK/g1.qmp" --disk x=data
ln -s g1.qmp "$WORK/other.qmp"
expect_exit 4 "already disk g1/" cbt vm add g2 --qmp "$WORK/other.qmp"
expect_exit 4 "QEMU has its disks" cbt export start g1

### bitmaps

say "bitmaps are QEMU's: one each, named after the store, and states that follow"
assert_has "in QEMU" "$(bitmaps_of drive-root)" '-default-none-'
assert_eq "list" "$(cbt_json bitmap list g1/data | jq -c '[.[] | [.name, .state, .granularity]]')" '[["default","active",65536]]'
qmp g1 block-dirty-bitmap-add '{"node":"drive-root","name":"vendor-1"}' >/dev/null
cbt --quiet bitmap add g1/drive-root:weekly --granularity 1M
assert_eq "list" "$(cbt_json bitmap list g1/drive-root | jq -c '[.[].name] | sort')" '["default","weekly"]'
qmp g1 human-monitor-command '{"command-line":"qemu-io drive-root \"write -P 7 1M 128k\""}' >/dev/null
assert_eq "counts" "$(cbt_json bitmap list g1/drive-root | jq -c 'sort_by(.name) | [.[].count]')" '[131072,1048576]'
cbt --quiet bitmap create-successor g1/drive-root:weekly
qmp g1 human-monitor-command '{"command-line":"qemu-io drive-root \"write -P 7 4M 64k\""}' >/dev/null
assert_eq "frozen" "$(cbt_json bitmap show g1/drive-root:weekly | state_of)" '["frozen",1048576,1048576]'
cbt --quiet bitmap reclaim g1/drive-root:weekly
assert_eq "reclaimed" "$(cbt_json bitmap show g1/drive-root:weekly | state_of)" '["active",2097152,null]'
cbt --quiet bitmap create-successor g1/drive-root:weekly
cbt --quiet bitmap abdicate g1/drive-root:weekly
assert_eq "abdicated" "$(cbt_json bitmap show g1/drive-root:weekly | state_of)" '["active",0,null]'
cbt --quiet bitmap merge g1/drive-root:weekly --from default
assert_eq "merged" "$(cbt_json bitmap show g1/drive-root:weekly | jq .count)" 2097152
cbt --quiet bitmap disable g1/drive-root:weekly
assert_eq "disabled" "$(cbt_json bitmap show g1/drive-root:weekly | jq -r .state)" disabled
cbt --quiet bitmap enable g1/drive-root:weekly
cbt --quiet bitmap clear g1/drive-root:weekly
assert_eq "cleared" "$(cbt_json bitmap show g1/drive-root:weekly | state_of)" '["active",0,null]'
cbt --quiet bitmap remove g1/drive-root:weekly
expect_exit 3 "no bitmap 'weekly'" cbt bitmap show g1/drive-root:weekly
assert_has "the vendor's is left alone" "$(bitmaps_of drive-root)" vendor-1

say "changes: what is allocated, what came since a point, and the bits of a bitmap; data and zeros"
extents() { jq -c '[.extents[] | [.offset, .length, .kind]]'; }
assert_eq "allocated" "$(cbt_json changes g1/drive-root | extents)" '[[1048576,131072,"data"],[4194304,65536,"data"]]'
backup full g1 >/dev/null
qmp g1 human-monitor-command '{"command-line":"qemu-io drive-root \"write -P 7 8M 64k\""}' >/dev/null
qmp g1 human-monitor-command '{"command-line":"qemu-io drive-root \"discard 1M 64k\""}' >/dev/null
answer=$(cbt_json changes g1/drive-root --from g1@latest --to live)
assert_eq "since the point" "$(extents <<<"$answer")" '[[1048576,65536,"zero"],[8388608,65536,"data"]]'
assert_eq "source, proof" "$(jq -c '[.source, .proof]' <<<"$answer")" '["bitmap","superset"]'
assert_eq "bits" "$(cbt_json changes g1/drive-root --bitmap default | extents)" '[[1048576,65536,"data"],[8388608,65536,"data"]]'
assert_eq "nothing on the other" "$(cbt_json changes g1/data --from g1@latest --to live | extents)" '[]'
assert_eq "nodes of ours" "$(qmp g1 query-named-block-nodes | jq -c '[.[]."node-name" | select(startswith("cbt-"))]')" '[]'
assert_eq "bitmaps of ours" "$(bitmaps_of drive-root | jq -c '[.[] | select(startswith("cbt-"))] | length')" 1

say "changes, while a backup is under way: refused, and what the backup has in QEMU stays"
prefix=$(bitmaps_of drive-root | jq -r '.[] | select(startswith("cbt-")) | .[:12]')
qmp g1 blockdev-add "{\"driver\":\"null-co\",\"node-name\":\"$prefix-tgt0\"}" >/dev/null
expect_exit 4 "a backup of the vm is under way" cbt changes g1/drive-root
qmp g1 blockdev-del "{\"node-name\":\"$prefix-tgt0\"}" >/dev/null || fail "a node of the backup was taken away"
qmp g1 blockdev-add "{\"driver\":\"null-co\",\"node-name\":\"$prefix-nbd\"}" >/dev/null
assert_eq "what a dead reader left" "$(cbt_json changes g1/data --from g1@latest --to live | extents)" '[]'

say "persistent where the image can keep them"
assert_eq "persistent" "$(qmp g1 query-block | jq -c '[.[] | .inserted."dirty-bitmaps" // [] | .[] | select(.name | startswith("cbt-"))
  | .persistent]')" '[true,false]'

### the end

say "a monitor that somebody else has, and one that is gone, fail in seconds and say so"
coproc other { exec python3 -c 'import socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(9) and "", flush=True); s.recv(1 << 20); sys.stdin.read()' "$WORK/g1.qmp"; }
other_pid=$other_PID # bash forgets it when the process ends
read -r _ <&"${other[0]}"
expect_exit "1 5" "somebody else is connected" timeout 30 "$BUILD/bin/cbt-backup" --socket "$SOCKET" bitmap list g1/data
kill "$other_pid" 2>/dev/null || true
wait "$other_pid" 2>/dev/null || true
cbt --quiet vm remove g1
assert_eq "bitmaps after the vm was removed" "$(bitmaps_of drive-root)$(bitmaps_of data)" '["vendor-1"][]'
stop_guest_vm g1
stop_daemon
