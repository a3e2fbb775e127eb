#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Backups with an external snapshot: overlays take what the guest writes meanwhile, the images stand still, and all of
# it is in them in the end. Each point is of its instant, the next incremental has all that was written before, during
# and after, and nothing is left. An overlay is never removed while it holds what nothing else does.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-guest.sh"
need nbdkit
seed

declare -A image=([root]=$WORK/images/root.qcow2 [data]=$WORK/images/data.raw)
mkdir "$WORK/images"
make_images() {
  qemu-img create -q -f qcow2 "${image[root]}" 16M
  truncate -s 16M "${image[data]}" "$WORK/root.oracle" "$WORK/data.oracle"
}
start_vm() { # FILE-OF-ROOT FILE-OF-DATA FORMAT-OF-DATA
  start_qemu g1 -device virtio-scsi-pci \
    -drive "if=none,id=root,file=${1:-${image[root]}},format=qcow2" -device virtio-blk-pci,drive=root,id=vd-root \
    -drive "if=none,id=data,file=${2:-${image[data]}},format=${3:-raw}" -device virtio-blk-pci,drive=data,id=vd-data
}
make_images
start_vm
start_daemon
cbt --quiet vm add g1 --qmp "$WORK/g1.qmp" --disk root=root --disk data=data

### what the guest writes goes into an oracle as well

n_writes=0
write_at() { # DISK CLUSTER
  n_writes=$((n_writes % 250 + 1))
  assert_eq "the write" "$(qmp g1 human-monitor-command \
    "{\"command-line\":\"qemu-io $1 \\\"write -q -P $n_writes $(($2 * CLUSTER)) 64k\\\"\"}")" '""'
  head -c "$CLUSTER" /dev/zero | tr '\0' "\\$(printf %o $n_writes)" |
    dd of="$WORK/$1.oracle" bs="$CLUSTER" seek="$2" conv=notrunc status=none
}
write_both() { # CLUSTER...
  local at
  for at in "$@"; do write_at root "$at" && write_at data "$at"; done
}
zero_both() { # CLUSTER
  local disk
  for disk in root data; do
    assert_eq "the write" "$(qmp g1 human-monitor-command \
      "{\"command-line\":\"qemu-io $disk \\\"write -q -z -u $(($1 * CLUSTER)) 64k\\\"\"}")" '""'
    dd if=/dev/zero of="$WORK/$disk.oracle" bs="$CLUSTER" seek="$1" count=1 conv=notrunc status=none
  done
}
discard_both() { # CLUSTER: reads as zeros then
  local disk
  for disk in root data; do
    assert_eq "the discard" "$(qmp g1 human-monitor-command \
      "{\"command-line\":\"qemu-io $disk \\\"discard -q $(($1 * CLUSTER)) 64k\\\"\"}")" '""'
    dd if=/dev/zero of="$WORK/$disk.oracle" bs="$CLUSTER" seek="$1" count=1 conv=notrunc status=none
  done
}
reserved() { stat -c %b "$WORK"/images/*.cbt-*.qcow2 | jq -s add; } # sectors, of the overlays
keep_oracle() { cp "$WORK/root.oracle" "$WORK/root.instant" && cp "$WORK/data.oracle" "$WORK/data.instant"; }
point_is() { # UUID oracle|instant
  local disk
  rm -rf "$WORK/point"
  cbt --quiet restore "$1" --to "$WORK/point" >/dev/null
  for disk in root data; do assert_same_file "$disk of $1" "$WORK/point/$disk.raw" "$WORK/$disk.$2"; done
}
nodes_of_disks() { qmp g1 query-block | jq -c '[.[] | select(.inserted) | .inserted.file]'; }
overlays_used() { qmp g1 query-block | jq '[.[].inserted."node-name" // "" | select(contains("-ovl"))] | length'; }
overlays_are_used() { [ "$(overlays_used)" = "$1" ]; }
left() {
  { qmp g1 query-named-block-nodes '{"flat":true}' | jq -r '.[]."node-name"'
    qmp g1 query-jobs | jq -r '.[].id'
    qmp g1 query-block-exports | jq -r '.[].id'
    qmp g1 query-fdsets | jq -r '.[].fds[].opaque // ""'; } | grep cbt- || true
  find "$WORK/images" -mindepth 1 -name '*cbt-*'
}
expect_clear() {
  assert_eq "left" "$(left)" ""
  assert_eq "images" "$(nodes_of_disks)" "[\"${image[root]}\",\"${image[data]}\"]"
  assert_eq "bitmaps" "[1,1]" \
    "$(qmp g1 query-block | jq -c '[.[].inserted | select(.) | ."dirty-bitmaps" // [] | length]')"
}
# What the monitor writes to a raw disk while QEMU gives it back ends QEMU (docs/external-snapshots.md): from hold_daemon
# to let_daemon_go no commit begins.
hold_daemon() { # VM
  kill -STOP "$DAEMON_PID"
  assert_eq "commits that have begun" "$(qmp "$1" query-jobs | jq -c '[.[].id | select(contains("-cmt"))]')" "[]"
}
let_daemon_go() { kill -CONT "$DAEMON_PID"; }
start_external() { # KIND SPEED: in $id, once the guest writes to the overlays; the daemon is held
  api POST /v1/vms/g1/backups "{\"kind\":\"$1\",\"snapshot\":\"external\",\"speed\":$2}"
  [ "$status" = 202 ] || fail "the backup: $body"
  id=$(jq -r .id <<<"$body")
  wait_until 20 overlays_are_used 2 || fail "no overlay is used: $(wait_job "$id")"
  hold_daemon g1
}
is_done() { # JOB
  assert_eq "status" "$(jq -c '[.status, .errmsg]' <<<"$1")" '["done",null]'
}

is_incremental() { # JOB CLUSTERS: of both disks
  assert_eq "kind, reason" "$(jq -c '[.kind, .reason]' <<<"$1")" '["incremental",null]'
  assert_eq "dirty" "$(jq .dirty <<<"$1")" $(($2 * CLUSTER))
}

### what is refused

say "refused: a vm that no QEMU has, another word, a disk with an iothread"
truncate -s 1M "$WORK/plain.raw"
cbt --quiet vm add plain --disk d="$WORK/plain.raw"
expect_exit 4 "no QEMU" cbt --full plain --snapshot external
expect_exit 2 "neither none nor external" cbt --full g1 --snapshot internal
truncate -s 1M "$WORK/io.raw"
start_qemu g2 -object iothread,id=io0 -drive "if=none,id=d,file=$WORK/io.raw,format=raw" \
  -device virtio-blk-pci,drive=d,iothread=io0
cbt --quiet vm add g2 --qmp "$WORK/g2.qmp"
expect_exit 1 "iothread" cbt --full g2 --snapshot external
stop_guest_vm g2

say "refused: a raw disk of a device from which this QEMU takes a write at any moment"
for device in ide-hd scsi-hd virtio-blk-pci,ioeventfd=off; do
  start_qemu g2 -device virtio-scsi-pci -drive "if=none,id=d,file=$WORK/io.raw,format=raw" -device "$device,drive=d"
  [ "$(qmp g2 query-version | jq .qemu.major)" -ge 9 ] ||
    expect_exit 1 "d is no qcow2 with all in one file, and its device" cbt --full g2 --snapshot external
  stop_guest_vm g2
done

say "refused, and not followed: an image that QEMU is not seen to have open"
start_g4() { start_qemu g4 -drive "if=none,id=d,file=$1,format=raw" -device virtio-blk-pci,drive=d; }
path_of_g4() { cbt_json vm show g4 | jq -r '.disks[0].path'; }
truncate -s 1M "$WORK/told.raw" "$WORK/unseen.raw" "$WORK/seen.raw"
: >"$WORK/control"
start_g4 "$WORK/told.raw"
python3 "$SOURCE/tests/integration/tools/qmp_proxy.py" "$WORK/proxy.qmp" "$WORK/g4.qmp" "$WORK/control" \
  "$WORK/seen.raw" 2>"$WORK/proxy.err" &
at_exit kill $!
wait_until 10 test -S "$WORK/proxy.qmp" || fail "the proxy does not start"
cbt --quiet vm add g4 --qmp "$WORK/proxy.qmp"
assert_eq "path" "$(path_of_g4)" "g4/d"
expect_exit 1 "not seen to have" cbt --full g4 --snapshot external
stop_guest_vm g4
start_g4 "$WORK/unseen.raw"
job=$(backup full g4)
assert_has "the note" "$(jq -r '.notes | join(" ")' <<<"$job")" "not seen to be open"
assert_eq "path" "$(path_of_g4)" "g4/d"
stop_guest_vm g4
start_g4 "$WORK/seen.raw"
backup full g4 >/dev/null
assert_eq "path" "$(path_of_g4)" "$WORK/seen.raw"
stop_guest_vm g4

### points

say "a full: written before, during and after"
for at in {0..63}; do write_both "$at"; done
keep_oracle
start_external full $((4 * MIB))
write_both 3 100 101 102
zero_both 5
say "  what the guest discards stays reserved"
room=$(reserved)
discard_both 102
assert_ge "sectors reserved" "$(reserved)" "$room"
let_daemon_go
job=$(wait_job "$id")
is_done "$job"
say "  $(jq -r '.notes | join("; ")' <<<"$job")"
assert_has "how the raw disk is read" "$job" "disk 'data' is read from ${image[data]}"
expect_clear
point_is "$(jq -r .uuid <<<"$job")" instant
write_both 7 200

say "incrementals have what was written during the one before, and no more"
for round in 1 2; do
  keep_oracle
  start_external incremental $((384 * 1024))
  write_both $((10 + round)) $((120 + round))
  let_daemon_go
  job=$(wait_job "$id")
  is_done "$job"
  expect_clear
  point_is "$(jq -r .uuid <<<"$job")" instant
  # of each disk: 3, 5, 7, 100, 101, 102, 200; then what was written during the last one, and after
  is_incremental "$job" $((2 * (round == 1 ? 7 : 3)))
  write_both $((30 + round))
done

say "with and without are one chain"
job=$(backup incremental g1)
is_incremental "$job" 6
point_is "$(jq -r .uuid <<<"$job")" oracle
write_both 40
job=$(backup incremental g1 --snapshot external)
is_incremental "$job" 2
point_is "$(jq -r .uuid <<<"$job")" oracle

say "a backup that is cancelled: committed all the same, and the changes are in the next one"
write_both 50 51 52 53
start_external incremental 65536
write_both 60
let_daemon_go
cbt --quiet job cancel "$id" >/dev/null
job=$(wait_job "$id")
assert_eq "status" "$(jq -r .status <<<"$job")" cancelled
expect_clear
job=$(backup incremental g1 --snapshot external)
is_incremental "$job" 10
point_is "$(jq -r .uuid <<<"$job")" oracle
expect_clear

### a disk that is unplugged meanwhile

say "a disk is unplugged and comes back: what was written to its overlay is in its image"
start_qemu g3 -device virtio-scsi-pci
qemu-img create -q -f qcow2 "$WORK/images/extra.qcow2" 4M
file="{\"driver\":\"file\",\"filename\":\"$WORK/images/extra.qcow2\"}"
qmp g3 blockdev-add "{\"driver\":\"qcow2\",\"node-name\":\"extra\",\"file\":$file}" >/dev/null
qmp g3 device_add '{"driver":"scsi-hd","drive":"extra","id":"vd-extra"}' >/dev/null
cbt --quiet vm add g3 --qmp "$WORK/g3.qmp" --disk extra=vd-extra
extra_is_overlaid() { qmp g3 query-block | jq -e 'any(.[]; .inserted."node-name" // "" | contains("-ovl"))'; }
io_extra() { qmp g3 human-monitor-command "{\"command-line\":\"qemu-io -d vd-extra \\\"$1\\\"\"}"; }
assert_eq "the write" "$(io_extra 'write -q -P 1 0 4M')" '""'
api POST /v1/vms/g3/backups "{\"kind\":\"full\",\"snapshot\":\"external\",\"speed\":$MIB}"
id=$(jq -r .id <<<"$body")
wait_until 20 extra_is_overlaid || fail "no overlay is used: $(wait_job "$id")"
assert_eq "the write" "$(io_extra 'write -q -P 2 1M 64k')" '""'
qmp g3 device_del '{"id":"vd-extra"}' >/dev/null
job=$(wait_job "$id")
say "  $(jq -c '[.status, .errmsg, .notes]' <<<"$job")"
assert_eq "left" "$(left)" ""
qmp g3 blockdev-del '{"node-name":"extra"}' >/dev/null
stop_guest_vm g3
assert_eq "at 1M" "$(qemu-io -f qcow2 -c "read -q -P 2 1M 64k" "$WORK/images/extra.qcow2")" ""

### a commit that takes long

mkdir "$WORK/big"
truncate -s 512M "$WORK/big/big.raw"
start_qemu g5 -drive "if=none,id=big,file=$WORK/big/big.raw,format=raw" -device virtio-blk-pci,drive=big
# A disk may take all of it in a tenth of a second: each commit is slow from its beginning.
: >"$WORK/control5"
echo 65536 >"$WORK/control5.speed"
python3 "$SOURCE/tests/integration/tools/qmp_proxy.py" "$WORK/proxy5.qmp" "$WORK/g5.qmp" "$WORK/control5" \
  "$WORK/big/big.raw" 2>"$WORK/proxy5.err" &
at_exit kill $!
wait_until 10 test -S "$WORK/proxy5.qmp" || fail "the proxy does not start"
cbt --quiet vm add g5 --qmp "$WORK/proxy5.qmp" --disk big=big
io_big() { qmp g5 human-monitor-command "{\"command-line\":\"qemu-io big \\\"$1\\\"\"}"; }
byte_of_big() { od -An -tu1 -j $((300 * MIB)) -N 1 "$WORK/big/big.raw" | tr -d ' '; }
overlay_of_big() { find "$WORK/big" -name '*cbt-*.qcow2'; }
big_is_overlaid() { qmp g5 query-block | jq -e 'any(.[]; .inserted."node-name" // "" | test("-(ovl|flc)"))'; }
big_is_clear() { [ -z "$(overlay_of_big)" ] && ! big_is_overlaid; }
commit_of_big() { qmp g5 query-jobs | jq -er '.[].id | select(contains("-cmt"))'; }
set_speed() { qmp g5 block-job-set-speed "{\"device\":\"$(commit_of_big)\",\"speed\":$1}"; }
commit_slowly() { # PATTERN: that the guest writes meanwhile; in $id
  api POST /v1/vms/g5/backups "{\"kind\":\"full\",\"snapshot\":\"external\",\"speed\":$((2 * MIB))}"
  id=$(jq -r .id <<<"$body")
  wait_until 20 big_is_overlaid || fail "no overlay is used: $(wait_job "$id")"
  hold_daemon g5
  assert_eq "the write" "$(io_big "write -q -P $1 64M 256M")" '""'
  let_daemon_go
  wait_until 60 commit_of_big >/dev/null || fail "no commit begins"
}
assert_eq "the write" "$(io_big 'write -q -P 1 0 4M')" '""'

say "while a commit lasts others speak to QEMU, and the daemon ends; its next start finishes it"
commit_slowly 2
api GET /v1/vms/g5/disks/big/bitmaps
assert_eq "status" "$status" 200
assert_eq "the backup" "$(job_status "$id")" active
stop_daemon
big_is_overlaid >/dev/null || fail "the overlay is not used any more"
set_speed 0 >/dev/null
start_daemon
wait_until 30 big_is_clear || fail "left: $(find "$WORK/big")"
assert_eq "byte" "$(byte_of_big)" 2

say "another file in the place of an overlay is not removed"
fallocate -p -o $((64 * MIB)) -l $((256 * MIB)) "$WORK/big/big.raw" # read sooner
commit_slowly 3
overlay=$(overlay_of_big)
mv "$overlay" "$WORK/big/aside"
echo other >"$overlay"
set_speed 0 >/dev/null
job=$(wait_job "$id")
assert_has "the note" "$(jq -r '.notes | join(" ")' <<<"$job")" "was not removed: it is another file"
assert_eq "the other file" "$(cat "$overlay")" other
rm "$overlay"
assert_eq "byte" "$(byte_of_big)" 3
fallocate -p -o $((64 * MIB)) -l $((256 * MIB)) "$WORK/big/big.raw"

say "a vm is removed whose overlay was left, the commit being cancelled by somebody: it is committed first"
commit_slowly 4
rm "$WORK/control5.speed"
qmp g5 block-job-cancel "{\"device\":\"$(commit_of_big)\",\"force\":true}" >/dev/null
job=$(wait_job "$id")
assert_has "the note" "$(jq -r '.notes | join(" ")' <<<"$job")" "could not be committed"
big_is_overlaid >/dev/null || fail "the overlay is not used any more"
cbt --quiet vm remove g5 --forget-points
big_is_clear >/dev/null || fail "left: $(find "$WORK/big")"
assert_eq "byte" "$(byte_of_big)" 4
stop_guest_vm g5
rm -r "$WORK/big"

### the commit has no room

if [ "$(id -u)" -eq 0 ]; then
  say "no room to commit: the guest goes on, the point is good, and the next backup commits first"
  stop_guest_vm g1
  mkdir "$WORK/small"
  mount -t tmpfs -o size=60M none "$WORK/small"
  at_exit umount "$WORK/small"
  cp --sparse=always "${image[root]}" "${image[data]}" "$WORK/small/"
  fallocate -p -o $((8 * MIB)) -l $((8 * MIB)) "$WORK/small/data.raw"
  truncate -s $((8 * MIB)) "$WORK/data.oracle"
  truncate -s $((16 * MIB)) "$WORK/data.oracle"
  rm "${image[@]}"
  image=([root]=$WORK/small/root.qcow2 [data]=$WORK/small/data.raw)
  left() { find "$WORK/small" -name '*cbt-*'; }
  start_vm
  job=$(backup incremental g1)
  point_is "$(jq -r .uuid <<<"$job")" oracle
  keep_oracle
  write_both 1 2 3 4
  keep_oracle
  start_external incremental $((256 * 1024))
  dd if=/dev/zero of="$WORK/small/filler" bs=4K status=none 2>/dev/null || true # until there is no room
  for at in {150..159}; do write_both "$at"; done
  let_daemon_go
  job=$(wait_job "$id")
  is_done "$job"
  assert_has "the note" "$(jq -r '.notes | join(" ")' <<<"$job")" "could not be committed"
  point_is "$(jq -r .uuid <<<"$job")" instant
  assert_ge "overlays that are left" "$(left | wc -l)" 1
  for at in {160..163}; do write_both "$at"; done # the guest does not notice
  expect_exit 1 "could not be committed" cbt --incremental g1
  expect_exit 4 "is not removed" cbt vm remove g1
  rm "$WORK/small/filler"
  job=$(backup incremental g1)
  is_incremental "$job" 28
  point_is "$(jq -r .uuid <<<"$job")" oracle
  expect_clear
else
  say "the commit without room is left out: it needs root"
fi

### QEMU ends in the middle

say "QEMU is killed in the middle: overlays stay, each backup says so, and bitmaps are those of the image"
write_both 70
keep_oracle
start_external incremental 65536
write_both 71
kill_guest_vm g1
let_daemon_go
job=$(wait_job "$id")
say "  $(jq -c '[.status, .errmsg]' <<<"$job")" # done, if all that QEMU has to give was read by then
[ "$(jq -r .status <<<"$job")" != "done" ] || point_is "$(jq -r .uuid <<<"$job")" instant
assert_eq "overlays" "$(left | wc -l)" 2
expect_exit 4 "holds what its guest wrote" cbt --incremental g1
assert_eq "overlays" "$(left | wc -l)" 2
mkdir "$WORK/aside"
cp "${image[@]}" "$WORK/aside/"
start_vm
job=$(backup incremental g1)
assert_has "the note" "$(jq -r '.notes | join(" ")' <<<"$job")" "WARNING: ${image[root]}.cbt-"
assert_eq "overlays" "$(left | wc -l)" 2
assert_has "the reason" "$job" "data: bitmap 'default' was gone"
cbt --quiet restore "$(jq -r .uuid <<<"$job")" --to "$WORK/last" >/dev/null
assert_same_file "root" "$WORK/last/root.raw" "$WORK/root.instant"
stop_guest_vm g1

say "QEMU is started on the overlays: all is there, and it is said"
cp "$WORK/aside"/* "$(dirname "${image[root]}")/"
mapfile -t overlays < <(left | sort -r)
assert_eq "their owner" "$(stat -c %U:%G "${overlays[@]}")" "$(stat -c %U:%G "${image[root]}" "${image[data]}")"
start_vm "${overlays[@]}" qcow2
job=$(backup incremental g1)
assert_has "the note" "$(jq -r '.notes | join(" ")' <<<"$job")" "WARNING: QEMU was started on ${overlays[0]}"
point_is "$(jq -r .uuid <<<"$job")" oracle
stop_guest_vm g1

say "committed by hand before the guest starts: all is there"
for overlay in "${overlays[@]}"; do
  qemu-img commit -q "$overlay"
  rm "$overlay"
done
qemu-img check -q "${image[root]}" || fail "the guest's image is damaged"
start_vm
job=$(backup incremental g1)
point_is "$(jq -r .uuid <<<"$job")" oracle

stop_guest_vm g1
qemu-img check -q "${image[root]}" || fail "the guest's image is damaged"
qemu-img compare -f raw -F qcow2 "$WORK/root.oracle" "${image[root]}" >/dev/null || fail "root differs"
assert_same_file "data" "$WORK/data.oracle" "${image[data]}"
stop_daemon
