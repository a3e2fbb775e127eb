#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The QMP client against the real QEMU: versions, answers, refusals, events; and what it says when QEMU is taken, hangs
# or ends.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-guest.sh"
export PROBE_TIMEOUT_MS=30000

start_qemu q1 -S
socket=$WORK/q1.qmp

say "answers, refusals and events"
version=$(qemu-system-x86_64 --version | sed -n '1s/.*version \([0-9.]*\).*/\1/p')
assert_eq "the version" "$(probe version "$socket")" "$version"
assert_eq "the status" "$(probe qmp "$socket" query-status | jq -r .status)" prelaunch
expect_exit 1 "The command no-such-command has not been found (CommandNotFound)" probe qmp "$socket" no-such-command
expect_exit 3 "refused eject: Device 'none' not found (DeviceNotFound)" probe qmp "$socket" eject '{"id":"none"}'
expect_exit 1 "(GenericError)" probe qmp "$socket" blockdev-del '{"node-name":"none"}'
expect_exit 1 "'node-name' must be specified" probe qmp "$socket" blockdev-add '{"driver":"null-co"}'
probe event "$socket" RESUME cont
probe event "$socket" STOP stop
probe event "$socket" RESUME cont

say "a socket that somebody else is connected to"
python3 -c 'import signal, socket, sys
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
client.recv(1)
print("connected", flush=True)
signal.pause()' "$socket" >"$WORK/holder" &
holder=$!
wait_until 10 test -s "$WORK/holder" || fail "the other client does not connect"
start=$SECONDS
PROBE_TIMEOUT_MS=1000 expect_exit 5 "somebody else is connected to it" probe version "$socket"
assert_le "seconds until it said so" "$((SECONDS - start))" 10
kill "$holder"
wait "$holder" 2>/dev/null || true
assert_eq "the status after it has gone" "$(probe qmp "$socket" query-status | jq -r .status)" running

say "the answer that a client did not wait for is not taken for that of the next one"
python3 -c 'import json, os, socket, sys, time
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
client.recv(4096)
client.sendall(b"""{"execute": "qmp_capabilities"}""")
client.recv(4096)
arguments = {"val": 0, "size": 96 << 20, "filename": sys.argv[2]}
client.sendall(json.dumps({"execute": "pmemsave", "arguments": arguments, "id": 2}).encode())
# QEMU drops what it did not begin when its client goes.
while not os.path.exists(sys.argv[2]):
    time.sleep(0.01)' "$socket" "$WORK/memory"
assert_eq "the status, asked for behind it" "$(probe qmp "$socket" query-status | jq -r .status)" running
rm "$WORK/memory"

say "QEMU that hangs, and QEMU that is gone"
start_qemu q2 -S
kill -STOP "${VM_PID[q2]}"
PROBE_TIMEOUT_MS=500 expect_exit 5 "QEMU takes no connections" probe version "$WORK/q2.qmp"
kill -CONT "${VM_PID[q2]}"
assert_eq "the status of QEMU that goes on" "$(qmp q2 query-status | jq -r .status)" prelaunch
assert_eq "why it shuts down" "$(probe event "$WORK/q2.qmp" SHUTDOWN quit | jq -r .reason)" host-qmp-quit
wait_until 10 vm_is_gone q2 || fail "QEMU does not quit"
expect_exit 5 "Nobody listens" probe version "$WORK/q2.qmp"

say "sockets that are no QMP monitors"
qemu-system-x86_64 -accel tcg -S -display none -nodefaults -monitor "unix:$WORK/hmp,server=on,wait=off" \
  2>"$WORK/hmp.err" &
at_exit kill "$!"
wait_until 10 test -S "$WORK/hmp" || fail "no monitor: $(cat "$WORK/hmp.err")"
expect_exit 6 "not the socket of a QMP monitor" probe version "$WORK/hmp"
: >"$WORK/file"
expect_exit 5 "Nobody listens" probe version "$WORK/file"

say "a monitor that prints prettily, and the longest answer"
qemu-system-x86_64 -accel tcg -S -display none -nodefaults -chardev "socket,id=c,path=$WORK/pretty,server=on,wait=off" \
  -mon chardev=c,mode=control,pretty=on 2>"$WORK/pretty.err" &
at_exit kill "$!"
wait_until 10 test -S "$WORK/pretty" || fail "no monitor: $(cat "$WORK/pretty.err")"
n=$(probe qmp "$WORK/pretty" query-qmp-schema | jq 'map(select(."meta-type" == "command")) | length')
assert_ge "commands in the schema" "$n" 150
stop_guest_vm q1
