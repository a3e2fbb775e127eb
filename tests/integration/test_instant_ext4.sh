#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# An ext4 that is mounted and written without pause, through a tracked export: each recovery point mounts and is clean
# after the replay of its journal, and holds every file that was synced before its instant.
. "$(dirname "$0")/lib.sh"
need nbdkit nbdfuse mkfs.ext4 e2fsck python3
need_root "mounts a file system"

n_points=5
[ -z "$LONG" ] || n_points=30
seed
files=$SOURCE/tests/integration/tools/fsync_files.py
truncate -s 256M "$WORK/disk.img"
mkfs.ext4 -q -b 4096 -J size=8 "$WORK/disk.img"
start_daemon
vm_add vm1 "root=$WORK/disk.img"
attach_loop "$(uri_of vm1)" || skip "needs nbdfuse and loop devices"
mount_at "$loop" "$WORK/mnt" || skip "needs a kernel with ext4"

log=$WORK/files.log
python3 "$files" write "$WORK/mnt" "$log" "$RANDOM" &
writer=$!
at_exit kill "$writer"
n_lines() { wc -l <"$log"; }
has_lines() { [ -e "$log" ] && [ "$(n_lines)" -ge "$1" ]; }
wait_until 60 has_lines 20 || fail "the writer does not start"

before=() after=()
take_point() { # KIND
  local job
  before+=("$(n_lines)")
  job=$(backup "$1" vm1 --speed 8M) # so that the guest writes to what is not yet read
  after+=("$(n_lines)")
  say "$1: read $(jq .read <<<"$job"), held $(jq '."hold-ms"' <<<"$job") ms"
}
take_point full
for ((i = 0; i < n_points; i++)); do
  wait_until 60 has_lines $((${after[-1]} + 20)) || fail "the writer stands still"
  take_point incremental
  assert_eq "kind of point $i" "$(cbt_json show vm1@latest | jq -r .kind)" incremental
done
kill -0 "$writer" || fail "the writer died: a write of the guest failed"
kill "$writer"
wait "$writer" || fail "the writer says that something failed"
umount "$WORK/mnt"

mapfile -t all < <(points vm1 | tac)
n_replayed=0 n_files=0
for i in "${!all[@]}"; do
  rm -rf "$WORK/out"
  cbt --quiet restore "${all[i]}" --to "$WORK/out" >/dev/null
  ! dumpe2fs -h "$WORK/out/root.raw" 2>/dev/null | grep -q needs_recovery || n_replayed=$((n_replayed + 1))
  mount -o loop "$WORK/out/root.raw" "$WORK/mnt" || fail "point $i does not mount"
  n=$(python3 "$files" check "$WORK/mnt" "$log" "${before[i]}" "${after[i]}") || { umount "$WORK/mnt"; fail "point $i: $n"; }
  umount "$WORK/mnt"
  e2fsck -fn "$WORK/out/root.raw" >"$WORK/fsck" 2>&1 || fail "point $i after the replay: $(cat "$WORK/fsck")"
  n_files=$((n_files + n))
done
say "${#all[@]} points mounted, $n_replayed after a replay; $n_files files that were synced are there; all clean"
assert_ge "points whose journal was replayed" "$n_replayed" 1
assert_ge "files" "$n_files" "${#all[@]}"
