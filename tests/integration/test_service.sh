#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The service, under a real systemd in a fresh Debian: what is done to the daemon is not done to exports and their clients.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-root.sh"

need systemd-nspawn systemd-analyze
make_root
cp "$SOURCE/tests/packages/service-day" "$ROOT/root/"

### the unit by itself

unpacked=$WORK/unpacked
dpkg-deb -x "$WORK"/packages/cbt-backup_*.deb "$unpacked"
cp -a "$unpacked/." "$ROOT/" # verify looks for the program
verified=$(systemd-analyze verify --man=no --root="$ROOT" cbt-backupd.service 2>&1 | grep cbt-backup || true)
assert_eq "what systemd-analyze verify finds" "$verified" ""
say "$(systemd-analyze security --offline=yes --no-pager --threshold=30 --root="$ROOT" cbt-backupd.service | tail -n 1)"
systemd-analyze security --offline=yes --no-pager --threshold=30 --root="$ROOT" cbt-backupd.service >/dev/null ||
  fail "the unit is more exposed than 3.0"

### booted

cat >"$ROOT/etc/systemd/system/service-day.service" <<'END'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/root/service-day
ExecStopPost=systemctl --no-block poweroff
END
mkdir -p "$ROOT/etc/systemd/system/default.target.wants"
ln -s ../service-day.service "$ROOT/etc/systemd/system/default.target.wants/"
# Neither registered nor in a unit of this machine, which may have no systemd. nspawn wants /run to be a tmpfs.
# shellcheck disable=SC2016
unshare --mount --pid --fork --kill-child --mount-proc bash -c '
  mount -t tmpfs tmpfs /run &&
  exec systemd-nspawn --quiet --directory="$1" --boot --register=no --keep-unit --private-network --console=pipe
' bash "$ROOT" >"$WORK/boot.log" 2>&1 </dev/null || true
[ -e "$ROOT/root/service.log" ] || skip "systemd cannot be booted here: $(tail -n 1 "$WORK/boot.log")"
say "$(grep '^-- ' "$ROOT/root/service.log")"
assert_eq "the last line ($(tail -n 25 "$ROOT/root/service.log"))" "$(tail -n 1 "$ROOT/root/service.log")" "done"
