# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck disable=SC2034 # variables here are for the tests and for lib.sh
# Runs the commands that documents show, as they stand there, in a world of their own: /run, /srv, /mnt, /etc, /dev and /var/lib are the
# test's, and all that was started ends with it. Before lib.sh:
#
#   . lib-docs.sh; enter_sandbox "$@"
#   . lib.sh; furnish_sandbox
#
#   document docs/qemu.md
#   block 'cbt-backup vm add' [SED-SCRIPT]    # the next block begins so; it is run
#   no_run 'qemu-nbd' REASON...               # it is not, and why
#   end_document                              # fails if blocks are left
#
# So the calls of a document are the list of its blocks, and a new one fails until somebody says how it is tried.

enter_sandbox() {
  [ -z "${CBT_DOCS_SANDBOX:-}" ] || return 0
  [ "$(id -u)" -eq 0 ] || { echo "skipped: needs root: mounts"; exit 77; }
  unshare --mount --pid true 2>/dev/null || { echo "skipped: namespaces cannot be made here"; exit 77; }
  CBT_DOCS_SANDBOX=1 exec unshare --mount --pid --fork --kill-child --mount-proc bash "$0" "$@"
}

# private FOLDER [SOURCE]: a folder of the test's in its place, with what SOURCE has.
private() {
  mkdir -p "$WORK/world$1"
  [ -z "${2:-}" ] || cp -a "$2/." "$WORK/world$1"
  mount --bind "$WORK/world$1" "$1"
}

furnish_sandbox() {
  private /run
  private /srv
  private /mnt
  private /var/lib
  private /etc /etc
  mkdir "$WORK/dev" /var/lib/images /run/vm /mnt/usb "$WORK/bin"
  mount -t tmpfs -o mode=755 tmpfs "$WORK/dev"
  cp -a /dev/{null,zero,full,random,urandom,tty,ptmx} "$WORK/dev"
  ln -s /proc/self/fd "$WORK/dev/fd"
  mkdir "$WORK/dev/shm" "$WORK/dev/vg0" # a disk there is a file, not a device: what a device does has tests of its own
  mount --move "$WORK/dev" /dev
  PATH=$WORK/bin:$BUILD/bin:$PATH
  SOCKET=/run/cbt-backup/api.sock STATE=/var/lib/cbt-backup RUN=/run/cbt-backup
  cd "$WORK" || exit
}

# stand_in NAME: what follows on standard input is the program NAME.
stand_in() {
  { echo '#!/bin/bash'; cat; } >"$WORK/bin/$1"
  chmod +x "$WORK/bin/$1"
}

# document FILE [LANGUAGE]: its blocks of that language (sh) are files now.
document() {
  DOCUMENT=$1
  rm -rf "$WORK/blocks"
  mkdir "$WORK/blocks"
  awk -v language="${2:-sh}" -v folder="$WORK/blocks" '
    /^```/ { inside = !inside; if (inside) { name = ""; if ($0 == "```" language) name = sprintf("%s/%03d", folder, ++n) } next }
    inside && name { print >name }' "$SOURCE/$DOCUMENT"
  say "$DOCUMENT: $(find "$WORK/blocks" -type f | wc -l) blocks"
}
# Sets $next: the first block that had no turn yet, which begins with TEXT.
next_block() {
  next=$(find "$WORK/blocks" -type f | sort | head -n 1)
  [ -n "$next" ] || fail "$DOCUMENT has no more blocks; '$1' is expected"
  [[ $(<"$next") = "$1"* ]] || fail "$DOCUMENT: the next block should begin with '$1', but is: $(<"$next")"
}
# The shell is the test's: a function, a variable, a process in the background is there for the next block, and the test ends where a
# command fails.
block() { # TEXT [SED-SCRIPT]
  next_block "$1"
  sed -e "${2:-}" "$next" >"$WORK/block.sh"
  rm "$next"
  say "$DOCUMENT: $1"
  # shellcheck disable=SC1091
  . "$WORK/block.sh"
}
no_run() {
  next_block "$1"
  say "$DOCUMENT: not run: '$1': $2"
  rm "$next"
}
end_document() {
  next=$(find "$WORK/blocks" -type f | sort | head -n 1)
  [ -z "$next" ] || fail "$DOCUMENT has a block that this test does not know; say how it is tried: $(<"$next")"
}
# The daemon of a document's own line, `cbt-backupd ... &`.
take_daemon() {
  DAEMON_PID=$!
  wait_until 30 daemon_answers || fail "the daemon of $DOCUMENT does not answer"
}
