#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Doctor finds what is wrong, names it, and says what to do; of a sound host and vm it finds nothing.
. "$(dirname "$0")/lib.sh"
need_root "loop devices and mounts"
sanitized && skip "nbdkit loads the plugin without the sanitizer that it is built with"

random_image "$WORK/root.raw" 2
mkdir "$WORK/plugins" "$WORK/fleece"
cp "$BUILD/lib/nbdkit-cbt-plugin.so" "$WORK/plugins"
printf '[export]\nplugin-dir=%s\nfleece-dir=%s\n' "$WORK/plugins" "$WORK/fleece" >"$WORK/config"
DAEMON_OPTIONS=(--config "$WORK/config")
start_daemon
vm_add vm1 "root=$WORK/root.raw"
backup full vm1 >/dev/null

# failures [VM]: subjects of what failed, each once.
failures() { (cbt_json doctor "$@" 2>/dev/null || true) | jq -r '[.[] | select(.level == "fail") | .subject] | unique | join(" ")'; }
has_check() { # LEVEL SUBJECT FRAGMENT [VM]
  local found
  found=$( (cbt_json doctor "${@:4}" 2>/dev/null || true) | jq -r --arg level "$1" --arg subject "$2" \
    '.[] | select(.level == $level and .subject == $subject) | .text + " " + (.hint // "")')
  assert_has "$1 of $2" "$found" "$3"
}

say "nothing is wrong"
assert_eq "failures" "$(failures)" ""
cbt doctor >"$WORK/text" || fail "exit status $?"
for subject in kernel io_uring 'open files' clock nbdkit plugin state store fleece runtime socket points vm1/root; do
  grep -q "^\(ok\|warn\)  *$subject " "$WORK/text" || fail "$subject is not looked at: $(cat "$WORK/text")"
done
assert_eq "subjects of one vm" "$(cbt_json doctor vm1 | jq -r '[.[].subject] | unique | join(" ")')" vm1/root
assert_eq "the route" "$(api GET '/v1/doctor?vm=vm1' && jq -c '[.[].level] | unique' <<<"$body")" '["ok"]'
expect_exit 3 "no vm 'none'" cbt doctor none
leftovers=$(find "$STATE" "$RUN" "$WORK/fleece" -name '.doctor*')
assert_eq "what it leaves" "$leftovers" ""

say "the plugin is missing, or none"
mv "$WORK/plugins/nbdkit-cbt-plugin.so" "$WORK/plugin.away"
expect_exit 1 "nbdkit-cbt-plugin.so" cbt doctor
assert_eq "failures" "$(failures)" plugin
echo "no library" >"$WORK/plugins/nbdkit-cbt-plugin.so"
assert_eq "failures" "$(failures)" plugin
mv "$WORK/plugin.away" "$WORK/plugins/nbdkit-cbt-plugin.so"

say "an image is away, or somebody else writes it"
mv "$WORK/root.raw" "$WORK/away.raw"
assert_eq "failures" "$(failures vm1)" vm1/root
has_check fail vm1/root "No such file" vm1
mv "$WORK/away.raw" "$WORK/root.raw"
qemu-nbd -f raw -k "$WORK/nbd.sock" -t "$WORK/root.raw" &
nbd=$!
at_exit kill "$nbd"
wait_until 10 test -S "$WORK/nbd.sock" || fail "qemu-nbd does not start"
has_check fail vm1/root "qemu-nbd" vm1
kill "$nbd"
wait "$nbd" || true
assert_eq "failures" "$(failures vm1)" ""
cbt --quiet export start vm1 >/dev/null
assert_eq "failures while it is exported" "$(failures vm1)" ""
cbt --quiet export stop vm1

say "a bitmap is frozen by hand: that has a lease"
cbt --quiet bitmap create-successor vm1/root >/dev/null
has_check ok vm1/root "bitmap default is frozen" vm1
cbt --quiet bitmap reclaim vm1/root >/dev/null

say "a point has lost its file"
point=$(points vm1 | head -n 1)
mv "$STATE/store/points/$point.point" "$WORK/"
has_check fail points "1 of 1"
mv "$WORK/$point.point" "$STATE/store/points/"
assert_eq "failures" "$(failures)" ""

say "a full file system, and one without direct I/O and holes"
truncate -s 32M "$WORK/small.img"
mkfs.ext4 -q -F "$WORK/small.img"
device=$(losetup -f --show "$WORK/small.img") || skip "needs loop devices"
at_exit losetup -d "$device"
mount_at "$device" "$WORK/fleece" || skip "needs to mount"
head -c 64M /dev/zero >"$WORK/fleece/filler" 2>/dev/null && fail "the file system is not full"
assert_eq "failures" "$(failures)" fleece
has_check fail fleece "are needed"
umount "$WORK/fleece"
mount -t ramfs ramfs "$WORK/fleece" || skip "needs to mount"
at_exit umount "$WORK/fleece"
has_check warn fleece "holes"
stop_daemon

say "without a daemon"
expect_exit 1 "does not answer" cbt doctor --state-dir "$STATE"
answer=$(cbt_json doctor --state-dir "$STATE" 2>/dev/null) && fail "exit status 0 without a daemon"
assert_eq "failures" "$(jq -r '[.[] | select(.level == "fail") | .subject] | unique | join(" ")' <<<"$answer")" daemon
assert_eq "what is looked at" "$(jq -c '[.[].subject] | unique' <<<"$answer")" \
  '["clock","daemon","io_uring","kernel","nbdkit","open files","state"]'
