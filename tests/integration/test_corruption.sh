#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# One random bit, one cut or one missing file of each kind of file of a state directory: it is found and named, by the
# check, by the start of the daemon or by verify; no point restores to something else; what is not named restores;
# nothing crashes. CBT_TEST_LONG=1: 2,000 trials; CBT_TEST_ROUNDS: as many.
. "$(dirname "$0")/lib.sh"
need python3

trials=44 # each kind twice
[ -z "$LONG" ] || trials=2000
trials=${CBT_TEST_ROUNDS:-$trials}
seed=${CBT_TEST_SEED:-$((RANDOM * 32768 + RANDOM))}
say "seed $seed (CBT_TEST_SEED repeats it)"

# Two vms, whose points share much, of 16 MiB and 1 MiB: pages of two levels.
write_some() { # VM CLUSTER COUNT
  head -c "$(($3 * CLUSTER))" /dev/urandom >"$WORK/data"
  io "$(uri_of "$1")" "write -s $WORK/data $(($2 * CLUSTER)) $(($3 * CLUSTER))"
}
truncate -s 16M "$WORK/web.raw"
random_bytes_at "$WORK/web.raw" $((10 * CLUSTER)) $((16 * CLUSTER))
random_bytes_at "$WORK/web.raw" $((140 * CLUSTER)) $((6 * CLUSTER))
real_files "$WORK/files" 1
find "$WORK/files" -type f -exec cat {} + >"$WORK/db.raw"
truncate -s 1M "$WORK/db.raw"
head -c 3000 /dev/urandom | base64 >"$WORK/web.conf"
start_daemon
cbt --quiet vm add web --disk "root=$WORK/web.raw" --config "$WORK/web.conf"
vm_add db "root=$WORK/db.raw"
backup full web >/dev/null
backup full db --note "a note" >/dev/null
for n in 1 2; do
  write_some web $((n * 12)) 3
  backup incremental web >/dev/null
done
write_some db 3 2
backup incremental db >/dev/null
cbt --quiet protect db@latest
for vm in web db; do cbt --quiet export stop $vm; done
stop_daemon

say "packs: $("$BUILD/tests/repack" "$STATE/store" 500000)"
start_daemon # makes the index, and appends to the last pack
write_some web 200 1
backup incremental web >/dev/null
cbt --quiet export stop web
stop_daemon
assert_eq "catalogue's other files" "$(find "$STATE" -name 'catalogue.sqlite-*' -size +0 | wc -l)" 0

python3 "$SOURCE/tests/integration/tools/corrupt.py" "$BUILD" "$STATE" "$WORK" "$trials" "$seed" || fail "see above"
