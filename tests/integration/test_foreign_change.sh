#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What others did to the image or to the bitmaps behind the tracker is noticed, named, and answered by reading again:
# also when they put times back, and when they put older bitmaps back.
. "$(dirname "$0")/lib.sh"
need nbdkit

image=$WORK/disk.img
folder=$STATE/bitmaps/vm1/root
random_image "$image" 16
start_daemon
vm_add vm1 "root=$image"
backup full vm1 >/dev/null

n_writes=0
write_tracked() { # one cluster, another one each time, through the export
  n_writes=$((n_writes + 1))
  io "$(uri_of vm1)" "write -P $n_writes $((n_writes % 200 * CLUSTER)) 64k" flush
}
stop_export() {
  running_exports vm1 >/dev/null
  cbt --quiet export stop vm1
}
kill_all() { # the daemon first, which would start another export
  local pid
  pid=$(export_pid vm1)
  kill_daemon
  kill -KILL "$pid"
  wait_until 10 is_gone "$pid" || fail "the export survived kill -9"
}
is_gone() { ! kill -0 "$1" 2>/dev/null; }

# reads_again WHAT FRAGMENT: the next incremental says why it reads again, and is right; in the long variant, the one
# after it is ordinary.
reads_again() {
  local job reason
  job=$(backup incremental vm1)
  reason=$(jq -r '.reason // ""' <<<"$job")
  say "$1: $reason"
  assert_ne "$1: reason" "$reason" ""
  assert_has "$1: reason" "$reason" "$2"
  assert_eq "$1: the point's reason" "$(cbt_json show vm1@latest | jq -r .reason)" "$reason"
  assert_ge "$1: read (holes are not)" "$(jq .read <<<"$job")" "$((8 * MIB))"
  restore_matches vm1@latest root "$image"
  [ -z "$LONG" ] || ordinary "after $1"
}
# ordinary WHAT [CLUSTERS]: the next incremental reads what was written, one cluster more than CLUSTERS, and no more.
ordinary() {
  local job
  write_tracked
  job=$(backup incremental vm1)
  assert_eq "$1: kind, reason, dirty" "$(jq -c '[.kind, .reason, .dirty]' <<<"$job")" \
    "[\"incremental\",null,$(((${2:-0} + 1) * CLUSTER))]"
  restore_matches vm1@latest root "$image"
}
# unseen COMMAND...: COMMAND on the image, with its modification time put back.
unseen() {
  touch -r "$image" "$WORK/time"
  "$@"
  touch -r "$WORK/time" "$image"
}

### the image

ordinary "before anything happened"
for how in seen unseen; do
  word="modification time"
  [ $how = seen ] || word="change time"
  stop_export
  [ $how = seen ] && random_bytes_at "$image" 1000000 10
  [ $how = seen ] || unseen random_bytes_at "$image" 1000000 10
  reads_again "written behind a stopped export, $how" "$word"

  shrink_and_grow() { truncate -s 9M "$image" && truncate -s 16M "$image"; }
  stop_export
  [ $how = seen ] && shrink_and_grow
  [ $how = seen ] || unseen shrink_and_grow
  reads_again "shrunk and grown to the same size, $how" "$word"

  stop_export
  stop_daemon
  [ $how = seen ] && random_bytes_at "$image" 2000000 10
  [ $how = seen ] || unseen random_bytes_at "$image" 2000000 10
  start_daemon
  reads_again "written while all was stopped, $how" "$word"
done

other_file() { # with the times of the first one
  cp --preserve=all "$image" "$WORK/other.img"
  random_bytes_at "$WORK/other.img" 3000000 10
  touch -r "$image" "$WORK/other.img"
  mv "$WORK/other.img" "$image"
}
stop_export
other_file
reads_again "another file in its place" "inode"
stop_export
stop_daemon
other_file
start_daemon
reads_again "another file in its place while all was stopped" "inode"
write_tracked
other_file
expect_exit 4 "replaced" cbt --incremental vm1
stop_export
reads_again "another file in its place while it was exported" "inode"

say "what alters only the change time costs a re-read, and the reason says what it can be"
stop_export
chmod 600 "$image"
reads_again "chmod" "chmod"
say "while it is exported, nobody minds"
write_tracked
chmod 644 "$image"
ordinary "chmod while exported" 1
stop_export
ordinary "and after a clean stop"

### the bitmaps

copy_folder() { # as it is now, in use or not
  rm -rf "$WORK/copy"
  cp -a "$folder" "$WORK/copy"
}
overwrite() { cp -a "$WORK/copy/." "$folder/"; } # same inodes
replace() { # other inodes
  mv "$folder" "$WORK/away.$RANDOM$RANDOM"
  cp -a "$WORK/copy" "$folder"
}

for how in overwrite replace; do
  say "older bitmaps put back: $how"
  stop_export
  copy_folder
  write_tracked
  stop_export
  "$how"
  reads_again "$how: copied after a clean stop, put back after another" "modification time"

  write_tracked
  copy_folder
  write_tracked
  kill_all
  "$how"
  start_daemon
  reads_again "$how: copied in use, put back after kill -9" "older copy"

  [ -n "$LONG" ] || [ $how = overwrite ] || continue
  write_tracked
  copy_folder
  backup incremental vm1 >/dev/null
  write_tracked
  kill_all
  "$how"
  start_daemon
  reads_again "$how: copied in use before a backup, put back after kill -9" "older copy"

  write_tracked
  copy_folder
  write_tracked
  stop_export
  "$how"
  reads_again "$how: copied in use, put back after a clean stop" "nothing tells"

  stop_export
  copy_folder
  write_tracked
  kill_all
  "$how"
  start_daemon
  reads_again "$how: copied after a clean stop, put back after kill -9" "modification time"

  say "put back while nothing was written since, it is the same"
  write_tracked
  copy_folder
  kill_all
  "$how"
  start_daemon
  ordinary "$how: the same bitmaps" 1
done

say "kill -9 alone costs nothing"
write_tracked
kill_all
start_daemon
ordinary "after kill -9" 1

say "without what vouches for them, bitmaps that were killed are not believed"
write_tracked
kill_all
rm -rf "$RUN/witness"
start_daemon
reads_again "the witness is gone" "nothing tells"
for pid in $(processes_of_test); do [ "$pid" = "$DAEMON_PID" ] || kill -KILL "$pid" 2>/dev/null || true; done
stop_daemon
