#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Where no point file can be written: a backup whose file cannot be taken back says so.
. "$(dirname "$0")/lib.sh"
sanitized && skip "a sanitizer wants to be the first library that is loaded"

cc -shared -fPIC -O2 -o "$WORK/fail.so" "$SOURCE/tests/integration/tools/fail_points.c" || skip "needs a C compiler"
export FAIL_POINTS=$WORK/fail
random_image "$WORK/web.raw" 2
LD_PRELOAD=$WORK/fail.so start_daemon
vm_add web "root=$WORK/web.raw"
backup full web >/dev/null
backup full web >/dev/null

say "a point file that can neither be saved nor removed: the backup fails, and the log names what is left"
touch "$FAIL_POINTS"
job=$(cbt_json --full web 2>/dev/null) || true
rm "$FAIL_POINTS"
assert_eq "the job" "$(jq -r '.status + " " + .code' <<<"$job")" "error no-space"
assert_eq "points" "$(points web | wc -l)" 2
assert_eq "files" "$(find "$STATE/store/points" -name '*.point' | wc -l)" 3
assert_has "the log" "$(cat "$WORK/daemon.log")" "may be left"
stop_daemon
