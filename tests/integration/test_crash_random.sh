#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# kill -9 of the export, of the daemon, or of both, at any moment and under a writer that never stops: the dirty bits
# cover every cluster that differs from the last point, every point restores, and no bitmap stays frozen.
. "$(dirname "$0")/lib.sh"
need nbdkit

size_mib=64 rounds=15
[ -z "$LONG" ] || rounds=300
rounds=${CBT_TEST_ROUNDS:-$rounds}
seed
cc -O2 -o "$WORK/writer" "$SOURCE/tests/integration/tools/writer.c" -lnbd -lpthread ||
  skip "needs a C compiler and libnbd-dev"
random_image "$WORK/disk.img" "$size_mib"
start_daemon
vm_add vm1 "root=$WORK/disk.img"
uri_of vm1 >/dev/null
bitmap=$STATE/bitmaps/vm1/root/default.bitmap

### the writer

"$WORK/writer" "$RUN/exports/vm1/root.nbd" "$size_mib" "$RANDOM" "$WORK/writer.status" 2>"$WORK/writer.err" &
writer=$!
at_exit kill "$writer"
writer_says() { grep -q "^$1 " "$WORK/writer.status"; }
pause_writer() {
  kill -USR1 "$writer"
  wait_until 30 writer_says paused || fail "the writer does not pause"
}
resume_writer() {
  kill -USR2 "$writer"
  wait_until 30 writer_says running || fail "the writer does not go on"
}
wait_until 10 writer_says running || fail "the writer does not start"

### processes

# Ids of the export's processes, also of one that is just starting; nothing is started for it.
export_pids() {
  local folder words
  for folder in /proc/[0-9]*; do
    mapfile -d '' -t words <"$folder/cmdline" || continue
    [[ "${words[*]}" = *" $RUN/exports/vm1/root.nbd "* && ${words[0]} = nbdkit ]] && echo "${folder#/proc/}"
  done 2>/dev/null
}
kill_exports() { local pid; for pid in $(export_pids); do kill -KILL "$pid" 2>/dev/null || true; done; }
kill_victim() {
  [ "$victim" = export ] || disown "$DAEMON_PID" # the shell would tell of its end
  case $victim in
    export) kill -KILL "$export_pid" 2>/dev/null || true ;;
    daemon) kill -KILL "$DAEMON_PID" ;;
    both) kill -KILL "$DAEMON_PID" "$export_pid" 2>/dev/null || true ;;
  esac
}
daemon_is_reaped() { ! kill -0 "$DAEMON_PID" 2>/dev/null; } # a zombie's threads may still hold its locks
bring_back() {
  if [ "$victim" != export ]; then
    wait_until 10 daemon_is_reaped || fail "the daemon survived kill -9"
    start_daemon
  else
    wait_until 20 export_has_other_pid vm1 "$export_pid" || true
  fi
  # Five deaths in a minute, and it stays down until somebody looks.
  if ! wait_until 5 exports_run vm1; then
    cbt --quiet export stop vm1 2>/dev/null || true
    cbt --quiet export start vm1 >/dev/null
    n_by_hand=$((n_by_hand + 1))
  fi
}

### moments: each of them returns just before the kill

short_pause() { pause "0.$(printf %03d "$(random_below "$1")")"; } # up to so many milliseconds
start_job() { job=$(start_backup "$1" vm1 "${@:2}"); }
point_files() { set -- "$STATE"/store/points/*; echo $#; }
until_point_file() { # or the end of the job, which may come first
  local n=$1 end=$((SECONDS + 3))
  while [ "$(point_files)" = "$n" ] && [ $SECONDS -le $end ]; do :; done
}

moment_idle() { short_pause 200; }
moment_freeze() { start_job incremental && short_pause 25; }
moment_full() { start_job full --speed 80M && short_pause 700; }
moment_incremental() { start_job incremental --speed 8M && short_pause 400; }
moment_end() { start_job incremental && short_pause 250; }
moment_commit() { # a point's file is about to come, or has just come
  local n
  n=$(point_files)
  start_job incremental
  until_point_file "$n"
}
moment_abdicate() {
  moment_commit
  short_pause 12
}
# The one before dies, and then whoever takes its place, at its start.
moment_restart() {
  kill_victim
  if [ "$victim" != export ]; then
    wait_until 10 daemon_is_reaped || fail "the daemon survived kill -9"
    "$BUILD/bin/cbt-backupd" --state-dir "$STATE" --runtime-dir "$RUN" >>"$WORK/daemon.log" 2>&1 &
    DAEMON_PID=$!
  fi
  short_pause 120
  [ "$victim" = daemon ] || kill_exports
}
moments=(idle freeze full incremental end commit abdicate restart)

### what is checked after each kill

state_in_file() { # of the bitmap as the dead left it, docs/formats/bitmap.md
  local states=(active disabled frozen inconsistent)
  echo "${states[$(od -An -tu4 -j32 -N4 "$bitmap")]}"
}

# The job of the round has ended, and says why if it failed.
check_job() {
  local json
  [ -n "$job" ] || return 0
  json=$(wait_job "$job")
  case $(jq -r .status <<<"$json") in
    done) n_done=$((n_done + 1)) ;;
    error)
      n_failed=$((n_failed + 1))
      assert_ne "errmsg of job $job" "$(jq -r '.errmsg // ""' <<<"$json")" ""
      ;;
    *) fail "job $job after the kill: $json" ;;
  esac
}

take_base() { # the point is what the bits are relative to from now on
  base=$1
  rm -rf "$WORK/base"
  cbt --quiet restore "$base" --to "$WORK/base" >/dev/null || fail "restore of $base failed"
  n_points=$((n_points + 1))
}

# The image is copied first, the bits are asked for then: what differs in the copy was marked before it was written.
check_cover() {
  local latest counts
  latest=$(cbt_json show vm1@latest | jq -r .uuid)
  [ "$latest" = "$base" ] || take_base "$latest"
  cp "$WORK/disk.img" "$WORK/now.img"
  cbt_json changes vm1/root --from "$base" --to live >"$WORK/changes.json" || fail "no changes since $base"
  assert_eq "proof" "$(jq -r .proof "$WORK/changes.json")" superset
  jq -r '.extents[] | "\(.offset) \(.length)"' "$WORK/changes.json" |
    clusters cover "$WORK/base/root.raw" "$WORK/now.img" >"$WORK/counts"
  read -ra counts <"$WORK/counts"
  needed=$((needed + counts[0])) missed=$((missed + counts[1])) excess=$((excess + counts[2]))
  assert_eq "$what: clusters that differ from $base and are not dirty" "${counts[1]}" 0
}

# A backup of a disk that stands still equals it, and is an incremental one whatever was killed before.
check_backup() {
  local result
  pause_writer
  result=$(backup incremental vm1)
  assert_eq "$what: kind, reason of the next" "$(jq -c '[.kind, .reason]' <<<"$result")" '["incremental",null]'
  assert_eq "$what: bitmap after the next" "$(bitmap_state vm1/root)" active
  read_bytes=$((read_bytes + $(jq .dirty <<<"$result")))
  take_base "$(jq -r .uuid <<<"$result")"
  assert_same_file "$what: restore" "$WORK/base/root.raw" "$WORK/disk.img"
  resume_writer
}

### rounds

declare -A kills=() at=()
needed=0 missed=0 excess=0 read_bytes=0 n_points=0 n_done=0 n_failed=0 n_frozen=0 n_by_hand=0 base=
backup full vm1 >/dev/null
victims=(export daemon both)
for ((round = 1; round <= rounds; round++)); do
  victim=${victims[$(random_below 3)]} moment=${moments[$(random_below ${#moments[@]})]} job=
  what="round $round ($victim, $moment)"
  export_pid=$(export_pid vm1)
  "moment_$moment"
  kill_victim
  found=$(state_in_file)
  [ "$found" != frozen ] || n_frozen=$((n_frozen + 1))
  kills[$victim]=$((${kills[$victim]:-0} + 1)) at[$moment]=$((${at[$moment]:-0} + 1))
  bring_back
  check_job
  check_cover
  [ $((round % 5)) -ne 0 ] || check_backup
done
what="after the last round"
check_backup
pause_writer
read -r _ n_writes n_connections <"$WORK/writer.status"

say "all points restore"
for point in $(points vm1); do
  cbt --quiet restore "$point" --to "$WORK/restored" >/dev/null || fail "restore of $point failed"
  rm -rf "$WORK/restored"
done
say "the last one again, by a full backup"
backup full vm1 >/dev/null
restore_matches vm1@latest root "$WORK/disk.img"

said() { grep -cE "$1" "$WORK/daemon.log" || true; }
say "kills: $rounds: export ${kills[export]:-0}, daemon ${kills[daemon]:-0}, both ${kills[both]:-0}"
say "at: $(for m in "${moments[@]}"; do printf '%s %s, ' "$m" "${at[$m]:-0}"; done)bitmap found frozen $n_frozen times"
say "afterwards: $(said 'left frozen: reclaim') reclaimed, $(said 'left frozen: abdicate') abdicated," \
  "$(said 'taken into the catalogue') points adopted; jobs: $n_done done, $n_failed failed"
say "guest: $n_writes writes, $n_connections connections; exports started by hand: $n_by_hand"
say "clusters that differed $needed, missed $missed, dirty without need $excess" \
  "($((excess * 10000 / (needed + 1) / 100)).$(printf %02d $((excess * 10000 / (needed + 1) % 100))) %)"
say "points restored and compared: $n_points; bytes read by the compared backups: $read_bytes"
assert_eq "missed" "$missed" 0
kill "$writer"
cbt --quiet export stop vm1
stop_daemon
