#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A backup writes its archive in the same pass: under a guest's writes it equals the point, whatever the order in it; one
# that cannot be written costs the archive, never the point.
. "$(dirname "$0")/lib.sh"
need qemu-io

vma() { "$BUILD/bin/cbt-vma" "$@"; }
seed
random_image "$WORK/root.img" 6
truncate -s $((40 * MIB)) "$WORK/root.img"
random_bytes_at "$WORK/root.img" $((30 * MIB)) $((3 * MIB + 5000))
truncate -s $((2 * MIB + 512)) "$WORK/data.img"
random_bytes_at "$WORK/data.img" $((2 * MIB)) 512
printf 'cores: 2\n' >"$WORK/vm.conf"
start_daemon
cbt --quiet vm add vm1 --disk "root=$WORK/root.img" --disk "data=$WORK/data.img" --config "$WORK/vm.conf"
root_uri=$(uri_of vm1 root)

# archive_equals_point FILE POINT
archive_equals_point() {
  local disk
  rm -rf "$WORK/extracted" "$WORK/restored"
  vma verify "$1" || fail "$1 does not verify"
  vma extract "$1" "$WORK/extracted"
  cbt --quiet restore "$2" --to "$WORK/restored" >/dev/null
  for disk in root data; do
    assert_same_file "$disk in $1" "$WORK/extracted/disk-$disk.raw" "$WORK/restored/$disk.raw"
  done
  assert_same_file "the configuration in $1" "$WORK/extracted/vm.conf" "$WORK/vm.conf"
  assert_eq "the uuid of $1" "$(od -An -tx1 -j8 -N16 "$WORK/extracted.head" | tr -d ' \n')" \
    "$(cbt_json show "$2" | jq -r .uuid | tr -d -)"
}
head_of() { (case $1 in *.zst) zstd -qdc "$1" ;; *) cat "$1" ;; esac || true) | head -c 12288 >"$WORK/extracted.head"; }

say "a full backup under writes: the archive grows while the disk is read, and equals the point"
cp "$WORK/root.img" "$WORK/before.img"
api POST /v1/vms/vm1/backups "{\"kind\":\"full\",\"speed\":\"2M\",\"archive\":\"$WORK/full.vma\"}"
id=$(jq -e .id <<<"$body") || fail "the backup did not start: $body"
part_has_data() { [ "$(stat -c %s "$WORK/full.vma.$id.part" 2>/dev/null || echo 0)" -gt $((3 * MIB)) ]; }
wait_until 60 part_has_data || fail "the archive does not grow: $(ls -l "$WORK")"
[ ! -e "$WORK/full.vma" ] || fail "a part of an archive has its name already"
assert_eq "status while the archive grows" "$(job_status "$id")" active
for _ in 1 2 3 4 5; do
  io "$root_uri" "write -P 5 $(random_below 39)M $((4 * (1 + $(random_below 60))))k" "write -P 6 $(random_below 39)M 4k"
done
assert_eq "status" "$(wait_job "$id" | jq -r .status)" "done"
head_of "$WORK/full.vma"
archive_equals_point "$WORK/full.vma" vm1@latest
assert_same_file "the disk at its instant" "$WORK/extracted/disk-root.raw" "$WORK/before.img"

say "an archive of an incremental has all of the disks; a compressed one, one of a full backup of one disk"
io "$root_uri" "write -P 9 12M 1M"
cbt --quiet --incremental vm1 --archive "$WORK/incremental.vma" >/dev/null
assert_eq "kind" "$(cbt_json show vm1@latest | jq -r .kind)" incremental
head_of "$WORK/incremental.vma"
archive_equals_point "$WORK/incremental.vma" vm1@latest
cbt --quiet --full vm1 --archive "$WORK/full.vma.zst" >/dev/null
head_of "$WORK/full.vma.zst"
archive_equals_point "$WORK/full.vma.zst" vm1@latest
cbt --quiet --full vm1 --disk data --archive "$WORK/data.vma" >/dev/null
assert_eq "disks of the archive" "$(vma list "$WORK/data.vma" | grep -c DEV)" 1

say "an archive in the order of arrival becomes the same point again"
cbt --quiet import copy "$WORK/full.vma.zst" >/dev/null
restore_matches copy@latest root "$WORK/restored/root.raw"

say "what cannot be is refused, and no point is made"
n_points=$(points vm1 | wc -l)
expect_exit 4 "exists already" cbt --full vm1 --archive "$WORK/full.vma"
expect_exit 3 "no/such" cbt --full vm1 --archive "$WORK/no/such/x.vma"
expect_status 400 "absolute" POST /v1/vms/vm1/backups '{"kind":"full","archive":"x.vma"}'
assert_eq "points" "$(points vm1 | wc -l)" "$n_points"

say "a cancelled backup leaves no archive"
api POST /v1/vms/vm1/backups "{\"kind\":\"full\",\"speed\":\"2M\",\"archive\":\"$WORK/cancelled.vma\"}"
id=$(jq -e .id <<<"$body")
wait_until 60 test -s "$WORK/cancelled.vma.$id.part" || fail "the archive is not begun"
cbt --quiet job cancel "$id" >/dev/null
assert_eq "status" "$(wait_job "$id" | jq -r .status)" cancelled
assert_eq "what it left" "$(find "$WORK" -maxdepth 1 -name 'cancelled*')" ""
assert_eq "points" "$(points vm1 | wc -l)" "$n_points"

if mkdir "$WORK/small" && mount -t tmpfs -o size=2M none "$WORK/small" 2>/dev/null; then
  at_exit umount "$WORK/small"
  say "where the archive finds no room, the point is made all the same, and the job says so"
  expect_exit 1 "was made, but not its archive" cbt --full vm1 --archive "$WORK/small/full.vma"
  assert_eq "code" "$(cbt_json job list | jq -r '.[0].code')" no-space
  assert_eq "what is left of it" "$(ls "$WORK/small")" ""
  assert_eq "points" "$(points vm1 | wc -l)" $((n_points + 1))
  io "$root_uri" "write -P 3 1M 64k"
  job=$(backup incremental vm1)
  assert_eq "what the next one looks at" "$(jq '.disks[] | select(.name == "root").dirty' <<<"$job")" 65536
  cbt --quiet archive vm1@1 --output "$WORK/later.vma"
  head_of "$WORK/later.vma"
  archive_equals_point "$WORK/later.vma" vm1@1
fi
