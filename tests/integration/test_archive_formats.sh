#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Every point of a line of backups comes out as vma, raw, qcow2 and as a link of a chain, all equal to the disks at its
# instant and sound to qemu-img; the same bytes each time; a chain grows by new links alone, and outlives points, daemon
# and the name of its folder. CBT_TEST_LONG=1: 20 incrementals instead of 4.
. "$(dirname "$0")/lib.sh"
need qemu-io qemu-img

vma() { "$BUILD/bin/cbt-vma" "$@"; }
seed
n_rounds=4
[ -z "$LONG" ] || n_rounds=20
disks=(root data)
random_image "$WORK/root.img" 24
truncate -s $((64 * MIB)) "$WORK/root.img"
truncate -s $((10 * MIB + 512)) "$WORK/data.img"
random_bytes_at "$WORK/data.img" $((10 * MIB)) 512
printf 'cores: 2\nname: one\n' >"$WORK/vm.conf"
start_daemon
cbt --quiet vm add vm1 --disk "root=$WORK/root.img" --disk "data=$WORK/data.img" --config "$WORK/vm.conf"
root_uri=$(uri_of vm1 root)
data_uri=$(uri_of vm1 data)

# image_matches IMAGE DISK N: qemu-img finds no fault, and what it reads is the disk at round N.
image_matches() {
  qemu-img check -q "$1" || fail "qemu-img check $1: $(qemu-img check "$1" 2>&1)"
  qemu-img convert -O raw "$1" "$WORK/converted.raw" || fail "qemu-img convert $1"
  assert_same_file "$1 as $2 of round $3" "$WORK/converted.raw" "$WORK/oracle-$2.$3"
  rm "$WORK/converted.raw"
}

# link FOLDER POINT DISK [KEY]: the name of its image (or another key of its entry) by the chain's index.
link() {
  jq -er --arg uuid "$(uuid_of "$2")" --arg disk "$3" --arg key "${4:-file}" \
    '.points[] | select(.uuid == $uuid) | .disks[] | select(.name == $disk) | .[$key]' "$1/chain.json"
}
uuid_of() { cbt_json show "$1" | jq -r .uuid; }
# images FOLDER: each with what would tell if it was written again.
images() { find "$1" -name '*.qcow2' -printf '%P %i %s %T@\n' | sort; }
n_images() { find "$1" -name '*.qcow2' | wc -l; }
chain_export() { cbt_json archive "$1" --chain --output "$2"; } # POINT FOLDER

# write_some N: random writes to both disks, and data behind 40 MiB of root that the next round makes zeros.
write_some() {
  for _ in 1 2 3; do
    io "$root_uri" "write -P $(($1 + 1)) $(random_below 38)M $((4 * (1 + $(random_below 100))))k" \
      "write -z $(random_below 38)M 192k" "discard $(random_below 38)M 1M" >/dev/null
  done
  io "$root_uri" "write -P 77 $((41 + $1))M 128k" "write -z $((40 + $1))M 128k"
  io "$data_uri" "write -P $(($1 + 7)) $(random_below 10)M 4k" >/dev/null
}

back_up_round() { # N
  write_some "$1"
  cp "$WORK/root.img" "$WORK/oracle-root.$1"
  cp "$WORK/data.img" "$WORK/oracle-data.$1"
  backup "$([ "$1" = 0 ] && echo full || echo incremental)" vm1 >/dev/null
}

say "a full and $n_rounds incrementals under random writes; the chain is exported after each"
for ((n = 0; n <= n_rounds; n++)); do
  back_up_round "$n"
  [ "$n" = 0 ] || images "$WORK/chain" >"$WORK/images.before"
  job=$(chain_export vm1@latest "$WORK/chain")
  assert_eq "type and status" "$(jq -r '.type + " " + .status' <<<"$job")" "archive done"
  assert_eq "images in the chain" "$(n_images "$WORK/chain")" $((2 * (n + 1)))
  images "$WORK/chain" >"$WORK/images.after"
  [ "$n" = 0 ] || assert_subset "old images" "$WORK/images.before" "$WORK/images.after"
done
assert_eq "what a further export writes" "$(chain_export vm1@latest "$WORK/chain" | jq -c '[.stored, .dirty]')" "[0,0]"

say "each point as vma, raw, qcow2 and link"
mkdir "$WORK/out"
for ((n = 0; n <= n_rounds; n++)); do
  point=vm1@$((n_rounds - n))
  cbt --quiet archive "$point" --format vma --output "$WORK/out.vma"
  vma verify "$WORK/out.vma" || fail "the vma archive of round $n does not verify"
  vma extract "$WORK/out.vma" "$WORK/out.vma.d"
  cbt --quiet archive "$point" --format raw --output "$WORK/out"
  cbt --quiet archive "$point" --format qcow2 --output "$WORK/out"
  for disk in "${disks[@]}"; do
    assert_same_file "vma, round $n" "$WORK/out.vma.d/disk-$disk.raw" "$WORK/oracle-$disk.$n"
    assert_same_file "raw, round $n" "$WORK/out/$disk.raw" "$WORK/oracle-$disk.$n"
    image_matches "$WORK/out/$disk.qcow2" "$disk" "$n"
    file=$(link "$WORK/chain" "$point" "$disk")
    kind=$([ "$n" = 0 ] && echo full || echo incr)
    [[ $file =~ ^$disk\.[0-9]{8}T[0-9]{6}Z-$kind(-[0-9]+)?\.qcow2$ ]] || fail "an image of round $n is named $file"
    image_matches "$WORK/chain/$file" "$disk" "$n"
    assert_eq "size by the index" "$(link "$WORK/chain" "$point" "$disk" size)" "$(stat -c %s "$WORK/$disk.img")"
    if [ "$n" -gt 0 ]; then
      assert_eq "backing file by the index" "$(link "$WORK/chain" "$point" "$disk" backing-file)" \
        "$(link "$WORK/chain" "vm1@$((n_rounds - n + 1))" "$disk")"
    fi
  done
  [ "$n" = "$n_rounds" ] || rm -r "$WORK"/out.vma* "$WORK"/out/*
done
assert_le "space of the raw image, KiB" "$(du -k "$WORK/out/root.raw" | cut -f 1)" $((45 * 1024))
file=$(link "$WORK/chain" vm1@latest root)
info=$(qemu-img info --output=json "$WORK/chain/$file")
assert_eq "format of an overlay" \
  "$(jq -c '[.format, ."cluster-size", ."format-specific".data.compat, ."format-specific".data."refcount-bits",
    ."format-specific".data.corrupt, ."dirty-flag", ."backing-filename-format"]' <<<"$info")" \
  '["qcow2",65536,"1.1",16,false,false,"qcow2"]'
assert_eq "its backing file" "$(jq -r '."backing-filename"' <<<"$info")" "$(link "$WORK/chain" vm1@1 root)"
map=$(qemu-img map --output=json "$WORK/chain/$file")
assert_eq "what became zeros" "$(jq -c --argjson at $(((40 + n_rounds) * MIB)) \
  '.[] | select(.start <= $at and .start + .length > $at) | [.depth, .zero, .data]' <<<"$map")" '[0,true,false]'
assert_eq "the configuration" "$(cat "$WORK/chain"/CONFIGS-*/vm.conf | sort -u | wc -l)" 2

say "the same point gives the same bytes: again, by a pipe, by HTTP; a chain at once those of one that grew"
mkdir "$WORK/again"
for format in raw qcow2; do
  cbt --quiet archive vm1@latest --format "$format" --disk root --output "$WORK/again/x.$format"
  assert_same_file "$format again" "$WORK/again/x.$format" "$WORK/out/root.$format"
  cbt archive vm1@latest --format "$format" --disk data --output - | cmp - "$WORK/out/data.$format" ||
    fail "$format by a pipe differs"
  curl -sS --unix-socket "$SOCKET" "http://localhost/v1/points/vm1@latest/archive?format=$format&disk=root" |
    cmp - "$WORK/out/root.$format" || fail "$format by HTTP differs"
done
cbt --quiet archive vm1@latest --output "$WORK/again/x.vma"
assert_same_file "vma again" "$WORK/again/x.vma" "$WORK/out.vma"
chain_export vm1@latest "$WORK/at-once" >/dev/null
diff -r "$WORK/chain" "$WORK/at-once" || fail "the chain at once differs from the one that grew"

say "a vm with one disk needs no --disk, and the end of a file decides nothing"
truncate -s 3M "$WORK/one.img"
random_bytes_at "$WORK/one.img" 65536 65536
vm_add vm2 "only=$WORK/one.img"
backup full vm2 >/dev/null
cbt --quiet archive vm2@latest --format qcow2 --output "$WORK/one.vma"
cp "$WORK/one.img" "$WORK/oracle-only.0"
image_matches "$WORK/one.vma" only 0
cbt archive vm2@latest --format raw --output - | cmp - "$WORK/one.img" || fail "raw by a pipe differs"

say "what cannot be is refused by name, and leaves nothing"
expect_exit 1 "root, data" cbt archive vm1@latest --format raw --output "$WORK/x"
expect_exit 1 "root, data" cbt archive vm1@latest --format qcow2 --output - >/dev/null
expect_exit 3 "'none'" cbt archive vm1@latest --format raw --disk none --output "$WORK/x"
expect_exit 1 "all disks" cbt archive vm1@latest --disk root --output "$WORK/x"
expect_exit 4 "exists already" cbt archive vm1@latest --format raw --output "$WORK/out"
expect_exit 4 "exists already" cbt archive vm1@latest --format qcow2 --disk root --output "$WORK/out/root.qcow2"
expect_exit 4 "no folder" cbt archive vm1@latest --chain --output "$WORK/one.img"
expect_exit 2 "folder" cbt archive vm1@latest --chain --output -
expect_exit 2 "--chain" cbt archive vm1@latest --chain --format vma --output "$WORK/x"
expect_exit 2 "output" cbt archive vm1@latest --chain
expect_exit 4 "of vm 'vm1'" cbt archive vm2@latest --chain --output "$WORK/chain"
expect_status 400 "stream" GET "/v1/points/vm1@latest/archive?format=chain"
expect_status 400 "format" GET "/v1/points/vm1@latest/archive?format=tar"
[ ! -e "$WORK/x" ] || fail "a refused archive left something"

say "a cancelled image leaves no file; a cancelled chain is completed by the next export"
start_archive() { # BODY of the request; sets id
  api POST "/v1/points/vm1@latest/archive" "$1"
  id=$(jq -e .id <<<"$body") || fail "the archive did not start: $body"
}
cancel() {
  cbt --quiet job cancel "$id" >/dev/null
  assert_eq "status" "$(wait_job "$id" | jq -r .status)" cancelled
}
for format in raw qcow2; do
  start_archive "{\"format\":\"$format\",\"disk\":\"root\",\"path\":\"$WORK/slow.img\",\"speed\":\"1M\"}"
  wait_until 60 test -s "$WORK/slow.img.$id.part" || fail "the $format image is not being written"
  [ ! -e "$WORK/slow.img" ] || fail "a part of an image has its name already"
  cancel
  assert_eq "what the cancelled $format left" "$(find "$WORK" -maxdepth 1 -name 'slow.img*')" ""
done
start_archive "{\"format\":\"chain\",\"path\":\"$WORK/slow\",\"speed\":\"10M\"}"
wait_until 60 test -e "$WORK/slow/.new.tmp" || fail "the chain is not being written"
cancel
chain_export vm1@latest "$WORK/slow" >/dev/null
diff -r "$WORK/chain" "$WORK/slow" || fail "the chain that was cancelled and completed differs"

say "an image that is lost is written again; one that was changed is refused by name"
rm "$WORK/slow/$(link "$WORK/slow" vm1@2 root)"
chain_export vm1@latest "$WORK/slow" >/dev/null
diff -r "$WORK/chain" "$WORK/slow" || fail "the completed chain differs"
file=$(link "$WORK/slow" vm1@1 data)
truncate -s +512 "$WORK/slow/$file"
expect_exit 4 "$file" cbt archive vm1@latest --chain --output "$WORK/slow"

say "points that are forgotten stay in the chain, and are no base of a new one"
cbt --quiet forget "vm1@$n_rounds"
cbt --quiet forget vm1@1
back_up_round $((n_rounds + 1))
images "$WORK/chain" >"$WORK/images.before"
chain_export vm1@latest "$WORK/chain" >/dev/null
images "$WORK/chain" >"$WORK/images.after"
assert_subset "old images" "$WORK/images.before" "$WORK/images.after"
assert_eq "images in the chain" "$(n_images "$WORK/chain")" $((2 * (n_rounds + 2)))
image_matches "$WORK/chain/$(link "$WORK/chain" vm1@latest root)" root $((n_rounds + 1))
chain_export vm1@latest "$WORK/rest" >/dev/null
assert_eq "images of what is left" "$(n_images "$WORK/rest")" $((2 * n_rounds))
for ((n = 0; n < n_rounds; n++)); do
  link "$WORK/rest" "vm1@$n" root >/dev/null
done
[[ $(link "$WORK/rest" "vm1@$((n_rounds - 1))" root) = *-full.qcow2 ]] || fail "the oldest point that is left is no base"
last_root=$(link "$WORK/rest" vm1@latest root)
last_data=$(link "$WORK/chain" vm1@latest data)

say "without daemon and store, in a folder of another name, every link is there"
stop_daemon
rm -r "$STATE"
mv "$WORK/rest" "$WORK/moved rest"
mv "$WORK/chain" "$WORK/moved chain"
image_matches "$WORK/moved rest/$last_root" root $((n_rounds + 1))
image_matches "$WORK/moved chain/$last_data" data $((n_rounds + 1))
for disk in "${disks[@]}"; do
  n=0
  names=$(jq -r --arg disk "$disk" '.points[].disks[] | select(.name == $disk).file' "$WORK/moved chain/chain.json")
  for file in $names; do
    image_matches "$WORK/moved chain/$file" "$disk" "$n"
    n=$((n + 1))
  done
  assert_eq "links of $disk" "$n" $((n_rounds + 2))
done
