#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# store check and store dump work without a daemon, change nothing, and name each thing that is damaged: a random bit in
# a pack, a cut or missing pack, a table, a page, a point file, the format file. Beside a daemon they find no damage
# where there is none.
. "$(dirname "$0")/lib.sh"
need python3
seed

STORE=$STATE/store
check() { "$BUILD/bin/cbt-backup" store check --store "$STORE" "$@"; }
dump() { "$BUILD/bin/cbt-backup" store dump --store "$STORE" "$@"; }
state_sum() { find "$STATE" -type f -exec sha256sum {} + | sort | sha256sum; }

# expect_damage WHAT KIND...: check finds damage, of these kinds, and nothing changes; sets $report.
expect_damage() {
  local what=$1 result=0 sum
  shift
  sum=$(state_sum)
  report=$(check --json 2>"$WORK/check.err") || result=$?
  assert_eq "exit status of check with $what ($report)" "$result" 6
  assert_eq "files after a check of $what" "$(state_sum)" "$sum"
  for kind in "$@"; do
    jq -e --arg kind "$kind" 'any(.damage[]; .kind == $kind)' <<<"$report" >/dev/null ||
      fail "$what: nothing of kind $kind is named: $report"
  done
}
expect_sound() {
  report=$(check --json) || fail "$1: $report"
  assert_eq "$1: damage" "$(jq -c '[."damage-count", .damage]' <<<"$report")" '[0,[]]'
}
# with_damage WHAT KINDS FILE COMMAND...: damages FILE by the command, expects that, and puts the file back.
with_damage() {
  local what=$1 kinds=$2 file=$3
  shift 3
  cp -a "$file" "$WORK/saved"
  "$@" "$file"
  # shellcheck disable=SC2086 # words
  expect_damage "$what" $kinds
  cp -a "$WORK/saved" "$file"
}
flip() { # OFFSET FILE
  python3 - "$1" "$2" <<'END'
import sys
with open(sys.argv[2], "r+b") as file:
    file.seek(int(sys.argv[1]))
    byte = file.read(1)[0]
    file.seek(-1, 1)
    file.write(bytes([byte ^ 16]))
END
}
pack_of() { echo "$STORE/packs/$1.pack"; }

N=1152 # clusters: more than one pack, and nine leaves
TOTAL=$((N + 9 + 1 + 1 + 1 + 2)) # pages, file, a new cluster and its pages
random_image "$WORK/web.raw" $((N / 16))
head -c 3000 /dev/urandom | base64 >"$WORK/web.conf"

say "no store, and wrong words"
report=$(check --json 2>/dev/null) && fail "a check of nothing succeeds"
assert_eq "code of the error" "$(jq -r .error.code <<<"$report")" not-found
expect_exit 3 "no store" check
expect_exit 2 "check or dump" "$BUILD/bin/cbt-store"
expect_exit 2 "check takes no" "$BUILD/bin/cbt-store" check x
expect_exit 2 "nothing-like-that" dump nothing-like-that
assert_eq "what a check makes" "$(find "$STORE" 2>/dev/null | wc -l)" 0

start_daemon
cbt --quiet vm add web --disk "root=$WORK/web.raw" --config "$WORK/web.conf"
uri=$(uri_of web)
full=$(backup full web | jq -r .uuid)
cp "$WORK/web.raw" "$WORK/full.raw"
head -c "$CLUSTER" /dev/urandom >"$WORK/new.data"
io "$uri" "write -s $WORK/new.data $((500 * CLUSTER)) $CLUSTER"
new=$(backup incremental web | jq -r .uuid)

say "beside a daemon"
expect_sound "beside a daemon"
assert_eq "in use" "$(jq '."in-use"' <<<"$report")" true
assert_has "check for people" "$(check)" "a daemon has the store open"
cbt --quiet export stop web
stop_daemon

say "a sound store"
sum=$(state_sum)
expect_sound "without a daemon"
assert_eq "counts" "$(jq -c '[."in-use", .packs, .points, ."chunks-read" == '$TOTAL']' <<<"$report")" \
  '[false,2,2,true]'
assert_has "check for people" "$(check)" "all sound"
assert_eq "check --quiet" "$(check --quiet)" ""
assert_eq "files after a check" "$(state_sum)" "$sum"

say "dump shows what is there"
assert_eq "packs" "$(dump --json packs | jq -r '[.packs[] | .pack + ":" + .state] | join(" ")')" \
  "00000001:sealed 00000002:open"
assert_eq "records" "$(dump packs --json | jq '[.packs[].records] | add')" "$TOTAL"
assert_eq "records of a pack" "$(dump pack 1 --json | jq '.records | length')" \
  "$(dump packs --json | jq '.packs[0].records')"
assert_has "a pack for people" "$(dump pack 00000001)" "records, sealed"
assert_eq "points" "$(dump points --json | jq -r '[.points[].uuid] | join(" ")')" "$full $new"
assert_has "points for people" "$(dump points)" "$new"
assert_eq "a point" "$(dump point "${new:0:13}" --json | jq -r '.uuid + " " + .kind + " " + .parent')" \
  "$new incremental $full"
assert_has "a point for people" "$(dump point "$new")" "[disk root]"
dump manifest "$full/root" --json >"$WORK/full.json"
dump manifest "$new/root" --json >"$WORK/new.json"
assert_eq "clusters" "$(jq '.clusters | length' "$WORK/full.json")" "$N"
changed=$(jq -s '[.[0].clusters, .[1].clusters] | transpose | map(select(.[0].chunk != .[1].chunk) | .[0].cluster)' \
  "$WORK/full.json" "$WORK/new.json" -c)
assert_eq "clusters that differ" "$changed" "[500]"
assert_eq "a manifest for people" "$(dump manifest "$full/root" | tail -n 1)" "$N of $N clusters are not zero"
assert_eq "the index" "$(dump index --json | jq -r '"\(.state) \(.entries) \(.wrong)"')" "sound $TOTAL 0"
assert_eq "the format" "$(dump format --json | jq -c '[.version, ."in-use", (.uuid | length)]')" '[2,false,36]'
expect_exit 3 "no point begins" dump point ffffffff-none
expect_exit 3 "no disk 'data'" dump manifest "$full/data"
expect_exit 2 "no number" dump pack x
expect_exit 3 "cannot read pack" dump pack 77
assert_eq "files after all dumps" "$(state_sum)" "$sum"

say "a random bit of a cluster: the chunk, where it is, and both points"
at=$(jq '.clusters[700].offset' "$WORK/full.json")
pack=$(jq -r '.clusters[700].pack' "$WORK/full.json")
chunk=$(jq -r '.clusters[700].chunk' "$WORK/full.json")
with_damage "a cluster" "record chunk" "$(pack_of "$pack")" flip $((at + 48 + $(random_below "$CLUSTER")))
assert_eq "the chunk" "$(jq -r '.damage[] | select(.kind == "chunk") | "\(.chunk) \(.pack) \(.offset)"' <<<"$report")" \
  "$chunk $pack $at"
places=$(jq -c '[.damage[] | select(.kind == "chunk") | ."used-by"[] | [.vm, .disk, .offset]]' <<<"$report")
assert_eq "its places" "$places" \
  "[[\"web\",\"root\",$((700 * CLUSTER))],[\"web\",\"root\",$((700 * CLUSTER))]]"
assert_has "check for people" "$(cat "$WORK/check.err")" "damaged things"
with_damage "a record's header" "record chunk" "$(pack_of "$pack")" flip $((at + $(random_below 48)))

say "other files"
size=$(stat -c %s "$(pack_of 00000001)")
with_damage "a footer" "table" "$(pack_of 00000001)" flip $((size - 48 + $(random_below 48)))
with_damage "a table" "table" "$(pack_of 00000001)" flip $((size - 48 - 1 - $(random_below 1000)))
with_damage "a pack's header" "pack" "$(pack_of 00000001)" flip "$(random_below 64)"
with_damage "a pack that was cut" "chunk" "$(pack_of 00000001)" truncate -s $((size / 2))
assert_has "its notes" "$(jq -r '.notes[].message' <<<"$report")" "no table of contents"
with_damage "the last pack, cut" "chunk" "$(pack_of 00000002)" truncate -s 100000
with_damage "a missing pack" "chunk" "$(pack_of 00000001)" rm
with_damage "a point file" "point" "$STORE/points/$new.point" flip 300
with_damage "a cut point file" "point" "$STORE/points/$new.point" truncate -s 100
with_damage "an empty point file" "point" "$STORE/points/$new.point" truncate -s 0
with_damage "the format file" "format" "$STORE/format" flip "$(random_below 256)"
with_damage "the format's version" "format" "$STORE/format" flip 8
with_damage "a missing format file" "format" "$STORE/format" rm
page=$(dump pack 2 --json | jq '[.records[] | select(.type == "page")][0].offset')
with_damage "a page" "chunk" "$(pack_of 00000002)" flip $((page + 60))
lost=$(jq '[.damage[] | select(.kind == "chunk" and .type == "page") | ."used-by"[0].length] | max' <<<"$report")
assert_ge "bytes that are lost below a page" "$lost" $((128 * CLUSTER))
config=$(dump pack 2 --json | jq '[.records[] | select(.type == "config").offset][0]')
[ "$config" = null ] ||
  with_damage "a configuration file" "chunk" "$(pack_of 00000002)" flip $((config + 60))

for folder in packs points; do
  mv "$STORE/$folder" "$WORK/moved"
  expect_damage "no folder $folder" folder
  mv "$WORK/moved" "$STORE/$folder"
done

say "a random bit of any file"
trials=4
[ -z "$LONG" ] || trials=250
mapfile -t files < <(find "$STORE/packs" "$STORE/points" "$STORE/format" -type f | sort)
for ((n = 0; n < trials; n++)); do
  file=${files[$(random_below ${#files[@]})]}
  at_bit=$(random_below "$(stat -c %s "$file")")
  with_damage "a bit at $at_bit of $file" "" "$file" flip "$at_bit"
done

say "the index and a torn end are worth a note"
cp -a "$STORE/index" "$WORK/saved"
flip 70 "$STORE/index"
expect_sound "a damaged index"
assert_has "its note" "$(jq -r '.notes[].message' <<<"$report")" "index is damaged"
rm "$STORE/index"
expect_sound "no index"
cp -a "$WORK/saved" "$STORE/index"
cp -a "$(pack_of 00000002)" "$WORK/saved"
printf 'CBTRtorn' >>"$(pack_of 00000002)"
expect_sound "a torn end"
assert_has "its note" "$(jq -r '.notes[].message' <<<"$report")" "8 bytes that are no record"
assert_eq "the torn end is left alone" "$(tail -c 4 "$(pack_of 00000002)")" "torn"
cp -a "$WORK/saved" "$(pack_of 00000002)"
expect_sound "after all that"

say "what was damaged and replaced is a note, and restores"
flip $((at + 1000)) "$(pack_of "$pack")"
start_daemon
backup full web >/dev/null
stop_daemon
expect_sound "a healed store"
assert_has "its note" "$(jq -r '.notes[].message' <<<"$report")" "another record, which is sound"
start_daemon
restore_matches "$full" root "$WORK/full.raw"
stop_daemon
