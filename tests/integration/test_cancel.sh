#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A backup that is cancelled at any moment, under a guest that writes, ends soon, as cancelled or done; it leaves no frozen
# bitmap, session, descriptor or fleece behind, and the next incremental has every change.
. "$(dirname "$0")/lib.sh"
need nbdkit fio

size_mib=64 cancels=10
[ -z "$LONG" ] || cancels=100
seed
guest_image "$WORK/disk.img" "$size_mib"
start_daemon
vm_add vm1 "root=$WORK/disk.img"
uri=$(uri_of vm1)
pid=$(export_pid vm1)

start_ns=$(date +%s%N)
backup full vm1 >/dev/null
usual_ms=$((($(date +%s%N) - start_ns) / 1000000))
start_guest "$uri" "$WORK/disk.img"
backup incremental vm1 >/dev/null
is_of_one_instant vm1@latest root
wait_until 10 nothing_left "$pid" || fail "a session is left"
daemon_fds=$(open_fds "$DAEMON_PID") export_fds=$(open_fds "$pid")

declare -A ends=()
for ((n = 1; n <= cancels; n++)); do
  if [ $((n % 2)) -eq 0 ]; then kind=full; else kind=incremental; fi
  if [ $((n % 3)) -ne 0 ]; then speed=0 bound=$usual_ms; else speed=$((size_mib * 2))M bound=500; fi
  delay=$(random_below $((bound + 1)))
  id=$(start_backup "$kind" vm1 --speed "$speed")
  pause "$((delay / 1000)).$(printf %03d $((delay % 1000)))"
  api DELETE "/v1/jobs/$id" # 202, or 409 if it has ended already
  [[ $status = 202 || $status = 409 ]] || fail "cancelling job $id: $status $body"
  state=$(wait_job "$id" 20 | jq -r .status)
  [ "$status$state" != 409cancelled ] || fail "job $id is cancelled, but could not be"
  [[ $state = cancelled || $state = "done" ]] || fail "job $id after its cancelling: $body"
  ends[$state]=$((${ends[$state]:-0} + 1))
  bitmap_is vm1/root active || fail "bitmap after job $id ($state after $delay ms): $body"
  if [ "$state" = "done" ]; then is_of_one_instant vm1@latest root; fi
done
say "$cancels cancels within $usual_ms ms: ${ends[cancelled]:-0} jobs cancelled, ${ends[done]:-0} done before"
assert_ge "cancelled jobs" "${ends[cancelled]:-0}" 1
expect_nothing_left "$pid" "$STATE/fleece"

stop_guest 5000
same_fds() { [ "$(open_fds "$DAEMON_PID")" -le "$daemon_fds" ] && [ "$(open_fds "$pid")" -le "$export_fds" ]; }
wait_until 10 same_fds || fail "descriptors: daemon $daemon_fds, then $(open_fds "$DAEMON_PID"); export $export_fds, then $(open_fds "$pid")"
job=$(backup incremental vm1)
assert_eq "kind, reason" "$(jq -c '[.kind, .reason]' <<<"$job")" '["incremental",null]'
restore_matches vm1@latest root "$WORK/disk.img"
stop_daemon
