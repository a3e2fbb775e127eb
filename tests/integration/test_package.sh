#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The packages install, work, and are removed and purged on a fresh Debian 12; purge keeps recovery points, and says so.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-root.sh"

make_root
cp "$SOURCE/tests/packages/day" "$ROOT/root/"

# What is started in it ends with it, and all mounts go.
# shellcheck disable=SC2016
unshare --mount --pid --fork --kill-child bash -c '
  mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && mount -t tmpfs tmpfs "$1/run" && exec chroot "$1" /root/day
' bash "$ROOT" >"$WORK/day.log" 2>&1 </dev/null || fail "$(tail -n 15 "$WORK/day.log")"
assert_eq "the last line" "$(tail -n 1 "$WORK/day.log")" "done"

# lintian's errors, where it is installed. No maintainer's address is known here, there is no history to tell, and manual pages are small.
if command -v lintian >/dev/null; then
  found=$(lintian --allow-root --fail-on none --suppress-tags bogus-mail-host,no-changelog,uncompressed-manual-page "$WORK"/packages/*.deb 2>&1 | grep '^E:' || true)
  [ -z "$found" ] || fail "lintian: $found"
fi
