#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# docs/troubleshooting.md has each error code there is, with its exit status and HTTP status, and the messages it shows are what is said.
. "$(dirname "$0")/lib-docs.sh"
enter_sandbox "$@"
. "$(dirname "$0")/lib.sh"
need sqlite3
furnish_sandbox

# shellcheck disable=SC2016 # the document's back quotes
say "each code of the table in common/error.c, and no other, has its row and its section"
sed -n 's/^ *\[CBT_ERROR_[A-Z_]*\] = {"\([a-z-]*\)", \([0-9]*\), \([0-9]*\)},/\1 \3 \2/p' "$SOURCE/common/error.c" | sort >codes
sed -n 's/^| \[`\([a-z-]*\)`\].*| \([0-9]\)[^|]* | \([0-9]*\) |.*/\1 \2 \3/p' "$SOURCE/docs/troubleshooting.md" | sort >rows
sed -n 's/^## `\([a-z-]*\)`$/\1/p' "$SOURCE/docs/troubleshooting.md" | sort >sections
assert_ge "codes" "$(wc -l <codes)" 15
diff codes rows || fail "codes (<) and rows (>) differ"
diff <(cut -d ' ' -f 1 codes) sections || fail "codes (<) and sections (>) differ"

# What differs from run to run is the same word on both sides.
plain() { sed -E 's/[0-9a-f]{8}-[0-9a-f-]{27}/UUID/g; s/[0-9a-f]{12,}/HEX/g; s/[0-9]+(\.[0-9]+)*/N/g; s/ [KMGT]iB/ B/g; s/ +$//'; }

# shown STATUS TEXT: the next example of the document begins so, ends with STATUS (or one of several), and says what stands below it.
shown() {
  local result=0 line
  next=$(find "$WORK/examples" -type f | sort | head -n 1)
  [ -n "$next" ] || fail "there are no more examples; '$2' is expected"
  line=$(head -n 1 "$next")
  [[ $line = "$2"* ]] || fail "the next example should begin with '$2', but is: $line"
  bash -c "$line" >"$WORK/said" 2>&1 || result=$?
  assert_eq "exit status of '$line' ($(cat "$WORK/said"))" "$result" "$1"
  diff <(tail -n +2 "$next" | plain) <(plain <"$WORK/said") >"$WORK/difference" ||
    fail "'$line': the document (<) and what is said (>) differ: $(cat "$WORK/difference" "$WORK/said")"
  rm "$next"
}
mkdir "$WORK/examples"
awk -v folder="$WORK/examples" '/^```/ { inside = $0 == "```console"; next }
  inside && /^\$ / { name = sprintf("%s/%03d", folder, ++n); sub(/^\$ /, "") } inside { print >name }' "$SOURCE/docs/troubleshooting.md"

random_image /var/lib/images/web.raw 4
qemu-img create -q -f vmdk /var/lib/images/db.vmdk 1M
printf '[export]\nplugin-dir=/nowhere\n' >"$WORK/conf"
printf '[store]\nreserv=1G\n' >/etc/cbt-backup.conf
DAEMON_OPTIONS=(--config "$WORK/conf")
start_daemon
vm_add web root=/var/lib/images/web.raw
backup full web >/dev/null
shown 1 'cbt-backup export start'
stop_daemon
DAEMON_OPTIONS=()
start_daemon
shown 1 'cbt-backup vm add db'
shown 2 'cbt-backup prune'
shown 2 'cbt-backupd --config'
shown 3 'cbt-backup --full wbe'
shown 3 'cbt-backup show'
shown 4 'cbt-backup vm add web2'
mkdir /srv/restore
touch /srv/restore/root.raw
shown 4 'cbt-backup restore'
job=$(start_backup full web --speed 65536)
shown 4 'cbt-backup --full web'
cbt --quiet job cancel "$job"
wait_job "$job" >/dev/null
cbt --quiet export start web >/dev/null
shown 4 'cbt-backup restore'
cbt --quiet export stop web
shown 4 'cbt-backupd'
cbt --quiet protect web@latest
shown 4 'cbt-backup forget'
cbt --quiet bitmap disable web/root
shown 4 'cbt-backup --incremental'
cbt --quiet bitmap enable web/root
cbt --quiet restore web@latest --target root=/var/lib/images/web.raw --in-place
shown 4 'cbt-backup changes'
pack=$(find "$STATE/store/packs" -type f -size +64k | head -n 1)
cp "$pack" "$WORK/pack"
printf 'xxxx' | dd of="$pack" bs=1 seek=70000 conv=notrunc status=none
shown 6 'cbt-backup restore'
cat "$WORK/pack" >"$pack"
stop_daemon
DAEMON_OPTIONS=(--store-reserve 100T)
start_daemon
shown 1 'cbt-backup --incremental'
stop_daemon
DAEMON_OPTIONS=()
start_daemon
shown 1 'cbt-backup archive web@latest --output - >/dev/full'
stop_daemon
schema=$(sqlite3 "$STATE/catalogue.sqlite" 'PRAGMA user_version')
sqlite3 "$STATE/catalogue.sqlite" 'PRAGMA user_version=99'
shown 1 'cbt-backupd'
sqlite3 "$STATE/catalogue.sqlite" "PRAGMA user_version=$schema"
start_daemon
assert_eq "the job that is shown next" "$job" 2
shown 1 'cbt-backup job wait 2'
mkdir /mnt/cdrom
mount -t tmpfs -o ro tmpfs /mnt/cdrom
at_exit umount /mnt/cdrom
shown 1 'cbt-backup archive'
shown 0 'head -c 2M'
shown 5 'setpriv'
stop_daemon
shown 5 'cbt-backup status'
start_daemon
shown 0 'curl'
[ -z "$(ls "$WORK/examples")" ] || fail "examples that this test does not know: $(cat "$WORK"/examples/*)"
stop_daemon
