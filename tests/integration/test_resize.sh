#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# An image that is resized under its export: no backup until the export was started again, then a re-read that says why,
# whether it grew or shrank and wherever it ends.
. "$(dirname "$0")/lib.sh"

random_image "$WORK/disk.img" 16
start_daemon
vm_add vm1 "root=$WORK/disk.img"
uri=$(uri_of vm1)
backup full vm1 >"$WORK/full.json"
for size in $((20 * MIB + 512)) $((9 * MIB + 1536)) $((16 * MIB)); do
  io "$uri" "write -P 3 1M 64k" flush
  truncate -s "$size" "$WORK/disk.img"
  expect_exit 4 "resized while it is exported" cbt --incremental vm1
  assert_eq "the bitmap of $size bytes" "$(bitmap_state vm1/root)" active
  cbt --quiet export stop vm1 >/dev/null
  uri=$(uri_of vm1)
  io "$uri" "write -P 9 2M 64k" flush
  job=$(backup incremental vm1)
  assert_has "reason" "$(jq -r .reason <<<"$job")" "to $size bytes"
  restore_matches "$(jq -r .uuid <<<"$job")" root "$WORK/disk.img"
done
stop_daemon
