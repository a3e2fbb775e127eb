#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# QEMU is killed right before or after a command of a backup with an external snapshot: image and overlay together have
# all that the guest wrote, or the image has, where there is no overlay. Whichever its owner goes on with, the next
# backup is right: the overlays committed by hand, or the images alone.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-guest.sh"
need nbdkit
seed

share=6 # one of so many commands
[ -z "$LONG" ] || share=1
mkdir "$WORK/images"
declare -A image=([root]=$WORK/images/root.qcow2 [data]=$WORK/images/data.raw) format=([root]=qcow2 [data]=raw)
qemu-img create -q -f qcow2 "${image[root]}" 16M
truncate -s 16M "${image[data]}" "$WORK/root.oracle" "$WORK/data.oracle"
start_vm() {
  rm -f "$WORK/g1.qmp" "$WORK/g1.ctl"
  start_qemu g1 -device virtio-scsi-pci \
    -drive "if=none,id=root,file=${image[root]},format=qcow2" -device virtio-blk-pci,drive=root,id=vd-root \
    -drive "if=none,id=data,file=${image[data]},format=raw" -device virtio-blk-pci,drive=data,id=vd-data
}
start_vm
control=$WORK/control
: >"$control"
python3 "$SOURCE/tests/integration/tools/qmp_proxy.py" "$WORK/proxy.qmp" "$WORK/g1.qmp" "$control" "${image[@]}" \
  2>"$WORK/proxy.err" &
at_exit kill $!
wait_until 10 test -S "$WORK/proxy.qmp" || fail "the proxy does not start"
start_daemon
cbt --quiet vm add g1 --qmp "$WORK/proxy.qmp" --disk root=root --disk data=data

n_writes=0
write_some() { # FALSE once QEMU is gone: nobody knows what became of it then
  local disk at line
  for disk in root data; do
    at=$(random_below 256)
    n_writes=$((n_writes % 250 + 1))
    line="qemu-io $disk \\\"write -q -P $n_writes $((at * CLUSTER)) 64k\\\""
    [ "$(qmp g1 human-monitor-command "{\"command-line\":\"$line\"}" 2>/dev/null)" = '""' ] || return 1
    head -c "$CLUSTER" /dev/zero | tr '\0' "\\$(printf %o $n_writes)" |
      dd of="$WORK/$disk.oracle" bs="$CLUSTER" seek="$at" conv=notrunc status=none
  done
}
point_is_oracle() { # UUID
  local disk
  rm -rf "$WORK/point"
  cbt --quiet restore "$1" --to "$WORK/point" >/dev/null
  for disk in root data; do assert_same_file "$what: $disk" "$WORK/point/$disk.raw" "$WORK/$disk.oracle"; done
}
overlays() { find "$WORK/images" -name '*.cbt-*'; }
image_is_oracle() { # WHICH
  local disk
  for disk in root data; do
    qemu-img compare -q -f raw -F "${format[$disk]}" "$WORK/$disk.oracle" "${image[$disk]}" ||
      fail "$what: $disk, $1, has not what the guest wrote"
  done
}
ended_or_struck() { vm_is_gone g1 || [[ $(job_status "$1") =~ ^(done|error)$ ]]; }

n_by_hand=0 n_alone=0 n_complete=0
strike() { # N before|after
  local id disk overlay
  what="QEMU killed $2 command $1"
  write_some
  rm -f "$control.log"
  echo "$1 $2 kill ${VM_PID[g1]}" >"$control"
  api POST /v1/vms/g1/backups '{"kind":"incremental","snapshot":"external"}'
  id=$(jq -r '.id // 0' <<<"$body")
  wait_until 60 ended_or_struck "$id" || fail "$what: neither killed nor done"
  job=$(wait_job "$id")
  : >"$control"
  if ! vm_is_gone g1; then
    assert_eq "$what: the last one" "$(jq -r .status <<<"$job")" "done"
    return 1
  fi
  what+=" ($(tail -n 1 "$control.log"))"
  [ "$(jq -r .status <<<"$job")" != "done" ] || point_is_oracle "$(jq -r .uuid <<<"$job")"
  wait "${VM_PID[g1]}" 2>/dev/null || true
  if [ -z "$(overlays)" ]; then
    n_complete=$((n_complete + 1))
    image_is_oracle "which has no overlay"
  elif [ $((RANDOM % 2)) -eq 0 ]; then
    n_by_hand=$((n_by_hand + 1))
    while read -r overlay; do
      qemu-img commit -q "$overlay" || fail "$what: $overlay cannot be committed"
      rm "$overlay"
    done < <(overlays)
    image_is_oracle "committed"
  else
    n_alone=$((n_alone + 1))
    for disk in root data; do
      qemu-img convert -q -f "${format[$disk]}" -O raw "${image[$disk]}" "$WORK/$disk.oracle"
    done
  fi
  start_vm
  write_some
  snapshot=none
  [ $((RANDOM % 2)) -eq 0 ] || snapshot=external
  job=$(backup incremental g1 --snapshot "$snapshot")
  point_is_oracle "$(jq -r .uuid <<<"$job")"
  [ -z "$(overlays)" ] || assert_has "$what: the notes" "$(jq -r '.notes | join(" ")' <<<"$job")" "WARNING"
  overlays | xargs -r rm
  write_some
}
backup full g1 >/dev/null
n=0
while :; do
  n=$((n + 1 + RANDOM % (2 * share - 1)))
  strike "$n" before || break
  strike "$n" after || break
done
say "killed $((n_by_hand + n_alone + n_complete)) times:" \
  "$n_by_hand committed by hand, $n_alone gone on without, $n_complete had none"
what="at last"
stop_guest_vm g1
checked=0
qemu-img check -q "${image[root]}" || checked=$?
[[ $checked = [03] ]] || fail "the guest's image is damaged" # 3: clusters leaked, by the kills
image_is_oracle "which has no overlay"
stop_daemon
