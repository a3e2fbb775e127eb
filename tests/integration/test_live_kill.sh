#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# kill -9 of the daemon right before and right after every single command that it sends to QEMU in a backup: the guest goes
# on, the next daemon finds nothing in its way, and the next incremental is right.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-guest.sh"
need nbdkit
seed

ways=${CBT_TEST_WAYS:-filter fleece external} # of [qemu] way; external: --snapshot external
share=8 # one of so many steps
[ -z "$LONG" ] || share=1
declare -A disk_file=([root]=$WORK/root.qcow2 [data]=$WORK/data.raw)
qemu-img create -q -f qcow2 "${disk_file[root]}" 16M
truncate -s 16M "${disk_file[data]}"
start_qemu g1 -device virtio-scsi-pci \
  -drive "if=none,id=root,file=${disk_file[root]},format=qcow2" -device virtio-blk-pci,drive=root,id=vd-root \
  -drive "if=none,id=data,file=${disk_file[data]},format=raw" -device virtio-blk-pci,drive=data,id=vd-data
control=$WORK/control
: >"$control"
python3 "$SOURCE/tests/integration/tools/qmp_proxy.py" "$WORK/proxy.qmp" "$WORK/g1.qmp" "$control" "${disk_file[@]}" \
  2>"$WORK/proxy.err" &
at_exit kill $!
wait_until 10 test -S "$WORK/proxy.qmp" || fail "the proxy does not start"

### the guest: what it writes goes into an oracle as well

for disk in root data; do truncate -s 16M "$WORK/$disk.oracle"; done
n_writes=0
write_some() { # [DISK...]
  local disk at disks=${*:-root data}
  for disk in $disks; do
    at=$(random_below 256)
    n_writes=$((n_writes % 250 + 1))
    assert_eq "the write" "$(qmp g1 human-monitor-command \
      "{\"command-line\":\"qemu-io $disk \\\"write -q -P $n_writes $((at * CLUSTER)) 64k\\\"\"}")" '""'
    head -c "$CLUSTER" /dev/zero | tr '\0' "\\$(printf %o $n_writes)" |
      dd of="$WORK/$disk.oracle" bs="$CLUSTER" seek="$at" conv=notrunc status=none
  done
}
guest_runs() { [ "$(qmp g1 query-status | jq -r .status)" = running ]; }
left_in_qemu() {
  { qmp g1 query-named-block-nodes | jq -r '.[]."node-name"'
    qmp g1 query-block-jobs | jq -r '.[].device'
    qmp g1 query-block-exports | jq -r '.[].id'
    qmp g1 query-fdsets | jq -r '.[].fds[].opaque // ""'
    qmp g1 query-block | jq -r '.[].inserted."dirty-bitmaps" // [] | .[].name | select(contains("-default-") | not)'
  } | grep '^cbt-' || true
  find "$WORK" -maxdepth 1 -name '*.cbt-*' # overlays
}
is_right() { # JOB
  local uuid disk
  uuid=$(jq -r .uuid <<<"$1")
  rm -rf "$WORK/point"
  cbt --quiet restore "$uuid" --to "$WORK/point" >/dev/null
  for disk in root data; do
    assert_same_file "$what: $disk" "$WORK/point/$disk.raw" "$WORK/$disk.oracle"
  done
}
good_backup() {
  job=$(backup incremental g1 --snapshot "$snapshot")
  is_right "$job"
  assert_eq "$what: left in QEMU" "$(left_in_qemu)" ""
  assert_eq "$what: bitmaps" "$(qmp g1 query-block | jq -c '[.[].inserted | select(.) | ."dirty-bitmaps" // [] | length]')" "[1,1]"
}

### one strike

n_strikes=0 n_points=0
strike() { # N before|after
  local result id
  what="$way: killed $2 command $1"
  write_some
  rm -f "$control.log"
  echo "$1 $2 kill $DAEMON_PID" >"$control"
  api POST /v1/vms/g1/backups "{\"kind\":\"incremental\",\"snapshot\":\"$snapshot\"}"
  id=$(jq -r '.id // 0' <<<"$body")
  wait_until 60 struck_or_done "$id" || fail "$what: neither killed nor done"
  : >"$control"
  if ! daemon_is_gone; then
    job=$(wait_job "$id")
    assert_eq "$what: the last one" "$(jq -r .status <<<"$job")" "done"
    return 1
  fi
  what+=" ($(tail -n 1 "$control.log"))"
  n_strikes=$((n_strikes + 1))
  wait "$DAEMON_PID" 2>/dev/null || true
  wait_until 5 guest_runs || fail "$what: the guest stands still"
  # The guest goes on while nobody is there; but the monitor must not write to a raw disk that QEMU may be giving back to
  # its image (docs/external-snapshots.md).
  if grep -q job-complete "$control.log"; then write_some root; else write_some; fi
  start_daemon
  assert_eq "$what: left in QEMU after the start" "$(left_in_qemu)" ""
  write_some
  n_points=$(points g1 | wc -l)
  good_backup
  assert_eq "$what: kind, reason" "$(jq -c '[.kind, .reason]' <<<"$job")" '["incremental",null]'
  assert_le "$what: dirty" "$(jq .dirty <<<"$job")" $((6 * CLUSTER))
  guest_runs || fail "$what: the guest stands still after a backup"
  return 0
}
struck_or_done() { daemon_is_gone || { [ "$1" != 0 ] && [[ $(job_status "$1") =~ ^(done|error)$ ]]; }; }

for way in $ways; do
  printf '[qemu]\nway=%s\n' "$way" >"$WORK/cbt.conf"
  snapshot=none
  if [ "$way" = external ]; then
    snapshot=external
    : >"$WORK/cbt.conf"
  fi
  DAEMON_OPTIONS=(--config "$WORK/cbt.conf")
  what="$way: at first"
  start_daemon
  if [ "$(cbt_json vm list)" = '[]' ]; then
    cbt --quiet vm add g1 --qmp "$WORK/proxy.qmp" --disk root=root --disk data=data
    write_some
    backup full g1 >/dev/null
  fi
  write_some
  good_backup
  say "$way: $(jq -r '.notes | join("; ")' <<<"$job")"
  n=0
  while :; do
    n=$((n + 1 + RANDOM % (2 * share - 1)))
    strike "$n" before || break
    strike "$n" after || break
  done
  say "$way: $n_strikes strikes so far; commands of a whole backup: $(cut -d ' ' -f 2 "$control.log" | tr '\n' ' ')"
  stop_daemon
done

say "nothing but what the guest wrote is in its image"
stop_guest_vm g1
qemu-img check -q "${disk_file[root]}" || fail "the guest's image is damaged"
qemu-img compare -f raw -F qcow2 "$WORK/root.oracle" "${disk_file[root]}" >/dev/null || fail "root differs"
