#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What a backup must read of an NBD export: the dirty bitmap and the allocation of a real qemu-nbd, put together as
# nbdinfo sees them, however the requests are cut; answers that are partial, late or failed; QEMU's snapshot-access.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-guest.sh"
need qemu-nbd nbdinfo nbdkit
seed

image=$WORK/disk.qcow2
size_mib=256
serve() { # OPTION...: the image read-only by qemu-nbd
  qemu-nbd -r -f qcow2 -t -e 10 -k "$WORK/nbd.sock" "$@" "$image" >"$WORK/qemu-nbd.err" 2>&1 &
  server=$!
  at_exit kill "$server"
  wait_until 10 test -S "$WORK/nbd.sock" || fail "qemu-nbd does not start: $(cat "$WORK/qemu-nbd.err")"
}
end_server() {
  kill "$server"
  wait "$server" 2>/dev/null || true
  rm -f "$WORK/nbd.sock"
}
uri="nbd+unix:///?socket=$WORK/nbd.sock"

# oracle CONTEXT-OF-BITMAP: the map as lines of offset, length, kind, made of two runs of nbdinfo.
oracle() {
  { [ -z "$1" ] || nbdinfo --map="qemu:dirty-bitmap:$1" --json "$uri" | jq -c '{dirty: .}'
    nbdinfo --map --json "$uri" | jq -c '{allocation: .}'; } |
    python3 -c '
import json, sys
maps = {}
for line in sys.stdin: maps.update(json.loads(line))
cuts = sorted({e["offset"] + x for m in maps.values() for e in m for x in (0, e["length"])})
def at(name, offset):
  return next(e["type"] for e in maps[name] if e["offset"] <= offset < e["offset"] + e["length"])
out = []
for start, end in zip(cuts, cuts[1:]):
  dirty = "dirty" not in maps or at("dirty", start) & 1
  kind = "clean" if not dirty else "zero" if at("allocation", start) & 2 else "data"
  if out and out[-1][2] == kind: out[-1][1] = end - out[-1][0]
  else: out.append([start, end - start, kind])
for line in out: print(*line)'
}
expect_map() { # BITMAP WINDOW IN-FLIGHT
  probe map "$uri" "$1" "$2" "$3" >"$WORK/map" || fail "map of '$1' with windows of $2, $3 at a time"
  assert_same_file "map of '$1' with windows of $2, $3 at a time" "$WORK/map" "$WORK/oracle"
}

say "a qcow2 image with a bitmap: written, discarded and zeroed before and after it was added"
qemu-img create -q -f qcow2 "$image" "${size_mib}M"
change() { # COMMAND...: at random places of a third of the disk each
  local i commands=()
  for ((i = 0; i < 60; i++)); do
    commands+=(-c "$1 $((RANDOM % (size_mib * 16) * 64))k 64k" -c "$2 $((RANDOM % (size_mib * 16 - 4) * 64))k 200k")
  done
  qemu-io -d unmap -f qcow2 "${commands[@]}" "$image" >/dev/null || fail "qemu-io"
}
change "write -P 1" "write -P 2"
qemu-img bitmap --add "$image" cbt-1
change "write -P 3" "discard"
change "write -P 4" "write -z -u"
serve -B cbt-1
for bitmap in cbt-1 ""; do
  oracle "$bitmap" >"$WORK/oracle"
  say "'$bitmap': $(cut -d ' ' -f 3 "$WORK/oracle" | sort | uniq -c | tr -s ' \n' ' ')ranges"
  for window in 0 65536 1048576; do
    expect_map "$bitmap" "$window" 1
    expect_map "$bitmap" "$window" 40
  done
  [ -z "$bitmap" ] || cp "$WORK/oracle" "$WORK/of-bitmap"
done
expect_exit 3 "has no dirty bitmap cbt-2" probe map "$uri" cbt-2
end_server

say "a bitmap that is not served is not a clean one, and a server that is gone is unreachable"
serve
expect_exit 3 "has no dirty bitmap cbt-1" probe map "$uri" cbt-1
end_server
expect_exit 5 "connecting" probe map "$uri"

say "partial answers are asked on, failed and late ones are errors"
# shellcheck disable=SC2016 # is for the shell of nbdkit's plugin
extents='n=$(($4 / 65536 % 3)); t=; [ $n -eq 0 ] || t=hole,zero; echo "$4 65536 $t"' # tells 64 KiB each time
nbdkit_with() {
  nbdkit -f -U "$WORK/nbd.sock" "$@" >"$WORK/nbdkit.err" 2>&1 &
  server=$!
  at_exit kill "$server"
  wait_until 10 test -S "$WORK/nbd.sock" || fail "nbdkit does not start: $(cat "$WORK/nbdkit.err")"
}
nbdkit_with eval get_size='echo 3M' pread='exit 1' can_extents='exit 0' extents="$extents"
oracle "" >"$WORK/oracle"
assert_eq "ranges" "$(wc -l <"$WORK/oracle")" 32
expect_map "" 0 4
expect_map "" 1048576 2
end_server
nbdkit_with eval get_size='echo 3M' pread='exit 1' can_extents='exit 0' extents='echo EIO broken >&2; exit 1'
expect_exit 1 "block status at offset 0" probe map "$uri"
end_server
nbdkit_with --filter=delay memory 3M delay-extents=30
PROBE_TIMEOUT_MS=300 expect_exit 5 "does not answer" probe map "$uri"
kill -KILL "$server" # it would wait for its delay
wait "$server" 2>/dev/null || true
rm -f "$WORK/nbd.sock"

say "snapshot-access of a copy-before-write filter tells nothing outside of its bitmap; the map needs nothing there"
start_qemu q1 -S -blockdev "driver=qcow2,node-name=disk0,file.driver=file,file.filename=$image"
truncate -s "${size_mib}M" "$WORK/scratch"
add() { qmp q1 "$@" >/dev/null || fail "$*"; }
add blockdev-add "{\"driver\":\"raw\",\"node-name\":\"scr0\",
  \"file\":{\"driver\":\"file\",\"filename\":\"$WORK/scratch\"}}"
add block-dirty-bitmap-disable '{"node":"disk0","name":"cbt-1"}'
add blockdev-add '{"driver":"copy-before-write","node-name":"cbw0","file":"disk0","target":"scr0",
  "bitmap":{"node":"disk0","name":"cbt-1"}}'
add blockdev-add '{"driver":"snapshot-access","node-name":"snap0","file":"cbw0"}'
add nbd-server-start "{\"addr\":{\"type\":\"unix\",\"data\":{\"path\":\"$WORK/nbd.sock\"}}}"
add block-export-add '{"type":"nbd","id":"x0","node-name":"snap0","name":"d0",
  "bitmaps":[{"node":"disk0","name":"cbt-1"}]}'
uri="nbd+unix:///d0?socket=$WORK/nbd.sock"
probe map "$uri" cbt-1 1048576 8 >"$WORK/live" || fail "map of a snapshot"
assert_same_file "the map of the snapshot and that of the image" "$WORK/live" "$WORK/of-bitmap"
expect_exit 1 "block status at" probe map "$uri"
stop_guest_vm q1
