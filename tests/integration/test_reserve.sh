#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Requests that look at a disk's bitmaps all the time are in nobody's way: an export starts and stops, and a vm is removed,
# and none of these requests fails for it, but for one that meets the end of an export.
. "$(dirname "$0")/lib.sh"

rounds=10
[ -z "$LONG" ] || rounds=100
random_image "$WORK/root.raw" 4
start_daemon
vm_add vm1 "root=$WORK/root.raw"
backup full vm1 >/dev/null

# look N: asks until it is told to stop; notes each answer but 200.
look() {
  while [ ! -e "$WORK/stop" ]; do
    curl -sS --unix-socket "$SOCKET" -o "$WORK/look.$1" -w '%{http_code}\n' \
      "http://localhost/v1/vms/vm1/disks/root/bitmaps" >>"$WORK/looked.$1" 2>&1 || true
  done
}
pids=()
for i in 1 2 3; do
  look "$i" &
  pids+=($!)
done

for ((n = 1; n <= rounds; n++)); do
  api POST /v1/exports/vm1 ''
  assert_eq "export start, round $n: $body" "$status" 201
  io "$(jq -r '.[0].uri' <<<"$body")" "write -P $n 0 64k" flush
  api DELETE /v1/exports/vm1
  assert_eq "export stop, round $n: $body" "$status" 204
done
assert_eq "what changed" "$(backup incremental vm1 | jq -c '[.reason, .dirty]')" "[null,$CLUSTER]"
wait_until 20 test -s "$WORK/looked.3"
assert_eq "answers" "$(sort -u "$WORK"/looked.* | grep -v 503)" 200
api DELETE /v1/vms/vm1
assert_eq "vm remove: $body" "$status" 204
seen_gone() { grep -qs 404 "$WORK"/looked.*; }
wait_until 20 seen_gone || fail "nobody sees that the vm is gone"
touch "$WORK/stop"
wait "${pids[@]}"
say "$(cat "$WORK"/looked.* | wc -l) requests, $(cat "$WORK"/looked.* | grep -c 503 || true) of them when an export had just ended"
assert_eq "answers" "$(sort -u "$WORK"/looked.* | grep -v 503 | xargs)" "200 404"
stop_daemon
