#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Several backup programs fight for one bitmap, with leases so short that some end under them, while the guest writes
# and the daemon and the export are killed: each write is in a round that somebody ended well, or is still dirty.
. "$(dirname "$0")/lib.sh"
need nbdkit
seed

n_workers=3 n_kills=3 batches=18
[ -z "$LONG" ] || n_kills=20 batches=120
unit=4096
truncate -s 64M "$WORK/disk.img"
start_daemon
vm_add web "root=$WORK/disk.img"
cbt --quiet bitmap add web/root:vendor --granularity 4K
uri=$(uri_of web)
bitmap=http://localhost/v1/vms/web/disks/root/bitmaps/vendor
changes=http://localhost/v1/vms/web/disks/root/changes

# call FILE METHOD URL [BODY]: sets $code; 000 if no answer came.
call() {
  code=$(curl -sS --unix-socket "$SOCKET" -o "$1" -w '%{http_code}' -X "$2" ${4:+--data-binary "$4"} "$3" \
    2>/dev/null) || code=000
}
units() { jq -r --argjson unit "$unit" '.extents[] | range(.offset / $unit; (.offset + .length) / $unit)' "$1"; }

# worker N: rounds until there is $WORK/stop; what was read is in seen.N when the round ended well, or may have: the
# daemon or the export was killed (503) meanwhile.
worker() {
  local n=$1 mine=$WORK/worker.$1 lease fate seconds
  RANDOM=$((seed_of_workers + n))
  while [ ! -e "$WORK/stop" ]; do
    pause "0.0$((RANDOM % 5))"
    fate=$((RANDOM % 16)) seconds=3
    [[ $fate != [03] ]] || seconds=1
    call "$mine" POST "$bitmap/create-successor" "{\"lease\":$seconds}"
    [ "$code" = 200 ] || continue
    lease=$(jq -r '."lease-id"' "$mine")
    call "$mine.changes" GET "$changes?bitmap=vendor&lease=$lease&limit=100000"
    [ "$code" = 200 ] || continue
    case $fate in
      0) pause 1.1 ;; # too late, mostly
      1) call "$mine" POST "$bitmap/renew" "{\"lease\":\"$lease\",\"seconds\":2}" ;;
      2) call "$mine" POST "$bitmap/reclaim" "{\"lease\":\"$lease\"}" && continue ;;
      3) continue ;; # it died
    esac
    call "$mine" POST "$bitmap/abdicate" "{\"lease\":\"$lease\"}"
    echo "$code" >>"$WORK/codes"
    case $code in
      200 | 000 | 503) units "$mine.changes" >>"$WORK/seen.$n" ;;
      409) ;;
      *) cat "$mine" >>"$WORK/worker.err" ;;
    esac
  done
}

seed_of_workers=$RANDOM
pids=()
for ((n = 0; n < n_workers; n++)); do
  : >"$WORK/seen.$n"
  worker "$n" &
  pids+=($!)
done
next=0
for ((batch = 1; batch <= batches; batch++)); do
  commands=()
  for ((n = 0; n < 10; n++)); do
    commands+=("write -P 7 $((next * unit)) 512")
    next=$((next + 1 + RANDOM % 3))
  done
  printf '%s\n' "${commands[@]}" | awk -v unit="$unit" '{ print $4 / unit }' >>"$WORK/written"
  io "$uri" "${commands[@]}" flush
  pause "0.$((RANDOM % 4))"
  if [ $((batch % (batches / n_kills))) -eq 0 ]; then
    kill_daemon
    start_daemon
    [ $((RANDOM % 2)) -eq 0 ] || kill_export web
  fi
done
touch "$WORK/stop"
wait "${pids[@]}"
[ ! -s "$WORK/worker.err" ] || fail "a worker was answered: $(head -n 3 "$WORK/worker.err")"
wait_until 30 bitmap_is web/root:vendor active || fail "the last lease does not end"
cbt_json changes web/root --bitmap vendor >"$WORK/left"
units "$WORK/left" >"$WORK/seen.left"
sort -u "$WORK"/seen.* >"$WORK/all.seen"
sort -u "$WORK/written" >"$WORK/all.written"
say "$(wc -l <"$WORK/all.written") writes, $(wc -l <"$WORK/seen.left") of them left"
say "answers to abdicate:$(sort "$WORK/codes" | uniq -c | tr -s ' \n' ' ')"
assert_subset "writes that nobody was told of" "$WORK/all.written" "$WORK/all.seen"
assert_subset "units that nobody wrote" "$WORK/all.seen" "$WORK/all.written"
grep -q 200 "$WORK/codes" || fail "no round ended well"
cbt --quiet export stop web
stop_daemon
