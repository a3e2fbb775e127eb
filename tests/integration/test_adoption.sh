#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Exports that an earlier daemon left are taken over, however slow they are to answer and whatever the catalogue knows;
# their clients notice nothing, also when another disk's export cannot be started.
. "$(dirname "$0")/lib.sh"
need sqlite3

random_image "$WORK/a.img" 8
random_image "$WORK/b.img" 8
start_daemon
vm_add vm1 "a=$WORK/a.img" "b=$WORK/b.img"
uri_a=$(uri_of vm1 a)
uri_b=$(uri_of vm1 b)
pids() { running_exports vm1 | jq -c '[.[].pid]'; }
pids=$(pids)
job=$(backup full vm1)

say "one that does not answer at once"
kill_daemon
pid=$(jq '.[0]' <<<"$pids")
kill -STOP "$pid"
(
  pause 1.5
  kill -CONT "$pid"
) &
start_daemon
assert_eq "processes after the restart" "$(pids)" "$pids"
io "$uri_a" "write -P 5 0 64k" flush
assert_eq "dirty" "$(backup incremental vm1 | jq .dirty)" "$CLUSTER"

say "one that the catalogue does not know"
kill_daemon
sqlite3 "$STATE/catalogue.sqlite" 'DELETE FROM exports'
start_daemon
cbt --quiet export start vm1 >/dev/null
assert_eq "processes after the start" "$(pids)" "$pids"
io "$uri_b" "write -P 5 0 64k" flush
assert_eq "dirty" "$(backup incremental vm1 | jq .dirty)" "$CLUSTER"

say "one beside one that is gone and cannot be started"
kill_daemon
kill -KILL "$(jq '.[1]' <<<"$pids")"
mv "$WORK/b.img" "$WORK/b.away"
start_daemon
io "$uri_a" "write -P 6 0 64k" flush
mv "$WORK/b.away" "$WORK/b.img"
cbt --quiet export start vm1 >/dev/null
assert_eq "process of the first disk" "$(running_exports vm1 | jq '.[0].pid')" "$pid"
job=$(backup incremental vm1)
assert_eq "dirty" "$(jq .dirty <<<"$job")" "$CLUSTER"
restore_matches "$(jq -r .uuid <<<"$job")" a "$WORK/a.img"
restore_matches "$(jq -r .uuid <<<"$job")" b "$WORK/b.img"
stop_daemon
