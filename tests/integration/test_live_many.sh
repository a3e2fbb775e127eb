#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Four QEMUs are backed up at once: each point is right, and one whose monitor hangs holds up no other.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-guest.sh"
. "$(dirname "$0")/lib-live.sh"
seed

vms="g1 g2 g3 g4"
formats=(qcow2 raw)
for vm in $vms; do start_live "$vm" "root=${formats[RANDOM % 2]}" "data=${formats[RANDOM % 2]}"; done

declare -A id_of=()
start_all() { # KIND [VM...]
  local kind=$1 vm
  shift
  for vm in "$@"; do id_of[$vm]=$(start_backup "$kind" "$vm"); done
}
all_are_right() { # REASON VM...
  local reason=$1 vm job
  shift
  for vm in "$@"; do
    job=$(wait_job "${id_of[$vm]}")
    assert_eq "$vm: status ($(jq -r .errmsg <<<"$job"))" "$(jq -r .status <<<"$job")" "done"
    assert_eq "$vm: reason" "$(jq -r .reason <<<"$job")" "$reason"
    live_is_right "$vm" "$job"
    expect_nothing_of_backup "$vm"
  done
}
write_all() { # CLUSTER N
  local vm
  for vm in $vms; do guest_writes_all "$vm" "$@"; done
}

for jobs in 4 2; do
  say "max-jobs=$jobs"
  printf '[daemon]\nmax-jobs=%s\n' "$jobs" >"$WORK/cbt.conf"
  DAEMON_OPTIONS=(--config "$WORK/cbt.conf")
  if [ "$jobs" = 2 ]; then # the option wins over the file
    printf '[daemon]\nmax-jobs=1\n' >"$WORK/cbt.conf"
    DAEMON_OPTIONS+=(--max-parallel 2)
  fi
  start_daemon
  if [ "$(cbt_json vm list)" = '[]' ]; then
    for vm in $vms; do cbt --quiet vm add "$vm" --qmp "$WORK/$vm.qmp"; done
    write_all 0 64
    # shellcheck disable=SC2086 # words
    start_all full $vms
    # shellcheck disable=SC2086
    all_are_right null $vms
  fi
  write_all "$((RANDOM % 150))" 16
  # shellcheck disable=SC2086
  start_all incremental $vms
  write_all 200 8 # while they run: not in these points
  for vm in $vms; do
    assert_eq "$vm: status" "$(wait_job "${id_of[$vm]}" | jq -r .status)" "done"
    expect_nothing_of_backup "$vm"
  done
  # shellcheck disable=SC2086
  start_all incremental $vms
  # shellcheck disable=SC2086
  all_are_right null $vms

  if [ "$jobs" = 4 ] && [ -z "$LONG" ]; then
    stop_daemon
    continue
  fi
  say "one hangs, the others do not wait for it"
  write_all "$((RANDOM % 150))" 4
  kill -STOP "${VM_PID[g1]}"
  # shellcheck disable=SC2086
  start_all incremental $vms
  all_are_right null g2 g3 g4
  ended=$(wait_job "${id_of[g1]}")
  assert_eq "g1: status, code" "$(jq -c '[.status, .code]' <<<"$ended")" '["error","unreachable"]'
  kill -CONT "${VM_PID[g1]}"
  start_all incremental g1
  all_are_right null g1
  stop_daemon
done

for vm in $vms; do
  expect_no_failed_write "$vm"
  stop_guest_vm "$vm"
done
