#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Status answers while the store's file system does not, and says so; the daemon stops as well.
. "$(dirname "$0")/lib.sh"
sanitized && skip "a sanitizer wants to be the first library that is loaded"

cc -shared -fPIC -O2 -o "$WORK/hang.so" "$SOURCE/tests/integration/tools/hang_statvfs.c" || skip "needs a C compiler"
export HANG_STATVFS=$WORK/hang
random_image "$WORK/root.raw" 1
LD_PRELOAD=$WORK/hang.so start_daemon
vm_add vm1 "root=$WORK/root.raw"
free=$(cbt_json status | jq .store.free)
assert_ge "free bytes" "$free" 1
assert_eq "whether it answers" "$(cbt_json status | jq .store.answers)" true

n_threads() { find "/proc/$DAEMON_PID/task" -mindepth 1 -maxdepth 1 | wc -l; }
threads=$(n_threads)
touch "$HANG_STATVFS"
for _ in 1 2 3; do
  answer=$(timeout 20 "$BUILD/bin/cbt-backup" --socket "$SOCKET" --json status) || fail "no answer"
  assert_eq "whether it answers" "$(jq .store.answers <<<"$answer")" false
  assert_ge "free bytes, as last known" "$(jq .store.free <<<"$answer")" 1
done
assert_has "for people" "$(cbt status)" "does not answer"
for _ in 1 2 3 4 5 6 7 8; do api GET /v1/status; done
assert_le "threads" "$(n_threads)" $((threads + 4)) # one asks, some may be about to end
backup full vm1 >/dev/null
rm "$HANG_STATVFS"
answers() { [ "$(cbt_json status | jq .store.answers)" = true ]; }
wait_until 10 answers || fail "it does not get over it"

touch "$HANG_STATVFS"
cbt --quiet status >/dev/null
stop_daemon
