#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A store that is full, up to the reserve or to the last byte, costs the backup and nothing else: it says why, the bitmap has all
# changes, what makes room goes on, and with room the next incremental is right. Catalogue and bitmaps are on the same disk.
. "$(dirname "$0")/lib.sh"
need nbdkit fallocate
need_root "mounts"

seed
mkdir -p "$STATE"

disk=$STATE # the folder of the small disk
mount_tmpfs() { mount -t tmpfs -o size=192m none "$disk" && at_exit umount_hard "$disk"; }
mount_ext4() {
  truncate -s 192M "$WORK/state.ext4"
  mkfs.ext4 -q -F -m 0 "$WORK/state.ext4"
  mount -o loop "$WORK/state.ext4" "$disk" && at_exit umount_hard "$disk"
}
free_bytes() { echo $(($(stat -f -c '%a * %S' "$disk"))); }
# leave_free BYTES: a file of somebody else's takes the rest. It grows until it fits, as a file system's own needs vary.
leave_free() {
  local want=$1 now step
  sync -f "$disk"
  for step in 1048576 65536 4096; do
    while now=$(free_bytes) && [ "$((now - want))" -ge "$step" ]; do
      head -c "$(((now - want) / step * step))" /dev/zero >>"$disk/ballast" 2>/dev/null || break
      sync -f "$disk"
    done
  done
}
# The note is a transaction: with it the catalogue takes its room again.
make_room() { rm -f "$disk/ballast" && cbt --quiet note vm1@latest "there is room"; }

offset=0
# overwrite MIB: so much of the disk gets new bytes, through the export.
overwrite() {
  head -c "$(($1 * MIB))" /dev/urandom >"$WORK/new"
  local at=$((offset % 24))
  io "$(uri_of vm1)" "write -s $WORK/new ${at}M $1M" flush
  offset=$((offset + $1))
}
dirty() { cbt_json bitmap show vm1/root | jq .count; }

# expect_no_space WHAT: an incremental is refused, or fails, for want of room. Sets $job.
expect_no_space() {
  job=$(cbt_json --incremental vm1 2>/dev/null) || true
  say "$1: $(jq -c 'if .error then [.error.code, .error.message, .error.hint] else [.status, .code, .errmsg, .hint] end' <<<"$job")"
  assert_eq "$1: code" "$(jq -r '.error.code // .code' <<<"$job")" no-space
  assert_eq "$1: bitmap" "$(bitmap_state vm1/root)" active
}
goes_on() { # WHAT DIRTY-BYTES
  job=$(backup incremental vm1)
  assert_eq "$1: kind, reason, dirty" "$(jq -c '[.kind, .reason, .dirty]' <<<"$job")" "[\"incremental\",null,$2]"
  assert_eq "$1: dirty afterwards" "$(dirty)" 0
  restore_matches vm1@latest root "$WORK/root.img"
}

run_on() { # FILE-SYSTEM
  local free before id i count
  "mount_$1" || return 1
  offset=0
  random_image "$WORK/root.img" 24
  DAEMON_OPTIONS=(--store-reserve 8M)
  start_daemon
  vm_add vm1 "root=$WORK/root.img"
  backup full vm1 >/dev/null
  cbt --quiet archive vm1@latest --output "$WORK/full.$1.vma"
  assert_eq "status" "$(cbt_json status | jq .store.reserve)" "$((8 * MIB))"

  say "$1: a backup that comes to the reserve fails, and leaves it"
  overwrite 12
  leave_free $((13 * MIB))
  expect_no_space "in the middle"
  assert_has "errmsg" "$(jq -r .errmsg <<<"$job")" "8.0 MiB"
  assert_has "hint" "$(jq -r .hint <<<"$job")" "prune"
  assert_ge "what it read" "$(jq .read <<<"$job")" 1
  assert_eq "dirty" "$(dirty)" "$((12 * MIB))"
  # Between two checks a MiB is put, and each worker has a block.
  assert_ge "MiB left free of 8" "$(jq -r .errmsg <<<"$job" | sed -n 's/.* has \([0-9]*\)\.[0-9] MiB free.*/\1/p')" 4
  free=$(free_bytes)
  assert_ge "left free" "$free" "$((4 * MIB))"

  say "$1: below it no backup and no import begins ($free bytes are free)"
  leave_free $((4 * MIB))
  expect_no_space "below the reserve"
  assert_eq "what it read" "$(jq .read <<<"$job")" 0
  assert_eq "dirty" "$(dirty)" "$((12 * MIB))"
  job=$(cbt_json import vm2 "$WORK/full.$1.vma" 2>/dev/null) || true
  assert_eq "import" "$(jq -r .code <<<"$job")" no-space
  assert_has "status" "$(cbt status)" "less is free than the reserve"

  say "$1: what gives back, and what gives room, works"
  cbt --quiet restore vm1@latest --to "$WORK/out.$1"
  cbt --quiet note vm1@latest "below the reserve"
  cbt --quiet protect vm1@latest
  cbt --quiet unprotect vm1@latest
  cbt --quiet rebuild-catalogue
  cbt --quiet vm add vm3 --disk "root=$WORK/out.$1/root.raw"
  cbt --quiet vm remove vm3
  cbt --quiet prune vm1 --keep-last 1
  make_room
  goes_on "room after the reserve" "$((12 * MIB))"

  say "$1: full to the last byte, at whatever step that is found: each time the bitmap has all"
  stop_daemon
  DAEMON_OPTIONS=(--store-reserve 0)
  start_daemon
  cbt --quiet forget vm1@1
  for free in 0 4096 16384 65536 262144 1048576; do
    overwrite 12 # what failed before has left its clusters in the store
    before=$(dirty)
    leave_free "$free"
    expect_no_space "$free bytes free"
    assert_eq "dirty at $free" "$(dirty)" "$before"
    make_room
  done
  goes_on "room after each of these" "$before"

  say "$1: the guest writes on while nothing fits any more, and the daemon can be killed and started"
  leave_free 0
  overwrite 12
  expect_no_space "again"
  restore_matches_old
  kill_daemon
  start_daemon
  assert_eq "dirty after a restart" "$(dirty)" "$((12 * MIB))"
  restore_matches_old
  expect_no_space "after a restart"
  make_room
  goes_on "room after a full disk" "$((12 * MIB))"

  for id in $(points vm1); do cbt --quiet restore "$id" --to "$WORK/each.$1.$id"; done
  rm -rf "$WORK"/each.* "$WORK/out.$1"

  cbt --quiet export stop vm1
  stop_daemon
  umount "$STATE"
}

# The newest point can be restored though the disk is full.
restore_matches_old() {
  cbt --quiet restore vm1@latest --to "$WORK/old" || fail "no restore from a full disk"
  rm -r "$WORK/old"
}

# Only the store's disk is full; as the room grows by steps, each part of a commit is what does not fit any more.
run_steps() {
  local i result before
  disk=$STATE/store
  mkdir -p "$disk"
  mount_tmpfs
  offset=0
  random_image "$WORK/root.img" 24
  start_daemon
  vm_add vm1 "root=$WORK/root.img"
  backup full vm1 >/dev/null
  before=1
  for ((i = 0; i < 12; i++)); do
    overwrite 1
    before_dirty=$(dirty)
    leave_free $((MIB + 4096 * i))
    result=$(cbt_json --incremental vm1 2>/dev/null | jq -r .code) || true
    say "$((MIB + 4096 * i)) bytes free: $result"
    [[ $result =~ ^(no-space|null)$ ]] || fail "incremental with $((MIB + 4096 * i)) bytes free: $result"
    make_room
    assert_eq "bitmap" "$(bitmap_state vm1/root)" active
    if [ "$result" = null ]; then before=$((before + 1)) before_dirty=0; fi
    assert_eq "dirty" "$(dirty)" "$before_dirty"
    assert_eq "points" "$(points vm1 | wc -l)" "$before"
    assert_eq "point files" "$(find "$STATE/store/points" -mindepth 1 | wc -l)" "$before"
  done
  overwrite 1
  goes_on "at last" "$((before_dirty + MIB))"
  stop_daemon
}

run_on ext4 || run_on tmpfs
[ -z "$LONG" ] || run_on tmpfs
say "only the store is full"
run_steps
