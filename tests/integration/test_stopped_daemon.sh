#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A daemon that stands still (SIGSTOP) at any moment of a backup costs the guest no write, and none more than the bound of a
# hold; what it calls done after it went on is one instant, and nothing is missed.
. "$(dirname "$0")/lib.sh"
need nbdkit fio strace

size_mib=32 stop_s=0.5 hold_stop_s=2.5 n_random=2
[ -z "$LONG" ] || stop_s=10 hold_stop_s=10 n_random=20
longest_ms=5000 # a hold ends by itself after 2000
seed
guest_image "$WORK/disk.img" "$size_mib"
start_daemon
vm_add vm1 "root=$WORK/disk.img"
uri=$(uri_of vm1)
pid=$(export_pid vm1)
backup full vm1 >/dev/null
start_guest "$uri" "$WORK/disk.img"

# check_job ID: it is done, and of one instant, or failed with a reason; and the next incremental builds on what is.
check_job() {
  local job state
  job=$(wait_job "$1")
  state=$(jq -r .status <<<"$job")
  say "  $(jq -c '[.status, .errmsg, ."hold-ms"]' <<<"$job")"
  assert_eq "bitmap" "$(bitmap_state vm1/root)" active
  if [ "$state" = "done" ]; then
    n_done=$((n_done + 1))
  else
    assert_ne "errmsg" "$(jq -r '.errmsg // ""' <<<"$job")" ""
    job=$(backup incremental vm1)
    assert_eq "kind, reason" "$(jq -c '[.kind, .reason]' <<<"$job")" '["incremental",null]'
  fi
  is_of_one_instant vm1@latest root
  wait_until 10 nothing_left "$pid" || fail "a session is left"
}

# stop_at N SECONDS: stops the daemon as soon as a thread has sent its N-th message to the export, in an incremental.
was_stopped() { grep -q 'stopped by SIGSTOP' "$WORK/strace"; }
is_traced() { grep -q '^TracerPid:[[:space:]]*[1-9]' "/proc/$DAEMON_PID/status"; }
stop_at() {
  local request tracer
  : >"$WORK/strace"
  strace -q -f -p "$DAEMON_PID" -e trace=sendmsg -e "inject=sendmsg:signal=SIGSTOP:when=$1" -o "$WORK/strace" 2>"$WORK/strace.err" &
  tracer=$!
  if ! wait_until 10 is_traced; then skip "cannot trace here: $(cat "$WORK/strace.err")"; fi
  # It may stand still before it has answered.
  start_backup incremental vm1 >"$WORK/id" &
  request=$!
  wait_until 20 was_stopped || fail "no thread sends $1 messages"
  pause "$2"
  expect_guest_writes "while the daemon stands still"
  # Without its tracer, a second thread that sends as many does not stop the daemon again.
  kill -TERM "$tracer"
  wait "$tracer" || true
  kill -CONT "$DAEMON_PID"
  wait "$request"
  check_job "$(cat "$WORK/id")"
}

n_done=0
names=("" "connect" "look" "hold" "begin, under the hold" "release" "abdicate, after the commit")
for n in 3 4 5 6 1; do
  say "the daemon stands still as soon as it has asked to: ${names[n]}"
  if [ "$n" -eq 3 ] || [ "$n" -eq 4 ]; then stop_at "$n" "$hold_stop_s"; else stop_at "$n" "$stop_s"; fi
done

for ((n = 1; n <= n_random; n++)); do
  if [ $((n % 2)) -eq 0 ]; then kind=full speed=32M; else kind=incremental speed=8M; fi
  say "the daemon stands still at a random moment of a $kind"
  id=$(start_backup "$kind" vm1 --speed "$speed")
  pause "0.$(printf %03d "$(random_below 800)")"
  kill -STOP "$DAEMON_PID"
  pause "$stop_s"
  expect_guest_writes "while the daemon stands still"
  kill -CONT "$DAEMON_PID"
  check_job "$id"
done
assert_ge "backups that were done in spite of it" "$n_done" 1

stop_guest "$longest_ms"
job=$(backup incremental vm1)
assert_eq "kind, reason" "$(jq -c '[.kind, .reason]' <<<"$job")" '["incremental",null]'
restore_matches vm1@latest root "$WORK/disk.img"
expect_nothing_left "$pid" "$STATE/fleece"
stop_daemon
