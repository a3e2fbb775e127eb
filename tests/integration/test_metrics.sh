#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# GET /metrics is what Prometheus takes, tells what happened, and waits for nothing that hangs.
. "$(dirname "$0")/lib.sh"

ext4_image "$WORK/root.raw" 64 16
start_daemon
vm_add web "root=$WORK/root.raw"

scrape() { curl -sS --fail --unix-socket "$SOCKET" http://localhost/metrics >"$WORK/metrics"; }
# value_of SAMPLE: its number, of the last scrape; fails if it is not there.
value_of() { awk -v sample="$1" '$1 == sample { print $2; found = 1 } END { exit !found }' "$WORK/metrics"; }
assert_value() { # SAMPLE EXPECTED
  assert_eq "$1" "$(value_of "$1" || echo none)" "$2"
}

say "the form"
curl -sS -o /dev/null -D "$WORK/headers" --unix-socket "$SOCKET" http://localhost/metrics
assert_has "content type" "$(cat "$WORK/headers")" "Content-Type: text/plain; version=0.0.4"
scrape
# Each family has its HELP and TYPE once, and each sample stands behind those of its family.
awk '/^# HELP / { if ($3 in seen) exit 1; seen[$3]; next }
     /^# TYPE / { family = $3; if (!(family in seen)) exit 1; next }
     index($1, family) != 1 { exit 1 }' "$WORK/metrics" || fail "no proper form: $(cat "$WORK/metrics")"

say "what happened is counted"
assert_value 'cbt_backup_jobs_total{type="backup",result="done"}' 0
assert_value 'cbt_backup_vms' 1
backup full web >"$WORK/full"
uri=$(uri_of web)
io "$uri" "write -P 7 0 128k"
scrape
assert_value 'cbt_backup_jobs_total{type="backup",result="done"}' 1
assert_value 'cbt_backup_job_duration_seconds_count{type="backup"}' 1
assert_value 'cbt_backup_read_bytes_total{type="backup"}' "$(jq .read "$WORK/full")"
assert_value 'cbt_backup_stored_bytes_total{type="backup"}' "$(jq .stored "$WORK/full")"
assert_value 'cbt_backup_points{vm="web"}' 1
assert_value 'cbt_backup_dirty_bytes{vm="web",disk="root"}' $((2 * CLUSTER))
assert_value 'cbt_backup_export_up{vm="web",disk="root"}' 1
assert_value 'cbt_backup_bitmap_state{vm="web",disk="root",bitmap="default",state="active"}' 1
assert_value 'cbt_backup_store_bytes' "$(cbt_json status | jq .store.bytes)"
assert_ge "microseconds of a round trip" "$(value_of 'cbt_backup_export_round_trip_seconds{vm="web",disk="root"}' |
  awk '{ printf "%d", $1 * 1000000 }')" 1
assert_ge "time of the newest point" "$(value_of 'cbt_backup_newest_point_timestamp_seconds{vm="web"}' |
  awk '{ printf "%d", $1 }')" "$(jq '."start-time"' "$WORK/full")"
value_of 'cbt_backup_verified_age_seconds{vm="web"}' && fail "nothing was verified yet"
cbt --quiet verify web >/dev/null
backup incremental web >/dev/null
scrape
assert_value 'cbt_backup_hold_seconds_count' 1
assert_value 'cbt_backup_dirty_bytes{vm="web",disk="root"}' 0
assert_ge "seconds since the verify" "$(value_of 'cbt_backup_verified_age_seconds{vm="web"}' | awk '{ printf "%d", $1 }')" 0

say "an export that hangs holds nothing up"
pid=$(export_pid web)
at_exit kill -CONT "$pid"
kill -STOP "$pid"
is_down() { scrape && [ "$(value_of 'cbt_backup_export_up{vm="web",disk="root"}')" = 0 ]; }
wait_until 20 is_down || fail "the export is called up"
assert_eq "health" "$(cbt_json status | jq -r '.vms[0].health')" fail
assert_has "status" "$(cbt status)" "the export of web/root does not answer"
assert_eq "dirty bytes" "$(cbt_json status | jq '.vms[0].dirty')" null
kill -CONT "$pid"
is_up() { scrape && [ "$(value_of 'cbt_backup_export_up{vm="web",disk="root"}')" = 1 ]; }
wait_until 20 is_up || fail "the export is called down"

say "promtool"
need promtool
promtool check metrics <"$WORK/metrics" >"$WORK/promtool" 2>&1 || fail "promtool: $(cat "$WORK/promtool")"
assert_eq "what promtool says" "$(cat "$WORK/promtool")" ""
promtool check rules "$SOURCE/share/prometheus/cbt-backup.rules.yml" >"$WORK/promtool" 2>&1 || fail "rules: $(cat "$WORK/promtool")"
# Every metric that the rules and the dashboard use is there.
for name in $(grep -oh 'cbt_backup_[a-z_]*' "$SOURCE"/share/prometheus/*.yml "$SOURCE"/share/grafana/*.json | sort -u); do
  grep -q "^# TYPE ${name%_bucket} " "$WORK/metrics" || fail "there is no metric $name"
done
jq -r '.panels[].targets[].expr | gsub("\\$instance"; ".*")' "$SOURCE/share/grafana/cbt-backup.json" |
  jq -Rs 'split("\n") | map(select(. != "")) | {groups: [{name: "panels", rules: to_entries | map({record: "panel:\(.key)", expr: .value})}]}' \
    >"$WORK/panels.yml"
promtool check rules "$WORK/panels.yml" >"$WORK/promtool" 2>&1 || fail "dashboard: $(cat "$WORK/promtool")"
stop_daemon
