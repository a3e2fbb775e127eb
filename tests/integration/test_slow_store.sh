#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The guest notices nothing of a backup that is throttled, and nothing of a store that hangs: no write fails, none waits; the
# API goes on answering; what was promised as a point is one instant; what was not leaves nothing behind.
. "$(dirname "$0")/lib.sh"
need nbdkit fio fsfreeze losetup
need_root "loop devices"

size_mib=64 hang_s=3
[ -z "$LONG" ] || hang_s=15
longest_ms=5000 # generous: what would hang for as long as the store does is found all the same
seed
guest_image "$WORK/disk.img" "$size_mib"

# The store on a file system of its own, which can be made to hang.
mount_store() {
  truncate -s 512M "$WORK/store.img"
  mkfs.ext4 -q -F "$WORK/store.img"
  store_loop=$(losetup -f --show "$WORK/store.img") || return 1
  at_exit losetup -d "$store_loop"
  mount_at "$store_loop" "$STATE/store" && rmdir "$STATE/store/lost+found"
}
mount_store || skip "no loop devices here"
freeze_store() { fsfreeze -f "$STATE/store"; }
thaw_store() { fsfreeze -u "$STATE/store"; }

start_daemon
vm_add vm1 "root=$WORK/disk.img"
uri=$(uri_of vm1)
pid=$(export_pid vm1)
backup full vm1 >/dev/null
start_guest "$uri" "$WORK/disk.img"

say "--speed is kept, under writes, and the point is of one instant"
speed=$((5 * MIB))
start_ns=$(date +%s%N)
job=$(backup incremental vm1 --speed 5M)
took_ms=$((($(date +%s%N) - start_ns) / 1000000 + 1))
rate=$(jq --argjson ms "$took_ms" '.transferred * 1000 / $ms | floor' <<<"$job")
say "$(jq .transferred <<<"$job") bytes in $took_ms ms: $rate bytes/s, limit $speed; hold of $(jq '."hold-ms"' <<<"$job") ms"
assert_le "rate" "$rate" "$((speed * 102 / 100))"
is_of_one_instant vm1@latest root

say "bad values of --speed are refused"
for value in -1 fast 5X 1.5M '' 99999999999999999999 16E; do
  expect_exit 2 "speed" cbt --incremental vm1 "--speed=$value"
done
expect_exit 2 "4K" cbt --incremental vm1 --speed 4095
expect_exit 2 "4K" cbt archive vm1@latest --speed 1 --output "$WORK/archive"
expect_status 400 "4K" POST /v1/vms/vm1/backups '{"kind":"incremental","speed":"1K"}'
for value in -1 1.5 '"fast"' '"-5M"' true '""' 1e30; do
  expect_status 400 "speed" POST /v1/vms/vm1/backups "{\"kind\":\"incremental\",\"speed\":$value}"
done

say "a throttled backup is cancelled at once: by job cancel, and by Ctrl-C"
id=$(start_backup full vm1 --speed 64K)
wait_until 10 bitmap_is vm1/root frozen || fail "the bitmap does not freeze"
cbt --quiet job cancel "$id"
assert_eq "after job cancel" "$(wait_job "$id" 10 | jq -r .status)" cancelled
assert_eq "bitmap" "$(bitmap_state vm1/root)" active
result=0
(trap - INT; exec "$BUILD/bin/cbt-backup" --socket "$SOCKET" --json --full vm1 --speed 64K >"$WORK/interrupted.json" 2>&1) &
client=$!
wait_until 10 bitmap_is vm1/root frozen || fail "the bitmap does not freeze"
kill -INT "$client"
wait "$client" || result=$?
assert_eq "exit status after Ctrl-C ($(cat "$WORK/interrupted.json"))" "$result" 1
assert_eq "after Ctrl-C" "$(cbt_json job list | jq -r '.[0].status')" cancelled
assert_eq "bitmap" "$(bitmap_state vm1/root)" active
expect_nothing_left "$pid" "$STATE/fleece"

# While the store hangs, all that does not need it goes on.
expect_answers() { # JOB
  expect_guest_writes "while the store hangs"
  timeout 10 "$BUILD/bin/cbt-backup" --socket "$SOCKET" --json status >/dev/null || fail "status hangs with the store"
  timeout 10 "$BUILD/bin/cbt-backup" --socket "$SOCKET" --json vm list >/dev/null || fail "vm list hangs with the store"
  timeout 10 "$BUILD/bin/cbt-backup" --socket "$SOCKET" --json job list >/dev/null || fail "job list hangs with the store"
  timeout 10 "$BUILD/bin/cbt-backup" --socket "$SOCKET" --json list vm1 >/dev/null || fail "list hangs with the store"
  timeout 10 "$BUILD/bin/cbt-backup" --socket "$SOCKET" --json job show "$1" >/dev/null || fail "job show hangs with the store"
  timeout 10 "$BUILD/bin/cbt-backup" --socket "$SOCKET" --json export list >/dev/null || fail "export list hangs with the store"
}

say "the store hangs for $hang_s s in a backup: the guest and the API go on, and then the backup"
id=$(start_backup full vm1 --speed 32M)
wait_until 10 bitmap_is vm1/root frozen || fail "the bitmap does not freeze"
freeze_store
expect_answers "$id"
pause "$hang_s"
expect_answers "$id"
assert_eq "the job while the store hangs" "$(job_status "$id")" active
thaw_store
job=$(wait_job "$id")
assert_eq "job after the store hung" "$(jq -r '.status + (.errmsg // "")' <<<"$job")" "done"
is_of_one_instant vm1@latest root

say "a backup is cancelled while the store hangs"
id=$(start_backup full vm1 --speed 32M)
wait_until 10 bitmap_is vm1/root frozen || fail "the bitmap does not freeze"
freeze_store
pause 0.5
timeout 10 "$BUILD/bin/cbt-backup" --socket "$SOCKET" --quiet job cancel "$id" || fail "job cancel hangs with the store"
expect_answers "$id"
thaw_store
assert_eq "job" "$(wait_job "$id" | jq -r .status)" cancelled
expect_nothing_left "$pid" "$STATE/fleece"
job=$(backup incremental vm1)
assert_eq "kind, reason" "$(jq -c '[.kind, .reason]' <<<"$job")" '["incremental",null]'
is_of_one_instant vm1@latest root

stop_guest "$longest_ms"
backup incremental vm1 >/dev/null
restore_matches vm1@latest root "$WORK/disk.img"
stop_daemon
umount "$STATE/store"
