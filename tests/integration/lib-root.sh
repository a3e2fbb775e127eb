# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A fresh Debian 12 in $ROOT with the packages built from this tree in $ROOT/root, for tests that have sourced lib.sh.
# On a tmpfs, where there is room: dpkg syncs each file.

# make_packages FOLDER: cbt-backup_*.deb and cbt-vma_*.deb.
make_packages() {
  mkdir -p "$1"
  (cd "$BUILD" && cpack -G DEB -B "$1") >"$WORK/cpack.log" 2>&1 || fail "cpack: $(tail -n 5 "$WORK/cpack.log")"
}

make_root() {
  local base=/dev/shm tar
  need_root "a root of its own is made with chroot"
  need cpack dpkg-deb dpkg-shlibdeps mmdebstrap chroot unshare
  sanitized && skip "the packages are those of a release build"
  [ -d "$base" ] && [ "$(df --output=avail -k "$base" | tail -n 1)" -gt 1500000 ] || base=$WORK
  ROOT=$(mktemp -d "$base/cbt-root.XXXXXX")
  at_exit rm -rf --one-file-system "$ROOT"
  make_packages "$WORK/packages"
  tar=$("$SOURCE/tests/packages/mkroot" "$WORK"/packages/*.deb 2>"$WORK/mkroot.err") ||
    skip "there is no fresh Debian: $(cat "$WORK/mkroot.err")"
  tar -C "$ROOT" -xf "$tar" --exclude='./dev/*'
  cp "$WORK"/packages/*.deb "$ROOT/root/"
}
