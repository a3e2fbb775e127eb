#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# kill -9 at random moments, of the daemon and of the exports, loses no change, re-reads no disk, and leaves every point good.
. "$(dirname "$0")/lib.sh"
need nbdkit fio

size_mib=128 kills=6
[ -z "$LONG" ] || kills=50
seed
ext4_image "$WORK/disk.img" "$size_mib" 80
start_daemon
vm_add vm1 "root=$WORK/disk.img"
uri=$(uri_of vm1)
first_pid=$(export_pid vm1)
backup full vm1 >/dev/null
: >"$WORK/written"

write_some() {
  local n at commands=()
  for n in 1 2 3 4 5 6 7 8; do
    at=$(random_below "$size_mib")
    commands+=("write -P $((RANDOM % 256)) ${at}M 256k")
    echo "$((at * MIB)) 262144" >>"$WORK/written"
  done
  io "$uri" "${commands[@]}" flush
}

n_killed_at_work=0
for ((n = 1; n <= kills; n++)); do
  write_some
  if [ $((n % 2)) -eq 1 ]; then kind=full speed=20M; else kind=incremental speed=400K; fi
  id=$(start_backup "$kind" vm1 --speed "$speed")
  pause "0.$(printf %03d "$(random_below 900)")"
  state=$(job_status "$id")
  kill_daemon
  write_some # the guest goes on without a daemon
  start_daemon
  after=$(cbt_json job show "$id")
  if [ "$state" = active ]; then
    n_killed_at_work=$((n_killed_at_work + 1))
    assert_eq "job $id after the kill" "$(jq -r .status <<<"$after")" error
    assert_ne "its errmsg" "$(jq -r .errmsg <<<"$after")" null
  fi
  assert_eq "bitmap after the restart" "$(bitmap_state vm1/root)" active
  assert_eq "the export lives on" "$(export_pid vm1)" "$first_pid"
  job=$(backup incremental vm1)
  assert_eq "kill $n: kind of the next" "$(jq -r .kind <<<"$job")" incremental
  assert_eq "kill $n: the next re-reads nothing" "$(jq -r .reason <<<"$job")" null
  if [ "$state" = active ]; then
    expected=$(($(clusters extents <"$WORK/written" | wc -l) * CLUSTER))
    assert_eq "kill $n in the $kind: dirty of the next" "$(jq .dirty <<<"$job")" "$expected"
  fi
  : >"$WORK/written"
  if [ $((n % 5)) -eq 0 ]; then restore_matches vm1@latest root "$WORK/disk.img"; fi
done
say "$kills kills, $n_killed_at_work of them while the job was at work"
assert_ge "kills in the middle of a job" "$n_killed_at_work" "$((kills / 2))"
restore_matches vm1@latest root "$WORK/disk.img"

say "kill -9 of an export at rest: another process serves the same URI, and nothing is missed"
write_some
kill_export vm1
assert_eq "the URI" "$(uri_of vm1)" "$uri"
job=$(backup incremental vm1)
assert_eq "kind, reason" "$(jq -c '[.kind, .reason]' <<<"$job")" '["incremental",null]'
assert_eq "dirty" "$(jq .dirty <<<"$job")" "$(($(clusters extents <"$WORK/written" | wc -l) * CLUSTER))"
restore_matches vm1@latest root "$WORK/disk.img"

say "kill -9 of an export under a writing client: the client reconnects and ends without an error"
start_proxy "$uri" requests --filter=retry retry-delay=1 retry-exponential=no retries=30
for n in 1 2; do
  : >"$WORK/requests.log"
  fio --name=verified --ioengine=nbd "--uri=$proxy_uri" --rw=randwrite --bs=16k --size="${size_mib}m" --io_size=96m --iodepth=8 \
    --rate=32m --randseed="$RANDOM" --verify=xxhash --do_verify=0 --verify_state_save=0 >"$WORK/fio.log" 2>&1 &
  fio_pid=$!
  pause "1.$(random_below 10)"
  kill_export vm1
  wait "$fio_pid" || fail "fio saw an error: $(cat "$WORK/fio.log")"
  job=$(backup incremental vm1)
  assert_eq "kind, reason" "$(jq -c '[.kind, .reason]' <<<"$job")" '["incremental",null]'
  clusters log <"$WORK/requests.log" >"$WORK/logged"
  assert_le "dirty" "$(jq .dirty <<<"$job")" "$(($(wc -l <"$WORK/logged") * CLUSTER))"
  restore_matches vm1@latest root "$WORK/disk.img"
done

say "kill -9 of an export in the middle of a backup: the job fails with a reason, and the next one is right"
backup incremental vm1 >/dev/null
: >"$WORK/written"
for kind in full incremental; do
  write_some
  if [ "$kind" = full ]; then speed=12M; else speed=128K; fi # some seconds, also where the disk is slow
  id=$(start_backup "$kind" vm1 --speed "$speed")
  wait_until 10 bitmap_is vm1/root frozen || fail "the bitmap does not freeze"
  kill_export vm1
  write_some
  job=$(wait_job "$id")
  assert_eq "status" "$(jq -r .status <<<"$job")" error # what it read can be of no instant
  assert_ne "errmsg" "$(jq -r '.errmsg // ""' <<<"$job")" ""
  job=$(backup incremental vm1)
  assert_eq "kind, reason" "$(jq -c '[.kind, .reason]' <<<"$job")" '["incremental",null]'
  assert_eq "dirty" "$(jq .dirty <<<"$job")" "$(($(clusters extents <"$WORK/written" | wc -l) * CLUSTER))"
  assert_eq "bitmap" "$(bitmap_state vm1/root)" active
  : >"$WORK/written"
  restore_matches vm1@latest root "$WORK/disk.img"
done
stop_daemon
