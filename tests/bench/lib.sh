# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What the benchmarks share. A script sets build, cache and work, then sources this.
# shellcheck disable=SC2034,SC2154 # variables here are for the scripts, and the scripts' are used here
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C

need_root() {
  [ "$(id -u)" -eq 0 ] || { echo "$(basename "$0"): needs root, to drop the page cache" >&2; exit 1; }
}
pause() { read -rt "$1" <> <(:) || true; }
wait_for() { # COMMAND...: until it succeeds, 20 seconds at most
  for _ in $(seq 400); do
    ! "$@" >/dev/null 2>&1 || return 0
    pause 0.05
  done
  echo "$(basename "$0"): this does not come about: $*" >&2
  exit 1
}
cold() {
  sync
  echo 3 >/proc/sys/vm/drop_caches
}
median() { sort -n "$@" | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
allocated() { # FILE|FOLDER: its bytes; 0 if it is not there
  { du -s --block-size=1 "$1" 2>/dev/null || echo 0; } | cut -f 1
}

# An ext4 image of SIZE with MIB of this machine's files. They are linked where that can be, so that they cost no space but
# that in the image.
build_image() { # FILE SIZE MIB
  local image=$1 folder=$1.files room=$(($3 << 20))
  [ ! -s "$image" ] || return 0
  echo "Building $image"
  rm -rf "$folder" "$image.new"
  mkdir -p "$folder"
  find /usr /opt -xdev -type f -printf '%s %p\0' 2>/dev/null | sort -z -k2 |
    awk -v RS='\0' -v ORS='\0' -v room="$room" '{ size = $1; sub(/^[0-9]+ /, ""); if (total + size <= room) { total += size; print } }' >"$image.list"
  xargs -0 cp -l --parents -t "$folder" <"$image.list" 2>/dev/null ||
    xargs -0 cp --parents -t "$folder" <"$image.list"
  truncate -s "$2" "$image.new"
  mkfs.ext4 -q -F -d "$folder" "$image.new"
  rm -rf "$folder" "$image.list"
  sync "$image.new"
  mv "$image.new" "$image"
}

### the daemon, whose state is $state: $work/state if not set

cbt() { "$build/bin/cbt-backup" --socket "$work/run/api.sock" "$@"; }
# In a session of its own, as a service has it: niceness counts only within one.
start_daemon() { # OPTION...: sets daemon
  setsid "$build/bin/cbt-backupd" --state-dir "${state:-$work/state}" --runtime-dir "$work/run" "$@" >"$work/daemon.log" 2>&1 &
  daemon=$!
  wait_for cbt status
}
stop_daemon() {
  [ -n "${daemon:-}" ] || return 0
  kill "$daemon"
  wait "$daemon" || { cat "$work/daemon.log" >&2; exit 1; }
  daemon=
}
