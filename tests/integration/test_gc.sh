#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Garbage collection gives all space back that pruning promised, at once; it runs beside backups and restores; and it
# takes nothing that a recovery point needs.
. "$(dirname "$0")/lib.sh"
need python3

# change CLUSTER COUNT: random clusters in the image, through the export
change() {
  head -c "$(($2 * CLUSTER))" /dev/urandom >"$WORK/data"
  io "$uri" "write -s $WORK/data $(($1 * CLUSTER)) $(($2 * CLUSTER))"
}

# point NAME: an incremental, and an oracle of it; prints its uuid
point() {
  backup incremental web | jq -r .uuid
  cp "$WORK/web.raw" "$WORK/$1.oracle"
}

gc() { cbt_json gc; }

random_image "$WORK/web.raw" 24
start_daemon
vm_add web "root=$WORK/web.raw"
uri=$(uri_of web)
declare -a points
for i in 0 1 2 3 4 5; do
  [ "$i" = 0 ] || change $((i * 40)) 70
  points[i]=$(point "p$i")
done

say "what pruning promises comes free when gc ends"
before=$(packs_bytes)
promised=$(cbt_json prune web --keep-last 2 --dry-run | jq '."bytes-freed"')
assert_ge "bytes promised" "$promised" $((100 * CLUSTER))
cbt --quiet prune web --keep-last 2
job=$(gc)
assert_eq "gc" "$(jq -r '.type + " " + .status' <<<"$job")" "gc done"
freed=$((before - $(packs_bytes)))
# Beside records packs have tables of contents, of 32 bytes a record.
assert_ge "bytes freed" "$freed" $((promised - 40000))
assert_le "bytes freed" "$freed" $((promised + 40000))
assert_ge "bytes that the job says" "$(jq '."bytes-freed"' <<<"$job")" $((promised - 40000))
restore_matches "${points[4]}" root "$WORK/p4.oracle"
restore_matches "${points[5]}" root "$WORK/p5.oracle"

say "a second run finds nothing, and changes nothing"
before=$(packs_bytes)
assert_eq "packs removed" "$(gc | jq '."packs-removed"')" 0
assert_eq "bytes of packs" "$(packs_bytes)" "$before"

say "the next incremental goes on, and so it does after a restart without an index"
change 7 3
points[6]=$(point p6)
assert_eq "what it read" "$(cbt_json show "${points[6]}" | jq '.disks[0].dirty')" $((3 * CLUSTER))
stop_daemon
rm "$STATE/store/index"
start_daemon
gc >/dev/null
for i in 4 5 6; do restore_matches "${points[i]}" root "$WORK/p$i.oracle"; done

say "it runs beside backups and restores"
n_beside=0
for round in 1 2 3 4; do
  change $((round * 50)) 30
  id=$(start_backup incremental web --speed 2097152)
  before=$(job_status "$id")
  restore_matches "${points[6]}" root "$WORK/p6.oracle" &
  restore=$!
  gc >/dev/null
  [ "$before $(job_status "$id")" != "active active" ] || n_beside=$((n_beside + 1))
  wait "$restore" || fail "a restore beside gc failed"
  cp "$WORK/web.raw" "$WORK/p7.oracle"
  job=$(wait_job "$id")
  assert_eq "backup beside gc" "$(jq -r .status <<<"$job")" "done"
  points[7]=$(jq -r .uuid <<<"$job")
  cbt --quiet prune web --keep-last 3
  points[6]=${points[7]}
  cp "$WORK/p7.oracle" "$WORK/p6.oracle"
done
assert_ge "collections in the middle of a backup" "$n_beside" 1
gc >/dev/null
restore_matches "${points[7]}" root "$WORK/p7.oracle"

say "a page that cannot be read stops it, and the point is named"
stop_daemon
cp -r "$STATE/store" "$WORK/store.copy"
python3 - "$STATE/store/packs" <<'E2'
import os, re, sys
# Flips a byte in the payload of every record of a manifest page.
for name in os.listdir(sys.argv[1]):
    path = os.path.join(sys.argv[1], name)
    data = bytearray(open(path, "rb").read())
    for match in re.finditer(b"CBTR\x02", bytes(data)):
        if match.start() % 16 == 0:
            data[match.start() + 50] ^= 1
    open(path, "wb").write(data)
E2
start_daemon
before=$(packs_bytes)
expect_exit 6 "cannot be walked through, so nothing was collected: disk" cbt gc
assert_eq "bytes of packs" "$(packs_bytes)" "$before"
stop_daemon
rm -r "$STATE/store"
mv "$WORK/store.copy" "$STATE/store"

say "a point file that the catalogue does not know, and that is damaged, stops it too"
echo "no point" >"$STATE/store/points/01234567-89ab-4def-8123-456789abcdef.point"
start_daemon
expect_exit 6 "01234567-89ab-4def-8123-456789abcdef.point is damaged" cbt gc
rm "$STATE/store/points/01234567-89ab-4def-8123-456789abcdef.point"

say "a point file that the catalogue does not know, and that is sound, keeps what it needs: the next start takes it in"
points[8]=$(point p8)
change 300 30
points[9]=$(point p9)
file=$STATE/store/points/${points[8]}.point
cp "$file" "$WORK/saved.point"
cbt --quiet forget "${points[8]}"
cp "$WORK/saved.point" "$file" # as a removal leaves it that failed, or that a power cut undid
gc >/dev/null
stop_daemon
start_daemon
restore_matches "${points[8]}" root "$WORK/p8.oracle"

say "without points nothing is left, and the next backup begins anew"
for uuid in $(points web); do cbt --quiet forget "$uuid"; done
gc >/dev/null
assert_eq "bytes of packs" "$(packs_bytes)" 0
points[8]=$(point p8)
gc >/dev/null
restore_matches "${points[8]}" root "$WORK/p8.oracle"
stop_daemon
