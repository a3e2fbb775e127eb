#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Bad input, bad disks and full disks each get a clear error, or the behaviour that the design names, and lose nothing.
. "$(dirname "$0")/lib.sh"

random_image "$WORK/disk.img" 16
start_daemon
vm_add vm1 "root=$WORK/disk.img"
backup full vm1 >/dev/null

post_vm() { # EXPECTED FRAGMENT NAME PATH
  expect_status "$1" "$2" POST /v1/vms "{\"name\":\"$3\",\"disks\":[{\"name\":\"root\",\"path\":\"$4\"}]}"
}

say "images that cannot be"
post_vm "400 404" "$WORK/none.img" bad "$WORK/none.img"
expect_exit "1 3" "$WORK/none.img" cbt vm add bad --disk "root=$WORK/none.img"
post_vm 400 director bad "$WORK"
expect_exit 1 director cbt vm add bad --disk "root=$WORK"
for format in qcow2 vmdk vdi vhdx vpc qed parallels; do
  qemu-img create -q -f "$format" "$WORK/$format.img" 16M
  truncate -s %512 "$WORK/$format.img"
  expect_exit 1 "is a $format image" cbt vm add bad --disk "root=$WORK/$format.img"
  expect_exit 1 "qemu-img convert -f $format -O raw $WORK/$format.img" cbt vm add bad --disk "root=$WORK/$format.img"
done
head -c 1000 /dev/urandom >"$WORK/odd.img"
post_vm 400 512 bad "$WORK/odd.img"
: >"$WORK/empty.img"
post_vm 400 empty.img bad "$WORK/empty.img"
mkfifo "$WORK/pipe"
post_vm 400 pipe bad "$WORK/pipe"
post_vm 400 path bad "relative.img"

say "names that cannot be, and those that are taken"
for name in '' '../up' 'a/b' '.hidden' 'a b' "$(printf 'x%.0s' $(seq 70))"; do
  post_vm 400 name "$name" "$WORK/none.img"
done
random_image "$WORK/other.img" 1
post_vm 409 vm1 vm1 "$WORK/other.img"
expect_exit 4 vm1 cbt vm add vm1 --disk "root=$WORK/other.img"
post_vm 409 vm1 vm2 "$WORK/disk.img"
expect_exit 4 vm1 cbt vm add vm2 --disk "root=$WORK/disk.img"
ln -s disk.img "$WORK/link.img"
post_vm 409 vm1 vm2 "$WORK/link.img"
random_image "$WORK/third.img" 1
two_disks() { # NAME PATH NAME PATH
  printf '{"name":"vm2","disks":[{"name":"%s","path":"%s"},{"name":"%s","path":"%s"}]}' "$@"
}
expect_status "400 409" root POST /v1/vms "$(two_disks root "$WORK/other.img" root "$WORK/third.img")"
expect_status "400 409" data POST /v1/vms "$(two_disks root "$WORK/other.img" data "$WORK/other.img")"
expect_status 400 disk POST /v1/vms '{"name":"vm2","disks":[]}'
expect_status 400 disks POST /v1/vms '{"name":"vm2"}'
expect_status 400 name POST /v1/vms '{"disks":[]}'
for granularity in 1000 1K 32M; do
  expect_status 400 granularity POST /v1/vms \
    "{\"name\":\"vm2\",\"granularity\":\"$granularity\",\"disks\":[{\"name\":\"root\",\"path\":\"$WORK/other.img\"}]}"
done
assert_eq "vms after all that" "$(cbt_json vm list | jq -c '[.[].name]')" '["vm1"]'

say "unknown things"
nobody=00000000-0000-4000-8000-000000000000
expect_status 404 ghost GET /v1/vms/ghost
expect_status 404 ghost POST /v1/vms/ghost/backups '{"kind":"full"}'
expect_status 404 ghost POST /v1/exports/ghost
expect_status 404 "$nobody" GET "/v1/points/$nobody"
expect_status 404 "$nobody" POST "/v1/points/$nobody/restore" "{\"to\":\"$WORK/x\"}"
expect_status 404 sdz GET /v1/vms/vm1/disks/sdz/bitmaps
expect_status 404 sdz POST /v1/vms/vm1/backups '{"kind":"full","disks":["sdz"]}'
expect_status 404 nobit GET /v1/vms/vm1/disks/root/bitmaps/nobit
expect_status 404 "$nobody" GET "/v1/vms/vm1/disks/root/changes?from=$nobody"
expect_status 404 99999 GET /v1/jobs/99999
expect_status 404 nowhere GET /v1/nowhere
expect_status 405 DELETE DELETE /v1/status
expect_exit 3 ghost cbt vm show ghost
expect_exit 3 ghost cbt --full ghost
expect_exit 3 nobit cbt --full vm1 --bitmap nobit
expect_exit 3 ghost cbt export start ghost
expect_exit 3 "$nobody" cbt show "$nobody"
expect_exit 3 ghost cbt restore ghost@latest --to "$WORK/x"
expect_exit 3 7 cbt show vm1@7
expect_exit 3 sdz cbt bitmap list vm1/sdz
expect_exit 3 99999 cbt job show 99999

say "usage"
expect_exit 2 frobnicate cbt frobnicate
expect_exit 2 disk cbt vm add vm9
expect_exit 2 --frob cbt --frob
expect_exit 2 to cbt restore vm1@latest
expect_exit 2 help cbt
expect_exit 2 speed cbt --full vm1 --speed fast
expect_exit 5 "$WORK/no.sock" "$BUILD/bin/cbt-backup" --socket "$WORK/no.sock" status
expect_exit 2 --frob "$BUILD/bin/cbt-backupd" --frob

say "requests that are no requests"
for text in '{' '{"name":' '[1,2]' '"text"' 'name=vm2' '{"kind":"full"}{' $'\xff\xfe'; do
  expect_status 400 "" POST /v1/vms/vm1/backups "$text"
done
deep=$(printf '[%.0s' $(seq 5000))
expect_status 400 "" POST /v1/vms/vm1/backups "{\"kind\":$deep"
expect_status 400 color POST /v1/vms/vm1/backups '{"kind":"full","color":"red"}'
expect_status 400 kind POST /v1/vms/vm1/backups '{"kind":"half"}'
expect_status 400 kind POST /v1/vms/vm1/backups '{"kind":7}'
expect_status 400 kind POST /v1/vms/vm1/backups '{}'
expect_status 400 speed POST /v1/vms/vm1/backups '{"kind":"full","speed":-5}'
expect_status 400 color GET '/v1/jobs?color=red'
expect_status 400 offset GET '/v1/vms/vm1/disks/root/changes?offset=minus'
expect_status 400 limit GET '/v1/vms/vm1/disks/root/changes?limit=-1'

status=$(curl -sS --unix-socket "$SOCKET" -X POST -o "$WORK/api.body" -w '%{http_code}' http://localhost/v1/vms)
assert_eq "a POST without a length" "$status" 411

say "a request of 100 MB"
head -c 100000000 /dev/zero | tr '\0' ' ' >"$WORK/100MB"
expect_status 413 "" POST /v1/vms "@$WORK/100MB"
rss_kib() { sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$DAEMON_PID/status"; }
sanitized || assert_le "KiB of memory of the daemon" "$(rss_kib)" 100000
status=$(curl -sS --unix-socket "$SOCKET" -X POST -H 'Transfer-Encoding: chunked' --data-binary "@$WORK/100MB" -o "$WORK/api.body" \
  -w '%{http_code}' http://localhost/v1/vms) || true
[[ "411 413" = *"$status"* ]] || fail "a chunked request of 100 MB: status $status: $(cat "$WORK/api.body")"
rm "$WORK/100MB"
assert_eq "the daemon lives" "$(cbt_json vm list | jq length)" 1

say "two backups of one vm at once"
id=$(start_backup full vm1 --speed 4M)
expect_status 409 vm1 POST /v1/vms/vm1/backups '{"kind":"incremental"}'
expect_exit 4 vm1 cbt --full vm1
expect_exit 4 vm1 cbt vm remove vm1
assert_has "hint" "$(api POST /v1/vms/vm1/backups '{"kind":"full"}'; jq -r .error.hint <<<"$body")" "$id"
cbt --quiet job cancel "$id" >/dev/null
assert_eq "cancelled" "$(wait_job "$id" | jq -r .status)" cancelled
assert_eq "bitmap after a cancelled job" "$(bitmap_state vm1/root)" active
backup incremental vm1 >/dev/null

say "an image that grew, and one that shrank, are read again and say why"
uri=$(uri_of vm1)
io "$uri" 'write -P 1 1M 64k' flush
cbt --quiet export stop vm1
truncate -s +1M "$WORK/disk.img"
random_bytes_at "$WORK/disk.img" "$((16 * MIB + 100))" 1000
job=$(backup incremental vm1)
assert_ne "reason after growing" "$(jq -r .reason <<<"$job")" null
assert_eq "size of the point" "$(cbt_json show vm1@latest | jq '.disks[0].size')" "$((17 * MIB))"
restore_matches vm1@latest root "$WORK/disk.img"
assert_eq "next" "$(backup incremental vm1 | jq -c '[.reason, .dirty]')" '[null,0]'
truncate -s 9M "$WORK/disk.img"
job=$(backup incremental vm1)
assert_ne "reason after shrinking" "$(jq -r .reason <<<"$job")" null
restore_matches vm1@latest root "$WORK/disk.img"
assert_eq "size in vm show" "$(cbt_json vm show vm1 | jq '.disks[0].size')" "$((9 * MIB))"
truncate -s 16M "$WORK/disk.img" # shrunk and grown again: what was behind the cut is gone
backup incremental vm1 >/dev/null
restore_matches vm1@latest root "$WORK/disk.img"
job=$(cbt_json changes vm1/root --from vm1@1 --to vm1@0)
assert_eq "sizes in changes" "$(jq -c '[."size-from", ."size-to"]' <<<"$job")" "[$((9 * MIB)),$((16 * MIB))]"

say "an image that went away, and comes back"
mv "$WORK/disk.img" "$WORK/away.img"
expect_exit "1 3" "$WORK/disk.img" cbt --incremental vm1
assert_ne "the vm shows the error" "$(cbt_json vm show vm1 | jq -r '.disks[0].error')" null
expect_exit "1 3" "$WORK/disk.img" cbt export start vm1
mv "$WORK/away.img" "$WORK/disk.img"
backup incremental vm1 >/dev/null
restore_matches vm1@latest root "$WORK/disk.img"

say "restores that cannot be"
api POST /v1/points/vm1@latest/restore '{"to":"/proc/none/here"}'
if [ "$status" = 202 ]; then
  assert_eq "a restore to where nothing can be" "$(wait_job "$(jq .id <<<"$body")" | jq -r .status)" error
else
  assert_ge "its status" "$status" 400
fi
expect_status 400 to POST /v1/points/vm1@latest/restore '{}'
expect_status 404 sdz POST /v1/points/vm1@latest/restore "{\"targets\":[{\"disk\":\"sdz\",\"path\":\"$WORK/x.raw\"}]}"
uri_of vm1 >/dev/null
expect_exit 4 vm1 cbt restore vm1@latest --target "root=$WORK/disk.img" --in-place
cbt --quiet export stop vm1

say "a vm goes, its points stay"
cbt --quiet vm remove vm1
expect_exit 3 vm1 cbt vm show vm1
assert_ge "points left" "$(cbt_json list vm1 | jq length)" 2
restore_matches vm1@latest root "$WORK/disk.img"

stop_daemon
