#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The tracked export under a real nbdkit, with real clients: its bits, its abilities, and a kill in the middle.
set -euo pipefail

build=${1:?usage: test_plugin.sh BUILD_DIR}
plugin=$build/lib/nbdkit-cbt-plugin.so
probe=$build/tests/cbt_export_probe
cluster=65536
size=$((64 * 1024 * 1024 + 1536))

skip() {
  echo "SKIP: $*"
  exit 77
}
fail() {
  echo "FAIL: $*" >&2
  [ -f "$dir/log" ] && sed 's/^/nbdkit: /' "$dir/log" >&2
  exit 1
}
for tool in nbdkit qemu-io nbdinfo nbdcopy; do
  command -v "$tool" >/dev/null || skip "$tool is not installed"
done
[ -f "$plugin" ] || skip "$plugin is not built"

# A sanitizer's runtime must come first in a program that was built without it.
runtime=$(ldd "$plugin" | awk '/lib(asan|tsan)\.so/ {print $3}')
case $runtime in *tsan*) skip "nbdkit cannot be run under TSan" ;; esac

dir=$(mktemp -d)
pid=
stop() {
  if [ -n "$pid" ]; then
    kill -"${1:-TERM}" "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    pid=
  fi
}
trap 'stop KILL; rm -rf "$dir"' EXIT

image=$dir/image
uri="nbd+unix:///?socket=$dir/nbd"
disk_id=0f6a1d52-5b0c-4f60-9d6e-3f1f8c7e2a11
truncate -s $size "$image"

start() {
  rm -f "$dir/nbd" "$dir/pid"
  # Sanitizer runtimes count nbdkit's own leaks otherwise.
  env ${runtime:+LD_PRELOAD="$runtime"} ASAN_OPTIONS=detect_leaks=0 \
    nbdkit -f -U "$dir/nbd" -P "$dir/pid" "$plugin" image="$image" bitmaps="$dir/bitmaps" \
    disk-id=$disk_id control="$dir/control" >>"$dir/log" 2>&1 &
  pid=$!
  for _ in $(seq 500); do
    [ -s "$dir/pid" ] && return
    kill -0 "$pid" 2>/dev/null || fail "nbdkit did not start"
    sleep 0.02
  done
  fail "nbdkit is not ready"
}
io() {
  qemu-io -f raw "$uri" "$@" >"$dir/io" 2>&1 || fail "qemu-io $*: $(cat "$dir/io")"
  if grep -qi "error\|failed" "$dir/io"; then fail "qemu-io $*: $(cat "$dir/io")"; fi
}
expect_clusters() {
  local count
  count=$("$probe" count "$dir/control" daily) || fail "no count: $count"
  [ "$count" -eq $(($1 * cluster)) ] || fail "$2: $count bytes are dirty, not $1 clusters"
}

# --- mistakes are told before the export serves ---
if nbdkit -f -U "$dir/nbd" "$plugin" image="$image" bitmaps="$dir/bitmaps" >"$dir/log" 2>&1; then
  fail "it starts without disk-id"
fi
[ -n "$runtime" ] || grep -q "disk-id" "$dir/log" || fail "the missing parameter is not named"

# --- abilities ---
start
nbdinfo --json "$uri" >"$dir/info"
for ability in can_multi_conn can_fua can_trim can_zero can_fast_zero can_flush; do
  grep -q "\"$ability\": true" "$dir/info" || fail "$ability is not offered"
done
grep -q "\"is_read_only\": false" "$dir/info" || fail "the disk is read-only"
grep -q "\"export-size\": $size" "$dir/info" || fail "the size is wrong"
grep -q "\"block_size_preferred\": 65536" "$dir/info" || fail "the preferred block size is not 64 KiB"
[ "$(stat -c %a "$dir/control")" = 600 ] || fail "the control socket has the wrong mode"

# --- every kind of change is counted once, reads are not ---
"$probe" add "$dir/control" daily
expect_clusters 0 "a new bitmap"
io -c "write -P 0x11 0 64k" -c "write -P 0x22 1M 128k"
expect_clusters 3 "after writes"
io -c "write -P 0x33 65535 2"
expect_clusters 4 "after a write across a boundary"
io -c "write -z 4M 64k" -c "write -z -u 5M 64k"
expect_clusters 6 "after zeroing"
io -c "discard 8M 64k"
expect_clusters 7 "after a discard"
io -c "write -f -P 0x44 16M 4k"
expect_clusters 8 "after a FUA write"
io -c "read 0 32M" -c "flush"
expect_clusters 8 "after reads"
io -c "read -P 0x22 1M 128k" -c "read -P 0 4M 64k" -c "read -P 0x33 65535 2" -c "read -P 0x44 16M 4k"

# --- what a client copies is the image ---
nbdcopy "$uri" "$dir/copy"
cmp "$image" "$dir/copy" || fail "the copy differs"
nbdinfo --map "$uri" >"$dir/map"
grep -q "hole" "$dir/map" || fail "no holes in the map"

# --- one owner at a time ---
if env ${runtime:+LD_PRELOAD="$runtime"} ASAN_OPTIONS=detect_leaks=0 \
  nbdkit -f -U "$dir/nbd2" "$plugin" image="$image" bitmaps="$dir/bitmaps" disk-id=$disk_id \
  >"$dir/second" 2>&1; then
  fail "a second export took the same bitmaps"
fi

# --- killed: the bits are still there, and more come to them ---
io -c "write -P 0x55 32M 64k"
stop KILL
start
expect_clusters 9 "after kill -9"
io -c "write -P 0x66 48M 64k"
expect_clusters 10 "after the restart"

# --- stopped: clean, and the socket is gone ---
stop TERM
[ ! -e "$dir/control" ] || fail "the control socket is left behind"
start
expect_clusters 10 "after a clean stop"
stop TERM

# --- somebody else wrote to the image meanwhile: said so, and not missed ---
printf x | dd of="$image" bs=1 seek=$((20 * 1024 * 1024)) conv=notrunc status=none
touch -d '+10 seconds' "$image"
start
[ "$("$probe" state "$dir/control" daily)" = inconsistent ] || fail "a foreign write was not noticed"
stop TERM

# --- in the background, too: the control thread lives after the fork ---
rm -f "$dir/pid" "$dir/nbd"
env ${runtime:+LD_PRELOAD="$runtime"} ASAN_OPTIONS=detect_leaks=0 \
  nbdkit -U "$dir/nbd" -P "$dir/pid" "$plugin" image="$image" bitmaps="$dir/bitmaps" \
  disk-id=$disk_id control="$dir/control"
for _ in $(seq 500); do
  [ -s "$dir/pid" ] && break
  sleep 0.02
done
background=$(cat "$dir/pid")
state=$("$probe" state "$dir/control" daily) || state=unreachable
kill "$background"
for _ in $(seq 500); do
  kill -0 "$background" 2>/dev/null || break
  sleep 0.02
done
[ "$state" = inconsistent ] || fail "in the background the bitmap is $state"
echo OK
