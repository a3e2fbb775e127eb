# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# For tests with a QEMU of their own; after lib.sh. On exit lib.sh ends whatever has $WORK in its command line:
#
#   . "$(dirname "$0")/lib-guest.sh"
#   start_guest_vm g1 -drive "if=none,id=d0,file=$WORK/d0.qcow2" \
#     -device virtio-blk-pci,drive=d0,serial=cbt-d0
#   guest g1 'cat /mnt/vda/tick'
#   stop_guest_vm g1
#
# Sockets are in $WORK: NAME.qmp and NAME.qga for what is tested, NAME.ctl (QMP) for the test itself. The guest is made
# by tests/guest/mkguest; GUEST_ACCEL=tcg|kvm chooses how it runs.
# shellcheck disable=SC2034 # variables here are for the tests
need qemu-system-x86_64 qemu-ga python3

declare -A VM_PID=()
QEMU_ENV=() # NAME=VALUE..., for QEMU alone
GUEST_ACCEL=${GUEST_ACCEL:-tcg}

probe() { "$BUILD/tests/qemu-probe" "$@"; } # the product's clients, for scripts

# qmp NAME COMMAND [ARGUMENTS]: on the test's own monitor; prints the answer.
qmp() { probe qmp "$WORK/$1.ctl" "$2" "${3:-}"; }

qemu_is_there() { [ -S "$WORK/$1.qmp" ] && qmp "$1" query-status; }

# G_DEBUG of the tests would end QEMU and its agent at their first warning.
# start_qemu NAME OPTION...: a QEMU without a guest in it unless OPTION say so.
start_qemu() {
  local name=$1
  shift
  env G_DEBUG= "${QEMU_ENV[@]}" qemu-system-x86_64 -name "$name" -accel "$GUEST_ACCEL" -display none -nodefaults -no-reboot \
    -qmp "unix:$WORK/$name.qmp,server=on,wait=off" -qmp "unix:$WORK/$name.ctl,server=on,wait=off" "$@" \
    >>"$WORK/$name.qemu.err" 2>&1 &
  VM_PID[$name]=$!
  wait_until 30 qemu_is_there "$name" || fail "QEMU does not start: $(cat "$WORK/$name.qemu.err")"
}

# start_guest_vm NAME OPTION...: with the guest, until it has mounted its disks. GUEST_APPEND: more for its command
# line, `cbt.writer` has it write on all of them.
start_guest_vm() {
  local name=$1 folder
  shift
  folder=$("$SOURCE/tests/guest/mkguest" 2>>"$WORK/mkguest.err") || skip "no guest: $(tail -n 1 "$WORK/mkguest.err")"
  : >"$WORK/$name.serial"
  start_qemu "$name" -m 384 -kernel "$folder/vmlinuz" -initrd "$folder/initrd.gz" \
    -append "console=ttyS0 quiet panic=-1 ${GUEST_APPEND:-}" -serial "file:$WORK/$name.serial" \
    -device virtio-serial-pci -chardev "socket,path=$WORK/$name.qga,server=on,wait=off,id=qga0" \
    -device virtserialport,chardev=qga0,name=org.qemu.guest_agent.0 "$@"
  wait_until 120 guest_is_ready "$name" || fail "the guest does not get ready: $(tail -n 20 "$WORK/$name.serial")"
  ! vm_is_gone "$name" ||
    fail "QEMU ended: $(tail -n 20 "$WORK/$name.serial" "$WORK/$name.qemu.err")"
}
guest_is_ready() { grep -q GUEST-READY "$WORK/$1.serial" || vm_is_gone "$1"; }

# guest NAME SCRIPT: by the agent; prints its output.
guest() { probe qga "$WORK/$1.qga" exec /bin/busybox sh -c "$2"; }

vm_is_gone() { process_is_gone "${VM_PID[$1]}"; }

stop_guest_vm() { # NAME: a clean end of QEMU, the guest not being asked
  qmp "$1" quit >/dev/null || fail "QEMU of $1 does not quit"
  wait_until 30 vm_is_gone "$1" || fail "QEMU of $1 does not end"
  wait "${VM_PID[$1]}" || fail "QEMU of $1 ended with an error: $(cat "$WORK/$1.qemu.err")"
  unset "VM_PID[$1]"
}

kill_guest_vm() { # NAME: as if the host had lost its power
  kill -KILL "${VM_PID[$1]}"
  wait "${VM_PID[$1]}" 2>/dev/null || true
  unset "VM_PID[$1]"
}

# writer_n NAME: how many rounds the writer in the guest has done.
writer_n() { guest "$1" 'cat /run/writer.n 2>/dev/null || echo 0'; }
writer_is_past() { [ "$(writer_n "$1")" -gt "$2" ]; }

# guest_disk_is_right FOLDER...: what the writer left there is right; the folders are of one instant, in the order in
# which the guest had them. Prints the tick of the first.
guest_disk_is_right() {
  local output ticks
  output=$(sh "$SOURCE/tests/guest/check" "$@") || fail "files of the guest: $output"
  mapfile -t ticks < <(cut -d ' ' -f 1 <<<"$output")
  if [ "${#ticks[@]}" -gt 1 ] && [ $((ticks[0] - ticks[-1])) -ne 0 ] && [ $((ticks[0] - ticks[-1])) -ne 1 ]; then
    fail "the disks are not of one instant: ticks ${ticks[*]}"
  fi
  echo "${ticks[0]}"
}
