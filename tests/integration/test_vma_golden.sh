#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Archives of the original tool are read exactly; archives of ours give the same bytes to a reader that shares no code with it;
# through files, pipes, FIFOs and zstd, at all odd sizes, up to the limits of the format.
. "$(dirname "$0")/lib.sh"
need python3 zstd
GOLDEN=$SOURCE/tests/golden/vma
cd "$WORK"

vma() { "$BUILD/bin/cbt-vma" "$@"; }
reader() { python3 "$SOURCE/tests/integration/tools/vma_reader.py" "$@"; }
sums_of() { (cd "$1" && sha256sum -- * | sort -k 2); }
random_file() { head -c "$2" /dev/urandom >"$1"; } # PATH BYTES
padded() { cp "$1" "$2" && truncate -s "$((($(stat -c %s "$1") + 511) / 512 * 512))" "$2"; } # FROM TO, as disks are

# reads_back ARCHIVE [DISK=IMAGE]...: both readers give the images, and agree about the rest.
reads_back() {
  local archive=$1 pair
  shift
  rm -rf ours theirs
  vma verify "$archive" || fail "$archive does not verify"
  vma extract "$archive" ours || fail "$archive cannot be extracted"
  reader --as-written "$archive" theirs >theirs.list || fail "the other reader refuses $archive"
  vma list "$archive" | grep -v ^CTIME: | cmp - theirs.list || fail "the lists of $archive differ"
  diff -r ours theirs || fail "what is in $archive differs"
  for pair; do
    padded "${pair#*=}" expected
    assert_same_file "$archive, disk ${pair%%=*}" "theirs/disk-${pair%%=*}.raw" expected
  done
}

test_golden_sources_are_what_they_were() {
  python3 "$GOLDEN/gen_golden.py" sources >sources.sums
  assert_eq "odd.raw" "$(awk '$3 == "odd.raw" { print substr($1, 1, 8) }' sources.sums)" cdd8134d
  assert_eq "scsi0.raw" "$(awk '$3 == "scsi0.raw" { print substr($1, 1, 8) }' sources.sums)" 3380b7d7
  assert_eq "virtio1.raw" "$(awk '$3 == "virtio1.raw" { print substr($1, 1, 8) }' sources.sums)" 0fb0222f
  assert_eq "zero.raw" "$(awk '$3 == "zero.raw" { print substr($1, 1, 8) }' sources.sums)" 30e14955
}

golden_list() { TZ=UTC vma list "$GOLDEN/$1.vma"; }
test_golden_archives_list_as_the_original_does() {
  assert_eq "g1" "$(golden_list g1-odd)" "CFG: size: 140 name: qemu-server.conf
DEV: dev_id=1 size: 6291968 devname: drive-scsi0
CTIME: Sat Nov 21 00:13:26 2026"
  assert_eq "g2" "$(golden_list g2-two)" "CFG: size: 213 name: qemu-server.conf
CFG: size: 57 name: qemu-server.fw
DEV: dev_id=1 size: 4194304 devname: drive-scsi0
DEV: dev_id=2 size: 2180608 devname: drive-virtio1
CTIME: Sat Nov 21 00:13:26 2026"
  assert_eq "g3" "$(golden_list g3-zero)" "DEV: dev_id=1 size: 1048576 devname: drive-scsi0
CTIME: Sat Nov 21 00:13:26 2026"
}

test_golden_configs_are_printed_byte_for_byte() {
  vma config "$GOLDEN/g1-odd.vma" | cmp - sources/g1/qemu-server.conf
  vma config "$GOLDEN/g2-two.vma" -c qemu-server.fw | cmp - sources/g2/qemu-server.fw
  vma config -c qemu-server.conf - <"$GOLDEN/g2-two.vma" | cmp - sources/g2/qemu-server.conf
  expect_exit 1 "no configuration file 'qemu-server.conf'" vma config "$GOLDEN/g3-zero.vma"
  expect_exit 1 "standard output" bash -c "'$BUILD/bin/cbt-vma' config '$GOLDEN/g1-odd.vma' >/dev/full"
}

test_golden_archives_extract_to_their_sources() {
  local archive
  for archive in g1-odd g2-two g3-zero; do
    vma verify "$GOLDEN/$archive.vma" || fail "$archive does not verify"
    rm -rf "$archive"
    vma extract "$GOLDEN/$archive.vma" "$archive"
  done
  assert_same_file "g1" g1-odd/disk-drive-scsi0.raw sources/odd.raw
  assert_same_file "g2, first" g2-two/disk-drive-scsi0.raw sources/scsi0.raw
  assert_same_file "g2, second" g2-two/disk-drive-virtio1.raw sources/virtio1.raw
  assert_same_file "g3" g3-zero/disk-drive-scsi0.raw sources/zero.raw
  assert_same_file "g2, its firewall" g2-two/qemu-server.fw sources/g2/qemu-server.fw
  assert_eq "files of g2" "$(find g2-two -type f | wc -l)" 4
  assert_eq "blocks of the disk of zeros" "$(stat -c %b g3-zero/disk-drive-scsi0.raw)" 0
}

# Our archive of a golden one's sources has the same header but for uuid and time, and the same clusters.
test_ours_of_the_same_sources_differs_only_in_uuid_and_order() {
  vma create ours-g1.vma -c sources/g1/qemu-server.conf drive-scsi0=sources/odd.raw
  vma create ours-g2.vma -c sources/g2/qemu-server.conf -c sources/g2/qemu-server.fw \
    drive-scsi0=sources/scsi0.raw drive-virtio1=sources/virtio1.raw
  vma create ours-g3.vma drive-scsi0=sources/zero.raw
  reads_back ours-g1.vma drive-scsi0=sources/odd.raw
  reads_back ours-g3.vma drive-scsi0=sources/zero.raw
  reads_back ours-g2.vma drive-scsi0=sources/scsi0.raw drive-virtio1=sources/virtio1.raw
  diff -r ours g2-two
  local pair
  for pair in g1-odd:ours-g1 g2-two:ours-g2 g3-zero:ours-g3; do
    assert_eq "size of ${pair#*:}" "$(stat -c %s "${pair#*:}.vma")" "$(stat -c %s "$GOLDEN/${pair%%:*}.vma")"
    cmp <(tail -c +49 "$GOLDEN/${pair%%:*}.vma" | head -c 12464) <(tail -c +49 "${pair#*:}.vma" | head -c 12464) ||
      fail "the header of ${pair#*:} is laid out differently"
  done
}

test_any_way_in_and_out_gives_the_same() {
  vma create a.vma.zst -c sources/g1/qemu-server.conf disk=sources/odd.raw
  zstd -qt a.vma.zst || fail "zstd refuses a.vma.zst"
  zstd -qdc a.vma.zst >plain.vma
  reads_back plain.vma disk=sources/odd.raw
  vma create - disk=sources/odd.raw | cat >piped.vma
  reads_back piped.vma disk=sources/odd.raw
  assert_eq "checksums beside a pipe" "$(find . -maxdepth 1 -name '-*' | wc -l)" 0
  mkfifo fifo
  cat fifo >from-fifo.vma &
  vma create fifo disk=sources/odd.raw
  wait $!
  reads_back from-fifo.vma disk=sources/odd.raw
  local file in n=0
  for file in plain.vma a.vma.zst; do
    assert_same_file "list of $file" <(vma list - <"$file") <(vma list plain.vma)
    for in in pipe stdin fifo; do
      n=$((n + 1))
      case $in in
        pipe) cat "$file" | vma extract - "way$n"; cat "$file" | vma verify - ;;
        stdin) vma extract /dev/stdin "way$n" <"$file"; vma verify /dev/stdin <"$file" ;;
        fifo) cat "$file" >fifo & vma extract fifo "way$n"; wait $! ;;
      esac
      assert_same_file "$file by $in" "way$n/disk-disk.raw" sources/odd.raw
    done
  done
  zstd -q -3 --long=27 <plain.vma | vma verify -
  { head -c 20000 plain.vma | zstd -q; tail -c +20001 plain.vma | zstd -q; } >frames.zst
  vma verify frames.zst || fail "two zstd frames are not read as one"
}

test_every_odd_size_keeps_its_last_byte() {
  local size words=()
  seed
  for size in 1 511 512 513 4095 4096 4097 65535 65536 65537 $((58 * 65536 - 1)) $((58 * 65536)) $((58 * 65536 + 1)) \
    $((1 + $(random_below 3000000))); do
    random_file "odd$size" "$size"
    words+=("$size=odd$size")
  done
  vma create odd-sizes.vma "${words[@]}"
  reads_back odd-sizes.vma "${words[@]}"
  cp "odd$size" odd
  vma create odd.vma odd
  reads_back odd.vma odd=odd
}

test_254_disks_are_taken_and_255_refused() {
  local i words=() pairs=()
  for ((i = 1; i <= 254; i++)); do
    random_file "many$i" $((i * 400))
    words+=("d$i=many$i")
  done
  vma create many.vma "${words[@]}"
  reads_back many.vma d1=many1 d100=many100 d254=many254
  expect_exit 1 "at most 254 disks" vma create many255.vma "${words[@]}" one-more=odd
  [ ! -e many255.vma ] || fail "a refused archive was begun"
}

test_256_configs_are_taken_and_257_refused() {
  local i words=()
  mkdir configs
  for ((i = 1; i <= 256; i++)); do
    random_file "configs/c$i" $((i * 5))
    words+=(-c "configs/c$i")
  done
  vma create configs.vma "${words[@]}"
  reads_back configs.vma
  diff -r configs ours || fail "the configuration files differ"
  vma config configs.vma -c c256 | cmp - configs/c256
  expect_exit 1 "at most 256 configuration files" vma create configs257.vma "${words[@]}" -c sources/g2/qemu-server.fw
  [ ! -e configs257.vma ] || fail "a refused archive was begun"
}

test_configs_up_to_65535_bytes_and_512_kib_together() {
  random_file large.conf 65535
  : >empty.conf
  vma create large.vma -c large.conf -c empty.conf odd
  reads_back large.vma odd=odd
  assert_same_file "the largest configuration file" ours/large.conf large.conf
  assert_eq "the empty one" "$(stat -c %s ours/empty.conf)" 0
  random_file too-large.conf 65536
  expect_exit 1 "65536 bytes" vma create too-large.vma -c too-large.conf odd
  local i words=()
  for i in 1 2 3 4 5 6 7 8; do
    cp large.conf "large$i"
    words+=(-c "large$i")
  done
  expect_exit 1 "header" vma create too-many.vma "${words[@]}"
  [ ! -e too-many.vma ] && [ ! -e too-many.vma.xxh3 ] || fail "a refused archive is left"
}

test_the_same_input_gives_the_same_data() {
  vma create twice1.vma d=sources/scsi0.raw
  vma create twice2.vma d=sources/scsi0.raw
  # uuid, time and the MD5 of each extent may differ.
  assert_same_file "all other bytes" <(python3 - twice1.vma <<<"$blank") <(python3 - twice2.vma <<<"$blank")
}
blank='
import struct, sys
data = bytearray(open(sys.argv[1], "rb").read())
data[8:48] = bytes(40)
at = struct.unpack_from(">I", data, 56)[0]
while at < len(data):
    data[at + 8:at + 40] = bytes(32)
    at += 512 + 4096 * struct.unpack_from(">H", data, at + 6)[0]
sys.stdout.buffer.write(data)
'

# full_of BYTE SIZE PATH: an image without a zero.
full_of() { head -c "$2" /dev/zero | tr '\0' "$1" >"$3"; }

test_a_map_places_disks() {
  local golden=$GOLDEN/g2-two.vma
  full_of x 5000000 full1
  cp full1 full2
  printf '1:drive-scsi0=%s\nformat=raw:1:drive-virtio1=%s\ndone\nrubbish after done\n' full1 full2 >map
  vma extract "$golden" -r map placed
  cmp -n 4194304 full1 sources/scsi0.raw || fail "zeros were not written"
  cmp -n 2180608 full2 sources/virtio1.raw || fail "zeros were not written"
  assert_eq "size of a larger image" "$(stat -c %s full1)" 5000000
  assert_eq "what is behind the disk" "$(tail -c 805696 full1 | tr -d x | wc -c)" 0
  assert_eq "files in the folder" "$(ls placed | tr '\n' ' ')" "qemu-server.conf qemu-server.fw "
  printf '0:drive-scsi0=new1\nskip=drive-virtio1\ndone\n' | vma extract "$golden" -r - placed2
  assert_same_file "a new image" new1 sources/scsi0.raw
  [ ! -e new2 ] && [ "$(find placed2 -name '*.raw' | wc -l)" -eq 0 ] || fail "a skipped disk was written"
  # Who writes the map may keep its pipe open, and the archive may come by standard input.
  mkfifo map-pipe
  vma extract "$golden" -r - placed3 <map-pipe &
  local pid=$!
  exec 7>map-pipe
  printf 'format=raw:0:drive-scsi0=new3\nskip=drive-virtio1\ndone\n' >&7
  wait "$pid" || fail "a map from an open pipe"
  exec 7>&-
  assert_same_file "a new image" new3 sources/scsi0.raw
  printf 'skip=drive-scsi0\n0:drive-virtio1=new4' >map # neither newline nor done
  expect_exit 1 "done" vma extract "$golden" -r map placed4
  printf 'skip=drive-scsi0\n0:drive-virtio1=new4\ndone' >map
  vma extract - -r map placed4 <"$golden"
  assert_same_file "a new image" new4 sources/virtio1.raw
}

test_maps_that_cannot_be_are_refused() {
  local golden=$GOLDEN/g2-two.vma text part n=0
  while IFS='|' read -r text part; do
    printf '%b' "$text" >map
    n=$((n + 1))
    expect_exit 1 "$part" vma extract "$golden" -r map "bad$n"
    [ ! -e "bad$n" ] && [ ! -e no1 ] || fail "map '$text' began something"
  done <<'END'
2:drive-scsi0=no1\ndone\n|neither
:drive-scsi0=no1\ndone\n|neither
0:=no1\ndone\n|neither
0:drive-scsi0=\ndone\n|neither
0:drive-scsi0\ndone\n|neither
format=qcow2:0:drive-scsi0=no1\ndone\n|only format=raw
format=raw\ndone\n|only format=raw
skip=other\nskip=drive-scsi0\nskip=drive-virtio1\ndone\n|no disk 'other'
skip=drive-scsi0\n0:drive-scsi0=no1\ndone\n|twice
|done
END
  printf 'skip=drive-scsi0\ndone\n' >map
  expect_exit 1 "does not name disk 'drive-virtio1'" vma extract "$golden" -r map bad-part
  expect_exit 1 "both" vma extract - -r - bad-both <"$golden"
  expect_exit 1 "cannot open" vma extract "$golden" -r no-such-map bad-none
  printf '1:drive-scsi0=/dev/null\nskip=drive-virtio1\ndone\n' >map
  expect_exit 1 "no image" vma extract "$golden" -r map bad-device
}

test_names_that_cannot_be_are_refused() {
  expect_exit 1 "two images" vma create bad.vma odd odd
  expect_exit 1 "two images" vma create bad.vma a=odd a=sources/odd.raw
  expect_exit 1 "no name" vma create bad.vma =odd
  expect_exit 1 "plain file name" vma create bad.vma ../a=odd
  expect_exit 1 "plain file name" vma create bad.vma ..=odd
  expect_exit 1 "plain file name" vma create bad.vma $'a\nb=odd'
  expect_exit 1 "state" vma create bad.vma vmstate=odd
  expect_exit 1 "two configuration files" vma create bad.vma -c sources/g1/qemu-server.conf -c sources/g2/qemu-server.conf
  expect_exit 1 "cannot open" vma create bad.vma no-such-image
  expect_exit 1 "empty" vma create bad.vma a=empty.conf
  expect_exit 1 "neither a file" vma create bad.vma a=sources
  expect_exit 1 "at least one" vma create bad.vma
  expect_exit 1 "does not know" vma create bad.vma -x odd
  [ ! -e bad.vma ] || fail "a refused archive was begun"
  cp odd 'a=b'
  vma create equals.vma 'a=b' # a file of that name
  assert_has "the disk" "$(vma list equals.vma)" "devname: a=b"
}

test_what_exists_is_not_overwritten() {
  echo mine >taken
  expect_exit 1 "exists" vma create taken odd
  assert_eq "the file" "$(cat taken)" mine
  mkdir taken-folder
  expect_exit 1 "exists" vma extract "$GOLDEN/g1-odd.vma" taken-folder
  assert_eq "the folder" "$(ls taken-folder)" ""
  ln -s nowhere dangling
  expect_exit 1 "exists" vma create dangling odd
  [ ! -e nowhere ] || fail "a symbolic link was followed"
  mkdir blocked.vma.xxh3
  expect_exit 1 "cannot create blocked.vma.xxh3" vma create blocked.vma odd
  [ ! -e blocked.vma ] || fail "an archive without its checksums is left"
  expect_exit 1 "cannot write" vma create /dev/full odd
  expect_exit 1 "standard output" bash -c "'$BUILD/bin/cbt-vma' list '$GOLDEN/g1-odd.vma' >/dev/full"
  (
    ulimit -f 100
    trap '' XFSZ
    expect_exit 1 "cannot write" vma create too-big.vma sources/odd.raw
    [ ! -e too-big.vma ] && [ ! -e too-big.vma.xxh3 ] || fail "half an archive is left"
    expect_exit 1 "cannot" vma extract "$GOLDEN/g1-odd.vma" too-big
  )
}

test_holes_stay_holes() {
  truncate -s 200M sparse
  random_bytes_at sparse $((77 * MIB + 4096)) 8192
  vma create sparse.vma sparse
  assert_le "bytes of the archive" "$(stat -c %s sparse.vma)" $((12800 + 56 * 512 + 8192))
  vma extract sparse.vma sparse.out
  assert_same_file "the disk" sparse.out/disk-sparse.raw sparse
  assert_le "KiB of the disk" "$(du -k sparse.out/disk-sparse.raw | cut -f 1)" 64
  full_of y $((200 * MIB)) solid
  printf '1:sparse=solid\ndone\n' | vma extract sparse.vma -r - solid.out
  assert_same_file "the overwritten disk" solid sparse
  assert_le "KiB of it" "$(du -k solid | cut -f 1)" 64
  rm -f solid
}

test_checksums_lie_beside_the_archive() {
  assert_eq "lines" "$(wc -l <sparse.vma.xxh3)" "$((1 + 1 + 56 + 1))"
  assert_has "the last" "$(tail -n 1 sparse.vma.xxh3)" "# pieces: 57"
  assert_has "verify" "$(vma verify -v sparse.vma | tail -n 1)" "all data has its checksum"
  assert_has "verify" "$(vma verify -v - <sparse.vma | tail -n 1)" "no checksums"
  assert_eq "what verify says with checksums" "$(vma verify sparse.vma 2>&1)" ""
  mv sparse.vma.xxh3 away.xxh3
  assert_has "verify without checksums" "$(vma verify sparse.vma 2>&1)" "without sparse.vma.xxh3 there are no checksums of what the disks hold"
  mv away.xxh3 sparse.vma.xxh3
  (umask 022 && vma extract sparse.vma modes)
  assert_eq "modes of what is extracted" "$(stat -c %a modes/* | sort -u)" 600
}

test_a_block_device_is_archived_and_restored() {
  [ "$(id -u)" -eq 0 ] && command -v losetup >/dev/null || { say "not root: no block devices"; return 0; }
  cp sources/odd.raw backing
  local loop target
  loop=$(losetup -f --show backing) || { say "no loop devices here"; return 0; }
  at_exit losetup -d "$loop"
  vma create block.vma "root=$loop"
  reads_back block.vma root=sources/odd.raw
  full_of z 6291968 target-file
  target=$(losetup -f --show target-file)
  at_exit losetup -d "$target"
  printf '1:root=%s\ndone\n' "$target" | vma extract block.vma -r - block.out
  assert_same_file "the target" <(head -c 6291968 "$target") sources/odd.raw
  full_of z $((MIB)) small-file
  local small
  small=$(losetup -f --show small-file)
  at_exit losetup -d "$small"
  printf '1:root=%s\ndone\n' "$small" >map
  expect_exit 1 "too small" vma extract block.vma -r map small.out
  expect_exit 1 "exists" vma create "$loop" odd
}

test_times_of_any_kind_are_printed() {
  local seconds text
  while IFS='|' read -r seconds text; do
    python3 - "$GOLDEN/g3-zero.vma" timed.vma "$seconds" <<'END'
import hashlib, struct, sys
data = bytearray(open(sys.argv[1], "rb").read())
data[24:48] = struct.pack(">q", int(sys.argv[3])) + bytes(16)
data[32:48] = hashlib.md5(data[:12800]).digest()
open(sys.argv[2], "wb").write(data)
END
    assert_eq "time $seconds" "$(TZ=UTC vma list timed.vma | tail -n 1)" "CTIME: $text"
  done <<'END'
0|Thu Jan  1 00:00:00 1970
1793836800|Thu Nov  5 00:00:00 2026
-86400|Wed Dec 31 00:00:00 1969
9223372036854775807|unknown
-9223372036854775808|unknown
END
}

for name in $(sed -n 's/^\(test_[a-z0-9_]*\)() {.*/\1/p' "$SOURCE/tests/integration/test_vma_golden.sh"); do
  say "$name"
  "$name"
done
