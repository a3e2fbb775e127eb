#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Bitmaps finer and coarser than a cluster, on the smallest and oddest disks, miss nothing while all is overwritten; several
# bitmaps of one disk are bases of their own.
. "$(dirname "$0")/lib.sh"
seed
start_daemon

sizes=(512 65024 65536 $((5 * MIB + 512)) $((33 * MIB - 4096)))
if sanitized; then sizes=(512 $((5 * MIB + 512))); fi
for granularity in 4K 64K 1M 16M; do
  for size in "${sizes[@]}"; do
    vm=vm.$granularity.$size
    image=$WORK/$vm.img
    head -c "$size" /dev/urandom >"$image"
    cbt --quiet vm add "$vm" --disk "root=$image" --granularity "$granularity"
    uri=$(uri_of "$vm")
    backup full "$vm" >/dev/null
    restore_matches "$vm@latest" root "$image"
    at=$(($(random_below "$size") / 512 * 512))
    io "$uri" "write -P 1 $((size - 512)) 512" "write -P 2 $at 512" flush
    at_unit=$(cbt_json bitmap show "$vm/root" | jq .granularity)
    [ "$((at / at_unit))" = "$(((size - 512) / at_unit))" ] && units=1 || units=2
    assert_le "$vm: dirty" "$(cbt_json bitmap show "$vm/root" | jq .count)" "$((units * at_unit))"
    job=$(backup incremental "$vm")
    assert_eq "$vm: kind, reason" "$(jq -c '[.kind, .reason]' <<<"$job")" '["incremental",null]'
    restore_matches "$vm@latest" root "$image"
    # While a slow full reads, the whole disk is overwritten: the point is what was before.
    if [ "$size" -gt "$MIB" ]; then
      cp "$image" "$WORK/before.img"
      id=$(start_backup full "$vm" --speed "$((size / 2))")
      wait_until 10 bitmap_is "$vm/root" frozen || fail "$vm: the bitmap does not freeze"
      io "$uri" "write -P 3 0 $((size / 512 / 2 * 512))" "write -z $((size / 512 / 2 * 512)) $((size - size / 512 / 2 * 512))" flush
      job=$(wait_job "$id")
      assert_eq "$vm: status" "$(jq -r '.status + (.errmsg // "")' <<<"$job")" "done"
      restore_matches "$vm@latest" root "$WORK/before.img"
      job=$(backup incremental "$vm")
      assert_eq "$vm: kind, reason" "$(jq -c '[.kind, .reason]' <<<"$job")" '["incremental",null]'
      restore_matches "$vm@latest" root "$image"
    fi
    cbt --quiet export stop "$vm"
  done
done

say "two bitmaps of one disk: each incremental is relative to the last backup with the same one"
random_image "$WORK/two.img" 4
vm_add two "root=$WORK/two.img"
cbt --quiet bitmap add two/root:weekly --granularity 128K
uri=$(uri_of two)
first=$(backup full two | jq -r .uuid)
weekly=$(backup incremental two --bitmap weekly)
assert_ne "weekly has no base yet: reason" "$(jq -r .reason <<<"$weekly")" null
weekly=$(jq -r .uuid <<<"$weekly")
io "$uri" 'write -P 1 1M 64k' flush
job=$(backup incremental two)
assert_eq "parent of the default's" "$(cbt_json show "$(jq -r .uuid <<<"$job")" | jq -r .parent)" "$first"
assert_eq "dirty" "$(jq .dirty <<<"$job")" "$CLUSTER"
io "$uri" 'write -P 1 2M 64k' flush
job=$(backup incremental two --bitmap weekly)
assert_eq "parent of weekly's" "$(cbt_json show "$(jq -r .uuid <<<"$job")" | jq -r .parent)" "$weekly"
assert_eq "dirty of weekly" "$(jq .dirty <<<"$job")" "$((4 * CLUSTER))"
assert_eq "dirty left in default" "$(cbt_json bitmap show two/root | jq .count)" "$CLUSTER"
restore_matches two@latest root "$WORK/two.img"
job=$(backup incremental two)
assert_eq "dirty of the default's" "$(jq .dirty <<<"$job")" "$CLUSTER"
restore_matches two@latest root "$WORK/two.img"

say "a disk that was left out of one backup catches up in the next"
random_image "$WORK/a.img" 1
random_image "$WORK/b.img" 1
vm_add pair "a=$WORK/a.img" "b=$WORK/b.img"
uri_of pair >/dev/null
backup full pair >/dev/null
io "$(uri_of pair a)" 'write -P 1 0 64k' flush
io "$(uri_of pair b)" 'write -P 1 64k 64k' flush
job=$(backup incremental pair --disk a)
assert_eq "disks of the point" "$(cbt_json show pair@latest | jq -c '[.disks[].name]')" '["a"]'
restore_matches pair@latest a "$WORK/a.img"
job=$(backup incremental pair)
assert_eq "dirty" "$(jq -c '[.disks[] | .dirty]' <<<"$job")" "[0,$CLUSTER]"
restore_matches pair@latest a "$WORK/a.img"
restore_matches pair@latest b "$WORK/b.img"
for vm in two pair; do cbt --quiet export stop "$vm"; done
stop_daemon
