#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Any point comes out as a full archive that equals the disks at its instant, into a file, a pipe, or compressed, the same bytes
# each time; damage is found and named; what fails leaves nothing behind.
. "$(dirname "$0")/lib.sh"
need qemu-io qemu-img zstd

vma() { "$BUILD/bin/cbt-vma" "$@"; }
seed
n_rounds=$((${LONG:-0} ? 20 : 5))
random_image "$WORK/root.img" 24
truncate -s $((64 * MIB)) "$WORK/root.img"
truncate -s $((10 * MIB + 512)) "$WORK/data.img"
random_bytes_at "$WORK/data.img" $((10 * MIB)) 512
printf 'cores: 2\nname: one\n' >"$WORK/qemu-server.conf"
start_daemon
cbt --quiet vm add vm1 --disk "drive-scsi0=$WORK/root.img" --disk "data=$WORK/data.img" --config "$WORK/qemu-server.conf"
uri=$(uri_of vm1 drive-scsi0)
data_uri=$(uri_of vm1 data)

# archive_matches ARCHIVE N: what is in it are the disks of round N.
archive_matches() {
  vma verify "$1" || fail "$1 does not verify"
  rm -rf "$WORK/out"
  vma extract "$1" "$WORK/out"
  assert_same_file "drive-scsi0 of round $2" "$WORK/out/disk-drive-scsi0.raw" "$WORK/oracle-root.$2"
  assert_same_file "data of round $2" "$WORK/out/disk-data.raw" "$WORK/oracle-data.$2"
  assert_same_file "the configuration" "$WORK/out/qemu-server.conf" "$WORK/qemu-server.conf"
}

say "a full and $n_rounds incrementals under random writes"
for ((n = 0; n <= n_rounds; n++)); do
  for _ in 1 2 3; do
    io "$uri" "write -P $((n + 1)) $(random_below 60)M $((4 * (1 + $(random_below 100))))k" \
      "write -z $(random_below 60)M 192k" "discard $(random_below 60)M 1M" >/dev/null
  done
  io "$data_uri" "write -P $((n + 7)) $(random_below 10)M 4k" >/dev/null
  cp "$WORK/root.img" "$WORK/oracle-root.$n"
  cp "$WORK/data.img" "$WORK/oracle-data.$n"
  backup "$([ "$n" = 0 ] && echo full || echo incremental)" vm1 >/dev/null
done

say "each of them, into a file"
for ((n = 0; n <= n_rounds; n++)); do
  point=vm1@$((n_rounds - n))
  job=$(cbt_json archive "$point" --format vma --output "$WORK/$n.vma")
  assert_eq "type and status" "$(jq -r '.type + " " + .status' <<<"$job")" "archive done"
  archive_matches "$WORK/$n.vma" "$n"
  uuid=$(cbt_json show "$point" | jq -r .uuid)
  assert_eq "the archive's uuid" "$(od -An -tx1 -j8 -N16 "$WORK/$n.vma" | tr -d ' \n')" "${uuid//-/}"
done
assert_has "list" "$(vma list "$WORK/0.vma")" "DEV: dev_id=1 size: $((64 * MIB)) devname: drive-scsi0"

say "the same point gives the same bytes: into another file, a pipe, compressed, by HTTP"
cbt --quiet archive vm1@latest --output "$WORK/again.vma"
assert_same_file "the second archive" "$WORK/again.vma" "$WORK/$n_rounds.vma"
cbt archive vm1@latest --output - | cat >"$WORK/piped.vma"
assert_same_file "the piped archive" "$WORK/piped.vma" "$WORK/$n_rounds.vma"
cbt --quiet archive vm1@latest --output "$WORK/small.vma.zst"
zstd -qdc "$WORK/small.vma.zst" | cmp - "$WORK/$n_rounds.vma" || fail "the compressed archive differs"
archive_matches "$WORK/small.vma.zst" "$n_rounds"
uuid=$(cbt_json show vm1@latest | jq -r .uuid)
curl -sS --unix-socket "$SOCKET" "http://localhost/v1/points/$uuid/archive?format=vma" | cmp - "$WORK/$n_rounds.vma" ||
  fail "the archive by HTTP differs"

say "a stream that has ended leaves no descriptor"
n_fds() { find "/proc/$DAEMON_PID/fd" -type l | wc -l; }
api GET /v1/status
before=$(n_fds)
for _ in $(seq 8); do
  curl -sS --output /dev/null --unix-socket "$SOCKET" "http://localhost/v1/points/$uuid/archive?format=vma"
done
are_closed() { [ "$(n_fds)" -le "$before" ]; }
wait_until 20 are_closed || fail "there are $(n_fds) descriptors open, and $before before"

say "a flipped bit of data is found, and its place named"
cp "$WORK/0.vma" "$WORK/flipped.vma"
cp "$WORK/0.vma.xxh3" "$WORK/flipped.vma.xxh3"
at=$(($(stat -c %s "$WORK/0.vma") - 5000))
printf '\x5a' | dd of="$WORK/flipped.vma" bs=1 seek="$at" conv=notrunc status=none
cmp -s "$WORK/0.vma" "$WORK/flipped.vma" && fail "nothing was flipped"
expect_exit 1 "checksum" vma verify "$WORK/flipped.vma"
expect_exit 1 "checksum" vma extract "$WORK/flipped.vma" "$WORK/flipped"

say "what cannot be is refused by name, and leaves nothing"
expect_exit 4 "exists" cbt archive vm1@latest --output "$WORK/again.vma"
expect_exit 2 "output" cbt archive vm1@latest
expect_exit 1 "format" cbt archive vm1@latest --format tar --output "$WORK/x.tar"
expect_exit 3 "" cbt archive vm1@99 --output "$WORK/x.vma"
expect_exit 3 "" cbt archive vm1@latest --output "$WORK/no/such/x.vma"
expect_status 400 "absolute" POST "/v1/points/$uuid/archive" '{"path":"x.vma"}'

say "a client that leaves ends its stream; a cancelled archive leaves no file"
cbt archive vm1@latest --speed 1M --output - | head -c 20000 >/dev/null || true
archives_ended() { api GET /v1/jobs && jq -e 'all(.[]; .status != "active" and .status != "queued")' >/dev/null <<<"$body"; }
wait_until 20 archives_ended
api POST "/v1/points/$uuid/archive" "{\"path\":\"$WORK/slow.vma\",\"speed\":\"1M\"}"
id=$(jq .id <<<"$body")
wait_until 60 test -s "$WORK/slow.vma.$id.part" || fail "the archive is not being written: $(ls "$WORK")"
[ ! -e "$WORK/slow.vma" ] || fail "a part of an archive has its name already"
cbt --quiet job cancel "$id" >/dev/null
assert_eq "status" "$(wait_job "$id" | jq -r .status)" cancelled
assert_eq "what the cancelled archive left" "$(find "$WORK" -maxdepth 1 -name 'slow.vma*')" ""

say "an archive becomes a recovery point, ours and those of the original tool; nothing is stored twice"
job=$(cbt_json import other "$WORK/$n_rounds.vma" --note imported)
assert_eq "type, status, kind" "$(jq -r '[.type, .status, .kind] | join(" ")' <<<"$job")" "import done full"
assert_le "bytes stored" "$(jq .stored <<<"$job")" 100000
restore_matches other@latest drive-scsi0 "$WORK/root.img"
restore_matches other@latest data "$WORK/data.img"
assert_eq "the note" "$(cbt_json show other@latest | jq -r .note)" imported
cbt --quiet archive other@latest --output "$WORK/roundtrip.vma"
archive_matches "$WORK/roundtrip.vma" "$n_rounds"
cbt --quiet import small "$WORK/small.vma.zst" >/dev/null
restore_matches small@latest data "$WORK/data.img"
expect_exit 6 "checksum" cbt import bad "$WORK/flipped.vma"
expect_exit 3 "" cbt import bad "$WORK/none.vma"
expect_exit 6 "no VMA" cbt import bad "$WORK/root.img"
expect_exit 3 "" cbt list bad
[ -z "$(find "$STATE" -name 'import.*')" ] || fail "a scratch file of the import is left"
