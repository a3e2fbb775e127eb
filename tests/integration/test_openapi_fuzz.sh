#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Malformed requests, and wild values for all that the document names, get documented answers; the daemon stays, and does not grow.
. "$(dirname "$0")/lib.sh"
need python3 nbdkit
python=$(PATH=/usr/bin:/bin command -v python3) || skip "needs the system's python3, which others may run"
"$python" -c 'import jsonschema' 2>/dev/null || skip "needs python3-jsonschema; scripts/install-packages brings it"
n=400 grown_kib=20000
[ -z "$LONG" ] || n=10000
seed_of_run=${CBT_TEST_SEED:-$RANDOM}
say "seed $seed_of_run (CBT_TEST_SEED repeats it)"

# Root's wild paths would be followed, wherever they lead; a member of the group is held to one folder.
fuzzer=()
if [ "$(id -u)" -eq 0 ] && gid=$(getent group backup | cut -d: -f3) && command -v setpriv >/dev/null; then
  fuzzer=(setpriv --reuid 65534 --regid 65534 --groups "$gid")
  printf '[daemon]\ngroup=backup\nallowed-paths=%s\n' "$WORK/images" >"$WORK/config"
  DAEMON_OPTIONS=(--config "$WORK/config")
elif [ "$(id -u)" -eq 0 ]; then
  skip "needs setpriv and the group backup, not to be root"
fi
mkdir "$WORK/images"
chmod 755 "$WORK" "$WORK/images"
cp -r "$SOURCE/tests/integration/tools" "$WORK" # where others can read
random_image "$WORK/images/disk.img" 2
start_daemon
vm_add vm1 "root=$WORK/images/disk.img"
cbt --quiet bitmap add vm1/root:extra >/dev/null
backup full vm1 >/dev/null
result=$("${fuzzer[@]}" "$python" "$WORK/tools/openapi_fuzz.py" "$SOCKET" "$seed_of_run" "$n" "$DAEMON_PID" "$WORK/images") ||
  fail "the fuzzer stopped"
say "$result"
assert_ge "answers 200" "$(jq '.statuses."200"' <<<"$result")" $((n / 20))
assert_ge "answers 400" "$(jq '.statuses."400"' <<<"$result")" $((n / 10))
sanitized || assert_le "KiB more of memory from the third tenth on" "$(jq '."resident-kib" | .[-1] - .[2]' <<<"$result")" "$grown_kib"
stop_daemon
