#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The main job works from end to end, by command line and by HTTP, and every answer has the keys of the contract.
. "$(dirname "$0")/lib.sh"

job_keys=(id type vm kind status errmsg total dirty transferred zero-bytes reused stored read start-time end-time uuid reason disks)
point_keys=(uuid vm kind parent time disks reason protected note verified)
disk_keys=(name size dirty zero-bytes reused stored)
bitmap_keys=(name disk granularity state persistent count successor)
changes_keys=(granularity size-from size-to extents next-offset source proof)

ext4_image "$WORK/root.img" 256 100
truncate -s 10M "$WORK/data.img"
random_bytes_at "$WORK/data.img" 1M 1M
echo 'memory: 2048' >"$WORK/vm1.conf"
start_daemon

say "a vm of two disks is registered, shown and listed"
vm=$(cbt_json vm add vm1 --disk "root=$WORK/root.img" --disk "data=$WORK/data.img" --config "$WORK/vm1.conf")
assert_eq "name of the vm" "$(jq -r .name <<<"$vm")" vm1
assert_eq "disks" "$(jq -c '[.disks[].name]' <<<"$vm")" '["root","data"]'
assert_eq "size of root" "$(jq '.disks[0].size' <<<"$vm")" "$((256 * MIB))"
assert_eq "granularity" "$(jq '.disks[0].granularity' <<<"$vm")" "$CLUSTER"
assert_eq "vm list" "$(cbt_json vm list | jq -c '[.[].name]')" '["vm1"]'
assert_eq "vm show" "$(cbt_json vm show vm1 | jq -r .name)" vm1
assert_has "vm show for people" "$(cbt vm show vm1)" "$WORK/root.img"
bitmaps=$(cbt_json bitmap list vm1/root)
assert_eq "one bitmap" "$(jq -c '[.[] | .name, .state, .persistent]' <<<"$bitmaps")" '["default","active",true]'
assert_keys bitmap "$(jq '.[0]' <<<"$bitmaps")" "${bitmap_keys[@]}"

say "the export serves the disks' bytes and prints a URI for each"
uris=$(cbt export start vm1)
assert_eq "URIs printed" "$(grep -c 'nbd+unix:///?socket=' <<<"$uris")" 2
root_uri=$(uri_of vm1 root)
data_uri=$(uri_of vm1 data)
assert_eq "export list" "$(cbt_json export list | jq -c '[.[] | .vm, .disk, .state]')" \
  '["vm1","root","running","vm1","data","running"]'
nbdcopy "$root_uri" "$WORK/served.img"
assert_same_file "the disk through NBD" "$WORK/served.img" "$WORK/root.img"

say "an incremental without a base is a full, and says why"
job=$(backup incremental vm1)
assert_keys job "$job" "${job_keys[@]}"
assert_ne "reason" "$(jq -r .reason <<<"$job")" null
assert_eq "kind of the point" "$(cbt_json show vm1@latest | jq -r .kind)" full

say "a full backup stores nothing twice and makes a full point"
job=$(backup full vm1)
assert_eq "kind" "$(jq -r .kind <<<"$job")" full
assert_le "reads of a full: no holes" "$(jq .read <<<"$job")" "$((150 * MIB))"
assert_le "stored the second time" "$(jq .stored <<<"$job")" "$MIB"
assert_eq "errmsg" "$(jq -r .errmsg <<<"$job")" null
point=$(cbt_json show "$(jq -r .uuid <<<"$job")")
assert_keys point "$point" "${point_keys[@]}"
assert_keys "disk of a point" "$(jq '.disks[0]' <<<"$point")" "${disk_keys[@]}"
assert_eq "kind and parent" "$(jq -c '[.kind, .parent, .reason, .protected]' <<<"$point")" '["full",null,null,false]'

say "writes through NBD are in the bitmap, exactly"
io "$root_uri" 'write -P 1 100M 1M' 'write -P 2 130M 64k' 'write -z 135M 64k' 'discard 140M 128k' flush
io "$data_uri" 'write -P 3 5M 1k' flush
bitmap=$(cbt_json bitmap show vm1/root)
assert_eq "dirty bytes of root" "$(jq .count <<<"$bitmap")" "$(((16 + 1 + 1 + 2) * CLUSTER))"
assert_eq "dirty bytes of data" "$(cbt_json bitmap show vm1/data:default | jq .count)" "$CLUSTER"
live=$(cbt_json changes vm1/root --from vm1@latest --to live)
assert_keys changes "$live" "${changes_keys[@]}"
assert_eq "extents to live" "$(jq -c '[.extents[] | .offset, .length]' <<<"$live" | jq -c .)" \
  "$(jq -nc --argjson m "$MIB" '[100*$m, $m, 130*$m, 65536, 135*$m, 65536, 140*$m, 131072]')"

say "an incremental reads only what changed"
job=$(backup incremental vm1 --note 'after the writes')
assert_eq "kind" "$(jq -r .kind <<<"$job")" incremental
assert_eq "dirty" "$(jq .dirty <<<"$job")" "$((21 * CLUSTER))"
assert_le "read" "$(jq .read <<<"$job")" "$((21 * CLUSTER * 11 / 10))"
point=$(cbt_json show vm1@0)
assert_eq "kind, note" "$(jq -c '[.kind, .note, .reason]' <<<"$point")" '["incremental","after the writes",null]'
assert_eq "parent" "$(jq -r .parent <<<"$point")" "$(cbt_json show vm1@1 | jq -r .uuid)"
assert_eq "dirty left" "$(cbt_json bitmap show vm1/root | jq .count)" 0
assert_eq "points" "$(cbt_json list vm1 | jq length)" 3
assert_has "list for people" "$(cbt list vm1)" incremental

say "changes between the two points are those writes"
changes=$(cbt_json changes vm1/root --from vm1@1 --to vm1@0)
assert_eq "sizes" "$(jq -c '[."size-from", ."size-to"]' <<<"$changes")" "[$((256 * MIB)),$((256 * MIB))]"
{ seq $((1600)) $((1615)); echo $((130 * 16)); } >"$WORK/data.known"
changes_clusters <<<"$changes" >"$WORK/changes.found"
assert_subset "known writes are in changes" "$WORK/data.known" "$WORK/changes.found"
{ cat "$WORK/data.known"; echo $((135 * 16)); seq $((140 * 16)) $((140 * 16 + 1)); } >"$WORK/all.known"
assert_subset "nothing else is in changes" "$WORK/changes.found" "$WORK/all.known"
assert_eq "proof" "$(jq -r .proof <<<"$changes")" exact

say "every point restores, byte for byte, while the guest goes on"
nbdcopy "$root_uri" "$WORK/root.now"
nbdcopy "$data_uri" "$WORK/data.now"
io "$root_uri" 'write -P 9 0 32M'
cbt --quiet restore vm1@latest --to "$WORK/restored"
assert_same_file root "$WORK/restored/root.raw" "$WORK/root.now"
assert_same_file data "$WORK/restored/data.raw" "$WORK/data.now"
assert_same_file config "$WORK/restored/vm1.conf" "$WORK/vm1.conf"
restore_matches vm1@2 root "$WORK/served.img"
expect_exit 4 exist cbt restore vm1@latest --to "$WORK/restored"

say "changes since an older point: what differs up to the bitmap's base, and what the bitmap has since"
live=$(cbt_json changes vm1/root --from vm1@1)
assert_eq "source, proof" "$(jq -c '[.source, .proof]' <<<"$live")" '["bitmap","superset"]'
changes_clusters <<<"$live" | sort -n >"$WORK/live.found"
seq 0 511 >"$WORK/since"
sort -n "$WORK/since" "$WORK/data.known" >"$WORK/live.known"
sort -n "$WORK/since" "$WORK/all.known" >"$WORK/live.most"
assert_subset "all that changed" "$WORK/live.known" "$WORK/live.found"
assert_subset "nothing else" "$WORK/live.found" "$WORK/live.most"

say "in place, only what differs is written"
cp "$WORK/restored/root.raw" "$WORK/target.img"
random_bytes_at "$WORK/target.img" "$((7 * MIB))" 1000
cbt --quiet restore vm1@latest --target "root=$WORK/target.img" --in-place
assert_same_file "restored in place" "$WORK/target.img" "$WORK/root.now"

say "the same by HTTP"
api GET /v1/status
assert_eq "status" "$status" 200
assert_keys status "$body" version uptime state-dir store vms jobs-active jobs-queued
api GET /v1/vms/vm1
assert_eq "GET vm" "$status $(jq -c '[.name, .exported, .points]' <<<"$body")" '200 ["vm1",true,3]'
api POST /v1/vms/vm1/backups '{"kind":"incremental","note":"by HTTP"}'
assert_eq "POST backups" "$status" 202
assert_keys job "$body" "${job_keys[@]}"
id=$(jq .id <<<"$body")
api GET "/v1/jobs/$id?wait-ms=30000"
assert_eq "job" "$status $(jq -c '[.status, .vm, .type, .kind]' <<<"$body")" '200 ["done","vm1","backup","incremental"]'
assert_eq "dirty by HTTP" "$(jq .dirty <<<"$body")" "$((32 * MIB))"
uuid=$(jq -r .uuid <<<"$body")
api GET "/v1/points/$uuid"
assert_keys point "$body" "${point_keys[@]}"
assert_eq "note" "$(jq -r .note <<<"$body")" "by HTTP"
api GET '/v1/points?vm=vm1'
assert_eq "newest first" "$(jq -r '.[0].uuid' <<<"$body")" "$uuid"
api PATCH "/v1/points/$uuid" '{"note":"other"}'
assert_eq "note after PATCH" "$status $(jq -r .note <<<"$body")" "200 other"
api GET "/v1/vms/vm1/disks/root/changes?from=vm1@1&to=$uuid&limit=1"
assert_keys changes "$body" "${changes_keys[@]}"
api GET /v1/jobs
assert_eq "newest job" "$(jq '.[0].id' <<<"$body")" "$id"
api POST "/v1/points/$uuid/restore" "{\"to\":\"$WORK/by-http\"}"
assert_eq "POST restore" "$status" 202
api GET "/v1/jobs/$(jq .id <<<"$body")?wait-ms=30000"
assert_eq "restore" "$(jq -r '.status + " " + .type' <<<"$body")" "done restore"
nbdcopy "$root_uri" "$WORK/root.last"
assert_same_file "restored by HTTP" "$WORK/by-http/root.raw" "$WORK/root.last"

say "a changes answer is cut at its limit and goes on at next-offset"
io "$root_uri" 'write -P 4 40M 64k' 'write -P 4 50M 64k' 'write -P 4 60M 64k'
api GET "/v1/vms/vm1/disks/root/changes?from=vm1@latest&to=live&limit=2"
assert_eq "two extents" "$(jq '.extents | length' <<<"$body")" 2
next=$(jq '."next-offset"' <<<"$body")
api GET "/v1/vms/vm1/disks/root/changes?from=vm1@latest&to=live&limit=2&offset=$next"
assert_eq "the third" "$(jq -c '[.extents[0].offset, ."next-offset"]' <<<"$body")" "[$((60 * MIB)),null]"

say "bitmaps are added, stepped through their states, merged, and removed"
cbt --quiet bitmap add vm1/root:second --granularity 128K
io "$root_uri" 'write -P 5 70M 64k'
assert_eq "second" "$(cbt_json bitmap show vm1/root:second | jq -c '[.granularity, .count]')" '[131072,131072]'
cbt --quiet bitmap create-successor vm1/root:second
assert_eq "frozen" "$(bitmap_state vm1/root:second)" frozen
io "$root_uri" 'write -P 5 80M 64k'
assert_eq "successor" "$(cbt_json bitmap show vm1/root:second | jq -c '[.count, .successor]')" '[131072,131072]'
expect_exit 4 frozen cbt bitmap remove vm1/root:second
cbt --quiet bitmap reclaim vm1/root:second
assert_eq "reclaimed" "$(cbt_json bitmap show vm1/root:second | jq -c '[.state, .count, .successor]')" '["active",262144,null]'
cbt --quiet bitmap merge vm1/root:second --from default
assert_ge "merged" "$(cbt_json bitmap show vm1/root:second | jq .count)" "$((6 * CLUSTER))"
cbt --quiet bitmap disable vm1/root:second
assert_eq "disabled" "$(bitmap_state vm1/root:second)" disabled
cbt --quiet bitmap enable vm1/root:second
cbt --quiet bitmap clear vm1/root:second
assert_eq "cleared" "$(cbt_json bitmap show vm1/root:second | jq .count)" 0
cbt --quiet bitmap remove vm1/root:second
expect_exit 3 second cbt bitmap show vm1/root:second

say "exports and the daemon stop cleanly"
cbt --quiet export stop vm1
assert_eq "exports left" "$(cbt_json export list | jq length)" 0
assert_eq "a backup of a disk that is not exported" "$(backup incremental vm1 | jq -r '.kind + " " + .status')" "incremental done"
cbt_json export start vm1 >/dev/null
cbt --quiet export stop vm1
stop_daemon
test ! -e "$SOCKET" || fail "the socket is still there"
