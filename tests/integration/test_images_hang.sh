#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# While vms are shown or added whose image is on a file system that does not answer, others are answered.
. "$(dirname "$0")/lib.sh"
sanitized && skip "a sanitizer wants to be the first library that is loaded"

cc -shared -fPIC -O2 -o "$WORK/hang.so" "$SOURCE/tests/integration/tools/hang_open.c" || skip "needs a C compiler"
image=$WORK/root.raw
random_image "$image" 1
HANG_OPEN=$image LD_PRELOAD=$WORK/hang.so start_daemon

hangs() { [ -e "$image.hangs" ]; }
while_it_hangs() { # COMMAND...: others are answered before it is
  touch "$image.hang"
  "$@" >"$WORK/answer" 2>&1 &
  local asker=$!
  wait_until 10 hangs || fail "'$*' does not look at the image"
  timeout 20 "$BUILD/bin/cbt-backup" --socket "$SOCKET" --json status >/dev/null || fail "no answer while '$*' hangs"
  assert_eq "the answer to '$*'" "$(cat "$WORK/answer")" ""
  rm "$image.hang"
  wait "$asker" || fail "'$*': $(cat "$WORK/answer")"
  rm "$image.hangs"
}
while_it_hangs cbt --quiet vm add vm1 --disk "root=$image"
while_it_hangs cbt_json vm show vm1
assert_eq "the vm" "$(jq -r '.disks[0].size' "$WORK/answer")" $((1 << 20))
while_it_hangs cbt_json vm list
assert_eq "all vms" "$(jq -r '.[].name' "$WORK/answer")" vm1
stop_daemon
