#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Images at rest: what bitmaps they and their backing files have, how these are changed, how such an image is served and
# read, that one in use is refused, and that its server never outlives who started it.
. "$(dirname "$0")/lib.sh"
need qemu-nbd

probe() { "$BUILD/tests/qemu-probe" "$@"; }
image=$WORK/disk.qcow2
runtime=$WORK/run-offline
mkdir -m 700 "$runtime"
write() { qemu-io -d unmap -f qcow2 "$@" >"$WORK/qemu-io.log" 2>&1 || fail "qemu-io: $(cat "$WORK/qemu-io.log")"; }
expect_bitmaps() { # WHAT LINE...
  local what=$1
  shift
  assert_eq "$what" "$(probe offline bitmaps "$image" qcow2 | tail -n +2)" "$(printf '%s\n' "$@")"
}
change() { probe offline change "$image" qcow2 "$@" || fail "change $*"; }

# The shell forgets about a coprocess when it ends, so what is needed of it is kept.
# start_serving PATH FORMAT BITMAP: sets $uri, and $serving, its process, until stop_serving.
start_serving() {
  coproc SERVING { exec "$BUILD/tests/qemu-probe" offline serve "$1" "$2" "$3" "$runtime" 2>"$WORK/serving.err"; }
  serving=$SERVING_PID serving_in=${SERVING[1]} serving_out=${SERVING[0]}
  read -r uri <&"$serving_out" || fail "no server of $1: $(cat "$WORK/serving.err")"
}
stop_serving() { # sets $ended: whether the image changed
  exec {serving_in}>&-
  read -r ended <&"$serving_out" || true
  wait "$serving" || fail "the server ended with an error: $(cat "$WORK/serving.err")"
}
sockets() { find "$runtime" -type s | wc -l; }
servers() { # ids of those that serve out of $runtime
  local directory
  for directory in /proc/[0-9]*; do
    [[ $(tr '\0' ' ' 2>/dev/null <"$directory/cmdline") != "qemu-nbd "*"$runtime"* ]] || echo "${directory#/proc/}"
  done
}
no_server() { [ -z "$(servers)" ]; }

# hold IMAGE FORMAT: a program has it open for writing until let_go.
hold() {
  coproc HOLDER { exec qemu-io -f "$2" "$1" 2>&1; }
  holder=$HOLDER_PID holder_in=${HOLDER[1]} holder_out=${HOLDER[0]}
  ask_holder length
}
ask_holder() { # COMMAND of qemu-io; waits for the first line of its answer
  echo "$1" >&"$holder_in"
  read -r -t 20 _ <&"$holder_out" || fail "qemu-io does not answer to $1"
}
let_go() {
  exec {holder_in}>&-
  wait "$holder" 2>/dev/null || true
}

say "bitmaps of an image and of what is below it"
base=$WORK/base.qcow2
qemu-img create -q -f qcow2 "$base" 20M
write -c "write -P 1 0 20M" "$base"
qemu-img bitmap --add "$base" old
qemu-img create -q -f qcow2 -b "$base" -F qcow2 "$image"
expect_bitmaps "bitmaps of the chain" "1 old 65536 recording"
change cbt-1 --add -g 32768
change other --add --disable
assert_eq "size" "$(probe offline bitmaps "$image" qcow2 | head -n 1)" $((20 * MIB))
expect_bitmaps "bitmaps added" "0 cbt-1 32768 recording" "0 other 65536" "1 old 65536 recording"

say "a successor at rest: recorder added and disabled, merged back, taken over"
write -c "write -P 2 1M 64k" "$image"
change cbt-2 --add -g 32768
change cbt-1 --disable
write -c "write -P 3 5M 96k" "$image"
start_serving "$image" qcow2 cbt-1
probe map "$uri" cbt-1 | grep -v clean >"$WORK/map"
assert_eq "what the frozen one marks" "$(cat "$WORK/map")" "1048576 65536 data"
stop_serving
change cbt-1 --merge cbt-2 --enable
change cbt-2 --remove
expect_bitmaps "bitmaps after the merge" "0 cbt-1 32768 recording" "0 other 65536" "1 old 65536 recording"
change cbt-1 --clear
expect_exit 4 "already exists" probe offline change "$image" qcow2 cbt-1 --add
expect_exit 3 "not found" probe offline change "$image" qcow2 cbt-7 --remove
expect_exit 3 "not found" probe offline change "$image" qcow2 cbt-1 --merge cbt-7

say "an image with a chain is read by its bitmap, and whole; just what is changed and not zero is asked for"
write -c "write -P 4 3M 128k" -c "write -P 5 8160k 40k" -c "discard 12M 1M" -c "write -z 15M 64k" "$image"
qemu-img convert -f qcow2 -O raw "$image" "$WORK/oracle"
start_serving "$image" qcow2 cbt-1
probe map "$uri" cbt-1 | grep -v clean >"$WORK/map"
assert_eq "what is changed" "$(cat "$WORK/map")" "3145728 131072 data
8323072 131072 data
12582912 1048576 zero
15728640 65536 zero"
probe copy "$uri" cbt-1 "$WORK/changes" || fail "reading the changes"
cmp -i 3145728 -n 131072 "$WORK/changes" "$WORK/oracle" || fail "changes at 3M"
cmp -i 8323072 -n 131072 "$WORK/changes" "$WORK/oracle" || fail "changes at 8M"
probe copy "$uri" "" "$WORK/all" || fail "reading it all"
assert_same_file "the disk as read" "$WORK/all" "$WORK/oracle"
stop_serving
assert_eq "after reading" "$ended" unchanged
assert_eq "sockets left" "$(sockets)" 0
no_server || fail "a server is left"
qemu-img check -q -f qcow2 "$image" || fail "the image is damaged"

say "what cannot be served says why"
expect_exit 3 "'cbt-7' is not found" probe offline serve "$image" qcow2 cbt-7 "$runtime" </dev/null
expect_exit 3 "No such file" probe offline serve "$WORK/none" qcow2 "" "$runtime" </dev/null
expect_exit 1 "absolute path" probe offline serve disk.qcow2 qcow2 "" "$runtime" </dev/null
expect_exit 1 "absolute path" probe offline serve "$image" vmdk "" "$runtime" </dev/null
truncate -s 1M "$WORK/disk.raw"
expect_exit 1 "not in qcow2 format" probe offline serve "$WORK/disk.raw" qcow2 "" "$runtime" </dev/null
expect_exit 1 "Only qcow2 images hold bitmaps" probe offline change "$WORK/disk.raw" raw cbt-1 --add
expect_exit 1 "Install qemu-utils" env PATH=/nonexistent "$BUILD/tests/qemu-probe" offline bitmaps "$image" qcow2
cp "$image" "$WORK/torn.qcow2"
hold "$WORK/torn.qcow2" qcow2
ask_holder "write 0 64k"
kill -KILL "$holder"
let_go
expect_exit 4 "inconsistent" probe offline serve "$WORK/torn.qcow2" qcow2 cbt-1 "$runtime" </dev/null
expect_exit 4 "inconsistent" probe offline change "$WORK/torn.qcow2" qcow2 cbt-1 --clear
assert_has "bitmaps of an image whose writer was killed" "$(probe offline bitmaps "$WORK/torn.qcow2" qcow2)" \
  "0 cbt-1 32768 recording inconsistent"
assert_eq "sockets left" "$(sockets)" 0

say "an image that is written, or one below it, is refused; raw ones, too"
for held in "$image qcow2 $image qcow2" "$base qcow2 $image qcow2" "$WORK/disk.raw raw $WORK/disk.raw raw"; do
  read -r path format top top_format <<<"$held"
  hold "$path" "$format"
  expect_exit 4 "" probe offline serve "$top" "$top_format" "" "$runtime" </dev/null
  expect_exit 4 "when the guest is off" probe offline bitmaps "$top" "$top_format"
  [ "$path" != "$image" ] || expect_exit 4 "lock" probe offline change "$image" qcow2 cbt-1 --clear
  let_go
done
qemu-img create -q -f qcow2 -b "$WORK/disk.raw" -F raw "$WORK/on-raw.qcow2"
hold "$WORK/disk.raw" raw
expect_exit 4 "qemu-io" probe offline serve "$WORK/on-raw.qcow2" qcow2 "" "$runtime" </dev/null
let_go

say "while a qcow2 image is served nobody writes to it; what is written to a raw one is noticed"
start_serving "$image" qcow2 ""
expect_exit 1 "lock" qemu-io -f qcow2 -c "write 0 512" "$image"
expect_exit 4 "lock" probe offline change "$image" qcow2 cbt-1 --clear
stop_serving
assert_eq "afterwards" "$ended" unchanged
start_serving "$WORK/disk.raw" raw ""
qemu-io -f raw -c "write -P 7 0 512" "$WORK/disk.raw" >/dev/null || fail "a raw image is locked"
stop_serving
assert_eq "afterwards" "$ended" changed

say "links are not read, in /dev/shm neither, nor where a path leaves /dev"
ln -s "$image" "$WORK/link.qcow2"
shared=$(mktemp -d /dev/shm/cbt-test.XXXXXX)
ln -s "$image" "$shared/link.qcow2"
for path in "$WORK/link.qcow2" "$shared/link.qcow2" "/dev/..$WORK/link.qcow2"; do
  expect_exit 1 "leads to $image now" probe offline bitmaps "$path" qcow2
done
rm -r "$shared"

say "the server goes with who started it, killed or not; the socket that it leaves is cleared away"
start_serving "$image" qcow2 cbt-1
assert_eq "servers" "$(servers | wc -l)" 1
kill -KILL "$serving"
wait "$serving" 2>/dev/null || true
wait_until 10 no_server || fail "the server outlives who started it"
assert_eq "sockets" "$(sockets)" 1
expect_exit 5 "connecting" probe map "$uri" cbt-1
start_serving "$image" qcow2 cbt-1
assert_eq "sockets" "$(sockets)" 1
probe map "$uri" cbt-1 >/dev/null || fail "the next server does not serve"

say "a server that dies while it is read is unreachable"
kill -KILL "$(servers)"
wait_until 10 no_server || fail "the server does not end"
expect_exit 5 "connecting" probe copy "$uri" cbt-1 "$WORK/changes"
stop_serving
assert_eq "sockets left" "$(sockets)" 0
