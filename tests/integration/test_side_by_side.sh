#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Backups of several vms, restores, comparisons, verifies, prunes, single removals, notes and collections, all at once and
# without a pause: each is done, or refused for a reason that it names; no chunk is lost; at the end all is sound.
. "$(dirname "$0")/lib.sh"
need python3

seconds=${CBT_TEST_SECONDS:-$([ -z "$LONG" ] && echo 15 || echo 900)}
seed
tools=$SOURCE/tests/integration/tools
export PYTHONDONTWRITEBYTECODE=1
cc -O2 -o "$WORK/churn" "$tools/churn.c" -lnbd || skip "needs a C compiler and libnbd-dev"
printf '[daemon]\nmax-jobs=16\n' >"$WORK/cbt.conf"
DAEMON_OPTIONS=(--config "$WORK/cbt.conf")
churn_seed=$RANDOM

start_daemon
for vm in web mail files; do
  truncate -s 8M "$WORK/$vm.root.raw"
  truncate -s 12M "$WORK/$vm.data.raw"
  vm_add "$vm" "root=$WORK/$vm.root.raw" "data=$WORK/$vm.data.raw"
  mapfile -t uris < <(running_exports "$vm" | jq -r '.[].uri')
  "$WORK/churn" "$churn_seed" 0 "${uris[@]}" # the same contents for all: their chunks are shared
done
python3 "$tools/side_by_side.py" "$SOCKET" "$WORK" "$WORK/churn" "$churn_seed" "$seconds" web mail files || fail "see above"
stop_daemon

figures=$(python3 "$tools/store_reader.py" "$STATE/store") || fail "the store is damaged"
say "an independent reader finds every chunk: $figures"
assert_le "bytes of packs" "$(jq '."pack-bytes"' <<<"$figures")" $(($(jq '."live-bytes"' <<<"$figures") * 105 / 100))
