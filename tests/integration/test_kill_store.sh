#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# kill -9 of the daemon at random moments of whatever changes the store, of two vms: prune, gc, verify, repair,
# rebuild-catalogue, forget, backup, and the start itself with and without catalogue and index. The store is sound
# afterwards, each committed point restores, nothing stays frozen, and the next incremental is right.
. "$(dirname "$0")/lib.sh"
need nbdkit
seed

kills=15
[ -z "$LONG" ] || kills=500
kills=${CBT_TEST_ROUNDS:-$kills}
STORE=$STATE/store
declare -A size=([web]=12 [db]=4) uri image # by vm
declare -A digest owner                     # of each point that was committed, by uuid
declare -A gone                             # points that may be gone or not
declare -A n_kills n_cut                    # by what was running
n_restores=0 n_adopted=0 n_new=0

### the guest

# write_some VM: a few ranges, some of which are old bytes again.
write_some() {
  local n at commands=()
  for n in 1 2 3 4; do
    at=$(random_below $((${size[$1]} * 16)))
    commands+=("write -P $((RANDOM % 40)) $((at * CLUSTER)) $((CLUSTER * (1 + RANDOM % 2 * (at % 16 < 15))))")
  done
  head -c "$((CLUSTER * 4))" /dev/urandom >"$WORK/data"
  commands+=("write -s $WORK/data $(($(random_below $((${size[$1]} * 16 - 4))) * CLUSTER)) $((CLUSTER * 4))")
  io "${uri[$1]}" "${commands[@]}" flush
}
sum_of() { local sum; sum=$(sha256sum <"$1"); echo "${sum%% *}"; }

### points

# note_new VM: points that nobody knew have what the disk holds now.
note_new() {
  local uuid sum=
  for uuid in $(points "$1"); do
    [ -z "${digest[$uuid]:-}" ] || continue
    [ -n "$sum" ] || sum=$(sum_of "${image[$1]}")
    digest[$uuid]=$sum owner[$uuid]=$1
    n_new=$((n_new + 1))
  done
}
# make_point VM: an incremental that is right, though whatever was killed before it.
make_point() {
  local job
  job=$(backup incremental "$1")
  assert_eq "$what: kind, reason of the next of $1" "$(jq -c '[.kind, .reason]' <<<"$job")" '["incremental",null]'
  note_new "$1"
  latest[$1]=$(jq -r .uuid <<<"$job")
  restores "${latest[$1]}"
}
restores() { # UUID
  local folder=$WORK/restored sum
  rm -rf "$folder"
  cbt --quiet restore "$1" --to "$folder" >/dev/null || fail "$what: restore of $1 of ${owner[$1]} failed"
  sum=$(sum_of "$folder/root.raw")
  assert_eq "$what: what $1 of ${owner[$1]} restores to" "$sum" "${digest[$1]}"
  n_restores=$((n_restores + 1))
}
declare -A latest
any_of() { # one of the words
  shift "$(random_below $#)"
  echo "$1"
}

### what is killed; each sets $op_pid, the client's

# Up to so many ms later; this follows what is seen, so that about half of the kills come before it is done.
declare -A most=([prune]=30 [forget]=20 [gc]=60 [gc_and_backup]=80 [backup_and_gc]=150 [backup]=200 [commit]=60
  [verify]=150 [repair]=100 [rebuild]=20)
aim() { # OP NUMERATOR DENOMINATOR
  most[$1]=$((most[$1] * $2 / $3))
  [ "${most[$1]}" -ge 5 ] || most[$1]=5
  [ "${most[$1]}" -le 900 ] || most[$1]=900
}

request() { # METHOD PATH [BODY]: its answer in $WORK/op.body and its status in $WORK/op.status
  : >"$WORK/op.body"
  curl -sS --unix-socket "$SOCKET" -X "$1" -o "$WORK/op.body" -w '%{http_code}' -H 'Content-Type: application/json' \
    --data-binary "${3:-}" "http://localhost$2" >"$WORK/op.status" 2>/dev/null &
  op_pid=$!
}
doom() { local uuid; while read -r uuid; do gone[$uuid]=1; done; } # those on standard input may be removed

op_prune() {
  doom < <(points web | tail -n +4)
  doom < <(points db | tail -n +4)
  request POST /v1/prune '{"keep-last":3}'
}
op_forget() {
  local uuid
  uuid=$(points "$(any_of web db)" | tail -n 1)
  doom <<<"$uuid"
  request DELETE "/v1/points/$uuid"
}
some_garbage() {
  doom < <(points web | tail -n +4)
  doom < <(points db | tail -n +4)
  cbt --quiet prune --keep-last 3
}
op_gc() {
  some_garbage
  request POST /v1/gc
}
op_gc_and_backup() {
  some_garbage
  start_backup "$(any_of full incremental)" db >/dev/null
  request POST /v1/gc
}
op_backup_and_gc() {
  some_garbage
  api POST /v1/gc
  request POST /v1/vms/web/backups '{"kind":"full"}'
}
op_backup() {
  request POST "/v1/vms/$(any_of web db)/backups" "{\"kind\":\"$(any_of full incremental)\",\"speed\":\"40M\"}"
}
op_commit() { # the end of one
  request POST "/v1/vms/$(any_of web db)/backups" '{"kind":"incremental"}'
}
op_verify() {
  request POST /v1/verify '{"all":true,"speed":"100M"}'
}
op_repair() { # the newest point of web, whose bytes its disk still has
  request POST /v1/verify "{\"vm\":\"web\",\"repair\":true,\"from\":\"${image[web]}\"}"
}
op_rebuild() {
  request POST /v1/rebuild-catalogue
}
ops=(prune forget gc gc_and_backup backup_and_gc backup commit verify repair rebuild start start_anew)

dump() { "$BUILD/bin/cbt-backup" store dump --store "$STORE" --json "$@"; }

# Damages a record of the newest point of web, all whose chunks that point has, and so the disk; the daemon is away.
damage() {
  local cluster pack whole
  dump manifest "${latest[web]}/root" | jq -r '.clusters[] | "\(.pack) \(.offset) \(.chunk)"' >"$WORK/has"
  for pack in "$STORE"/packs/*.pack; do
    dump pack "$(basename "$pack")" | jq -r '.pack as $pack | .records[] | "\($pack) \(.offset) \(.chunk)"'
  done >"$WORK/records"
  mapfile -t whole < <(awk 'NR == FNR { has[$0] = 1; next } { lacks[$1 " " $2] += !($0 in has) }
    END { for (record in lacks) if (!lacks[record]) print record }' "$WORK/has" "$WORK/records" | sort)
  [ "${#whole[@]}" -gt 0 ] || fail "$what: the disk has no record as a whole"
  cluster=${whole[RANDOM % ${#whole[@]}]}
  printf '\125' | dd of="$STORE/packs/${cluster% *}.pack" bs=1 seek=$((${cluster#* } + 60)) conv=notrunc status=none
}

### a round

check_store() {
  local result=0 report
  report=$("$BUILD/bin/cbt-backup" store check --store "$STORE" --json 2>&1) || result=$?
  [ "$result" = 0 ] || fail "$what, $1: store check says $report"
}
# The dead have let go of their locks.
daemon_is_reaped() { ! kill -0 "$DAEMON_PID" 2>/dev/null; }
kill_now() {
  disown "$DAEMON_PID"
  kill -KILL "$DAEMON_PID"
  wait_until 10 daemon_is_reaped || fail "the daemon survived kill -9"
  DAEMON_PID=
}

was_cut() { # whether what was asked for was not done when the kill came
  local http id
  http=$(cat "$WORK/op.status")
  case $http in
    202)
      id=$(jq -r .id "$WORK/op.body")
      api GET "/v1/jobs/$id"
      [ "$status" = 200 ] || return 1
      case $(jq -r .status <<<"$body") in
        done) return 1 ;;
        error)
          assert_ne "$what: errmsg of job $id" "$(jq -r '.errmsg // ""' <<<"$body")" ""
          return 0
          ;;
        *) fail "$what: job $id after the kill: $body" ;;
      esac
      ;;
    000) return 0 ;;
    20*) return 1 ;;
    *) fail "$what: status $http: $(cat "$WORK/op.body")" ;;
  esac
}

count_cut() { # OP
  if was_cut; then
    n_cut[$1]=$((${n_cut[$1]:-0} + 1))
    aim "$1" 4 3
  else
    aim "$1" 2 3
  fi
}

# Starts the daemon, and kills it while it starts.
kill_at_start() { # OP
  kill_now
  [ "$1" != start_anew ] || rm -f "$STATE"/catalogue.sqlite* "$STORE/index"
  "$BUILD/bin/cbt-backupd" --state-dir "$STATE" --runtime-dir "$RUN" >>"$WORK/daemon.log" 2>&1 &
  DAEMON_PID=$!
  pause "0.$(printf %03d "$(random_below 90)")"
  kill_now
  n_cut[$1]=$((${n_cut[$1]:-0} + 1))
}

kill_in() { # OP
  if [ "$1" = repair ]; then
    make_point web # the disk has what is damaged then
    stop_daemon
    damage
    start_daemon
  fi
  "op_$1"
  pause "0.$(printf %03d "$(random_below "${most[$1]}")")"
  kill_now
  wait "$op_pid" 2>/dev/null || true
}

# All that was noted and is not removed is there, and what is not to be there is not.
check_points() {
  local uuid
  points web >"$WORK/points"
  points db >>"$WORK/points"
  for uuid in "${!digest[@]}"; do
    if grep -q "$uuid" "$WORK/points"; then
      unset "gone[$uuid]"
    elif [ -n "${gone[$uuid]:-}" ]; then
      unset "digest[$uuid]" "gone[$uuid]"
    else
      fail "$what: point $uuid of ${owner[$uuid]} is gone"
    fi
  done
}

check_jobs() {
  api GET /v1/jobs
  assert_eq "$what: jobs that still run" \
    "$(jq -c 'map(select(.status == "active" or .status == "queued"))' <<<"$body")" '[]'
}

finish_repair() {
  local job
  api POST /v1/verify "{\"vm\":\"web\",\"repair\":true,\"from\":\"${image[web]}\"}"
  job=$(wait_job "$(jq -r .id <<<"$body")")
  [ "$(jq -r .status <<<"$job")" = "done" ] || fail "$what: the repair after it: $job"
  cbt --quiet gc >/dev/null || fail "$what: gc after the repair" # the damaged record goes
}

round() { # OP
  local vm result
  what="kill $n in $1"
  for vm in web db; do write_some $vm; done
  if [[ $1 = start* ]]; then kill_at_start "$1"; else kill_in "$1"; fi
  n_kills[$1]=$((${n_kills[$1]:-0} + 1))
  [ "$1" = repair ] || check_store "before the start"
  start_daemon
  [[ $1 = start* ]] || count_cut "$1"
  check_jobs
  [ "$1" != repair ] || finish_repair
  for vm in web db; do
    assert_eq "$what: bitmap of $vm" "$(bitmap_state $vm/root)" active
    n_new=0
    note_new $vm
    n_adopted=$((n_adopted + n_new))
  done
  check_points
  restores "$(any_of "${!digest[@]}")"
  make_point "$(any_of web db)"
}

sometimes() { # all of it
  local uuid
  for uuid in "${!digest[@]}"; do restores "$uuid"; done
  make_point web
  make_point db
  cbt --quiet gc >/dev/null || fail "$what: gc after it"
  check_store "after gc"
  if [ ${#digest[@]} -gt 12 ]; then
    cbt --quiet prune --keep-last 4
    doom < <(printf '%s\n' "${!digest[@]}")
    check_points
  fi
}

start_daemon
what="at first"
for vm in web db; do
  image[$vm]=$WORK/$vm.raw
  random_image "${image[$vm]}" "${size[$vm]}"
  vm_add $vm "root=${image[$vm]}"
  uri[$vm]=$(uri_of $vm)
  backup full $vm >/dev/null
  note_new $vm
  for n in 1 2; do
    write_some $vm
    make_point $vm
  done
done

for ((n = 1; n <= kills; n++)); do
  # Each of them once, then by chance.
  if [ $n -le ${#ops[@]} ]; then op=${ops[n - 1]}; else op=$(any_of "${ops[@]}"); fi
  round "$op"
  if [ $((n % 10)) -eq 0 ]; then sometimes; fi
done
what="at the end"
sometimes
stop_daemon
check_store "without a daemon"
for op in "${ops[@]}"; do
  say "$op: ${n_kills[$op]:-0} kills, ${n_cut[$op]:-0} before it was done"
done
say "$kills kills, $n_restores restores, $n_adopted points found after a kill"
