#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Scratch space that runs out, by its limit and on a file system that is full: no write of the guest fails, the job does and
# says why, nothing is left, and the next backup with room is right.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-guest.sh"
. "$(dirname "$0")/lib-live.sh"
need_root "it mounts a file system"
seed

room=$WORK/room
mkdir "$room"
mount -t tmpfs -o size=4M tmpfs "$room"
at_exit umount "$room"

configure() { # WAY FOLDER LIMIT
  [ -z "$DAEMON_PID" ] || stop_daemon
  printf '[qemu]\nway=%s\n[export]\nfleece-dir=%s\n%s\n' "$1" "$2" "${3:+fleece-limit=$3}" >"$WORK/cbt.conf"
  DAEMON_OPTIONS=(--config "$WORK/cbt.conf")
  start_daemon
}
has_read() { api GET "/v1/jobs/$1" && jq -e '.transferred > 0' >/dev/null <<<"$body"; }
# overfull WHAT FRAGMENT...: a backup during which the guest writes more than there is room for.
overfull() {
  local what=$1 id job n text
  shift
  guest_writes_all g1 0 $((LIVE_MIB * MIB / CLUSTER))
  n=$(points g1 | wc -l)
  id=$(start_backup incremental g1 --speed 2M)
  wait_until 20 has_read "$id" || fail "$what: the backup does not begin: $body"
  guest_writes_all g1 0 $((LIVE_MIB * MIB / CLUSTER))
  guest_is g1 running || fail "$what: the guest is $(guest_state g1)"
  job=$(wait_job "$id")
  assert_eq "$what: status" "$(jq -r .status <<<"$job")" error
  text=$(jq -r '.errmsg + " " + (.hint // "")' <<<"$job")
  say "$what: [$(jq -r .code <<<"$job")] $text"
  expect_failed "$what" "$text" "$job" "$@"
  assert_eq "$what: points" "$(points g1 | wc -l)" "$n"
}
expect_failed() { # WHAT TEXT JOB FRAGMENT...
  local fragment
  for fragment in "${@:4}"; do assert_has "$1" "$2" "$fragment"; done
  assert_eq "$1: code" "$(jq -r .code <<<"$3")" no-space
  expect_nothing_of_backup g1 "$1"
  assert_eq "$1: scratch files" "$(find "$room" -mindepth 1)" ""
  expect_no_failed_write g1
}
with_room() { # WAY
  configure "$1" "$WORK/fleece"
  guest_writes_all g1 5 3
  live_backup g1
  assert_eq "$1: kind, reason" "$(jq -c '[.kind, .reason]' <<<"$job")" '["incremental",null]'
}

start_live g1 root=qcow2 data=raw
configure auto "$WORK/fleece"
cbt --quiet vm add g1 --qmp "$WORK/g1.qmp"
guest_writes_all g1 0 8
live_backup g1

configure filter "$WORK/fleece" 1M
overfull "filter, limit" "fleece-limit" "1.0 MiB"
with_room filter

configure filter "$room"
overfull "filter, full file system" "fleece-dir" "no room in $room"
with_room filter

# Here room for all is reserved before: a backup that could fail a write does not begin.
for case in "limit $WORK/fleece 1M" "full-file-system $room"; do
  read -r what folder limit <<<"$case"
  configure fleece "$folder" "$limit"
  guest_writes_all g1 20 3
  result=0
  text=$(cbt --incremental g1 2>&1) || result=$?
  say "fleece, $what: $text"
  expect_failed "fleece, $what" "$text" "$(cbt_json job list | jq '.[0]')" "$folder" "could need" "no write of the guest fails"
  with_room fleece
done

expect_no_failed_write g1
stop_guest_vm g1
qemu-img check -q "$WORK/g1.root" || fail "the guest's image is damaged"
stop_daemon
