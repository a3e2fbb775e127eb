#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Two stores back up the same QEMU in turn: each incremental is against its own last point and reads its own changes;
# at the same time, neither harms the other.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-guest.sh"
. "$(dirname "$0")/lib-live.sh"
seed

declare -A pid_of=()
store=
use_store() { # NAME: the daemon that is meant from now on
  [ -z "$store" ] || pid_of[$store]=$DAEMON_PID
  store=$1 STATE=$WORK/state.$1 RUN=$WORK/run.$1 SOCKET=$WORK/run.$1/api.sock DAEMON_PID=${pid_of[$1]:-}
  [ -n "$DAEMON_PID" ] || start_daemon
}
# in_turn STORE EXPECTED-DIRTY-CLUSTERS
in_turn() {
  use_store "$1"
  live_backup g1
  assert_eq "$1: kind, reason" "$(jq -c '[.kind, .reason]' <<<"$job")" '["incremental",null]'
  for disk in root data; do assert_eq "$1: dirty of $disk" "$(dirty_of "$disk")" "$(($2 * CLUSTER))"; done
}

start_live g1 root=qcow2 data=raw
for name in a b; do
  use_store "$name"
  cbt --quiet vm add g1 --qmp "$WORK/g1.qmp"
done
live_stores=2
guest_writes_all g1 0 4
for name in a b; do
  use_store "$name"
  live_backup g1
done

say "in turn"
guest_writes_all g1 10 3
in_turn a 3
guest_writes_all g1 20 2
in_turn a 2
in_turn b 5
guest_writes_all g1 30 1
in_turn b 1
in_turn a 1
in_turn a 0
for ((i = 0; i < 3; i++)); do
  guest_writes_all g1 $((40 + 2 * i)) 2
  in_turn b 2
done
in_turn a 6

say "a backup to one of them is under way when the other is asked"
guest_writes_all g1 60 32
use_store a
id=$(start_backup incremental g1 --speed 1M)
running() { api GET "/v1/jobs/$id" && jq -e '.transferred > 0' >/dev/null <<<"$body"; }
wait_until 20 running || fail "the backup does not begin: $body"
assert_eq "a: bitmap" "$(cbt_json bitmap list g1/root | jq -c '[.[] | [.name, .state, .successor]]')" '[["default","frozen",0]]'
cbt --quiet bitmap add g1/root:weekly
use_store b
result=0
output=$(cbt --incremental g1 2>&1) || result=$?
say "b says: exit $result: $output"
guest_writes_all g1 100 2
use_store a
first=$(wait_job "$id")
assert_eq "a: status" "$(jq -r .status <<<"$first")" "done"
assert_ne "b: exit status" "$result" 0
assert_has "b" "$output" "Another backup of the disk"
use_store b
sizes=$(cbt_json vm show g1 | jq -c '[.disks[] | [.name, .format, .path]]')
assert_eq "b: disks" "$sizes" "[[\"root\",\"qcow2\",\"$WORK/g1.root\"],[\"data\",\"raw\",\"$WORK/g1.data\"]]"
use_store a
assert_eq "a: weekly" "$(cbt_json bitmap show g1/root:weekly | jq -c '[.state, .count]')" "[\"active\",$((2 * CLUSTER))]"
cbt --quiet bitmap remove g1/root:weekly
in_turn b 34
in_turn a 2

say "one of them goes"
use_store a
cbt --quiet vm remove g1
live_stores=1
guest_writes_all g1 110 1
in_turn b 1

expect_no_failed_write g1
stop_guest_vm g1
for name in a b; do
  use_store "$name"
  stop_daemon
done
