#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A daemon whose store is removed or replaced while it runs takes no new work, says what to do, and leaves what stands there alone.
. "$(dirname "$0")/lib.sh"

random_image "$WORK/web.raw" 4
random_image "$WORK/other.raw" 1
start_daemon
vm_add web "root=$WORK/web.raw"
point=$(backup full web | jq -r .uuid)
cbt --quiet policy set web --schedule 'weekly sun 03:00' --keep-last 5 >/dev/null

files() { [ ! -e "$STATE/store" ] || find "$STATE/store" -type f -exec sha256sum {} + | sort; }
attention() { cbt_json status | jq -c '[.attention[] | select(.vm == null) | [.level, .text]]'; }
refused() { expect_exit 4 "systemctl restart cbt-backupd" cbt "$@"; }
all_refused() { # WHAT
  local before
  say "$1"
  before=$(files)
  refused --incremental web
  refused --full web
  refused gc
  refused verify --all
  refused restore web@latest --to "$WORK/out"
  refused forget "$point"
  refused note "$point" "a note"
  refused vm add other --disk "root=$WORK/other.raw"
  refused vm remove web --forget-points
  refused policy set web --schedule 'weekly sun 03:00' --keep-last 1
  refused policy remove web
  refused rebuild-catalogue
  assert_has "attention" "$(attention)" '[["fail","the store was removed or replaced'
  assert_eq "what stands there" "$(files)" "$before"
}

mv "$STATE/store" "$WORK/store"
all_refused "it is gone"
cp -a "$WORK/store" "$STATE/store"
all_refused "a copy is in its place"

say "put back, it is used again"
rm -r "$STATE/store"
mv "$WORK/store" "$STATE/store"
assert_eq "attention" "$(attention)" '[]'
backup incremental web >/dev/null

say "replaced in the middle of a backup: nothing is committed to the other"
cp -a "$STATE/store" "$WORK/other"
random_bytes_at "$WORK/web.raw" 0 $((2 * MIB))
job=$(start_backup full web --speed $((16 * MIB)))
at_work() { [ "$(api GET "/v1/jobs/$job" && jq '.status == "active" and .transferred > 0' <<<"$body")" = true ]; }
wait_until 20 at_work || fail "job $job does not begin: $body"
mv "$STATE/store" "$WORK/store"
mv "$WORK/other" "$STATE/store"
assert_eq "the job" "$(wait_job "$job" | jq -c '[.status, .code]')" '["error","state"]'
assert_eq "points" "$(points web | wc -l)" 2

say "another store, copied over it"
rm -r "$STATE/store"
mv "$WORK/store" "$STATE/store"
cp "$STATE/store/format" "$WORK/format"
STATE=$WORK/state2 RUN=$WORK/run2 SOCKET=$WORK/run2/api.sock
first=$DAEMON_PID
start_daemon
stop_daemon
STATE=$WORK/state RUN=$WORK/run SOCKET=$WORK/run/api.sock DAEMON_PID=$first
cat "$WORK/state2/store/format" >"$STATE/store/format"
all_refused "the format file is that of another"
cat "$WORK/format" >"$STATE/store/format"

say "after a restart it takes the copy for its own"
cp -a "$STATE/store" "$WORK/copy"
rm -r "$STATE/store"
mv "$WORK/copy" "$STATE/store"
refused gc
stop_daemon
start_daemon
assert_eq "attention" "$(attention)" '[]'
backup incremental web >/dev/null
restore_matches web@latest root "$WORK/web.raw"
cbt --quiet verify --all
stop_daemon
