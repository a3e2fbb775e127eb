#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The shipped configuration has every key of the code, and no other (test_manuals.sh looks at the manual page); each commented-out line is one that
# can be used; what is unknown is refused by name; SIGHUP takes what can change, and says what cannot. An installation under any
# prefix finds its parts.
. "$(dirname "$0")/lib.sh"

### every key, in the code and the shipped file

sed -nE 's/^ *\{"([a-z]+)", "([a-z-]+)", KEY_.*/\1 \2/p' "$SOURCE/daemon/config-file.c" | sort >"$WORK/code"
assert_ge "keys of the code" "$(wc -l <"$WORK/code")" 15
keys_of() { awk '/^\[/ { group = substr($0, 2, length($0) - 2) } match($0, /^#?[a-z-]+ = /) { sub(/^#/, ""); print group, $1 }' "$1" | sort; }
keys_of "$SOURCE/dist/cbt-backup.conf.in" >"$WORK/shipped"
assert_same_file "keys of the shipped file" "$WORK/code" "$WORK/shipped"
# What a reload changes.
sed -nE 's/^ *\{"([a-z]+)", "([a-z-]+)", KEY_.*TRUE\},$/\2/p' "$SOURCE/daemon/config-file.c" | sort >"$WORK/live"
awk '/^#.*\[reload\]$/ { live = 1 } match($0, /^#?[a-z-]+ = /) { sub(/^#/, ""); if (live) print $1; live = 0 }' \
  "$SOURCE/dist/cbt-backup.conf.in" | sort >"$WORK/live.shipped"
assert_same_file "keys that a reload changes, of the shipped file" "$WORK/live" "$WORK/live.shipped"
sed -n '/^\.Sh RELOADING/,/^\.Sh FILES/s/^\.Cm \([a-z-]*\).*/\1/p' "$SOURCE/docs/man/cbt-backup.conf.5" | sort >"$WORK/live.documented"
assert_same_file "keys that a reload changes, of cbt-backup.conf(5)" "$WORK/live" "$WORK/live.documented"

### an installation under another prefix, with all keys in use

DESTDIR=$WORK/stage cmake --install "$BUILD" --prefix /opt/cbt >"$WORK/install.log" 2>&1 || fail "$(tail -n 3 "$WORK/install.log")"
conf=$WORK/stage/opt/cbt/etc/cbt-backup/cbt-backup.conf
unit=$WORK/stage/opt/cbt/lib/systemd/system/cbt-backupd.service
[ -e "$conf" ] || fail "no configuration in $(find "$WORK/stage" -name '*.conf')"
assert_has "the unit" "$(cat "$unit")" "ExecStart=/opt/cbt/sbin/cbt-backupd --config /opt/cbt/etc/cbt-backup/cbt-backup.conf"
assert_eq "what was not filled in" "$(grep -n '@[a-z]*@' "$conf" "$unit" || true)" ""
sed -E 's/^#([a-z-]+ = )/\1/; /^group = /d; s|/var/lib/cbt-backup|'"$STATE"'|; s|= /opt|= '"$WORK"'/stage/opt|' "$conf" >"$WORK/all.conf"
sbin=$WORK/stage/opt/cbt/sbin

start_installed() { # CONF
  mkdir -p "$STATE" "$RUN"
  "$sbin/cbt-backupd" --state-dir "$STATE" --runtime-dir "$RUN" --config "$1" >>"$WORK/daemon.log" 2>&1 &
  DAEMON_PID=$!
  wait_until 30 daemon_answers || fail "the daemon does not answer"
  ! daemon_is_gone || fail "the daemon ended at its start: $(cat "$WORK/daemon.log")"
}
start_installed "$WORK/all.conf"
stop_daemon
echo >"$WORK/none.conf" # the parts are found without being told where
start_installed "$WORK/none.conf"
random_image "$WORK/disk.img" 4
vm_add vm1 "root=$WORK/disk.img"
uri_of vm1 >/dev/null
grep -qa "$WORK/stage/opt/cbt/lib" "/proc/$(export_pid vm1)/cmdline" || fail "the plugin is another one"
cbt --quiet --full vm1 >/dev/null
"$WORK/stage/opt/cbt/bin/cbt-backup" store check --store "$STATE/store" >"$WORK/check" || fail "store check: $(cat "$WORK/check")"

### a reload

says() { grep -qF -e "$1" "$WORK/daemon.log"; }
reload() { # LINE...: the file has these lines
  : >"$WORK/daemon.log"
  printf '%s\n' "$@" >"$WORK/none.conf"
  kill -HUP "$DAEMON_PID"
}
job_is() { [ "$(job_status "$1")" = "$2" ]; } # ID STATUS
random_image "$WORK/second.img" 4
vm_add vm2 "root=$WORK/second.img"
reload '[daemon]' 'max-jobs = 1'
wait_until 10 says 'was read again' || fail "no reload"
first=$(start_backup full vm1 --speed 4096)
second=$(start_backup full vm2 --speed 4096)
assert_eq "the second job" "$(job_status "$second")" queued
reload '[daemon]' 'max-jobs = 2'
wait_until 10 job_is "$second" active || fail "a raised max-jobs starts no job"
for id in "$first" "$second"; do
  api DELETE "/v1/jobs/$id"
  wait_job "$id" >/dev/null
done
reload '[daemon]' 'max-jobs = 2' 'log-level = debug' '[backup]' 'audit = 7' 'nice = 4' '[quiesce]' 'budget = 6s'
wait_until 10 says 'was read again' || fail "no reload"
wait_until 10 says '[quiesce] budget changes with the next start' || fail "what needs a restart is not said"
says '[backup] nice changes with the next start' || fail "what needs a restart is not said"
assert_eq "keys that need a restart" "$(grep -c 'changes with the next start' "$WORK/daemon.log")" 2
reload '[daemon]' 'log-level = warning' 'max-job = 2'
wait_until 10 says "stays as it was: $WORK/none.conf: unknown key 'max-job' in [daemon]" || fail "a wrong key is not named"
reload '[daemon]' 'log-level = loud'
wait_until 10 says "[daemon] log-level: unknown log level 'loud'" || fail "a wrong value is not named"
reload '[daemon]' 'log-level = warning'
cbt --quiet --incremental vm1 >/dev/null # what it tells of the job is less than a warning
wait_until 10 eval '! daemon_is_gone'
assert_eq "what is logged at level warning" "$(grep -c 'job' "$WORK/daemon.log" || true)" 0
stop_daemon

refuses() { # FRAGMENT LINE...
  printf '%s\n' "${@:2}" >"$WORK/bad.conf"
  expect_exit 2 "$1" "$sbin/cbt-backupd" --config "$WORK/bad.conf" --check-config
  expect_exit 2 "$1" "$sbin/cbt-backupd" --state-dir "$STATE" --runtime-dir "$RUN" --config "$WORK/bad.conf"
}
refuses "unknown group [deamon]" '[deamon]'
refuses "unknown key 'jiter' in [scheduler]" '[scheduler]' 'jiter = 1'
refuses "[backup] nice:" '[backup]' 'nice = 20'
expect_exit 0 "" "$sbin/cbt-backupd" --config "$WORK/none.conf" --check-config
expect_exit 2 "none.conf.gone" "$sbin/cbt-backupd" --config "$WORK/none.conf.gone" --check-config

# What the file names has to be there.
checked() { # STATUS FRAGMENT LINE...
  printf '%s\n' "${@:3}" >"$WORK/bad.conf"
  expect_exit "$1" "$2" "$sbin/cbt-backupd" --config "$WORK/bad.conf" --check-config
}
checked 2 "[daemon] group: there is no group 'no-such-group'" '[daemon]' 'group = no-such-group'
checked 2 "[export] plugin-dir: there is no /nowhere/nbdkit-cbt-plugin.so" '[export]' 'plugin-dir = /nowhere'
checked 2 "[export] fleece-dir: $WORK/bad.conf is no folder" '[export]' "fleece-dir = $WORK/bad.conf"
checked 2 "[daemon] allowed-paths: $WORK/bad.conf is no folder" '[daemon]' "allowed-paths = $WORK;$WORK/bad.conf"
checked 2 "[quiesce] program: $WORK/bad.conf is no program" '[quiesce]' "program = $WORK/bad.conf"
checked 0 "[export] fleece-dir: /nowhere is not there: the daemon makes it" '[export]' 'fleece-dir = /nowhere'
checked 0 "[daemon] allowed-paths: /nowhere is not there: nobody" '[daemon]' "allowed-paths = $WORK;/nowhere;"
printf '%s\n' '[daemon]' "group = $(id -gn)" "allowed-paths = $WORK" >"$WORK/good.conf"
assert_eq "what is said of nothing wrong" "$("$sbin/cbt-backupd" --config "$WORK/good.conf" --check-config 2>&1)" ""
sed -i 's/^group = .*/group = no-such-group/' "$WORK/good.conf"
expect_exit 3 "no group 'no-such-group'" "$sbin/cbt-backupd" --state-dir "$STATE" --runtime-dir "$RUN" --config "$WORK/good.conf"
expect_exit 2 "none.conf.gone" "$sbin/cbt-backupd" --state-dir "$STATE" --runtime-dir "$RUN" --config "$WORK/none.conf.gone"
