#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A restore into a registered image: not while somebody uses it, by whatever name the image is called; and nobody uses it
# while the restore runs.
. "$(dirname "$0")/lib.sh"

mkdir "$WORK/images"
ln -s images "$WORK/linked"
random_image "$WORK/images/root.raw" 192
ln "$WORK/images/root.raw" "$WORK/images/hard.raw"
start_daemon
vm_add vm1 "root=$WORK/images/root.raw"
job=$(backup full vm1)
first=$(jq -r .uuid <<<"$job")
cp "$WORK/images/root.raw" "$WORK/first"
random_bytes_at "$WORK/images/root.raw" 0 $((144 * MIB))
cp "$WORK/images/root.raw" "$WORK/second"

expect_exit 4 "vm1" vm_add vm2 "root=$WORK/images/hard.raw"
uri=$(uri_of vm1)
expect_exit 4 "is exported" cbt restore "$first" --to "$WORK/images" --in-place
expect_exit 4 "is exported" cbt restore "$first" --to "$WORK/linked" --in-place
expect_exit 4 "is exported" cbt restore "$first" --target "root=$WORK/images/hard.raw" --in-place
assert_same_file "an image that is exported" "$WORK/images/root.raw" "$WORK/second"
cbt --quiet export stop vm1 >/dev/null

api POST "/v1/points/$first/restore" "{\"to\":\"$WORK/linked\",\"in-place\":true}"
assert_eq "status of the restore" "$status" 202
id=$(jq .id <<<"$body")
api POST /v1/vms/vm1/backups '{"kind":"incremental"}'
backup_status=$status backup_id=$(jq .id <<<"$body")
api POST /v1/exports/vm1 ''
export_status=$status
if [ "$(job_status "$id")" = active ]; then
  assert_eq "a backup while the image is restored" "$backup_status" 409
  assert_eq "an export while the image is restored" "$export_status" 409
fi
say "while the image was restored or just after: backup $backup_status, export $export_status"
job=$(wait_job "$id")
assert_eq "the restore" "$(jq -r '.status + (.errmsg // "")' <<<"$job")" "done"
assert_same_file "restored in place" "$WORK/images/root.raw" "$WORK/first"
# The first backup after the restore says why; where the restore was faster than we are, that one has been taken.
if [ "$backup_status" = 202 ]; then job=$(wait_job "$backup_id"); else job=$(backup incremental vm1); fi
assert_has "the reason of the next backup" "$(jq -r .reason <<<"$job")" "restored into the image"
restore_matches "$(jq -r .uuid <<<"$job")" root "$WORK/first"
stop_daemon
