#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Where the kernel shares processors between sessions, a daemon that leads one gives way to guests as a whole; its exports, which
# serve guests, do not, and neither does the session of a shell that it was started from.
. "$(dirname "$0")/lib.sh"
[ -e /proc/self/autogroup ] || skip "needs a kernel that groups threads by session (CONFIG_SCHED_AUTOGROUP)"

nice_of() { sed 's/.* nice //' "/proc/$1/autogroup"; }
own=$(nice_of self)
random_image "$WORK/disk.img" 4
start_daemon
assert_eq "niceness of a session that the daemon does not lead" "$(nice_of "$DAEMON_PID")" "$own"
stop_daemon

printf '[backup]\nnice=7\n' >"$WORK/config"
setsid "$BUILD/bin/cbt-backupd" --state-dir "$STATE" --runtime-dir "$RUN" --config "$WORK/config" >>"$WORK/daemon.log" 2>&1 &
DAEMON_PID=$!
wait_until 30 daemon_answers || fail "the daemon does not answer"
vm_add vm1 "root=$WORK/disk.img"
uri_of vm1 >/dev/null
assert_eq "niceness of the daemon's own session" "$(nice_of "$DAEMON_PID")" 7
assert_eq "niceness of an export" "$(nice_of "$(export_pid vm1)")" 0
stop_daemon
