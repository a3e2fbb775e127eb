# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# One function for each thing that is measured of each tool, run in a shell of its own. They take $image, the disk, $repos,
# the repositories, and $restored, an empty folder.
# shellcheck disable=SC2154
export work build image

use_repositories() { # FOLDER
  export repos=$1 state=$1/state
  export BORG_BASE_DIR=$repos/borg.home BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes BORG_RELOCATED_REPO_ACCESS_IS_OK=yes
  export RESTIC_REPOSITORY=$repos/restic RESTIC_PASSWORD=bench RESTIC_CACHE_DIR=$repos/restic.cache
}
new_repositories() {
  mkdir -p "$repos"
  borg init -e none "$repos/borg" 2>/dev/null
  restic init --repository-version 2 >/dev/null
}

qemu_full() {
  qemu-img convert -c -O qcow2 -o compression_type=zstd "$image" "$work/full.qcow2"
  sync "$work/full.qcow2"
}
borg_full() { borg create --compression zstd,1 "$repos/borg::full" "$image"; }
borg_again() { borg create --compression zstd,1 "$repos/borg::{now:%s}" "$image"; }
borg_restore() {
  cd "$restored" || exit
  borg extract --sparse "$repos/borg::full"
  sync -f "$restored"
}
restic_full() { restic backup --quiet --tag full "$image"; }
restic_again() { restic backup --quiet "$image"; }
restic_restore() {
  restic restore --quiet latest --tag full --target "$restored"
  sync -f "$restored"
}
ours_full() { cbt --json --full bench; }
ours_incremental() { cbt --json --incremental changed; }
ours_restore() { cbt --json restore bench@latest --to "$restored"; }
ours_restore_in_place() { cbt --json restore bench@latest --to "$restored" --in-place; }
export -f cbt qemu_full borg_full borg_again borg_restore restic_full restic_again restic_restore ours_full ours_incremental \
  ours_restore ours_restore_in_place

# Work on the files of the disk at URI, as a guest does it: mounted, through the tracked export.
work_on_files() { # URI MIB SEED
  mkdir -p "$work/files"
  : >"$work/fuse"
  nbdfuse -P "$work/fuse.pid" "$work/fuse" "$1" &
  wait_for test -s "$work/fuse.pid"
  loop=$(losetup -f --show "$work/fuse")
  mount "$loop" "$work/files"
  "$source_dir/tests/bench/file-work" "$work/files" "$2" "$3"
  umount "$work/files"
  losetup -d "$loop"
  loop=
  umount "$work/fuse"
  wait "$!" || true
  rm -f "$work/fuse.pid"
  sync
}
