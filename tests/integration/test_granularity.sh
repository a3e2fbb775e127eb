#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Granularities finer and coarser than a cluster, on disks whose last cluster is not whole, with two disks of which a
# backup may take one, and a second bitmap: every point equals copies of the disks taken at its instant.
. "$(dirname "$0")/lib.sh"

seed
rounds=4
[ -z "$LONG" ] || rounds=12
size=$((100 * MIB + 512))

# Random changes of one disk, its end now and then among them.
change() { # URI
  local uri=$1 n offset length commands=()
  for n in 1 2 3 4 5 6; do
    length=$(((1 + $(random_below 400)) * 512))
    offset=$(($(random_below $(((size - length) / 512))) * 512))
    case $((RANDOM % 4)) in
      0) commands+=("write -z $offset $length") ;;
      1) commands+=("discard $offset $length") ;;
      *) commands+=("write -P $((1 + RANDOM % 255)) $offset $length") ;;
    esac
  done
  if [ $((RANDOM % 2)) -eq 0 ]; then commands+=("write -P $((1 + RANDOM % 255)) $((size - 512)) 512"); fi
  io "$uri" "${commands[@]}" flush
}

# Notes the point of JOB and copies of the disks that it has.
note() { # VM JOB DISK...
  local vm=$1 uuid disk
  uuid=$(jq -r .uuid <<<"$2")
  shift 2
  for disk in "$@"; do
    cp --sparse=always "$WORK/$vm.$disk.img" "$WORK/oracle.$uuid.$disk"
    printf '%s %s\n' "$uuid" "$disk" >>"$WORK/$vm.noted"
  done
}

# The clusters that differ between two copies are among those that `changes` to live names.
check_live() { # VM DISK POINT
  clusters diff "$WORK/oracle.$3.$2" "$WORK/$1.$2.img" >"$WORK/differ"
  cbt_json changes "$1/$2" --from "$3" --to live >"$WORK/live.json"
  changes_clusters <"$WORK/live.json" >"$WORK/live"
  assert_subset "changes of $1/$2 to live" "$WORK/differ" "$WORK/live"
}

check_round() { # VM ROUND
  local vm=$1 job
  change "$uri_a"
  [ $((RANDOM % 3)) -eq 0 ] || change "$uri_b"
  check_live "$vm" a "$latest_a"
  case $(($2 % 4)) in
    0)
      job=$(backup incremental "$vm" --disk a)
      note "$vm" "$job" a
      latest_a=$(jq -r .uuid <<<"$job")
      ;;
    1)
      job=$(backup incremental "$vm" --disk b)
      note "$vm" "$job" b
      ;;
    2)
      job=$(backup incremental "$vm" --bitmap offsite)
      note "$vm" "$job" a b
      ;;
    3)
      job=$(backup incremental "$vm")
      note "$vm" "$job" a b
      latest_a=$(jq -r .uuid <<<"$job")
      ;;
  esac
  assert_eq "$vm round $2: reason" "$(jq -r .reason <<<"$job")" null
}

check_granularity() { # GRANULARITY
  local vm=vm$1 job round uuid disk
  for disk in a b; do
    truncate -s "$size" "$WORK/$vm.$disk.img"
    random_bytes_at "$WORK/$vm.$disk.img" 1000448 3000832
  done
  cbt --quiet vm add "$vm" --disk "a=$WORK/$vm.a.img" --disk "b=$WORK/$vm.b.img" --granularity "$1" >/dev/null
  uri_a=$(uri_of "$vm" a)
  uri_b=$(uri_of "$vm" b)
  cbt --quiet bitmap add "$vm/a:offsite" --granularity 64K >/dev/null
  cbt --quiet bitmap add "$vm/b:offsite" >/dev/null
  job=$(backup full "$vm" --bitmap offsite)
  note "$vm" "$job" a b
  job=$(backup full "$vm")
  note "$vm" "$job" a b
  latest_a=$(jq -r .uuid <<<"$job")
  for ((round = 0; round < rounds; round++)); do check_round "$vm" "$round"; done
  while read -r uuid disk; do
    restore_matches "$uuid" "$disk" "$WORK/oracle.$uuid.$disk"
  done <"$WORK/$vm.noted"
  cbt --quiet export stop "$vm" >/dev/null
  rm -f "$WORK"/oracle.*
  say "granularity $1: $(wc -l <"$WORK/$vm.noted") restored disks equal their copies"
}

start_daemon
for granularity in 4K 64K 1M 16M; do check_granularity "$granularity"; done
stop_daemon
