#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# On a disk that is nearly full garbage collection gives space back all the same; where it cannot, it takes none, and says
# how much it needs.
. "$(dirname "$0")/lib.sh"
need_root "to mount a small file system"

mkdir "$WORK/small"
mount -t tmpfs -o size=240m tmpfs "$WORK/small" || skip "cannot mount a tmpfs"
at_exit umount -l "$WORK/small"
STATE=$WORK/small/state
DAEMON_OPTIONS+=(--store-reserve "${reserve:=24M}")
free_bytes() { df --output=avail -B1 "$WORK/small" | tail -n 1; }

# Each point has random clusters all over the disk, so that each pack has some of every point.
random_image "$WORK/web.raw" 100
start_daemon
vm_add web "root=$WORK/web.raw"
backup full web >/dev/null
for round in $(seq 1 40); do
  for at in 0 1 2 3 4 5; do random_bytes_at "$WORK/web.raw" $(((round * 7 + at * 251) % 1600 * CLUSTER)) $((12 * CLUSTER)); done
  cbt --quiet --incremental web >/dev/null 2>"$WORK/full.err" || break
done
grep -q "reserve" "$WORK/full.err" || fail "the disk did not become full: $(cat "$WORK/full.err"); $(free_bytes) are free"
cp "$WORK/web.raw" "$WORK/after.raw"

say "with room for less than a pack, gc gives back what pruning promised"
cbt --quiet prune web --keep-last 1
before=$(free_bytes)
result=0
cbt gc >"$WORK/gc.out" 2>&1 || result=$?
say "free before $before, after $(free_bytes): $(tail -n 2 "$WORK/gc.out")"
assert_ge "bytes free after gc" "$(free_bytes)" $((before - 5 * MIB))
if [ "$result" -ne 0 ]; then
  assert_has "why it could not do all" "$(cat "$WORK/gc.out")" "no room to copy"
  mount -o remount,size=304m "$WORK/small"
  cbt --quiet gc
fi
assert_le "bytes of packs" "$(packs_bytes)" $((112 * MIB))
cbt --quiet verify --all
cbt --quiet --incremental web >/dev/null
restore_matches web@latest root "$WORK/after.raw"

say "a disk without any room, and nothing left to keep: all of it comes free"
for uuid in $(points web); do cbt --quiet forget "$uuid"; done
fallocate -l "$(($(free_bytes) - 65536))" "$WORK/small/filler" || fail "cannot fill the disk"
cbt --quiet gc
assert_eq "bytes of packs" "$(packs_bytes)" 0
stop_daemon

say "a backup met the end of a small disk: what it could not write is in nobody's way, and no restart is needed"
STATE=$WORK/state2 RUN=$WORK/run2 SOCKET=$WORK/run2/api.sock
mkdir -p "$STATE/store"
truncate -s 128M "$WORK/store.ext4"
mkfs.ext4 -q -F -m 0 "$WORK/store.ext4"
mount -o loop "$WORK/store.ext4" "$STATE/store" || skip "cannot mount a small ext4"
at_exit umount -l "$STATE/store"
DAEMON_OPTIONS=(--store-reserve 0)
start_daemon
random_image "$WORK/a.raw" 20
random_image "$WORK/b.raw" 60
random_image "$WORK/c.raw" 100
for name in a b c; do vm_add "$name" "root=$WORK/$name.raw"; done
backup full a >/dev/null
backup full b >/dev/null
expect_exit 1 "no space left" cbt --quiet --full c
cbt --quiet forget b@latest
cbt --quiet gc
assert_le "bytes of packs" "$(packs_bytes)" $((21 * MIB))
backup full b >/dev/null
restore_matches a@latest root "$WORK/a.raw"
restore_matches b@latest root "$WORK/b.raw"
stop_daemon
