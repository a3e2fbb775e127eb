#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Policies back vms up by themselves: at the times of their schedule, never two at once, what was missed once; a run
# that fails is counted, shown and tried again; what retention does not keep is pruned, and without rules nothing.
. "$(dirname "$0")/lib.sh"
need sqlite3

policy() { api GET "/v1/vms/${2:-web}/policy" && jq -r ".\"$1\"" <<<"$body"; } # KEY [VM]
policy_is() { [ "$(policy "$1" "${3:-}")" = "$2" ]; }                          # KEY VALUE [VM]
policy_jobs() { api GET "/v1/jobs?vm=web" && jq '[.[] | select(.trigger == "policy")] | length' <<<"$body"; }
has_policy_jobs() { [ "$(policy_jobs)" -ge "$1" ]; }
n_points() { points web | wc -l; }
run_is_over() { [ "$(policy last-result)" != running ]; }
run_is_reading() { policy_is last-result running && bitmap_is web/root frozen; }
in_catalogue() { sqlite3 "$STATE/catalogue.sqlite" "$1"; } # while the daemon is down
# A time of the day that is half a day away, so that nothing becomes due by itself.
far_time=$(date -d '12 hours' +%H:%M)
# miss_runs DAYS: the daemon was down for so long.
miss_runs() { in_catalogue "UPDATE policies SET done_until = $(date -d "$1 days ago" +%s)000000"; }
change_image() { random_bytes_at "$WORK/web.raw" $((RANDOM % 60 * CLUSTER)) "$CLUSTER"; }

random_image "$WORK/web.raw" 4
random_image "$WORK/db.raw" 1
printf '[scheduler]\njitter=0\n' >"$WORK/config"
DAEMON_OPTIONS=(--config "$WORK/config")
start_daemon
vm_add web "root=$WORK/web.raw"
vm_add db "root=$WORK/db.raw"

say "a policy is set, changed by what is named, shown and removed"
expect_exit 3 "nobody" cbt policy set nobody --schedule "daily 02:30"
expect_exit 3 "no policy" cbt policy show web
expect_exit 3 "no policy" cbt policy remove web
expect_exit 1 "schedule" cbt policy set web --keep-daily 7
expect_exit 1 "every 15m" cbt policy set web --schedule "now and then"
expect_exit 1 "'25:00' is no time" cbt policy set web --schedule "daily 25:00"
expect_exit 1 "verify-share" cbt policy set web --schedule hourly --verify-share 101
expect_exit 3 "disk 'root' of vm 'web' has no bitmap 'weekly'" \
  cbt policy set web --schedule hourly --bitmap weekly
expect_exit 3 "cbt-backup bitmap add web/root:weekly" cbt policy set web --schedule hourly --bitmap weekly
expect_status 404 "no policy" GET /v1/vms/web/policy
expect_status 404 "nobody" GET /v1/vms/nobody/policy
for body in '{}' '{"schedule":5}' '{"schedule":"daily"}' '{"schedule":"hourly","keep-daily":-1}' \
  '{"schedule":"hourly","x":1}' '{"schedule":"hourly","speed":1}' '{"schedule":"hourly","bitmap":"../x"}' \
  '{"schedule":"hourly","gc":"yes"}'; do
  expect_status 400 "" PUT /v1/vms/web/policy "$body"
done
answer=$(cbt_json policy set web --schedule "DAILY $far_time" --keep-last 3 --keep-yearly 9 --verify-share 5 \
  --speed 1M --no-gc)
assert_keys "a policy" "$answer" vm schedule keep-last keep-hourly keep-daily keep-weekly keep-monthly keep-yearly \
  bitmap speed verify-share gc enabled next-run next-retry last-run last-result errmsg last-job removed failures
day=$([ "$(date -d "$far_time" +%s)" -gt "$(date +%s)" ] && echo today || echo tomorrow)
assert_eq "next run" "$(jq '."next-run"' <<<"$answer")" "$(date -d "$far_time $day" +%s)"
answer=$(cbt_json policy set web --keep-last 0 --keep-daily 7 --disable --gc)
wanted='.schedule == "daily '$far_time'" and ."keep-last" == 0 and ."keep-daily" == 7 and ."keep-yearly" == 9 and
  .speed == 1048576 and ."verify-share" == 5 and .gc and (.enabled | not) and
  ."next-run" == null and ."last-run" == null'
jq -e "$wanted" >/dev/null <<<"$answer" || fail "after a change: $answer"
assert_eq "what show says" "$(cbt_json policy show web)" "$answer"
assert_eq "what list says" "$(cbt_json policy list | jq -c .)" "[$(jq -c . <<<"$answer")]"
assert_has "the table" "$(cbt policy list)" "disabled"
assert_has "for people" "$(cbt policy show web)" "daily 7, yearly 9"
cbt --quiet bitmap add web/root:weekly
assert_eq "bitmap" "$(cbt_json policy set web --bitmap weekly | jq -r .bitmap)" weekly
cbt --quiet bitmap remove web/root:weekly
assert_eq "bitmap that is gone" "$(cbt_json policy set web --keep-last 1 | jq -r .bitmap)" weekly
cbt --quiet policy remove web
expect_exit 3 "no policy" cbt policy show web

say "runs happen; without rules nothing is removed"
job=$(backup full web)
assert_eq "who asked for a backup by hand" "$(jq -r .trigger <<<"$job")" manual
change_image
cbt --quiet policy set web --schedule "every 1s"
wait_until 30 has_policy_jobs 4 || fail "no runs: $(cbt policy show web)"
cbt --quiet policy set web --disable
wait_until 30 run_is_over || fail "a run does not end"
n=$(policy_jobs)
assert_eq "points" "$(n_points)" $((n + 1))
assert_eq "removed without rules" "$(policy removed)" 0
assert_eq "result" "$(policy last-result) $(policy failures)" "done 0"
api GET "/v1/jobs/$(policy last-job)"
assert_eq "the last job" "$(jq -r '[.trigger, .type, .kind, .status] | join(" ")' <<<"$body")" \
  "policy backup incremental done"
api GET /v1/status
assert_eq "status" "$(jq -r '[.vms[] | .policy."last-result"] | join(",")' <<<"$body")" ",done"

say "retention prunes after each backup"
cbt --quiet policy set web --enable --keep-last 2
pruned() { policy_is last-result "done" && [ "$(policy removed)" -ge 1 ] && [ "$(n_points)" -le 2 ]; }
wait_until 30 pruned || fail "points are not pruned: $(cbt list web)"
cbt --quiet policy set web --disable
wait_until 30 run_is_over || fail "a run does not end"
assert_eq "points" "$(n_points)" 2
restore_matches web@latest root "$WORK/web.raw"
n=$(policy_jobs)

say "never two at once; a run that a user cancels is no failure"
random_image "$WORK/new.raw" 4
cat "$WORK/new.raw" >"$WORK/web.raw"
cbt --quiet policy set web --enable --speed 64K
wait_until 30 run_is_reading || fail "no run: $(cbt policy show web)"
for _ in 1 2 3; do
  pause 0.4
  api GET "/v1/jobs?vm=web"
  assert_eq "active jobs" "$(jq '[.[] | select(.status == "active" or .status == "queued")] | length' <<<"$body")" 1
done
expect_exit 4 "already" cbt --incremental web
cbt --quiet policy set web --schedule "daily $far_time"
cbt --quiet job cancel "$(policy last-job)" >/dev/null
wait_until 30 run_is_over || fail "a cancelled run does not end"
assert_eq "result" "$(policy last-result) $(policy failures) $(policy next-retry)" "cancelled 0 null"

say "runs wait for other jobs of the vm"
id=$(start_backup full web --speed 65536)
cbt --quiet policy set web --schedule "every 1s" --speed 0
pause 1.5
assert_eq "job in the way" "$(job_status "$id")" active
assert_eq "failures meanwhile" "$(policy failures)" 0
cbt --quiet job cancel "$id" >/dev/null
n=$(policy_jobs)
wait_until 30 has_policy_jobs $((n + 1)) || fail "no run when the vm is free"

say "a run that fails is counted, shown, and cleared by one that does not"
mv "$WORK/web.raw" "$WORK/away.raw"
failed_twice() { [ "$(policy failures)" -ge 2 ]; }
wait_until 30 failed_twice || fail "no failures: $(cbt policy show web)"
assert_has "status" "$(cbt status)" "policy of vm web failed"
assert_has "why" "$(policy errmsg)" "$WORK/web.raw"
mv "$WORK/away.raw" "$WORK/web.raw"
wait_until 30 policy_is failures 0 || fail "failures stay: $(cbt policy show web)"
assert_eq "why" "$(policy errmsg)" null
cbt --quiet policy set web --schedule "daily $far_time"
wait_until 30 run_is_over || fail "a run does not end"

say "runs that were missed while the daemon was down are caught up once"
n=$(policy_jobs)
stop_daemon
miss_runs 5
start_daemon
caught_up() { has_policy_jobs $((n + 1)) && run_is_over; }
wait_until 30 caught_up || fail "nothing was caught up: $(cbt policy show web)"
assert_ge "next run" "$(policy next-run)" "$(date +%s)"
pause 1
assert_eq "runs" "$(policy_jobs)" $((n + 1))

say "a failed run is tried again after a minute"
stop_daemon
miss_runs 1
mv "$WORK/web.raw" "$WORK/away.raw"
start_daemon
wait_until 30 policy_is failures 1 || fail "no failure: $(cbt policy show web)"
assert_ge "time of the retry" "$(policy next-retry)" $(($(policy last-run) + 60))
assert_le "time of the retry" "$(policy next-retry)" $(($(policy last-run) + 90))
assert_eq "next run" "$(policy next-run)" "$(policy next-retry)"
n=$(policy_jobs)
stop_daemon
mv "$WORK/away.raw" "$WORK/web.raw"
in_catalogue "UPDATE policies SET next_retry = $(date +%s)000000"
start_daemon
wait_until 30 policy_is failures 0 || fail "no retry: $(cbt policy show web)"
assert_eq "runs" "$(policy_jobs)" $((n + 1))
assert_eq "next retry" "$(policy next-retry)" null

say "a run that a clean stop cuts off is made at the next start; one that a crash cuts off is tried again later"
cat "$WORK/new.raw" >"$WORK/web.raw"
cbt --quiet policy set web --speed 64K
stop_daemon
miss_runs 1
start_daemon
wait_until 30 run_is_reading || fail "no run: $(cbt policy show web)"
stop_daemon
assert_eq "result in the catalogue" "$(in_catalogue 'SELECT last_result, failures FROM policies')" "cancelled|0"
start_daemon
wait_until 30 run_is_reading || fail "no run: $(cbt policy show web)"
kill_daemon
start_daemon
assert_eq "result" "$(policy last-result) $(policy failures)" "error 1"
assert_has "why" "$(policy errmsg)" "daemon ended"
assert_ge "time of the retry" "$(policy next-retry)" $(($(date +%s) + 30))

seed=${CBT_TEST_SEED:-$RANDOM}
say "whenever the daemon ends, runs go on with the next one (seed $seed)"
RANDOM=$seed
cbt --quiet policy set web --schedule "every 1s" --speed 0 --keep-last 2
for ((i = 0; i < (${#LONG} ? 50 : 4); i++)); do
  change_image
  pause "0.$((RANDOM % 10))"
  if ((RANDOM % 2)); then stop_daemon; else kill_daemon; fi
  start_daemon
done
wait_until 30 pruned || fail "no runs: $(cbt policy show web)"
cbt --quiet policy set web --disable
wait_until 30 run_is_over || fail "a run does not end"
assert_eq "result" "$(policy last-result) $(policy failures)" "done 0"
cbt --quiet --incremental web >/dev/null
restore_matches web@latest root "$WORK/web.raw"

say "a policy that is damaged in the catalogue is an error of its vm, named once in the log, and stops no other one"
cbt --quiet policy set db --schedule "daily $far_time"
stop_daemon
in_catalogue "UPDATE policies SET schedule = 'now and then' WHERE vm = 'db'"
start_daemon
n=$(policy_jobs)
cbt --quiet policy set web --enable
wait_until 30 has_policy_jobs $((n + 2)) || fail "no runs: $(cbt policy show web)"
cbt --quiet policy set web --disable
wait_until 30 run_is_over || fail "a run does not end"
expect_exit 6 "policy of vm 'db' that makes no sense: 'schedule'" cbt policy show db
expect_exit 6 "cbt-backup policy remove" cbt policy set db --keep-last 1
assert_has "status" "$(cbt status)" "policy of vm 'db' that makes no sense"
api GET /v1/policies
assert_eq "list" "$(jq -c 'map([.vm, .schedule != null, .errmsg != null])' <<<"$body")" \
  '[["web",true,false],["db",false,true]]'
assert_has "the table" "$(cbt policy list)" "damaged"
assert_eq "times in the log" "$(grep -c "'db' that makes no sense" "$WORK/daemon.log")" 1
cbt --quiet policy remove db
expect_exit 3 "no policy" cbt policy show db

say "many that are due at once queue"
for i in {1..12}; do
  random_image "$WORK/many$i.raw" 1
  vm_add "many$i" "root=$WORK/many$i.raw"
  api PUT "/v1/vms/many$i/policy" "{\"schedule\":\"daily $far_time\"}"
done
stop_daemon
miss_runs 3
start_daemon
many_done='[.[] | select(.vm | startswith("many"))] | length == 12 and all(."last-result" == "done")'
all_done() { api GET /v1/policies && jq -e "$many_done" <<<"$body"; }
wait_until 60 all_done || fail "not all ran: $(cbt policy list)"
api GET /v1/jobs
assert_eq "backups of many" "$(jq '[.[] | select((.vm // "") | startswith("many"))] | length' <<<"$body")" 12

say "a policy goes with its vm"
for i in {1..12}; do cbt --quiet vm remove "many$i"; done
cbt --quiet vm remove web
assert_eq "policies" "$(cbt_json policy list | jq length)" 0
stop_daemon
