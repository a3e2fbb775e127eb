#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Every command in README and in docs/ works as it stands there.
. "$(dirname "$0")/lib-docs.sh"
enter_sandbox "$@"
. "$(dirname "$0")/lib.sh"
need qemu-system-x86_64 xmllint python3
furnish_sandbox

# A QEMU with a disk, whose guest has not begun, and somebody who answers as its agent.
start_db() { # NAME
  qemu-img create -q -f qcow2 "/var/lib/images/$1.qcow2" 4M
  python3 "$SOURCE/tests/integration/tools/agent.py" "/run/vm/$1.qga" "$WORK/$1.frozen" >"$WORK/$1.agent.err" 2>&1 &
  at_exit kill "$!"
  qemu-system-x86_64 -S -nodefaults -display none -machine q35,accel=tcg -m 32 -qmp "unix:/run/vm/$1.qmp,server=on,wait=off" \
    -drive "if=none,id=root,file=/var/lib/images/$1.qcow2,format=qcow2,discard=unmap" \
    -device "virtio-blk-pci,drive=root,serial=$1-root" >"$WORK/$1.qemu.err" 2>&1 &
  at_exit kill "$!"
  wait_until 20 test -S "/run/vm/$1.qmp" || fail "QEMU does not start: $(cat "$WORK/$1.qemu.err")"
}

random_image /var/lib/images/web.raw 4
random_image /dev/vg0/web-data 2
mkdir -p /etc/libvirt/qemu
echo '<domain/>' >/etc/libvirt/qemu/web.xml

document README.md
no_run 'scripts/demo' "it is the test of the demo, and of the tests"
no_run 'scripts/install-packages' "this test is of what it builds; its install is tried with a DESTDIR in test_manuals.sh"
block 'cbt-backupd &'
take_daemon
block 'cbt-backup vm add web'
assert_same_file "what README restores" /srv/restore/root.raw /var/lib/images/web.raw
start_db db
block 'cbt-backup vm add db'
block 'curl --unix-socket' 's/$/ >status.json/'
assert_eq "vms in the answer" "$(jq -r '[.vms[].name] | sort | join(" ")' status.json)" "db web"
end_document

say "docs/operations.md, on a clean host"
cbt-backup --quiet export stop web
cbt-backup --quiet vm remove web --forget-points
rm -rf /srv/restore /mnt/usb/*
document docs/operations.md
no_run '(cd build/release && cpack' "test_package.sh makes, installs, uses, removes and purges them in a fresh Debian"
block 'cbt-backup vm add web'
block 'cbt-backup --incremental web'
for _ in 1 2; do
  block 'qemu-system-x86_64 ...' "s| \.\.\. | -S -nodefaults -display none -machine q35,accel=tcg -m 32 -daemonize -pidfile $WORK/qemu.pid |"
  wait_until 20 test -s "$WORK/qemu.pid"
  pid=$(<"$WORK/qemu.pid")
  kill "$pid"
  wait_until 20 process_is_gone "$pid" || fail "QEMU does not end"
done
awk '/^```/ { inside = ($0 == "```xml"); next } inside && /qemu:arg/' "$SOURCE/docs/operations.md" | sed "s/.*value='\(.*\)'.*/\1/" >args
mapfile -t args <args
assert_eq "arguments that libvirt is to hand on" "${#args[@]}" 6
qemu-system-x86_64 -S -nodefaults -display none -machine q35,accel=tcg -m 32 "${args[@]}" -daemonize -pidfile "$WORK/qemu.pid"
pid=$(<"$WORK/qemu.pid")
kill "$pid"
wait_until 20 process_is_gone "$pid" || fail "QEMU does not end"
next_block '#!/bin/sh'
install -D -m 755 "$next" /etc/libvirt/hooks/qemu
rm "$next"
/etc/libvirt/hooks/qemu web release end -
assert_eq "exports after the guest" "$(cbt-backup --json export list)" "[]"
/etc/libvirt/hooks/qemu unknown prepare begin - || fail "the hook keeps a guest that we do not know from starting"
/etc/libvirt/hooks/qemu web prepare begin - || fail "the hook keeps the guest from starting"
assert_eq "exports before the guest" "$(cbt-backup --json export list | jq length)" 2

start_db db2
cbt-backup --quiet vm remove db --forget-points
cbt-backup --quiet vm add db --qmp /run/vm/db2.qmp
block 'cbt-backup policy set web'
backup incremental web >/dev/null
for _ in 1 2 3 4 5; do backup incremental web >/dev/null; done
block 'cbt-backup note web@latest'
block 'cbt-backup prune web'
block 'cbt-backup gc'
block 'cbt-backup verify web'
while [ "$(points web | wc -l)" -lt 4 ]; do backup incremental web >/dev/null; done
cbt-backup --quiet export stop web
block 'cbt-backup list web'
stand_in ssh <<<'shift; exec "$@"' # another host is this one
rm -rf /srv/web
mkdir /mnt/usb/images
block 'cbt-backup archive web@latest'
assert_same_file "the pipe" /srv/web/disk-root.raw /var/lib/images/web.raw

cd /mnt/usb/web
link=$(find . -name 'root.*.qcow2' | sort | tail -n 1)
cbt-backup --quiet archive web@latest --output web.vma
cbt-backup --quiet archive web@latest --output web.vma.zst
rm -rf /srv/restore /srv/web
truncate -s 4M /dev/vg0/web
block 'qemu-img info' "s/root.20261121T111530Z-incr.qcow2/${link#./}/"
assert_same_file "a disk of the chain" /var/lib/images/web.raw /dev/vg0/web
no_run 'qemu-nbd --read-only --connect' "needs the kernel's nbd"
truncate -s 0 /dev/vg0/web
truncate -s 4M /dev/vg0/web
block 'cbt-vma verify'
assert_same_file "a disk of the archive" /srv/restore/disk-root.raw /var/lib/images/web.raw
assert_same_file "the same onto a volume" /dev/vg0/web /var/lib/images/web.raw
cd "$WORK"

block 'cbt-backup status'
say "the host is gone: all that is left is the store"
n_points=$(cbt-backup --json list | jq length)
stop_daemon
mkdir /mnt/old
mv /var/lib/cbt-backup/store /mnt/old/
rm -rf /var/lib/cbt-backup /run/cbt-backup /srv/restore
block 'mkdir -p /var/lib/cbt-backup && cp'
take_daemon
assert_eq "points that came back" "$(cbt-backup --json list | jq length)" "$n_points"
block 'cbt-backup list'
assert_same_file "what is restored then" /srv/restore/root.raw /var/lib/images/web.raw
[ -s /srv/restore/web.xml ] || fail "the configuration file is not restored: $(ls /srv/restore)"
block 'cbt-backup store check'
stand_in systemctl <<<"kill $DAEMON_PID; while kill -0 $DAEMON_PID; do :; done" # a unit needs a host that systemd began
cbt-backup --quiet export start web >/dev/null
block 'cbt-backup export stop web'
take_daemon
assert_eq "points after the move" "$(cbt-backup --json list | jq length)" "$n_points"
end_document
stop_daemon

say "docs/operations.md: the XML is what libvirt takes for XML"
for n in 1 2 3; do
  awk -v want="$n" '/^```/ { inside = ($0 == "```xml" && ++n == want); next } inside' "$SOURCE/docs/operations.md" |
    { echo "<d xmlns:qemu='x'>"; cat; echo '</d>'; } | xmllint --noout - || fail "block $n is no XML"
done
assert_has "the socket of the domain" "$(cat "$SOURCE/docs/operations.md")" "socket='/run/cbt-backup/exports/web/root.nbd'"
