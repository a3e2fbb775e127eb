#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A store lives through more than a year, over daylight-saving changes: whatever was written, pruned and collected,
# the points that are left are those that retention keeps, each restores, and packs hold little but what they use.
. "$(dirname "$0")/lib.sh"
need python3
sanitized && skip "a sanitizer wants to be the first library that is loaded"
export TZ=Europe/Berlin # the daemon's
[ "$(date -d @0 +%H)" = 01 ] || skip "needs tzdata; scripts/install-packages brings it"

steps=41 disk_mib=32
[ -z "$LONG" ] || steps=501
seed
tools=$SOURCE/tests/integration/tools
export PYTHONDONTWRITEBYTECODE=1 SHIFT_CLOCK=$WORK/shift
cc -shared -fPIC -O2 -o "$WORK/shift_clock.so" "$tools/shift_clock.c" || skip "needs a C compiler"
cc -O2 -o "$WORK/churn" "$tools/churn.c" -lnbd || skip "needs a C compiler and libnbd-dev"
head -c 8 /dev/zero >"$SHIFT_CLOCK"

disks=()
for disk in root data logs; do
  truncate -s "${disk_mib}M" "$WORK/$disk.raw"
  disks+=("$disk=$WORK/$disk.raw")
done
LD_PRELOAD=$WORK/shift_clock.so start_daemon
vm_add web "${disks[@]}"
mapfile -t uris < <(running_exports web | jq -r '.[].uri')
churn_seed=$RANDOM
"$WORK/churn" "$churn_seed" 0 "${uris[@]}"
python3 "$tools/year.py" "$SOCKET" "$WORK" "$WORK/churn" web "$steps" "$churn_seed" || fail "see above"
stop_daemon

say "an independent reader of the store finds every chunk, and little else"
figures=$(python3 "$tools/store_reader.py" "$STATE/store") || fail "the store is damaged"
live=$(jq '."live-bytes"' <<<"$figures")
packs=$(jq '."pack-bytes"' <<<"$figures")
say "$figures: packs are $(awk -v a="$packs" -v b="$live" 'BEGIN { printf "%.2f", 100 * a / b }') % of what is live"
assert_eq "bytes of the files" "$(packs_bytes)" "$packs"
assert_ge "bytes of packs" "$packs" "$live"
assert_le "bytes of packs" "$packs" $((live * 105 / 100))
