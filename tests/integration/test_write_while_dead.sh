#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A disk without an export that is written after the daemon was killed in the middle of its backup: the write is noticed.
. "$(dirname "$0")/lib.sh"

random_image "$WORK/disk.img" 16
start_daemon
vm_add vm1 "root=$WORK/disk.img"
backup full vm1 >"$WORK/full.json"
id=$(start_backup full vm1 --speed 1M)
wait_until 10 bitmap_is vm1/root frozen || fail "the bitmap does not freeze"
kill_daemon
random_bytes_at "$WORK/disk.img" 1000000 1000
start_daemon
assert_eq "the killed job" "$(job_status "$id")" error
job=$(backup incremental vm1)
assert_has "reason" "$(jq -r .reason <<<"$job")" "modification time changed"
restore_matches "$(jq -r .uuid <<<"$job")" root "$WORK/disk.img"

say "without a write nothing is read again"
start_backup full vm1 --speed 1M >"$WORK/id"
wait_until 10 bitmap_is vm1/root frozen || fail "the bitmap does not freeze"
kill_daemon
start_daemon
job=$(backup incremental vm1)
assert_eq "dirty and reason" "$(jq -c '[.dirty, .reason]' <<<"$job")" "[0,null]"
stop_daemon
