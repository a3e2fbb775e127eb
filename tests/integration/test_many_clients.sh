#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# 64 clients at once that poll, follow jobs, read archives and start backups get no error but "not now".
. "$(dirname "$0")/lib.sh"
need nbdkit
seconds=4 n_vms=4
[ -z "$LONG" ] || seconds=300
cc -O2 -pthread -o "$WORK/api_load" "$SOURCE/tests/integration/tools/api_load.c" || skip "needs a C compiler"

start_daemon
for n in $(seq "$n_vms"); do
  random_image "$WORK/$n.img" 4
  vm_add "vm$n" "root=$WORK/$n.img"
  backup full "vm$n" >/dev/null
  running_exports "vm$n" >/dev/null
done
pid=$DAEMON_PID
result=0
answers=$("$WORK/api_load" "$SOCKET" "$seconds" 40 12 12 "$n_vms") || result=$?
say "$answers"
assert_eq "exit status of the clients" "$result" 0
assert_ge "status that was told" "$(jq .polls <<<"$answers")" 100
assert_ge "backups that were begun" "$(jq '.answers."202"' <<<"$answers")" 2
assert_ge "bytes of streams" "$(jq '."stream-bytes"' <<<"$answers")" $((4 * MIB))
assert_eq "process of the daemon" "$DAEMON_PID" "$pid"
daemon_is_gone && fail "the daemon ended"
jobs_end() { api GET /v1/status && jq -e '."jobs-active" + ."jobs-queued" == 0' >/dev/null <<<"$body"; }
wait_until 60 jobs_end || fail "jobs do not end: $body"
assert_eq "jobs that failed" "$(curl -sS --unix-socket "$SOCKET" 'http://localhost/v1/jobs?limit=100000' | jq -c '[.[] | select(.status == "error") | .errmsg]')" "[]"
restore_matches vm1@latest root "$WORK/1.img"
stop_daemon
