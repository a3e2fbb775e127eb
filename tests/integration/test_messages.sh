#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What people are told: which command helps, with its arguments; what a point lacks; what forgetting costs.
. "$(dirname "$0")/lib.sh"

random_image "$WORK/root.raw" 4
random_image "$WORK/data.raw" 4
start_daemon
vm_add web "root=$WORK/root.raw" "data=$WORK/data.raw"

say "reasons"
job=$(backup incremental web --disk root)
assert_eq "reason of the first one" "$(jq -r .reason <<<"$job")" "root: no earlier recovery point of this disk"
first=$(jq -r .uuid <<<"$job")
job=$(backup incremental web)
assert_eq "reason of the second" "$(jq -r .reason <<<"$job")" "data: no earlier recovery point of this disk"

say "a point that lacks a disk"
text=$(cbt restore "$first" --to "$WORK/out")
assert_has "the restore" "$text" "does not have disk 'data' of the vm"
assert_eq "what it restored" "$(ls "$WORK/out")" "root.raw"
text=$(cbt restore web@latest --to "$WORK/all")
[[ $text != *Reason* ]] || fail "a restore of all disks says: $text"
expect_exit 3 "cbt-backup show $first" cbt restore "$first" --target "data=$WORK/x.raw"

say "bitmaps"
row=$(cbt bitmap list web/root | tail -n 1)
assert_has "bitmap list" "$row" "$(jq -r '.uuid[:8]' <<<"$job")"
expect_exit 3 "disk 'root' of vm 'web' has no bitmap 'none'" cbt bitmap show web/root:none
for command in "--full web --bitmap none" "bitmap clear web/root:none" "bitmap show web/root:none" \
  "changes web/root --bitmap none"; do
  # shellcheck disable=SC2086 # words
  text=$(cbt $command 2>&1) && fail "$command: works"
  assert_has "$command" "$text" "cbt-backup bitmap list web/root"
  [[ $text != *"$WORK"* ]] || fail "$command: names a path: $text"
done
cbt --quiet bitmap disable web/root
expect_exit 4 "cbt-backup bitmap enable web/root:default" cbt --incremental web
expect_exit 4 "cbt-backup bitmap enable web/root:default" cbt changes web/root --bitmap default
cbt --quiet bitmap enable web/root
text=$(cbt bitmap list web/root)
assert_has "a bitmap that was disabled" "$text" "REASON"
[ "$(tail -n 1 <<<"$text" | awk '{ print $NF }')" != - ] || fail "no reason: $text"

say "exports and points"
expect_exit 3 "cbt-backup export start web" cbt export stop web
cbt --quiet export start web >/dev/null
expect_exit 4 "cbt-backup export stop web" cbt vm remove web
cbt --quiet export stop web
backup incremental web >/dev/null
last=$(points web | head -n 1)
cbt --quiet protect web@latest
expect_exit 4 "cbt-backup unprotect $last" cbt forget web@latest
n_points=$(points web | wc -l)
cbt --quiet protect web@1
cbt --quiet unprotect web@0
expect_exit 4 "cbt-backup unprotect $(points web | sed -n 2p)" cbt vm remove web --forget-points
assert_eq "points when one is protected" "$(points web | wc -l)" "$n_points"
cbt --quiet unprotect web@1

say "forgetting"
text=$(cbt forget "$first")
[[ $text != *Warning* ]] || fail "forgetting a point that nothing builds on says: $text"
text=$(cbt forget web@latest)
assert_has "forgetting the base" "$text" "Warning: the next incremental of vm 'web' was to build on this point"
assert_has "forgetting the base" "$text" "'root', 'data' as a whole (8"
job=$(backup incremental web)
assert_eq "what the next incremental looks at" "$(jq .dirty <<<"$job")" $((8 * MIB))
assert_has "its reason" "$(jq -r .reason <<<"$job")" "is gone"
assert_eq "forgetting by HTTP" "$(api DELETE /v1/points/web@latest && jq -r .warning <<<"$body" | cut -c1-20)" \
  "the next incremental"
say "jobs, and a vm that goes with its policy"
random_image "$WORK/other.raw" 1
vm_add other "root=$WORK/other.raw"
backup full other >/dev/null
assert_eq "jobs of a vm" "$(cbt_json job list --vm other | jq -c '[.[].vm]')" '["other"]'
assert_eq "the newest two" "$(cbt_json job list --limit 2 | jq -c '[.[].vm]')" '["other","web"]'
assert_eq "none of them of this one" "$(cbt_json job list --limit 1 --vm nobody)" '[]'
expect_exit 2 "'x' is no whole number" cbt job list --limit x
cbt --quiet policy set other --schedule 'daily 02:30' >/dev/null
assert_has "vm remove" "$(cbt vm remove other)" "with its bitmaps and any policy; recovery points are kept"
stop_daemon
