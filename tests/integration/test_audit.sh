#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The audit finds a change that the bitmap missed, sooner or later wherever it is; says so loudly; and does not cry wolf.
. "$(dirname "$0")/lib.sh"
need fio qemu-io

mib=48
n_clusters=$((mib * MIB / CLUSTER))
seed
random_image "$WORK/disk.img" "$mib"
start_daemon
vm_add vm1 "root=$WORK/disk.img"
uri=$(uri_of vm1)
cp "$WORK/disk.img" "$WORK/first"
job=$(backup full vm1)
assert_eq "a full backup audits nothing" "$(jq .audited <<<"$job")" 0
job=$(backup incremental vm1 --audit 100)
assert_eq "bytes audited" "$(jq .audited <<<"$job")" $((100 * CLUSTER))
job=$(backup incremental vm1 --audit 0)
assert_eq "bytes audited with --audit 0" "$(jq .audited <<<"$job")" 0
job=$(backup incremental vm1)
assert_eq "bytes audited by default" "$(jq .audited <<<"$job")" $((256 * CLUSTER))
expect_exit 2 "not a number" cbt --incremental vm1 --audit many
expect_status 400 audit POST /v1/vms/vm1/backups '{"kind":"incremental","audit":1e12}'

# One byte, past the export: what a missed bit looks like.
plant_lie() {
  lie=$(random_below "$n_clusters")
  printf 'lie' | dd of="$WORK/disk.img" bs=1 seek=$((lie * CLUSTER + 4711)) conv=notrunc status=none
}

expect_lie() { # JOB
  assert_eq "status" "$(jq -r .status <<<"$1")" error
  assert_has "message" "$(jq -r .errmsg <<<"$1")" "audit"
  assert_has "message" "$(jq -r .errmsg <<<"$1")" "offset $((lie * CLUSTER))"
  assert_eq "state of the bitmap" "$(bitmap_state vm1/root)" inconsistent
}

expect_reread() {
  job=$(backup incremental vm1)
  assert_has "reason" "$(jq -r .reason <<<"$job")" "audit"
  restore_matches vm1@latest root "$WORK/disk.img"
  assert_eq "state of the bitmap" "$(bitmap_state vm1/root)" active
}

say "a lie is found wherever it is, when each cluster had its turn; then the disk is read again"
for round in 1 2 3; do
  plant_lie
  for ((n = 1; n <= (n_clusters + 199) / 200; n++)); do
    io "$uri" "write -P $round $(random_below 10)M 64k" >/dev/null
    job=$(wait_job "$(start_backup incremental vm1 --audit 200)")
    [ "$(jq -r .status <<<"$job")" = done ] || break
  done
  say "round $round: cluster $lie, found by backup $n"
  # What the guest wrote over the lie is no lie.
  if [ "$(jq -r .status <<<"$job")" = done ]; then
    restore_matches vm1@latest root "$WORK/disk.img"
    continue
  fi
  expect_lie "$job"
  expect_reread
done

say "all at once, and by the command line: damage has an exit status of its own"
plant_lie
expect_exit 6 "audit" cbt --incremental vm1 --audit "$n_clusters"
expect_reread

say "a hole that was filled past the export is found too"
fallocate --punch-hole --offset $((4 * MIB)) --length $((4 * MIB)) "$WORK/disk.img"
lie=$((4 * MIB / CLUSTER))
expect_lie "$(wait_job "$(start_backup incremental vm1 --audit "$n_clusters")")"
expect_reread
lie=$((4 * MIB / CLUSTER + 7))
printf 'lie' | dd of="$WORK/disk.img" bs=1 seek=$((lie * CLUSTER)) conv=notrunc status=none
expect_lie "$(wait_job "$(start_backup incremental vm1 --audit "$n_clusters")")"
expect_reread

say "clusters that the guest writes during the audit are no lies"
fio --name=load --ioengine=nbd "--uri=$uri" --rw=randwrite --bs=4k-64k --size="${mib}m" --io_size=100g --iodepth=8 \
  --rate=40m --randseed="$RANDOM" >"$WORK/fio.log" 2>&1 &
fio_pid=$!
at_exit kill -9 "$fio_pid"
for ((n = 0; n < (${LONG:-0} ? 100 : 10); n++)); do
  job=$(backup incremental vm1 --audit "$n_clusters")
done
kill -INT "$fio_pid"
wait "$fio_pid" || true
job=$(backup incremental vm1)
restore_matches vm1@latest root "$WORK/disk.img"
