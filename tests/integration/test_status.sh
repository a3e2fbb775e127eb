#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Status says first what needs attention, and each vm's last good point against its policy.
. "$(dirname "$0")/lib.sh"
need script

random_image "$WORK/web.raw" 2
random_image "$WORK/db.raw" 2
start_daemon
vm_add web "root=$WORK/web.raw"
vm_add db "root=$WORK/db.raw"

of() { cbt_json status | jq -c ".vms[] | select(.name == \"$1\") | $2"; } # VM FILTER
attention() { cbt_json status | jq -c '[.attention[] | [.level, .vm]]'; }

say "a vm without a point"
assert_eq "attention" "$(attention)" '[["warn","db"],["warn","web"]]'
assert_eq "health" "$(of web .health)" '"warn"'
backup full db >/dev/null
job=$(backup incremental web)
assert_eq "attention" "$(attention)" '[]'
assert_eq "web" "$(of web '[.health, .points, .good, ."wanted-time", ."verified-time"]')" \
  "[\"ok\",1,$(jq .uuid <<<"$job"),null,null]"
assert_eq "why it was full" "$(of web '."full-reason"')" "$(jq .reason <<<"$job")"
assert_has "why it was full" "$(cbt status)" "Last full    of vm web"
assert_eq "bitmaps" "$(of web '[.bitmaps[] | [.disk, .name, .state]]')" '[["root","default","active"]]'

say "a policy, and a point that is too old for it"
cbt --quiet policy set web --schedule 'every 1h' >/dev/null
assert_eq "wanted" "$(of web '."wanted-time" == .policy."next-run"')" true
assert_eq "health" "$(of web .health)" '"ok"'
stop_daemon
# As if the last run had been three days ago; the next one fails.
sqlite3 "$STATE/catalogue.sqlite" "UPDATE points SET time = time - 3 * 86400000000 WHERE vm = 'web';
  UPDATE policies SET done_until = 1, last_run = 2"
mv "$WORK/web.raw" "$WORK/away.raw"
printf '[scheduler]\njitter=0\n' >"$WORK/config"
DAEMON_OPTIONS=(--config "$WORK/config")
start_daemon
has_failed() { [ "$(of web '.policy.failures > 0 and .job == null')" = true ]; }
wait_until 20 has_failed || fail "the run does not fail: $(of web .)"
assert_eq "attention" "$(attention)" '[["fail","web"],["fail","web"],["fail","web"]]'
assert_has "attention" "$(cbt status)" "the image of web/root is missing: $WORK/web.raw"
assert_eq "health of both" "$(cbt_json status | jq -c '[.vms[].health]')" '["ok","fail"]'
assert_eq "wanted an hour after the last good point" "$(of web '."wanted-time" - ."good-time" <= 3600')" true
assert_has "the first line" "$(cbt status | head -n 1)" "its last good point is 3 d old, the next was due"
assert_has "the table" "$(cbt status)" "3 d of "
assert_has "what to do" "$(cbt status | sed -n 2p)" "cbt-backup policy show web"

say "colour is for terminals"
red=$(printf '\033[31m')
on_terminal() { script -qec "'$BUILD/bin/cbt-backup' --socket '$SOCKET' status" /dev/null; }
unset NO_COLOR
case $(TERM=xterm on_terminal) in "$red"*) ;; *) fail "the first line on a terminal is not red" ;; esac
case $(TERM=xterm NO_COLOR=1 on_terminal) in *"$red"*) fail "NO_COLOR is not respected" ;; esac
case $(cbt status) in *"$red"*) fail "there is colour in a pipe" ;; esac

say "a backup that is done puts it right"
mv "$WORK/away.raw" "$WORK/web.raw"
backup incremental web >/dev/null
cbt --quiet policy set web --schedule 'every 2h' >/dev/null
assert_eq "attention" "$(attention)" '[]'

say "damage, and bitmaps that are frozen or lost"
newest=$(of web .good)
for pack in "$STATE"/store/packs/*.pack; do
  printf '\377\000\377' | dd of="$pack" bs=1 seek=$(($(stat -c %s "$pack") / 2)) conv=notrunc status=none
done
cbt --quiet verify --all >/dev/null 2>&1 && fail "the damage is not found"
assert_has "attention" "$(attention)" '["fail",'
assert_eq "damaged points are not good" "$(cbt_json status | jq '[.vms[] | select(.["damaged-points"] == .points and .good != null)] | length')" 0
[ "$(of web '.["damaged-points"]')" = 0 ] || assert_ne "the good point" "$(of web .good)" "$newest"
cbt --quiet bitmap create-successor db/root >/dev/null
assert_eq "state" "$(of db '.bitmaps[0].state')" '"frozen"'
assert_eq "a freeze by hand has a lease" "$(cbt_json status | jq '[.attention[] | select(.text | contains("frozen"))] | length')" 0
stop_daemon
