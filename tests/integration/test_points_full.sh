#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Where no point file can be written: a verify goes on to the end and finds what is damaged, and a backup whose
# file cannot be taken back says so.
. "$(dirname "$0")/lib.sh"
sanitized && skip "a sanitizer wants to be the first library that is loaded"

cc -shared -fPIC -O2 -o "$WORK/fail.so" "$SOURCE/tests/integration/tools/fail_points.c" || skip "needs a C compiler"
export FAIL_POINTS=$WORK/fail
random_image "$WORK/web.raw" 2
LD_PRELOAD=$WORK/fail.so start_daemon
vm_add web "root=$WORK/web.raw"
backup full web >/dev/null
backup full web >/dev/null

say "verdicts that cannot be noted do not end a verify; it fails in the end, and is made up for by the next one"
verify() { # STATUS CODE POINTS-VERIFIED: of verify --all
  job=$(cbt_json verify --all 2>/dev/null) || true
  assert_eq "verify" "$(jq -c '[.status, .code, ."points-verified"]' <<<"$job")" "[\"$1\",$2,$3]"
}
touch "$FAIL_POINTS"
verify error '"no-space"' 2
assert_has "errmsg" "$(jq -r .errmsg <<<"$job")" "verdicts of 2 recovery points"
rm "$FAIL_POINTS"
verify "done" null 2
assert_eq "verdicts" "$(cbt_json list web | jq -c 'map(.verified > 0)')" '[true,true]'

say "damage is what a verify tells of, if there is any"
pack=$(find "$STATE/store/packs" -name '*.pack' -size +1M)
printf '\377\000\377' | dd of="$pack" bs=1 seek=1000000 conv=notrunc status=none
touch "$FAIL_POINTS"
verify error '"corrupt"' 2
assert_has "errmsg" "$(jq -r .errmsg <<<"$job")" "2 of 2 recovery points"
rm "$FAIL_POINTS"

say "a point file that can neither be saved nor removed: the backup fails, and the log names what is left"
touch "$FAIL_POINTS"
job=$(cbt_json --full web 2>/dev/null) || true
rm "$FAIL_POINTS"
assert_eq "the job" "$(jq -r '.status + " " + .code' <<<"$job")" "error no-space"
assert_eq "points" "$(points web | wc -l)" 2
assert_eq "files" "$(find "$STATE/store/points" -name '*.point' | wc -l)" 3
assert_has "the log" "$(cat "$WORK/daemon.log")" "may be left"
stop_daemon
