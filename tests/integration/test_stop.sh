#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A daemon that is told to stop while a request is under way answers it, and whoever asks meanwhile, and ends cleanly.
. "$(dirname "$0")/lib.sh"

random_image "$WORK/disk.img" 4
start_daemon
vm_add vm1 "root=$WORK/disk.img"
backup full vm1 >/dev/null
uri=$(uri_of vm1)
pid=$(export_pid vm1)

# An export that stands still does not end: the request to stop it takes its time.
kill -STOP "$pid"
at_exit kill -CONT "$pid"
cbt export stop vm1 >"$WORK/stop.log" 2>&1 &
stopper=$!
pause 0.5
kill -TERM "$DAEMON_PID"
pause 0.5
for path in /v1/status /v1/jobs /v1/exports /v1/vms; do
  api GET "$path"
  assert_eq "GET $path while the daemon stops" "$status" 200
done
expect_status 409 "stopping" POST /v1/vms/vm1/backups '{"kind":"full"}'
expect_status 409 "stopping" GET /v1/points/vm1@latest/archive
kill -CONT "$pid"
wait "$stopper" || fail "export stop while the daemon stops: $(cat "$WORK/stop.log")"
stop_daemon
