#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# An incremental of a 1 TiB disk with 64 MiB of scattered changes reads no more than those, and stores no more.
. "$(dirname "$0")/lib.sh"
need fio nbdkit

dirty=$((64 * MIB))
truncate -s 1T "$WORK/big.img"
start_daemon
vm_add big "disk=$WORK/big.img"
start_proxy "$(uri_of big)" requests

say "a full of a disk of holes reads nothing"
job=$(backup full big)
assert_le "read by the full" "$(jq .read <<<"$job")" "$MIB"

counter() { sed -n "s/^$1: //p" "/proc/$DAEMON_PID/io"; }
cpu_ticks() { awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$DAEMON_PID/stat"; }

# 64 MiB of random bytes, a cluster each, all over the disk; then the same again as the second and ordinary increment.
for round in 1 2; do
  : >"$WORK/requests.log"
  fio --name=scatter --ioengine=nbd "--uri=$proxy_uri" --rw=randwrite --bs=64k --size=1t --io_size="$dirty" --iodepth=16 \
    --randseed="$((RANDOM + round))" --refill_buffers --random_generator=tausworthe64 --norandommap >"$WORK/fio.log" 2>&1 ||
    fail "fio: $(tail -n 5 "$WORK/fio.log")"
  clusters log <"$WORK/requests.log" >"$WORK/logged"
  expected=$(($(wc -l <"$WORK/logged") * CLUSTER))
  echo 3 >/proc/sys/vm/drop_caches 2>/dev/null || true
  store=$(packs_bytes) rchar=$(counter rchar) read_bytes=$(counter read_bytes) ticks=$(cpu_ticks) start=$(date +%s%N)
  job=$(backup incremental big)
  elapsed_ms=$((($(date +%s%N) - start) / 1000000))
  rchar=$(($(counter rchar) - rchar)) read_bytes=$(($(counter read_bytes) - read_bytes)) ticks=$(($(cpu_ticks) - ticks))
  store=$(($(packs_bytes) - store))
  say "round $round: dirty $(jq .dirty <<<"$job"), read $(jq .read <<<"$job") in $(jq .reads <<<"$job") reads;" \
    "rchar $rchar, read_bytes $read_bytes; store grew by $store; $elapsed_ms ms, $((ticks * 1000 / $(getconf CLK_TCK))) ms of CPU"
  assert_eq "kind" "$(jq -r .kind <<<"$job")" incremental
  assert_eq "dirty" "$(jq .dirty <<<"$job")" "$expected"
  assert_le "read" "$(jq .read <<<"$job")" "$((expected * 11 / 10))"
  # What the kernel counted, for the whole daemon: its own catalogue and packs included.
  assert_le "rchar" "$rchar" "$((expected * 11 / 10 + MIB))"
  assert_le "read_bytes" "$read_bytes" "$((expected * 11 / 10 + MIB))"
  assert_le "growth of the store" "$store" "$((expected * 101 / 100))"
  # Some 150 ms are usual; looking at each cluster of the disk takes minutes. In between, it is the machine.
  sanitized || assert_le "CPU ms" "$((ticks * 1000 / $(getconf CLK_TCK)))" 10000
done

say "what lies between the changes is not read"
head -c 256M /dev/urandom >"$WORK/dense.img"
vm_add dense "disk=$WORK/dense.img"
backup full dense >/dev/null
fio --name=between --ioengine=nbd "--uri=$(uri_of dense)" --rw=randwrite --bs=64k --size=256m --io_size=64m --randseed=7 >"$WORK/fio.log" 2>&1 ||
  fail "fio: $(tail -n 5 "$WORK/fio.log")"
sync
echo 3 >/proc/sys/vm/drop_caches 2>/dev/null || true
read_bytes=$(counter read_bytes)
job=$(backup incremental dense --audit 0)
read_bytes=$(($(counter read_bytes) - read_bytes))
assert_eq "dirty" "$(jq .dirty <<<"$job")" "$dirty"
say "dirty $(jq .dirty <<<"$job"), read_bytes $read_bytes"
assert_le "read_bytes" "$read_bytes" "$((dirty + 3 * MIB))"

say "an incremental without changes reads and stores next to nothing"
store=$(packs_bytes)
job=$(backup incremental big)
assert_eq "dirty, read" "$(jq -c '[.dirty, .read]' <<<"$job")" '[0,0]'
assert_le "growth of the store" "$(($(packs_bytes) - store))" 4096

say "what was written comes back"
cbt --quiet restore big@latest --to "$WORK/restored"
assert_eq "size" "$(stat -c %s "$WORK/restored/disk.raw")" "$((1024 * 1024 * MIB))"
assert_le "blocks of the restored" "$(($(stat -c %b "$WORK/restored/disk.raw") * 512))" "$((2 * dirty + 64 * MIB))"
result=$(qemu-img compare -f raw -F raw "$WORK/big.img" "$WORK/restored/disk.raw") || fail "$result"
stop_daemon
