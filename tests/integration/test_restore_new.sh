#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A restore into new files gives them their names when they are complete: one that is killed leaves nothing that looks like a
# disk, and what it leaves is in nobody's way.
. "$(dirname "$0")/lib.sh"

random_image "$WORK/root.raw" 160
start_daemon
vm_add vm1 "root=$WORK/root.raw"
backup full vm1 >/dev/null
out=$WORK/out

start_restore() {
  api POST "/v1/points/vm1@latest/restore" "{\"to\":\"$out\"}"
  assert_eq "status of the restore" "$status" 202
  jq .id <<<"$body"
}
has_begun() { [ -s "$out/root.raw.partial" ] || [ -e "$out/root.raw" ]; }

say "killed"
for ((try = 1; try <= 10; try++)); do
  start_restore >/dev/null
  wait_until 20 has_begun || fail "the restore does not begin"
  kill_daemon
  start_daemon
  [ -e "$out/root.raw" ] || break
  assert_same_file "a restore that was faster" "$out/root.raw" "$WORK/root.raw"
  rm "$out/root.raw"
done
[ "$try" -le 10 ] || say "each restore was faster than the kill"
assert_eq "what a killed restore leaves" "$(ls "$out")" "root.raw.partial"

say "two at once: one has the name, and nothing is mixed up"
first=$(start_restore) second=$(start_restore)
states=$({ wait_job "$first"; wait_job "$second"; } | jq -r '.status + " " + (.code // "")' | sort | xargs)
[[ $states =~ ^done\ error\ (busy|exists)$ ]] || fail "two restores at once: $states"
assert_eq "what is there then" "$(ls "$out")" "root.raw"
assert_same_file "restored" "$out/root.raw" "$WORK/root.raw"

say "a leftover that is no file, or of a name that is taken"
rm "$out/root.raw"
mkdir "$out/root.raw.partial"
expect_exit 4 "root.raw.partial" cbt restore vm1@latest --to "$out"
rmdir "$out/root.raw.partial"
ln -s /nowhere "$out/root.raw"
expect_exit 4 "exists already" cbt restore vm1@latest --to "$out"
stop_daemon
