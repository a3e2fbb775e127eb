#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Every point of a vm with two disks is one exact instant of both, while writers and fio go on without a pause:
# counters that go to disk A, then to disk B, are there up to some a and b with b <= a <= b + 1, none missing, none torn.
. "$(dirname "$0")/lib.sh"
need fio pkg-config

size_mib=128 n_points=3 n_lanes=4 fio_rate=8m # of a connection
[ -z "$LONG" ] || size_mib=256 n_points=30 n_lanes=8 fio_rate=32m
size=$((size_mib * MIB))
seed
# shellcheck disable=SC2046 # several options
cc -O2 -o "$WORK/instant" "$SOURCE/tests/integration/tools/instant.c" $(pkg-config --cflags --libs libnbd) -pthread ||
  skip "needs a C compiler and libnbd; scripts/install-packages brings them"
instant() { "$WORK/instant" "$@"; }
run_seed=$RANDOM

# What the writers and fio leave alone is not empty: the audit looks at it.
for disk in a b; do
  truncate -s "$size" "$WORK/$disk.img"
  random_bytes_at "$WORK/$disk.img" "$((size / 2 + MIB))" $((8 * MIB))
done
start_daemon
vm_add vm1 "a=$WORK/a.img" "b=$WORK/b.img"
uri_a=$(uri_of vm1 a) uri_b=$(uri_of vm1 b)

### the load

start_writer() {
  "$WORK/instant" write "$run_seed" "$n_lanes" "$size" "$WORK/progress" "$uri_a" "$uri_b" \
    >"$WORK/writer.log" 2>"$WORK/writer.err" &
  writer_pid=$!
  at_exit kill -9 "$writer_pid"
}

# fio on the last fourth of a disk: three connections that verify what they wrote, and one that trims and writes. It
# goes on until SIGINT.
start_fio() { # DISK URI
  local share=$((size / 16)) first=$((size - size / 4))
  cat >"$WORK/$1.fio" <<END
[global]
ioengine=nbd
uri=$2
bsrange=4k-256k
blockalign=4k
iodepth=4
size=$share
rate=$fio_rate
time_based=1
runtime=86400
randseed=$RANDOM
group_reporting=1
verify_state_save=0
[verify]
rw=randwrite
offset=$first
offset_increment=$share
numjobs=3
verify=crc32c
verify_backlog=32
verify_fatal=1
[trim]
rw=randtrimwrite
offset=$((first + 3 * share))
END
  fio --output-format=json --output="$WORK/$1.fio.json" --aux-path="$WORK" "$WORK/$1.fio" >"$WORK/$1.fio.log" 2>&1 &
  fio_pids+=($!)
  at_exit kill -9 $!
}

end_load() {
  local pid result
  kill -TERM "$writer_pid"
  result=0
  wait "$writer_pid" || result=$?
  assert_eq "exit status of the writer" "$result" 0
  say "the writer: $(cat "$WORK/writer.log")"
  kill -INT "${fio_pids[@]}"
  for pid in "${fio_pids[@]}"; do
    result=0
    wait "$pid" || result=$?
    # 128: ended by a signal, and nothing else.
    [[ $result =~ ^(0|128)$ ]] || fail "fio ended with status $result: $(cat "$WORK"/*.fio.log)"
  done
  for disk in a b; do
    # fio may write notes before its JSON.
    sed -n '/^{/,$p' "$WORK/$disk.fio.json" >"$WORK/fio.json"
    assert_eq "errors of fio on disk $disk" "$(jq '[.jobs[].error] | add' "$WORK/fio.json")" 0
    jq -r --arg disk "$disk" '[.jobs[]] | "fio on disk \($disk): " +
      (["write", "read", "trim"] | map(. as $way | "\($way) \([$jobs[][$way].io_bytes] | add / 1048576 | floor) MiB") | join(", "))
      ' --argjson jobs "$(jq .jobs "$WORK/fio.json")" "$WORK/fio.json"
  done
}

progress() { instant progress "$1" "$WORK/progress"; } # issued|acked
# Each lane is further than in FILE by at least N counters on each disk.
all_moved() { # FILE N
  progress acked | paste -d ' ' "$1" - | awk -v n="$2" '$5 < $2 + n || $6 < $3 + n { exit 1 }'
}
load_goes_on() {
  local pid
  for pid in "$writer_pid" "${fio_pids[@]}"; do
    kill -0 "$pid" 2>/dev/null || fail "the load ended too early: $(cat "$WORK/writer.err" "$WORK"/*.fio.log)"
  done
}

### the points

# check_images FOLDER [least|most FILE]...: prints what the lanes have.
check_images() {
  local folder=$1
  shift
  instant check "$run_seed" "$n_lanes" "$size" "$folder/a.raw" "$folder/b.raw" "$@"
}

take_point() { # N KIND [OPTION...]
  local n=$1 kind=$2 job
  shift 2
  progress acked >"$WORK/asked.$n"
  job=$(backup "$kind" vm1 "$@")
  progress issued >"$WORK/ended.$n"
  load_goes_on
  cbt_json show "$(jq -r .uuid <<<"$job")" >"$WORK/point.json"
  assert_eq "point $n: kind" "$(jq -r .kind "$WORK/point.json")" "$kind"
  assert_eq "point $n: reason of the job" "$(jq .reason <<<"$job")" null
  assert_eq "point $n: reason" "$(jq .reason "$WORK/point.json")" null
  say "point $n: dirty $(jq .dirty <<<"$job"), read $(jq .read <<<"$job"), hold $(jq '."hold-ms"' <<<"$job") ms $*"
}

check_point() { # N: restored, it is an instant between that of the point before, the request and the end
  local n=$1
  rm -rf "$WORK/restored.$((n - 2))"
  cbt --quiet restore vm1@latest --to "$WORK/restored.$n" >/dev/null
  check_images "$WORK/restored.$n" least "$WORK/asked.$n" most "$WORK/ended.$n" least "$WORK/found.$((n - 1))" \
    >"$WORK/found.$n" 2>"$WORK/check.log" || fail "point $n: $(cat "$WORK/check.log")"
  say "point $n: lanes are at $(awk '{ printf "%s%s/%s", sep, $2, $3; sep = ", " }' "$WORK/found.$n")"
}

# refuted FRAGMENT CHECK-IMAGES-ARGUMENT...: the checker says so.
refuted() { expect_exit 1 "$1" check_images "${@:2}"; }

plant_lies() { # N: of point N and the one before
  local now=$WORK/restored.$1 before=$WORK/restored.$(($1 - 1)) lie=$WORK/lie lane slot a
  copy() { rm -rf "$lie" && cp -r --sparse=always "$now" "$lie"; }
  old_bytes() { # DISK OFFSET LENGTH: from the point before
    dd if="$before/$1.raw" of="$lie/$1.raw" bs=512 skip="$(($2 / 512))" seek="$(($2 / 512))" count=$(($3 / 512)) \
      conv=notrunc status=none
  }
  for ((lane = 0; lane < 4; lane++)); do
    a=$(awk -v lane="$lane" '$1 == lane { print $2 }' "$WORK/found.$1")
    a=$((a - 4 - (a - 4) % 8)) # written as data, and so was what it overwrote
    slot=$(instant slot "$n_lanes" "$size" "$lane" 0 "$a")
    copy
    old_bytes a "$slot" 4096
    refuted "lane $lane: $lie/a.raw: has counter" "$lie"
    copy
    old_bytes a "$slot" 2048
    refuted "lane $lane: $lie/a.raw: the slot at $slot is torn" "$lie"
  done
  copy
  cp "$before/b.raw" "$lie/b.raw"
  refuted "of no one instant" "$lie"
  copy
  cp "$before/a.raw" "$lie/a.raw"
  refuted "of no one instant" "$lie"
  copy
  dd if="$now/b.raw" of="$lie/b.raw" bs=64K seek=512 oflag=seek_bytes conv=notrunc status=none
  refuted "is torn" "$lie"
  copy
  cp "$now/a.raw" "$lie/b.raw"
  refuted "is torn" "$lie"
  refuted "should be at least" "$before" least "$WORK/asked.$1"
  refuted "should be at most" "$now" most "$WORK/ended.$(($1 - 1))"
  rm -rf "$lie"
}

### the test

start_writer
fio_pids=()
start_fio a "$uri_a"
start_fio b "$uri_b"
for ((l = 0; l < n_lanes; l++)); do echo "$l 0 0"; done >"$WORK/found.-1"
wait_until 60 test -s "$WORK/progress" || fail "the writer does not start: $(cat "$WORK/writer.err")"
wait_until 60 all_moved "$WORK/found.-1" 1 || fail "the writer does not come on: $(cat "$WORK/writer.err")"
take_point 0 full
check_point 0

# Some are read slowly, so that much of what they have to read is overwritten meanwhile.
speeds=("" 32M 128M)
for ((n = 1; n <= n_points; n++)); do
  wait_until 60 all_moved "$WORK/found.$((n - 1))" 100 || fail "the writer does not come on after point $((n - 1))"
  speed=${speeds[n % ${#speeds[@]}]}
  take_point "$n" incremental ${speed:+--speed "$speed"}
  check_point "$n"
done

say "lies about an instant are found"
plant_lies "$n_points"

say "two disks that are backed up one after the other are of no one instant"
mkdir "$WORK/apart"
for disk in a b; do
  progress acked >"$WORK/found.apart"
  backup full vm1 --disk "$disk" >/dev/null
  cbt --quiet restore vm1@latest --to "$WORK/apart.$disk" >/dev/null
  mv "$WORK/apart.$disk/$disk.raw" "$WORK/apart/"
  wait_until 60 all_moved "$WORK/found.apart" 10 || fail "the writer does not come on"
done
refuted "of no one instant" "$WORK/apart"

say "the last point, after the load, equals the images"
end_load
backup incremental vm1 >/dev/null
cbt --quiet restore vm1@latest --to "$WORK/last" >/dev/null
for disk in a b; do assert_same_file "disk $disk" "$WORK/last/$disk.raw" "$WORK/$disk.img"; done
progress acked >"$WORK/end"
check_images "$WORK/last" least "$WORK/end" most "$WORK/end" >/dev/null
stop_daemon
