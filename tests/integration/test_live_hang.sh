#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Backups of a QEMU that hangs, and backups that are cancelled or slow: errors come in seconds, the daemon answers all the
# while, QEMU and its guest never wait for a backup, and nothing is left.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-guest.sh"
. "$(dirname "$0")/lib-live.sh"
seed

start_live g1 root=qcow2 data=raw
start_live g2 root=raw
start_daemon
for vm in g1 g2; do cbt --quiet vm add "$vm" --qmp "$WORK/$vm.qmp"; done
guest_writes_all g1 0 8
guest_writes_all g2 0 8
live_backup g1
live_backup g2

is_stopped() { [ "$(sed 's/.*) //; s/ .*//' "/proc/${VM_PID[$1]}/stat")" = T ]; }
freeze_qemu() { kill -STOP "${VM_PID[$1]}" && wait_until 5 is_stopped "$1"; }
has_read() { api GET "/v1/jobs/$1" && jq -e '.transferred > 0' >/dev/null <<<"$body"; }
# begin_slowly VM: a backup that has begun to read, and takes many seconds more; sets $id.
begin_slowly() {
  guest_writes_all "$1" 64 128
  id=$(start_backup incremental "$1" --speed 512K)
  wait_until 20 has_read "$id" || fail "the backup does not begin: $body"
}
expect_running() { [ "$(job_status "$1")" = active ] || fail "$2: the backup is over: $body"; }
next_is_right() { # VM
  guest_writes_all "$1" 10 2
  live_backup "$1"
  assert_eq "$1: kind, reason" "$(jq -c '[.kind, .reason]' <<<"$job")" '["incremental",null]'
}

say "QEMU hangs: a backup fails and says so; status and other vms are served"
guest_writes_all g1 20 4
freeze_qemu g1
id=$(start_backup incremental g1)
start=$SECONDS
cbt --quiet status >/dev/null
next_is_right g2
ended=$(wait_job "$id" 30)
assert_eq "status" "$(jq -r .status <<<"$ended")" error
assert_eq "code" "$(jq -r .code <<<"$ended")" unreachable
assert_has "why" "$(jq -r '.errmsg' <<<"$ended")" "$WORK/g1.qmp"
assert_has "why" "$(jq -r '.errmsg' <<<"$ended")" "hangs"
say "after $((SECONDS - start)) s: $(jq -r .errmsg <<<"$ended")"
kill -CONT "${VM_PID[g1]}"
next_is_right g1

say "QEMU hangs in the middle: the backup can be cancelled, the next one clears what it left"
begin_slowly g1
freeze_qemu g1
cbt --quiet job cancel "$id" >/dev/null || api DELETE "/v1/jobs/$id"
ended=$(wait_job "$id" 40)
assert_eq "status" "$(jq -r .status <<<"$ended")" cancelled
say "notes: $(jq -c .notes <<<"$ended")"
cbt --quiet status >/dev/null
next_is_right g2
kill -CONT "${VM_PID[g1]}"
next_is_right g1

# hang_when_stopped VM: QEMU stands still as soon as it has stopped its guest; returns once that is sure to come.
hang_when_stopped() {
  coproc watcher { exec python3 -uc 'import json, os, signal, socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
lines = s.makefile("r")
lines.readline(); s.sendall(b"{\"execute\": \"qmp_capabilities\"}\n"); lines.readline(); print("ready")
while json.loads(lines.readline()).get("event") != "STOP": pass
os.kill(int(sys.argv[2]), signal.SIGSTOP)' "$WORK/$1.ctl" "${VM_PID[$1]}"; }
  read -r _ <&"${watcher[0]}"
}

say "QEMU hangs while its guest stands still for a backup: as soon as it answers again, the guest goes on"
guest_writes_all g1 20 4
hang_when_stopped g1
id=$(start_backup incremental g1)
start=$SECONDS
wait_until 20 is_stopped g1 || fail "the guest was not stopped"
ended=$(wait_job "$id" 60)
assert_eq "status, code" "$(jq -r '.status, .code' <<<"$ended" | xargs)" "error unreachable"
say "after $((SECONDS - start)) s: $(jq -r .errmsg <<<"$ended"); journal: $(journal_of g1)"
kill -CONT "${VM_PID[g1]}"
wait_until 10 guest_is g1 running || fail "the guest is $(guest_state g1)"
is_cleared() { [ -z "$(journal_of g1)" ]; }
wait_until 30 is_cleared || fail "without another backup, the journal has: $(journal_of g1)"
assert_eq "left in QEMU" "$(live_left g1)" ""
next_is_right g1

say "while that is tried, backups come and the daemon stops as ever"
begin_slowly g1
freeze_qemu g1
api DELETE "/v1/jobs/$id"
wait_job "$id" 40 >/dev/null
is_tried_again() { grep -q "it is tried again" "$WORK/daemon.log"; }
wait_until 30 is_tried_again || fail "it is not tried again"
id=$(start_backup incremental g1)
assert_eq "code" "$(wait_job "$id" 40 | jq -r .code)" unreachable
assert_has "journal" "$(journal_of g1)" g1
stop_daemon
start_daemon
kill -CONT "${VM_PID[g1]}"
next_is_right g1

say "a backup is cancelled"
begin_slowly g1
guest_writes_all g1 100 4
api DELETE "/v1/jobs/$id"
ended=$(wait_job "$id" 30)
assert_eq "status" "$(jq -r .status <<<"$ended")" cancelled
expect_nothing_of_backup g1 "after a cancel"
assert_eq "points" "$(points g1 | wc -l)" 5
next_is_right g1
assert_eq "dirty of root" "$(dirty_of root)" $((130 * CLUSTER))

for way in filter fleece; do
  say "$way: what makes QEMU drain its requests does not wait for a slow reader"
  stop_daemon
  printf '[qemu]\nway=%s\n' "$way" >"$WORK/cbt.conf"
  DAEMON_OPTIONS=(--config "$WORK/cbt.conf")
  start_daemon
  begin_slowly g1
  qmp g1 stop >/dev/null
  expect_running "$id" stop
  qmp g1 cont >/dev/null
    qmp g1 human-monitor-command '{"command-line":"commit all"}' >/dev/null
  guest_writes_all g1 70 2
  expect_running "$id" "commands and writes"
  api DELETE "/v1/jobs/$id"
  assert_eq "status" "$(wait_job "$id" 30 | jq -r .status)" cancelled
  next_is_right g1
done

for vm in g1 g2; do
  expect_no_failed_write "$vm"
  stop_guest_vm "$vm"
done
stop_daemon
