#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Every point equals a whole copy of the disk taken at the same instant, and `dirty` is what an independent log of the
# client's requests counts: over rounds of file-system work, of random writes, and of writes while the backup runs.
. "$(dirname "$0")/lib.sh"
need nbdkit fio

size_mib=256 rounds=6
[ -z "$LONG" ] || size_mib=1024 rounds=20
seed
ext4_image "$WORK/disk.img" "$size_mib" "$((size_mib / 3))"
# A last cluster that is not whole.
truncate -s "+$((CLUSTER + 512))" "$WORK/disk.img"

start_daemon
vm_add vm1 "root=$WORK/disk.img"
start_proxy "$(uri_of vm1)" requests
log=$WORK/requests.log

if attach_loop "$proxy_uri" && mount_at "$loop" "$WORK/mnt"; then
  say "the client is the kernel's ext4 on $loop"
  mnt=$WORK/mnt
else
  say "no loop device or FUSE here: the clients are fio and qemu-io alone"
  mnt=
fi

# One round of work on the file system: new files, appended, overwritten, removed, renamed, cut.
files_work() {
  local round=$1 n files
  mkdir -p "$mnt/round$round"
  find /usr/lib -xdev -type f -size -200k 2>/dev/null | shuf -n 60 --random-source=<(yes "$RANDOM") |
    xargs -r cp --no-preserve=ownership -t "$mnt/round$round" 2>/dev/null || true
  rm -rf "$mnt/round$((round - 2))"
  mapfile -t files < <(find "$mnt/usr" -type f | sort | shuf -n 12 --random-source=<(yes "$RANDOM"))
  for n in "${!files[@]}"; do
    case $((n % 4)) in
      0) echo "round $round" >>"${files[n]}" ;;
      1) rm -f "${files[n]}" ;;
      2) mv "${files[n]}" "$mnt/moved.$round.$n" ;;
      3) truncate -s 1000 "${files[n]}" ;;
    esac
  done
  if [ $((round % 3)) -eq 2 ]; then fstrim "$mnt" 2>/dev/null || true; fi
}

block_work() {
  local n commands=()
  fio --name=random --ioengine=nbd "--uri=$proxy_uri" --rw=randwrite --bsrange=4k-128k --blockalign=4k --size="${size_mib}m" \
    --io_size="$((4 + $(random_below 8)))m" --iodepth=16 --randseed="$RANDOM" --refill_buffers >"$WORK/fio.log" 2>&1 ||
    fail "fio: $(tail -n 5 "$WORK/fio.log")"
  for n in 1 2 3 4; do
    commands+=("write -P $n $(random_below "$size_mib")M $(($(random_below 300) + 1))k")
    commands+=("write -z $(random_below $((size_mib - 4)))M $(($(random_below 300) + 1))k")
    commands+=("discard $(random_below $((size_mib - 4)))M $(($(random_below 2000) + 1))k")
  done
  # The last, partial cluster, too.
  io "$proxy_uri" "${commands[@]}" "write -P $((RANDOM % 255 + 1)) $((size_mib * MIB + CLUSTER)) 512" flush
}

# Work that ends with all of it in the export and, where a file system is mounted, with that standing still.
work() {
  if [ -n "$mnt" ] && [ "$((RANDOM % 4))" -ne 0 ]; then
    files_work "$1"
  elif [ -n "$mnt" ]; then
    files_work "$1"
    dd if=/dev/urandom of="$mnt/random.$1" bs=64K count=40 status=none
  else
    block_work
  fi
}
still() { if [ -n "$mnt" ]; then sync -f "$mnt" && fsfreeze -f "$mnt"; fi; }
go_on() { if [ -n "$mnt" ]; then fsfreeze -u "$mnt"; fi; }

oracle() { cp --sparse=always "$WORK/disk.img" "$WORK/oracle.$1"; }

check_round() { # ROUND JOB: the log's clusters, the oracles' difference, dirty and changes fit
  local round=$1 job=$2 uuid previous
  uuid=$(jq -r .uuid <<<"$job")
  previous=$(cat "$WORK/point.$((round - 1))")
  clusters log <"$WORK/log.$round" >"$WORK/logged"
  clusters diff "$WORK/oracle.$((round - 1))" "$WORK/oracle.$round" >"$WORK/differ"
  assert_subset "round $round: the log has all that differs" "$WORK/differ" "$WORK/logged"
  last=$((size_mib * MIB / CLUSTER + 1))
  expected=$(($(wc -l <"$WORK/logged") * CLUSTER))
  # A disk's last cluster may be counted in the bytes that it really has.
  if grep -qx "$last" "$WORK/logged" && [ "$(jq .dirty <<<"$job")" -ne "$expected" ]; then
    expected=$((expected - CLUSTER + 512))
  fi
  assert_eq "round $round: dirty" "$(jq .dirty <<<"$job")" "$expected"
  assert_eq "round $round: reason" "$(jq -r .reason <<<"$job")" null
  cbt_json changes vm1/root --from "$previous" --to "$uuid" >"$WORK/changes.json"
  assert_eq "round $round: all changes in one answer" "$(jq '."next-offset"' "$WORK/changes.json")" null
  changes_clusters <"$WORK/changes.json" >"$WORK/changed"
  cmp "$WORK/changed" "$WORK/differ" || fail "round $round: changes are not what differs between the oracles"
  printf '%s\n' "$uuid" >"$WORK/point.$round"
  say "round $round: $(wc -l <"$WORK/logged") clusters written, $(wc -l <"$WORK/differ") differ, read $(jq .read <<<"$job") bytes"
}

still
job=$(backup full vm1)
jq -r .uuid <<<"$job" >"$WORK/point.0"
oracle 0
: >"$log"
go_on

for ((round = 1; round <= rounds; round++)); do
  work "$round"
  still
  cp "$log" "$WORK/log.$round"
  cbt_json changes vm1/root --from vm1@latest --to live >"$WORK/live.json"
  job=$(backup incremental vm1)
  oracle "$round"
  : >"$log"
  go_on
  check_round "$round" "$job"
  clusters log <"$WORK/log.$round" >"$WORK/logged"
  changes_clusters <"$WORK/live.json" | cmp - "$WORK/logged" || fail "round $round: changes to live are not what was written"
done

say "writes while a backup runs are not in its point, and all in the next one's"
work "$round"
still
cp "$log" "$WORK/log.$round"
: >"$log"
clusters log <"$WORK/log.$round" >"$WORK/logged"
oracle "$round"
# Slow enough to be at work for some two seconds.
id=$(start_backup incremental vm1 --speed "$(($(wc -l <"$WORK/logged") * CLUSTER / 2 + 1))")
wait_until 10 bitmap_is vm1/root frozen || fail "the bitmap does not freeze"
go_on
work "$((round + 1))"
if [ -n "$mnt" ]; then # over the very clusters that are being read
  find "$mnt/round$round" -type f -exec dd if=/dev/urandom of={} bs=4K count=4 conv=notrunc status=none \; || true
  sync -f "$mnt"
fi
[ "$(job_status "$id")" = active ] || say "the backup was done before the writes; nothing was proved in this run"
job=$(wait_job "$id")
assert_eq "backup under writes" "$(jq -r '.status + (.errmsg // "")' <<<"$job")" "done"
check_round "$round" "$job"
during=$round
still
cp "$log" "$WORK/log.$((round + 1))"
round=$((round + 1))
oracle "$round"
job=$(backup incremental vm1)
check_round "$round" "$job"
say "during the backup of round $during: hold of $(jq '."hold-ms"' <<<"$job") ms in the next"

say "a full backup under writes is a point in time, too"
: >"$log"
oracle full
id=$(start_backup full vm1 --speed "$((size_mib / 4))M")
wait_until 10 bitmap_is vm1/root frozen || fail "the bitmap does not freeze"
go_on
work "$((round + 1))"
[ -z "$mnt" ] || sync -f "$mnt"
job=$(wait_job "$id" 120)
assert_eq "full under writes" "$(jq -r '.status + (.errmsg // "")' <<<"$job")" "done"
restore_matches "$(jq -r .uuid <<<"$job")" root "$WORK/oracle.full"
still
oracle last
job=$(backup incremental vm1)
restore_matches "$(jq -r .uuid <<<"$job")" root "$WORK/oracle.last"
go_on

say "every point, restored at the end, equals its oracle"
for ((n = 0; n <= round; n++)); do
  restore_matches "$(cat "$WORK/point.$n")" root "$WORK/oracle.$n"
done

if [ -n "$mnt" ]; then
  umount "$mnt"
  job=$(backup incremental vm1)
  cbt --quiet restore vm1@latest --to "$WORK/end"
  e2fsck -fn "$WORK/end/root.raw" >"$WORK/e2fsck.log" || fail "the restored file system is damaged: $(cat "$WORK/e2fsck.log")"
fi
stop_daemon
