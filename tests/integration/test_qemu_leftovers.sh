#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A process that takes an instant of the disks of a real QEMU is killed at each of its commands, in each way, or is
# refused one: whatever is left is found and cleared by its prefix alone, the guest runs, and the next instant works.
# Things of others are left alone. All steps of all ways with CBT_TEST_LONG=1, else some.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-guest.sh"
need qemu-nbd nbdinfo
seed
export PROBE_TIMEOUT_MS=20000

qemu-img create -q -f qcow2 "$WORK/a.qcow2" 16M
truncate -s 16M "$WORK/b.raw"
mkdir "$WORK/scratch"
disks=(-blockdev "driver=qcow2,node-name=a,file.driver=file,file.filename=$WORK/a.qcow2"
  -drive "if=none,id=b,file=$WORK/b.raw,format=raw")
start_qemu q1 "${disks[@]}" -device virtio-blk-pci,drive=a,id=va -device virtio-blk-pci,drive=b
socket=$WORK/q1.qmp

# What of the prefix is in QEMU, one thing a line.
remains() {
  qmp q1 query-named-block-nodes '{"flat":true}' | jq -r '.[]."node-name" | select(startswith("cbt-t"))'
  qmp q1 query-jobs | jq -r '.[].id'
  qmp q1 query-block-exports | jq -r '.[].id | select(startswith("cbt-t"))'
  qmp q1 query-fdsets | jq -r '.[].fds[] | .opaque // "a descriptor"'
  find "$WORK/scratch" -mindepth 1 ! -name 'cbt-t-*'
  find "$WORK" -maxdepth 1 -name '*.cbt-t-*' # overlays
}
scratch_is_closed() { [ -z "$(find /proc/[0-9]*/fd -lname "$WORK/scratch/*" 2>/dev/null)" ]; }
expect_nothing_left() { # WHAT
  assert_eq "$1: left" "$(remains)" ""
  wait_until 5 scratch_is_closed || fail "$1: a process has a scratch file open"
  assert_eq "$1: the guest" "$(qmp q1 query-status | jq -r .status)" running
  assert_eq "$1: the disks" "$(qmp q1 query-block |
    jq -r '[.[].inserted."node-name" | sub("#.*"; "#")] | sort | join(" ")')" "# a"
}
node_of_b() { qmp q1 query-block | jq -r '.[] | select(.device == "b").inserted."node-name"'; }
bitmaps() { # NODE: name and whether it records
  qmp q1 query-block | jq -r --arg node "$1" \
    '[.[].inserted | select(."node-name" == $node)."dirty-bitmaps"[]? | "\(.name) \(.recording)"] | sort | join(", ")'
}
change_bitmaps() { # ACTION...: one transaction on both disks; ACTION is TYPE DATA with @ for the node
  local node actions=() action
  for node in a "$(node_of_b)"; do
    for action; do actions+=("{\"type\":\"block-dirty-bitmap-${action%% *}\",\"data\":${action#* }}"); done
    actions=("${actions[@]//@/$node}")
  done
  qmp q1 transaction "{\"actions\":[$(IFS=,; echo "${actions[*]}")]}" >/dev/null
}
reset_bitmaps() { # to cbt-1 alone, which records
  local both
  both=$(bitmaps a)
  if [[ $both = *cbt-2* ]]; then
    change_bitmaps 'merge {"node":"@","target":"cbt-1","bitmaps":["cbt-2"]}' 'enable {"node":"@","name":"cbt-1"}' \
      'remove {"node":"@","name":"cbt-2"}'
  fi
  assert_eq "bitmaps of a" "$(bitmaps a)" "cbt-1 true"
  assert_eq "bitmaps of b" "$(bitmaps "$(node_of_b)")" "cbt-1 true"
}
instant() { # WAY: input closed at once, so that it ends when it is offered
  probe instant "$socket" "$1" "$WORK/scratch" cbt-t a cbt-1 cbt-2 b cbt-1 cbt-2 </dev/null >"$WORK/out" 2>"$WORK/steps"
}
change_bitmaps 'add {"node":"@","name":"cbt-1","granularity":65536}'

for way in filter fleece push external; do
  say "$way: an instant that ends well"
  instant "$way" || fail "$way: $(cat "$WORK/out" "$WORK/steps")"
  n=$(sed -n 's/ended after \([0-9]*\) steps/\1/p' "$WORK/out")
  say "$(head -n 1 "$WORK/out"); $n steps"
  mv "$WORK/steps" "$WORK/ended-well"
  taken=$(grep -nE ': (transaction|blockdev-del cbt-t-stopped)' "$WORK/ended-well" | tail -n 1 | cut -d : -f 1)
  expect_nothing_left "$way"
  assert_eq "bitmaps" "$(bitmaps a)" "cbt-1 false, cbt-2 true"
  reset_bitmaps

  say "$way: killed at any step, or a little later"
  for ((i = 1; i <= n; i++)); do
    if [ -z "$LONG" ] && [ "$((RANDOM % 4))" -ne 0 ]; then continue; fi
    result=0
    PROBE_DIE_AT=$i PROBE_DIE_US=$((RANDOM % 2 * RANDOM % 3000)) instant "$way" || result=$?
    step=$(tail -n 1 "$WORK/steps")
    [ "$result" -ge 128 ] || [ "$i" -ge $((n - 3)) ] || fail "$step: exit status $result, it was not killed"
    found=$(probe leftovers "$socket" cbt-t) || fail "$step: $found"
    expect_nothing_left "$way, killed at $step"
    assert_eq "$step: found again" "$(probe leftovers "$socket" cbt-t)" ""
    reset_bitmaps
  done

  say "$way: refused at any step until the guest runs again, all is taken back at once"
  for ((i = 1; i <= taken; i++)); do
    if [ -z "$LONG" ] && [ "$((RANDOM % 4))" -ne 0 ]; then continue; fi
    PROBE_REFUSE_AT=$i instant "$way" && fail "$way: not refused at step $i"
    step=$(tail -n 1 <(grep step "$WORK/steps"))
    assert_has "$step" "$(tail -n 1 "$WORK/steps")" "refused at step $i"
    expect_nothing_left "$way, refused at $step"
    assert_eq "$step: bitmaps" "$(bitmaps a)" "cbt-1 true"
  done

  say "$way: the connection lost at any step of the instant, all is taken back by another one"
  first=$(grep -nE ': (transaction|blockdev-add cbt-t-stopped)' "$WORK/ended-well" | head -n 1 | cut -d : -f 1)
  for ((i = first; i <= taken; i++)); do
    PROBE_DROP_AT=$i instant "$way" && fail "$way: went on without a connection at step $i"
    expect_nothing_left "$way, connection lost at $(grep "step $i:" "$WORK/steps")"
    assert_eq "$way, lost at $i: bitmaps" "$(bitmaps a)" "cbt-1 true"
  done
done
say "an NBD server of somebody else is named, and left alone; what is pushed does not need it"
others() { # of somebody else with a prefix like ours, and the first letters of ours
  qmp q1 query-named-block-nodes '{"flat":true}' | jq -r '.[]."node-name"' | grep -E '^(cbt-t2|cbt-tx)' | sort
  qmp q1 query-jobs | jq -r '.[] | "\(.id) \(.status)"'
  qmp q1 query-block-exports | jq -r '.[].id'
}
add() { qmp q1 "$@" >/dev/null || fail "$*"; }
add nbd-server-start "{\"addr\":{\"type\":\"unix\",\"data\":{\"path\":\"$WORK/other.sock\"}}}"
expect_exit 4 "Somebody else has started QEMU's NBD server (exports: none)" \
  probe instant "$socket" filter "$WORK/scratch" cbt-t a cbt-1 cbt-2
add blockdev-add '{"driver":"null-co","node-name":"cbt-t2-scr0","size":1048576}'
add blockdev-add '{"driver":"null-co","node-name":"cbt-tx","size":1048576}'
add block-export-add '{"type":"nbd","id":"cbt-t2-x0","node-name":"cbt-tx"}'
add blockdev-backup '{"job-id":"cbt-t2-job0","device":"cbt-tx","target":"cbt-t2-scr0","sync":"none"}'
before=$(others)
for way in filter fleece; do
  expect_exit 4 "(exports: cbt-t2-x0)" probe instant "$socket" "$way" "$WORK/scratch" cbt-t a cbt-1 cbt-2
done
instant push || fail "push: $(cat "$WORK/steps")"
reset_bitmaps
assert_eq "found" "$(probe leftovers "$socket" cbt-t)" ""
assert_eq "what others have" "$(others)" "$before"
nbdinfo "nbd+unix:///cbt-tx?socket=$WORK/other.sock" >/dev/null || fail "the other server is gone"
add job-cancel '{"id":"cbt-t2-job0"}'
add nbd-server-stop
for node in cbt-t2-scr0 cbt-tx; do
  wait_until 5 qmp q1 blockdev-del "{\"node-name\":\"$node\"}" || fail "$node cannot be deleted"
done

say "bitmaps and names that cannot be used"
ask() { probe instant "$socket" auto "$WORK/scratch" "$@"; }
expect_exit 3 "has no bitmap cbt-9" ask cbt-t a cbt-9 cbt-2
expect_exit 1 "cannot begin names in QEMU" ask "a prefix" a - cbt-2
expect_exit 1 "cannot begin names in QEMU" ask cbt-0123456789abcdefg a - cbt-2
expect_exit 1 "Bitmap already exists: cbt-1" ask cbt-t a - cbt-1 b - cbt-2
assert_eq "the bitmaps of a" "$(bitmaps a)" "cbt-1 true"
assert_eq "the bitmaps of b" "$(bitmaps "$(node_of_b)")" "cbt-1 true"
expect_nothing_left "after what could not be done"
stop_guest_vm q1

say "QEMU of another user, who may not look into the folder"
need_root "to start QEMU as another user"
qemu-system-x86_64() { exec setpriv --reuid 65534 --regid 65534 --clear-groups qemu-system-x86_64 "$@"; }
chmod 777 "$WORK"
chmod 700 "$WORK/scratch"
chown 65534:65534 "$WORK/a.qcow2" "$WORK/b.raw"
start_qemu q1 "${disks[@]}" -device virtio-blk-pci,drive=a,id=va -device virtio-blk-pci,drive=b
change_bitmaps 'add {"node":"@","name":"cbt-3","granularity":65536}'
for way in filter fleece push; do
  probe instant "$socket" "$way" "$WORK/scratch" cbt-t a cbt-3 "cbt-$way" b cbt-3 "cbt-$way" </dev/null >"$WORK/out" 2>&1 ||
    fail "$way: $(cat "$WORK/out")"
  expect_nothing_left "$way"
  change_bitmaps "remove {\"node\":\"@\",\"name\":\"cbt-$way\"}" 'enable {"node":"@","name":"cbt-3"}'
done
stop_guest_vm q1
