#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What a QEMU that is not trusted tells of its images, or writes into them, gives nobody a file that he may not read.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-guest.sh"
need_root
chmod 755 "$WORK"
mkdir -m 777 "$WORK/images"
secret=$WORK/secret.raw
random_bytes_at "$secret" 0 "$MIB"
chmod 600 "$secret"
path_of() { cbt_json vm show "$1" | jq -r '.disks[0].path'; }
start_vm() { # NAME FILE FORMAT
  start_qemu "$1" -drive "if=none,id=d,file=$2,format=$3" -device virtio-blk-pci,drive=d
}
of_nobody() { chown nobody: "$@"; }
start_daemon

say "the monitor's socket was made by another program"
truncate -s 1M "$WORK/images/made.raw"
cat >"$WORK/listen.py" <<'END'
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
if os.fork() == 0:
    os.set_inheritable(listener.fileno(), True)
    argv = [word.replace("LISTENER", str(listener.fileno())) for word in sys.argv[2:]]
    os.execvp(argv[0], argv)
os.wait()
END
python3 "$WORK/listen.py" "$WORK/made.qmp" qemu-system-x86_64 -accel tcg -display none -nodefaults \
  -chardev socket,id=m,fd=LISTENER,server=on,wait=off -mon chardev=m,mode=control \
  -qmp "unix:$WORK/made.ctl,server=on,wait=off" \
  -drive "if=none,id=d,file=$WORK/images/made.raw,format=raw" -device virtio-blk-pci,drive=d 2>"$WORK/made.err" &
at_exit kill $!
made_is_there() { qmp made query-status; }
wait_until 30 made_is_there || fail "QEMU does not start: $(cat "$WORK/made.err")"
cbt --quiet vm add made --qmp "$WORK/made.qmp"
assert_eq "path" "$(path_of made)" "$WORK/images/made.raw"
job=$(backup full made --snapshot external)
assert_has "notes" "$(jq -c .notes <<<"$job")" "is read from $WORK/images/made.raw"
qmp made quit >/dev/null

say "an image that is only told of is not read when the guest is off"
truncate -s 1M "$WORK/images/told.raw"
start_vm told "$WORK/images/told.raw" raw
: >"$WORK/control"
python3 "$SOURCE/tests/integration/tools/qmp_proxy.py" "$WORK/proxy.qmp" "$WORK/told.qmp" "$WORK/control" \
  2>"$WORK/proxy.err" &
proxy=$!
at_exit kill $proxy
wait_until 10 test -S "$WORK/proxy.qmp" || fail "the proxy does not start"
cbt --quiet vm add told --qmp "$WORK/proxy.qmp"
assert_eq "path" "$(path_of told)" "told/d"
backup full told >/dev/null
kill $proxy
wait $proxy 2>/dev/null || true
rm -f "$WORK/proxy.qmp"
stop_guest_vm told
expect_exit 4 "no image that its QEMU was seen" cbt --full told

say "a path from QEMU's folder"
truncate -s 1M "$WORK/images/plain.raw"
(cd "$WORK/images" && start_vm near plain.raw raw)
cbt --quiet vm add near --qmp "$WORK/near.qmp"
assert_eq "path" "$(path_of near)" "$WORK/images/plain.raw"
output=$(cbt --full near)
assert_has "what is said" "$output" "Note: filter: each device can be given one"
qmp near quit >/dev/null
cbt --quiet vm remove near

say "a link in its place"
truncate -s 1M "$WORK/images/plain.raw"
start_vm plain "$WORK/images/plain.raw" raw
cbt --quiet vm add plain --qmp "$WORK/plain.qmp"
stop_guest_vm plain
backup full plain >/dev/null
mv "$WORK/images/plain.raw" "$WORK/images/plain.old"
ln -s "$secret" "$WORK/images/plain.raw"
expect_exit 1 "leads to $secret" cbt --full plain
rm "$WORK/images/plain.raw"
mv "$WORK/images/plain.old" "$WORK/images/plain.raw"
backup full plain >/dev/null

say "what its header names"
qemu-img create -q -f qcow2 "$WORK/images/top.qcow2" 1M
start_vm top "$WORK/images/top.qcow2" qcow2
cbt --quiet vm add top --qmp "$WORK/top.qmp"
stop_guest_vm top
of_nobody "$WORK/images/top.qcow2"
backup full top >/dev/null
qemu-img rebase -u -f qcow2 -F raw -b "$secret" "$WORK/images/top.qcow2"
expect_exit 1 "may not read it" cbt --full top
chmod 644 "$secret"
job=$(backup full top)
cbt --quiet restore "$(jq -r .uuid <<<"$job")" --to "$WORK/point" >/dev/null
assert_same_file "with what stands below" "$WORK/point/d.raw" "$secret"
chown :disk "$secret" "$WORK/images/top.qcow2" # a folder can give a file a group that its owner is not in
chmod 640 "$secret"
expect_exit 1 "may not read it" cbt --full top
read -r group user < <(getent group | awk -F: '$4 != "" { sub(",.*", "", $4); print $1, $4 }') || true
if [ -n "${user:-}" ]; then # an account that is in a group besides its own
  chown "$user" "$WORK/images/top.qcow2"
  chown ":$group" "$secret"
  backup full top >/dev/null
fi
chown :root "$secret"
chmod 600 "$secret"
chown 0:0 "$WORK/images/top.qcow2"
backup full top >/dev/null # root says what root's images are
printf '%s\n' '# Disk DescriptorFile' version=1 CID=fffffffe parentCID=ffffffff 'createType="monolithicFlat"' \
  "RW 2048 FLAT \"$secret\" 0" >"$WORK/images/below.vmdk"
qemu-img rebase -u -f qcow2 -F vmdk -b "$WORK/images/below.vmdk" "$WORK/images/top.qcow2"
backup full top >/dev/null
of_nobody "$WORK/images/top.qcow2" "$WORK/images/below.vmdk"
expect_exit 1 "neither raw nor qcow2" cbt --full top
chown 0:0 "$WORK/images/top.qcow2"

say "what is put in an image's place when it was looked at already"
qemu-img create -q -f qcow2 "$WORK/images/top.qcow2" 1M
qemu-img convert -O qcow2 "$secret" "$WORK/other.qcow2"
mkdir "$WORK/bin"
cat >"$WORK/bin/qemu-nbd" <<END
#!/bin/bash
mv "$WORK/images/top.qcow2" "$WORK/images/kept"
ln -s "$WORK/other.qcow2" "$WORK/images/top.qcow2"
for word in "\$@"; do [[ \$word != --socket=* ]] || socket=\${word#*=}; done
(
  for i in {1..1000}; do [ -S "\$socket" ] || read -rt 0.01 <> <(:); done
  mv -T "$WORK/images/kept" "$WORK/images/top.qcow2"
  touch "$WORK/swapped"
) </dev/null >/dev/null 2>&1 &
exec $(command -v qemu-nbd) "\$@"
END
chmod 755 "$WORK/bin/qemu-nbd"
stop_daemon
PATH=$WORK/bin:$PATH start_daemon
for _ in {1..20}; do # it may not be in its place again in time, which is noticed
  job=$(cbt --json --full top) && break
  assert_has "why" "$(jq -r .errmsg <<<"$job")" "written by another program"
  wait_until 20 test ! -L "$WORK/images/top.qcow2" || fail "the image is not in its place"
done
wait_until 10 test -e "$WORK/swapped" || fail "nothing was put in its place"
rm -r "$WORK/point"
cbt --quiet restore "$(jq -r .uuid <<<"$job")" --to "$WORK/point" >/dev/null
assert_eq "clusters of something else" "$(tr -d '\0' <"$WORK/point/d.raw" | wc -c)" 0
stop_daemon
