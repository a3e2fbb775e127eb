#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What the daemon has in memory when nothing runs does not grow with the jobs that it did.
. "$(dirname "$0")/lib.sh"
rounds=6 vms=(vm1 vm2 vm3)
[ -z "$LONG" ] || rounds=60
printf '[daemon]\nmax-jobs=3\n' >"$WORK/config"
DAEMON_OPTIONS=(--config "$WORK/config")

for vm in "${vms[@]}"; do random_image "$WORK/$vm.img" 32; done
start_daemon
for vm in "${vms[@]}"; do vm_add "$vm" "root=$WORK/$vm.img"; done

beside() { # COMMAND...: for each vm at the same time
  local vm pids=()
  for vm in "${vms[@]}"; do "$@" "$vm" & pids+=($!); done
  for vm in "${pids[@]}"; do wait "$vm" || fail "$*"; done
}
back_up() { cbt --quiet --full "$1" >/dev/null; }
give_back() { rm -f "$WORK/$1.back" && cbt --quiet restore "$1@latest" --target "root=$WORK/$1.back" >/dev/null; }
stream() { curl -sS --fail --unix-socket "$SOCKET" -o /dev/null "http://localhost/v1/points/$1@latest/archive?format=vma"; }
nothing_runs() { api GET /v1/status && jq -e '."jobs-active" + ."jobs-queued" == 0' >/dev/null <<<"$body"; }
figures=()
note_memory() {
  wait_until 60 nothing_runs || fail "jobs do not end: $body"
  figures+=("$(awk '/^VmRSS/ { print $2 }' "/proc/$DAEMON_PID/status")")
}

note_memory
for n in $(seq "$rounds"); do
  for vm in "${vms[@]}"; do random_bytes_at "$WORK/$vm.img" $((n % 32 * MIB)) "$MIB"; done
  beside back_up
  cbt --quiet verify --all >/dev/null & verify=$!
  beside give_back
  wait "$verify" || fail "verify"
  beside stream
  cbt --quiet prune --keep-last 2 >/dev/null
  cbt --quiet gc >/dev/null
  note_memory
done
say "KiB at rest: ${figures[*]}; at most $(awk '/^VmHWM/ { print $2 }' "/proc/$DAEMON_PID/status")"
# docs/architecture.md says what stays.
sanitized || assert_le "KiB at rest, at the end" "${figures[-1]}" $((32768 + 8192 * $(nproc)))
stop_daemon
