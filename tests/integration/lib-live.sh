# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Vms whose QEMU has no guest in it: the test writes where a guest would, through the device's backend, and keeps the
# same in an oracle. After lib-guest.sh:
#
#   start_live g1 root=qcow2 data=raw    # disks of LIVE_MIB in $WORK/g1.DISK, oracles in $WORK/g1.DISK.oracle
#   guest_writes g1 root 5 2             # clusters 5 and 6
#   live_backup g1                       # is right, and leaves nothing; $job
#
# What QEMU says of a write that failed is in $WORK/NAME.qemu.err at once: expect_no_failed_write NAME.
# shellcheck disable=SC2034 # variables here are for the tests
LIVE_MIB=16
declare -A LIVE_DISKS=() LIVE_OPTIONS=()
n_live_writes=0
live_stores=1 # that back it up

# live_options VM: QEMU's options for LIVE_DISKS[VM], which is "DISK=FORMAT...".
live_options() {
  local disk
  options=()
  for disk in ${LIVE_DISKS[$1]}; do
    options+=(-drive "if=none,id=${disk%=*},file=$WORK/$1.${disk%=*},format=${disk#*=},discard=unmap"
      -device "virtio-blk-pci,drive=${disk%=*},id=vd-${disk%=*},serial=S-${disk%=*}")
  done
}
start_live() { # VM DISK=FORMAT...: images, oracles, and QEMU with LIVE_OPTIONS[VM] beside them
  local vm=$1 disk
  shift
  LIVE_DISKS[$vm]=$*
  for disk in "$@"; do new_live_disk "$vm" "$disk"; done
  restart_live "$vm"
}
new_live_disk() { # VM DISK=FORMAT
  qemu-img create -q -f "${2#*=}" "$WORK/$1.${2%=*}" "${LIVE_MIB}M"
  truncate -s "${LIVE_MIB}M" "$WORK/$1.${2%=*}.oracle"
}
restart_live() { # VM: QEMU anew on the same disks and sockets
  local options
  live_options "$1"
  # shellcheck disable=SC2086 # LIVE_OPTIONS are words
  start_qemu "$1" "${options[@]}" ${LIVE_OPTIONS[$1]:-}
}
# QEMU's own buffer would keep what it says of a failed write. Not for our programs: a sanitizer wants to be loaded first.
mapfile -t QEMU_ENV < <(stdbuf -oL env | grep -E '^(LD_PRELOAD|_STDBUF_O)=')

hmp() { qmp "$1" human-monitor-command "$(jq -nc --arg line "$2" '{"command-line": $line}')" | jq -r .; } # VM LINE

# guest_writes VM DISK CLUSTER [N]: another pattern each time.
guest_writes() {
  local n=${4:-1}
  n_live_writes=$((n_live_writes % 250 + 1))
  hmp "$1" "qemu-io $2 \"write -q -P $n_live_writes $(($3 * CLUSTER)) $((n * CLUSTER))\"" >/dev/null
  head -c "$((n * CLUSTER))" /dev/zero | tr '\0' "\\$(printf %o $n_live_writes)" |
    dd of="$WORK/$1.$2.oracle" bs="$CLUSTER" seek="$3" conv=notrunc status=none
}
guest_writes_all() { # VM CLUSTER [N]: on each disk
  local disk
  for disk in ${LIVE_DISKS[$1]}; do guest_writes "$1" "${disk%=*}" "${@:2}"; done
}
# kill_live VM: as a loss of power, but what the guest wrote is in its images: QEMU keeps tables of qcow2 back until a flush.
kill_live() {
  local disk
  for disk in ${LIVE_DISKS[$1]}; do hmp "$1" "qemu-io ${disk%=*} flush" >/dev/null; done
  kill_guest_vm "$1"
}
expect_no_failed_write() { # VM: that a killed daemon left the NBD server is no failed write
  ! grep -v 'Disconnect client' "$WORK/$1.qemu.err" | grep -i 'fail\|error' || fail "a write of the guest of $1 failed"
}

# What was not stored when QEMU died, its guest lost: the images are the truth then.
take_over_images() { # VM
  local disk
  for disk in ${LIVE_DISKS[$1]}; do
    qemu-img convert -f "${disk#*=}" -O raw "$WORK/$1.${disk%=*}" "$WORK/$1.${disk%=*}.oracle"
  done
}

guest_state() { qmp "$1" query-status | jq -r .status; } # VM
guest_is() { [ "$(guest_state "$1")" = "$2" ]; }        # VM STATE
names_in_qemu() { # VM: of all that a backup can leave there, but for bitmaps
  qmp "$1" query-named-block-nodes | jq -r '.[]."node-name"'
  qmp "$1" query-block-jobs | jq -r '.[].device'
  qmp "$1" query-block-exports | jq -r '.[].id'
  qmp "$1" query-fdsets | jq -r '.[].fds[].opaque // ""'
}
live_left() { names_in_qemu "$1" | grep 'cbt-' || true; }
# live_bitmaps VM DISK: [NAME, recording, persistent, inconsistent] of each, by name.
live_bitmaps() {
  qmp "$1" query-block | jq -c --arg disk "$2" '[.[] | select(.device == $disk) | .inserted."dirty-bitmaps" // [] | .[]
    | [.name, .recording, .persistent, .inconsistent // false]] | sort'
}
our_bitmaps() { live_bitmaps "$1" "$2" | jq -r '.[][0] | select(startswith("cbt-"))'; } # VM DISK
expect_nothing_of_backup() { # VM [WHAT]
  local disk
  assert_eq "${2:-$1}: left in QEMU" "$(live_left "$1")" ""
  assert_eq "${2:-$1}: status of the guest" "$(guest_state "$1")" running
  assert_eq "${2:-$1}: journal" "$(journal_of "$1")" ""
  assert_eq "${2:-$1}: scratch files" "$(find "$STATE/fleece" -mindepth 1 2>/dev/null)" ""
  assert_eq "${2:-$1}: sockets" "$(find "$RUN/live/$1" -type s 2>/dev/null)" ""
  for disk in ${LIVE_DISKS[$1]}; do
    assert_eq "${2:-$1}: bitmaps of ${disk%=*}" "$(our_bitmaps "$1" "${disk%=*}" | wc -l)" "$live_stores"
  done
}
journal_of() { python3 - "$STATE/catalogue.sqlite" "$1" <<'END'
import sqlite3, sys
for row in sqlite3.connect("file:" + sys.argv[1] + "?mode=ro", uri=True).execute(
        "SELECT * FROM journal WHERE vm = ?", (sys.argv[2],)):
    print(row)
END
}

# live_is_right VM JOB [WHAT]: each disk of the job's point equals its oracle.
live_is_right() {
  local disk folder=$WORK/restore.$RANDOM$RANDOM
  cbt --quiet restore "$(jq -r .uuid <<<"$2")" --to "$folder" >/dev/null
  for disk in ${LIVE_DISKS[$1]}; do
    assert_same_file "${3:-$1}: ${disk%=*}" "$folder/${disk%=*}.raw" "$WORK/$1.${disk%=*}.oracle"
  done
  rm -rf "$folder"
}
live_backup() { # VM [OPTION...]: an incremental; sets $job
  local vm=$1
  shift
  job=$(backup incremental "$vm" "$@")
  say "$vm: $(jq -c '[.reason, ([.disks[] | {(.name): .dirty}] | add), .notes]' <<<"$job")"
  live_is_right "$vm" "$job"
  expect_nothing_of_backup "$vm"
}
dirty_of() { jq --arg disk "$1" '.disks[] | select(.name == $disk) | .dirty' <<<"$job"; } # DISK: of $job
