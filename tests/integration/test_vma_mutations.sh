#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Damaged, hostile and odd archives are accepted or refused as they should be: by cbt-vma with status 0 or 1 and a
# message, within bounds of memory, with nothing written outside the folder; by the import of the daemon, which goes on.
# The kinds, their verdicts and messages are the table in tools/vma_kinds*.py (vma_mutate.py --table prints it).
. "$(dirname "$0")/lib.sh"
need python3 zstd xxhsum
MUTATE=$SOURCE/tests/integration/tools/vma_mutate.py
export PYTHONDONTWRITEBYTECODE=1
cd "$WORK"

vma() { "$BUILD/bin/cbt-vma" "$@"; }
# archive_of KIND: writes KIND.vma.
archive_of() { [ -e "kinds/$1.vma" ] || python3 "$MUTATE" "$BUILD/bin/cbt-vma" kinds --write --only "$1"; }

test_every_kind_gets_its_verdict() {
  local limits=(--memory 150 --address-space 700)
  ! sanitized || limits=(--memory 400) # a sanitizer needs address space without end
  mkdir all
  python3 "$MUTATE" "$BUILD/bin/cbt-vma" all "${limits[@]}" | tee all.log || fail "not every kind gets its verdict"
  assert_ge "kinds" "$(sed -n 's/ kinds of archives.*//p' all.log)" 60
}

test_streams_get_the_verdicts_of_files() {
  local kind by_file by_stream
  for kind in base-itself zstd-frames missing-middle cut-1-before-the-end disk-named-up cut-at-60; do
    archive_of "$kind"
    by_file=0 by_stream=0
    vma extract "kinds/$kind.vma" by-file 2>file.err || by_file=$?
    vma extract - by-stream <"kinds/$kind.vma" 2>stream.err || by_stream=$?
    assert_eq "status for $kind as a stream" "$by_stream" "$by_file"
    assert_eq "message for $kind as a stream" "$(cat stream.err)" "$(sed "s,kinds/$kind.vma,-," file.err)"
    [ "$by_file" -ne 0 ] || diff -r by-file by-stream
    rm -rf by-file by-stream
  done
}

test_the_folder_is_never_one_that_is_there() {
  local folder
  archive_of base-itself
  mkdir victim
  ln -s victim link
  ln -s nowhere dangling
  for folder in victim link dangling; do
    expect_exit 1 "exists" vma extract kinds/base-itself.vma "$folder"
  done
  assert_eq "files in the folder that was there" "$(find victim -mindepth 1 | wc -l)" 0
  [ ! -e nowhere ] || fail "a folder was made behind a link"
}

test_checksums_that_are_no_file_are_no_reason_to_wait() {
  archive_of base-itself
  cp kinds/base-itself.vma beside.vma
  mkfifo beside.vma.xxh3
  expect_exit 1 "checksums is none" timeout 60 "$BUILD/bin/cbt-vma" verify beside.vma
  rm beside.vma.xxh3
  mkdir beside.vma.xxh3
  expect_exit 1 "checksums" vma verify beside.vma
  rmdir beside.vma.xxh3
  ln -s beside.vma.xxh3 beside.vma.xxh3
  expect_exit 1 "beside.vma.xxh3" vma verify beside.vma
  rm beside.vma.xxh3
  ln -s nowhere beside.vma.xxh3
  vma verify beside.vma || fail "without checksums it does not verify"
}

# imports STATUS FRAGMENT KIND
imports() {
  archive_of "$3"
  expect_exit "$1" "$2" cbt import "vm-${3:0:50}" "$WORK/kinds/$3.vma"
  api GET /v1/status
  assert_eq "status of the daemon after $3" "$status" 200
}
test_the_import_takes_and_refuses_them_too_and_the_daemon_goes_on() {
  local kind fragment
  archive_of base-itself
  vma extract kinds/base-itself.vma expected
  start_daemon
  for kind in time-0 time-before-1970 time-largest time-smallest order-of-clusters-mixed state-of-size-2-to-the-48 \
    clusters-each-59 zstd-with-empty-frames sums; do
    imports 0 "" "$kind"
    restore_matches "vm-$kind@latest" drive-a expected/disk-drive-a.raw
  done
  while read -r kind fragment; do
    imports 16 "$fragment" "$kind"
    expect_exit 3 "" cbt list "vm-${kind:0:50}"
  done <<'END'
disk-named-escape name '\033[2Ja' is not valid
disk-named-up name '../evil' is not valid
config-named-up named '../evil'
config-named-escape named '\033[2Ja'
field-disk-size-2-to-the-63 impossible size
field-header-size-4-gib size of the archive's header
unknown-disk-255 disk number 255
cluster-behind-the-end-at-the-last-number behind the end
missing-all missing
disks-254-of-2-to-the-40-without-a-cluster missing
cut-1-before-the-end cut off
sums-with-a-hole-of-1-tib at offset 0
zstd-window-of-2-gib damaged
END
  assert_eq "scratch files of imports" "$(find "$STATE" -name 'import.*' | wc -l)" 0
  stop_daemon
  start_daemon # what was taken is read again
  assert_eq "points of vm-time-before-1970" "$(points vm-time-before-1970 | wc -l)" 1
  restore_matches vm-time-largest@latest drive-a expected/disk-drive-a.raw
  stop_daemon
}

for name in $(sed -n 's/^\(test_[a-z0-9_]*\)() {.*/\1/p' "$SOURCE/tests/integration/test_vma_mutations.sh"); do
  say "$name"
  "$name"
done
