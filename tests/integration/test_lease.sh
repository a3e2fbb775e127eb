#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Another backup program freezes a bitmap by hand under a lease, reads what changed, and ends the freeze. Whatever dies
# meanwhile, the bitmap is not frozen for ever, and no change is lost; backups on other bitmaps do not notice.
. "$(dirname "$0")/lib.sh"
need nbdkit sqlite3
seed

disk_mib=16
random_image "$WORK/disk.img" "$disk_mib"
start_daemon
vm_add web "root=$WORK/disk.img"
cbt --quiet bitmap add web/root:vendor
cbt --quiet bitmap add web/root:other
uri=$(uri_of web)
bitmaps=/v1/vms/web/disks/root/bitmaps
changes=/v1/vms/web/disks/root/changes
no_lease=01234567-89ab-4cde-8f01-23456789abcd

# freeze BITMAP [DURATION]: by hand; sets $lease and $expires.
freeze() {
  local answer
  answer=$(cbt_json bitmap create-successor "web/root:$1" ${2:+--lease "$2"}) || fail "cannot freeze $1"
  assert_eq "state of $1" "$(jq -r .state <<<"$answer")" frozen
  lease=$(jq -er '."lease-id"' <<<"$answer") || fail "no lease: $answer"
  expires=$(jq -er '."lease-expires"' <<<"$answer") || fail "no end of the lease: $answer"
}
show() { cbt_json bitmap show "web/root:$1"; }
lease_of() { show "$1" | jq -r '."lease-id"'; }
count_of() { show "$1" | jq .count; }
dirty_of() { cbt_json changes web/root --bitmap "$1" | changes_clusters | tr '\n' ' '; } # cluster numbers
has_passed() { [ "$(date +%s)" -gt "$1" ]; }
# write CLUSTER...: through the export.
write() {
  local n commands=()
  for n in "$@"; do commands+=("write -P $((RANDOM % 255 + 1)) $((n * CLUSTER)) 4k"); done
  io "$uri" "${commands[@]}" flush
}
# read_extents LIST COPY: what a changes answer names, by NBD, into COPY.
read_extents() {
  local offset length
  while read -r offset length; do
    # shellcheck disable=SC2016 # for nbdkit's shell
    nbdkit -U - --filter=offset nbd "uri=$uri" "offset=$offset" "range=$length" --run 'nbdcopy "$uri" -' |
      dd of="$2" bs=64K seek="$offset" oflag=seek_bytes conv=notrunc status=none
  done < <(jq -r '.extents[] | "\(.offset) \(.length)"' <<<"$1")
}

say "a round: freeze, read what is frozen while the guest goes on, abdicate; the next one has only what is new"
freeze vendor
nbdcopy "$uri" "$WORK/copy.img"
write 5
cbt --quiet bitmap abdicate web/root:vendor --lease "$lease"
assert_eq "dirty" "$(dirty_of vendor)" "5 "
write 1 2 9 200
now=$(date +%s)
freeze vendor
assert_ge "end of the lease when none is asked for" "$expires" "$((now + 600))"
frozen=$(cbt_json changes web/root --bitmap vendor --lease "$lease")
assert_eq "frozen" "$(changes_clusters <<<"$frozen" | tr '\n' ' ')" "1 2 5 9 200 "
assert_eq "sizes" "$(jq -c '[.granularity, ."size-from", ."size-to"]' <<<"$frozen")" \
  "[$CLUSTER,$((disk_mib * MIB)),$((disk_mib * MIB))]"
assert_eq "form" "$(jq -c '[."next-offset", .source, .proof, .state]' <<<"$frozen")" \
  '[null,"bitmap","superset","frozen"]'
assert_eq "kinds" "$(jq -c '[.extents[].kind] | unique' <<<"$frozen")" '["data"]'
offset=0 pages=
while [ "$offset" != null ]; do # each page with writes in between: they fit together
  write $((RANDOM % 100 + 10)) 2
  api GET "$changes?bitmap=vendor&lease=$lease&limit=1&offset=$offset"
  assert_eq "page" "$status $(jq '.extents | length' <<<"$body")" "200 1"
  pages+="$body"
  offset=$(jq '."next-offset"' <<<"$body")
done
assert_eq "the pages together" "$(jq -s '[.[].extents[]]' <<<"$pages")" "$(jq '.extents' <<<"$frozen")"
again=$(cbt_json changes web/root --bitmap vendor)
assert_eq "all at once, once more" "$(jq .extents <<<"$again")" "$(jq .extents <<<"$frozen")"
read_extents "$frozen" "$WORK/copy.img"
cbt --quiet bitmap abdicate web/root:vendor --lease "$lease"
freeze vendor
read_extents "$(cbt_json changes web/root --bitmap vendor)" "$WORK/copy.img"
assert_same_file "what the vendor read" "$WORK/copy.img" "$WORK/disk.img"
cbt --quiet bitmap abdicate web/root:vendor --lease "$lease"
assert_eq "nothing left" "$(dirty_of vendor)" ""

say "a round that fails: reclaim, and the next freeze has both"
write 20
freeze vendor
write 21
assert_eq "frozen" "$(dirty_of vendor)" "20 "
cbt --quiet bitmap reclaim web/root:vendor --lease "$lease"
assert_eq "taken back" "$(dirty_of vendor)" "20 21 "
expect_exit 4 "over" cbt bitmap abdicate web/root:vendor --lease "$lease"
expect_status 409 "is over" GET "$changes?bitmap=vendor&lease=$lease"

say "only the current lease ends a freeze, or an operator who names none"
freeze vendor 1h
expect_exit 4 "$lease" cbt bitmap abdicate web/root:vendor --lease "$no_lease"
expect_exit 4 "$lease" cbt bitmap reclaim web/root:vendor --lease "$no_lease"
expect_exit 4 "$lease" cbt bitmap renew web/root:vendor --lease "$no_lease"
expect_status 409 "does not hold" POST "$bitmaps/vendor/abdicate" "{\"lease\":\"$no_lease\"}"
expect_status 409 "lease $lease" POST "$bitmaps/vendor/create-successor"
expect_exit 4 "lease ends at" cbt bitmap remove web/root:vendor
assert_eq "still" "$(lease_of vendor)" "$lease"
api GET "$bitmaps"
assert_eq "in the list" "$(jq -c '[.[] | [.name, ."lease-id"]]' <<<"$body")" \
  "[[\"default\",null],[\"other\",null],[\"vendor\",\"$lease\"]]"
api POST "$bitmaps/vendor/renew" "{\"lease\":\"$lease\",\"seconds\":86400}"
assert_ge "renewed" "$(jq '."lease-expires"' <<<"$body")" "$((expires + 80000))"
status=$(curl -sS --unix-socket "$SOCKET" -o /dev/null -w '%{http_code}' -X POST \
  "http://localhost$bitmaps/vendor/reclaim")
assert_eq "without a body at all" "$status $(bitmap_state web/root:vendor)" "200 active"
assert_eq "taken back" "$(dirty_of vendor) $(lease_of vendor)" "20 21  null"

say "bad values are refused by name"
for bad in 0 -1 604801 1.5 '"64K"' '"8d"' '""' true; do
  expect_status 400 "'lease'" POST "$bitmaps/vendor/create-successor" "{\"lease\":$bad}"
done
expect_status 400 "leas" POST "$bitmaps/vendor/create-successor" '{"leas":5}'
expect_status 400 "'lease'" POST "$bitmaps/vendor/abdicate" '{"lease":"mine"}'
expect_status 400 "'lease'" POST "$bitmaps/vendor/renew" '{"seconds":60}'
expect_status 400 "'seconds'" POST "$bitmaps/vendor/renew" "{\"lease\":\"$no_lease\",\"seconds\":0}"
expect_status 409 "active" POST "$bitmaps/vendor/renew" "{\"lease\":\"$no_lease\"}"
expect_exit 2 "not a duration" cbt bitmap create-successor web/root:vendor --lease soon
expect_exit 1 "'lease'" cbt bitmap create-successor web/root:vendor --lease 8d
expect_exit 2 "--lease" cbt bitmap renew web/root:vendor
for other in from to; do
  expect_status 400 "'$other'" GET "$changes?bitmap=vendor&$other=web@latest"
  expect_exit 2 "--$other" cbt changes web/root --bitmap vendor "--$other" web@latest
done
expect_status 400 "'lease' needs" GET "$changes?lease=$no_lease"
expect_status 400 "'lease'" GET "$changes?bitmap=vendor&lease=x"
expect_status 404 nobit GET "$changes?bitmap=nobit"
expect_exit 3 nobit cbt bitmap create-successor web/root:nobit
cbt --quiet bitmap disable web/root:other
expect_exit 4 "disabled" cbt changes web/root --bitmap other
expect_exit 4 "disabled" cbt bitmap create-successor web/root:other
assert_eq "no lease of it" "$(lease_of other)" null
cbt --quiet bitmap enable web/root:other

say "a lease that ends gives the bitmap back with all changes"
write 30
freeze vendor 1s
write 31
wait_until 30 bitmap_is web/root:vendor active || fail "the lease does not end"
assert_eq "dirty" "$(dirty_of vendor)" "20 21 30 31 "
assert_eq "lease" "$(lease_of vendor)" null
assert_has "log" "$(cat "$WORK/daemon.log")" "lease $lease of bitmap 'vendor' of web/root has ended"
expect_exit 4 "is over" cbt bitmap abdicate web/root:vendor --lease "$lease"
freeze vendor 1h
cbt --quiet bitmap renew web/root:vendor --lease "$lease" --for 1
wait_until 30 bitmap_is web/root:vendor active || fail "the renewed lease does not end"

say "a lease that is renewed holds beyond its first end"
for seconds in 2 4 8 16 32; do # a slow machine may be too late
  freeze vendor "$seconds"
  ! cbt --quiet bitmap renew web/root:vendor --lease "$lease" --for 1h || break
  wait_until 30 bitmap_is web/root:vendor active || fail "the lease does not end"
done
wait_until 30 has_passed "$((expires + 1))"
assert_eq "state, lease" "$(bitmap_state web/root:vendor) $(lease_of vendor)" "frozen $lease"

say "it outlives the daemon, a killed daemon, the export, and a killed export"
stop_daemon
start_daemon
assert_eq "after a restart" "$(bitmap_state web/root:vendor) $(lease_of vendor)" "frozen $lease"
kill_daemon
start_daemon
assert_eq "after kill -9" "$(bitmap_state web/root:vendor) $(lease_of vendor)" "frozen $lease"
kill_export web
write 40
assert_eq "after kill -9 of the export" "$(bitmap_state web/root:vendor) $(lease_of vendor)" "frozen $lease"
cbt --quiet export stop web
assert_eq "without an export" "$(dirty_of vendor)" "20 21 30 31 "
cbt --quiet bitmap renew web/root:vendor --lease "$lease" --for 2h
assert_eq "exported again" "$(uri_of web)" "$uri"
assert_eq "what is frozen" "$(dirty_of vendor)" "20 21 30 31 "
cbt --quiet bitmap abdicate web/root:vendor --lease "$lease"
assert_eq "what is left" "$(dirty_of vendor)" "40 "

say "a lease that ends while the daemon is down, or was killed, or while nothing is exported"
for way in stop_daemon kill_daemon; do
  freeze vendor 1s
  $way
  write 41
  wait_until 30 has_passed "$expires"
  start_daemon
  assert_eq "$way: after the start" "$(bitmap_state web/root:vendor) $(lease_of vendor)" "active null"
  assert_eq "$way: dirty" "$(dirty_of vendor)" "40 41 "
done
freeze vendor 1s
kill_export web
wait_until 30 bitmap_is web/root:vendor active || fail "the lease does not end after the export was started again"
cbt --quiet export stop web
freeze vendor 1s
wait_until 30 bitmap_is web/root:vendor active || fail "the lease does not end without an export"
assert_eq "dirty" "$(dirty_of vendor)" "40 41 "
assert_eq "exported again" "$(uri_of web)" "$uri"

say "a bitmap that is frozen by hand but has no lease gets one at the start"
freeze vendor 1h
old=$lease
stop_daemon
sqlite3 "$STATE/catalogue.sqlite" 'DELETE FROM leases'
start_daemon
lease=$(lease_of vendor)
[[ $lease != null && $lease != "$old" ]] || fail "the lease is '$lease'"
expect_exit 4 "$lease" cbt bitmap abdicate web/root:vendor --lease "$old"
cbt --quiet bitmap reclaim web/root:vendor --lease "$lease"
say "a lease without a frozen bitmap, as a crash before the freeze leaves it, freezes nothing and goes"
disk_id=$(cbt_json vm show web | jq -r '.disks[0].id')
stop_daemon
for bitmap in vendor gone; do
  sqlite3 "$STATE/catalogue.sqlite" "INSERT INTO leases VALUES ('$disk_id', '$bitmap', '$no_lease', 1)"
done
start_daemon
assert_eq "state, lease" "$(bitmap_state web/root:vendor) $(lease_of vendor)" "active null"
leases_are() { [ "$(sqlite3 "$STATE/catalogue.sqlite" 'SELECT count(*) FROM leases')" = "$1" ]; }
wait_until 30 leases_are 0 || fail "the lease stays in the catalogue"

say "backups on another bitmap do not notice; one on the frozen bitmap is refused and told what to do"
backup full web >/dev/null
backup full web --bitmap vendor >/dev/null
write 50
freeze vendor 1h
write 51
job=$(backup incremental web)
assert_eq "default" "$(jq -c '[.kind, .reason, .dirty]' <<<"$job")" "[\"incremental\",null,$((2 * CLUSTER))]"
restore_matches web@latest root "$WORK/disk.img"
assert_eq "vendor" "$(bitmap_state web/root:vendor) $(dirty_of vendor)" "frozen 50 "
n_jobs=$(cbt_json job list | jq length)
expect_status 409 "lease ends at $(date -u -d "@$expires" +%Y-%m-%dT%H:%M:%SZ)" \
  POST /v1/vms/web/backups '{"kind":"incremental","bitmap":"vendor"}'
expect_status 409 "bitmap abdicate web/root:vendor" POST /v1/vms/web/backups '{"kind":"full","bitmap":"vendor"}'
expect_exit 4 "bitmap reclaim" cbt --incremental web --bitmap vendor
assert_eq "jobs" "$(cbt_json job list | jq length)" "$n_jobs"
cbt --quiet bitmap reclaim web/root:vendor
job=$(backup incremental web --bitmap vendor)
assert_eq "after reclaim the base still holds" "$(jq -c '[.kind, .reason, .dirty]' <<<"$job")" \
  "[\"incremental\",null,$((2 * CLUSTER))]"
say "while a backup runs, its bitmap is busy, another one can be frozen"
id=$(start_backup full web --speed 8M)
wait_until 20 bitmap_is web/root frozen || fail "the bitmap does not freeze"
expect_status 409 "job $id" POST "$bitmaps/default/create-successor"
expect_exit 4 "backup" cbt bitmap abdicate web/root:default
write 60
freeze other 1h
freeze vendor 1h
assert_eq "the backup" "$(wait_job "$id" | jq -r '.status + (.errmsg // "")')" "done"
cbt --quiet bitmap reclaim web/root:vendor --lease "$(lease_of vendor)"
assert_eq "other" "$(bitmap_state web/root:other)" frozen
cbt --quiet bitmap reclaim web/root:other

say "after an abdicate by hand the bitmap is relative to no recovery point: a backup reads again and says so"
freeze vendor
write 61
cbt --quiet bitmap abdicate web/root:vendor --lease "$lease"
job=$(backup incremental web --bitmap vendor)
assert_has "reason" "$(jq -r .reason <<<"$job")" "without a recovery point"
restore_matches web@latest root "$WORK/disk.img"
write 62
job=$(backup incremental web --bitmap vendor)
assert_eq "the next is ordinary" "$(jq -c '[.kind, .reason, .dirty]' <<<"$job")" "[\"incremental\",null,$CLUSTER]"
restore_matches web@latest root "$WORK/disk.img"

say "a bitmap that may miss changes is not read; frozen, the whole disk counts as changed"
cbt --quiet export stop web
random_bytes_at "$WORK/disk.img" 7000 10
expect_exit 4 "may miss" cbt changes web/root --bitmap vendor
freeze vendor
frozen=$(cbt_json changes web/root --bitmap vendor)
assert_eq "frozen" "$(jq -c '[.extents[] | .offset, .length]' <<<"$frozen")" "[0,$((disk_mib * MIB))]"
cbt --quiet bitmap abdicate web/root:vendor --lease "$lease"
uri=$(uri_of web)
write 70
assert_eq "good again" "$(dirty_of vendor)" "70 "
cbt --quiet export stop web
stop_daemon
