# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What the integration tests share. A test does:
#
#   . "$(dirname "$0")/lib.sh"        # makes $WORK, a temporary directory that goes away at the end
#   need fio && need_root             # else the test is skipped (77)
#   start_daemon
#   cbt vm add vm1 --disk "root=$WORK/disk.img"
#
# Argument 1 of a test is the build directory. Everything a test starts is ended with it, by process id.
# shellcheck disable=SC2034 # variables here are for the tests
set -euo pipefail

BUILD=$(cd "${1:?usage: $0 BUILD-DIRECTORY}" && pwd)
SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
LONG=${CBT_TEST_LONG:-}
WORK=$(mktemp -d "${CBT_TEST_TMPDIR:-/tmp}/cbt-test.XXXXXX")
STATE=$WORK/state # of the daemon
RUN=$WORK/run
SOCKET=$RUN/api.sock
DAEMON_PID=
DAEMON_OPTIONS=()
CLUSTER=65536
MIB=1048576
exit_stack=()
export LC_ALL=C
export G_SLICE=always-malloc # sanitizers cannot look into GLib's own allocator

### messages and the end

say() { printf '%s\n' "-- $*"; }

fail() {
  local i
  {
    printf 'FAILED: %s\n' "$*"
    for ((i = 0; i < ${#FUNCNAME[@]} - 1; i++)); do
      printf '  %s line %s, called by %s\n' "$(basename "${BASH_SOURCE[i + 1]}")" "${BASH_LINENO[i]}" "${FUNCNAME[i + 1]}"
    done
  } | tee -a "$WORK/failure" >&2
  exit 1
}

skip() {
  printf 'skipped: %s\n' "$*"
  exit 77
}

# at_exit COMMAND...: runs it at the end, last one first.
at_exit() {
  local words
  printf -v words '%q ' "$@"
  exit_stack+=("$words")
}

# Ids of the processes that have $WORK in their command line: exports and clients, whoever started them.
processes_of_test() {
  local directory
  for directory in /proc/[0-9]*; do
    if [ "${directory#/proc/}" != $$ ] && tr '\0' ' ' 2>/dev/null <"$directory/cmdline" | grep -qF "$WORK"; then
      echo "${directory#/proc/}"
    fi
  done
}

sanitizer_reports() {
  find "$WORK" -maxdepth 5 \( -name '*.log' -o -name '*.err' \) -print0 2>/dev/null |
    xargs -0 -r grep -aE 'ERROR: (Address|Leak)Sanitizer|WARNING: ThreadSanitizer|runtime error:|SUMMARY: [A-Za-z]*Sanitizer' 2>/dev/null || true
}

# The reports in full, for the next run may not meet them again.
print_sanitizer_reports() {
  find "$WORK" -maxdepth 5 \( -name '*.log' -o -name '*.err' \) -print0 2>/dev/null |
    xargs -0 -r -n 1 sed -n '/ERROR: [AL][a-z]*Sanitizer\|WARNING: ThreadSanitizer\|runtime error:/,/^SUMMARY: /p' | head -n 200
}

cleanup() {
  local result=$? i pid pids reports
  trap - EXIT
  set +e
  for ((i = ${#exit_stack[@]} - 1; i >= 0; i--)); do
    eval "${exit_stack[i]}" >/dev/null 2>&1
  done
  [ -z "$DAEMON_PID" ] || kill -9 "$DAEMON_PID" 2>/dev/null
  pids=$(processes_of_test)
  for pid in $pids; do kill -9 "$pid" 2>/dev/null; done
  wait 2>/dev/null
  reports=$(sanitizer_reports)
  if [ -n "$reports" ] && [ "$result" -ne 77 ]; then
    printf 'FAILED: sanitizer reports:\n%s\n' "$reports" >&2
    print_sanitizer_reports >&2
    result=1
  fi
  if [ "$result" -ne 0 ] && [ "$result" -ne 77 ]; then
    for log in "$WORK"/daemon.log "$RUN"/exports/*/*.log "$WORK"/*.err; do
      [ -s "$log" ] && { printf '== %s\n' "$log"; tail -n 40 "$log"; } >&2
    done
    echo >&2
    cat "$WORK/failure" >&2 2>/dev/null || echo "FAILED: status $result of $failed_at" >&2
    if [ -n "${CBT_TEST_KEEP:-}" ]; then
      echo "kept: $WORK" >&2
      exit "$result"
    fi
  fi
  rm -rf --one-file-system "$WORK"
  exit "$result"
}
trap cleanup EXIT
set -E
failed_at=
trap 'failed_at="${BASH_SOURCE[0]##*/}:$LINENO: $BASH_COMMAND"' ERR
trap 'exit 130' INT TERM

### what a test needs

need() {
  local tool
  for tool in "$@"; do
    command -v "$tool" >/dev/null || skip "needs $tool; scripts/install-packages brings it"
  done
}

need_root() { [ "$(id -u)" -eq 0 ] || skip "needs root: $*"; }

# Whether the daemon is built with a sanitizer: it is slower then, and times mean nothing.
# (grep -q would end before ldd does, which fails the pipe.)
sanitized() { ldd "$BUILD/bin/cbt-backupd" | grep -E 'lib[atu]b?san|lib(asan|tsan|ubsan)' >/dev/null; }

need jq curl qemu-img qemu-io nbdcopy mkfs.ext4

### assertions

assert_eq() { # WHAT ACTUAL EXPECTED
  [ "$2" = "$3" ] || fail "$1: is '$2', should be '$3'"
}
assert_ne() { [ "$2" != "$3" ] || fail "$1: is '$2', should be anything else"; }
assert_le() { [ "$2" -le "$3" ] || fail "$1: is $2, should be at most $3"; }
assert_ge() { [ "$2" -ge "$3" ] || fail "$1: is $2, should be at least $3"; }
assert_has() { # WHAT TEXT FRAGMENT; letters of either case
  grep -qiF -e "$3" <<<"$2" || fail "$1: should say '$3', but is: $2"
}
assert_same_file() { # WHAT A B
  cmp "$2" "$3" || fail "$1: $2 and $3 differ"
}
assert_subset() { # WHAT SMALL BIG: sorted files of numbers, one a line
  local extra
  extra=$(comm -23 <(sort "$2") <(sort "$3") | sort -n | head -n 5 | tr '\n' ' ')
  [ -z "$extra" ] || fail "$1: clusters that should not be there: $extra..."
}
assert_keys() { # WHAT JSON KEY...: every key is there
  local what=$1 json=$2 key
  shift 2
  for key in "$@"; do
    jq -e --arg key "$key" 'has($key)' >/dev/null <<<"$json" || fail "$what: has no key '$key': $json"
  done
}

# wait_until SECONDS COMMAND...: until it succeeds.
wait_until() {
  local seconds=$1 end
  shift
  end=$((SECONDS + seconds))
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -le "$end" ] || return 1
    pause 0.02
  done
}

# A pipe that never has anything to read. One for all: a process for each wait would wear out the shell, which mixes up
# children when their ids come again.
exec {never}<> <(:)
pause() { read -rt "$1" -u "$never" || true; } # seconds, with a fraction; for moments that are meant to be random

### the daemon and its clients

process_is_gone() { # PID: ended, whether or not the shell has noticed; it may notice between two looks
  local state
  state=$(sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2>/dev/null) || return 0
  [[ $state = [ZX] ]]
}
daemon_is_gone() { process_is_gone "$DAEMON_PID"; }
daemon_answers() { daemon_is_gone || { api GET /v1/status && [ "$status" = 200 ]; }; }

start_daemon() { # with DAEMON_OPTIONS
  mkdir -p "$STATE" "$RUN"
  "$BUILD/bin/cbt-backupd" --state-dir "$STATE" --runtime-dir "$RUN" "${DAEMON_OPTIONS[@]}" >>"$WORK/daemon.log" 2>&1 &
  DAEMON_PID=$!
  wait_until 30 daemon_answers || fail "the daemon does not answer on $SOCKET"
  daemon_is_gone && fail "the daemon ended at its start"
  return 0
}

stop_daemon() { # a clean stop: exit status 0; it may have been told to stop already
  local result=0
  kill -TERM "$DAEMON_PID" 2>/dev/null || daemon_is_gone || fail "the daemon cannot be told to stop"
  wait_until 30 daemon_is_gone || fail "the daemon does not stop on SIGTERM"
  wait "$DAEMON_PID" || result=$?
  DAEMON_PID=
  assert_eq "exit status of the daemon after SIGTERM" "$result" 0
}

kill_daemon() {
  kill -KILL "$DAEMON_PID"
  wait "$DAEMON_PID" 2>/dev/null || true
  DAEMON_PID=
}

cbt() { "$BUILD/bin/cbt-backup" --socket "$SOCKET" "$@"; }
cbt_json() { cbt --json "$@"; }

# api METHOD PATH [BODY]: sets $status and $body; nothing fails here.
api() {
  local method=$1 path=$2
  local options=(-sS --unix-socket "$SOCKET" -X "$method" -o "$WORK/api.body" -w '%{http_code}')
  if [ $# -ge 3 ] || [ "$method" = POST ]; then
    options+=(-H 'Content-Type: application/json' --data-binary "${3:-}")
  fi
  : >"$WORK/api.body"
  status=$(curl "${options[@]}" "http://localhost$path") || status=000
  body=$(cat "$WORK/api.body")
}

# expect_status STATUS FRAGMENT METHOD PATH [BODY]: an error answer in its proper form.
expect_status() {
  local expected=$1 fragment=$2
  shift 2
  api "$@"
  [[ $expected = *"$status"* ]] || fail "$1 $2: status $status, should be $expected; answer: $body"
  jq -e '.error.code and .error.message and (.error | has("hint"))' >/dev/null <<<"$body" ||
    fail "$1 $2: no proper error: $body"
  assert_has "$1 $2" "$(jq -r '.error.message + " " + (.error.hint // "")' <<<"$body")" "$fragment"
}

# expect_exit STATUS FRAGMENT COMMAND...: the command ends with it and says FRAGMENT on standard error (or output).
expect_exit() {
  local expected=$1 fragment=$2 result=0 output
  shift 2
  output=$("$@" 2>&1) || result=$?
  [[ $expected = *"$result"* ]] || fail "$*: exit status $result, should be $expected; output: $output"
  assert_has "$*" "$output" "$fragment"
}

vm_add() { # VM DISK=PATH...
  local vm=$1 disk options=()
  shift
  for disk in "$@"; do options+=(--disk "$disk"); done
  cbt --quiet vm add "$vm" "${options[@]}" >/dev/null
}

# running_exports VM: their JSON, once all of them run; starts them if there are none.
running_exports() {
  api GET "/v1/exports/$1"
  [ "$body" != '[]' ] || cbt --quiet export start "$1" >/dev/null || fail "export start $1"
  wait_until 20 exports_run "$1" || fail "the exports of $1 do not run: $body"
  printf '%s\n' "$body"
}
exports_run() { api GET "/v1/exports/$1" && jq -e 'length > 0 and all(.[]; .state == "running")' >/dev/null <<<"$body"; }

# uri_of VM [DISK]: the URI of the disk's export, which is started if it does not run.
uri_of() {
  running_exports "$1" | jq -er --arg disk "${2:-}" '[.[] | select($disk == "" or .disk == $disk)][0].uri'
}
export_pid() { running_exports "$1" | jq -er '.[0].pid'; }
export_has_other_pid() { exports_run "$1" && [ "$(jq -r '.[0].pid' <<<"$body")" != "$2" ]; }
# kill_export VM: kill -9 of its process; returns when the daemon has started another one.
kill_export() {
  local pid
  pid=$(export_pid "$1")
  kill -KILL "$pid"
  wait_until 20 export_has_other_pid "$1" "$pid" || fail "the export of $1 does not come back: $body"
}

# backup full|incremental VM [OPTION...]: prints the job; fails unless it is done.
backup() {
  local kind=$1 vm=$2 job
  shift 2
  job=$(cbt_json "--$kind" "$vm" "$@") || fail "--$kind $vm failed: $job"
  [ "$(jq -r .status <<<"$job")" = "done" ] || fail "--$kind $vm is not done: $job"
  printf '%s\n' "$job"
}

# start_backup KIND VM [--speed SPEED | --audit N]: does not wait; prints the job's id. By HTTP, as all that is asked often: a start of the command
# line takes longer than some jobs where a sanitizer slows it down.
start_backup() {
  api POST "/v1/vms/$2/backups" "{\"kind\":\"$1\"${4:+,\"${3#--}\":\"$4\"}}"
  [ "$status" = 202 ] || fail "--$1 $2: $body"
  jq -er .id <<<"$body"
}
job_status() { api GET "/v1/jobs/$1" && jq -r .status <<<"$body"; }
wait_job() { # ID [SECONDS]: prints the job when it has ended
  api GET "/v1/jobs/$1?wait-ms=$((${2:-60} * 1000))"
  [[ $(jq -r .status <<<"$body") =~ ^(done|error|cancelled)$ ]] || fail "job $1 does not end: $body"
  printf '%s\n' "$body"
}

bitmap_state() { # VM/DISK[:BITMAP]
  local disk=${1#*/} bitmap=default
  case $disk in *:*) bitmap=${disk#*:} disk=${disk%%:*} ;; esac
  api GET "/v1/vms/${1%%/*}/disks/$disk/bitmaps/$bitmap" && jq -r .state <<<"$body"
}
bitmap_is() { [ "$(bitmap_state "$1")" = "$2" ]; } # VM/DISK[:BITMAP] STATE

points() { cbt_json list "$1" | jq -r '.[].uuid'; } # newest first

# restore_matches POINT DISK ORACLE: a restore into a new folder equals the file.
restore_matches() {
  local folder=$WORK/restore.$RANDOM$RANDOM
  cbt --quiet restore "$1" --to "$folder" >/dev/null || fail "restore of $1 failed"
  assert_same_file "restore of $1" "$folder/$2.raw" "$3"
  rm -rf "$folder"
}

# Extents of a changes answer as cluster numbers.
changes_clusters() { jq -r '.extents[] | "\(.offset) \(.length)"' | clusters extents; }

### disks and independent counting

clusters() {
  if [ ! -x "$WORK/clusters" ]; then
    cc -O2 -o "$WORK/clusters" "$SOURCE/tests/integration/tools/clusters.c" || skip "needs a C compiler"
  fi
  "$WORK/clusters" "$@"
}

# real_files FOLDER MIB: about so many MiB of this machine's files in FOLDER.
real_files() {
  local folder=$1 mib=$2
  mkdir -p "$folder"
  find /usr/bin /usr/lib /usr/include -xdev -type f -size -4M -printf '%s %p\0' 2>/dev/null |
    awk -v RS='\0' -v ORS='\0' -v room="$((mib * MIB))" '{ size = $1; sub(/^[0-9]+ /, ""); if (total + size <= room) { total += size; print } }' |
    xargs -0 cp --parents --no-preserve=ownership -t "$folder" 2>/dev/null || true
}

# ext4_image PATH MIB MIB-OF-FILES
ext4_image() {
  local files=$WORK/files.$RANDOM
  real_files "$files" "$3"
  truncate -s "$2M" "$1"
  mkfs.ext4 -q -F -b 4096 -E lazy_itable_init=0,lazy_journal_init=0 -d "$files" "$1" >/dev/null
  rm -rf "$files"
}

random_image() { head -c "$(($2 * MIB))" /dev/urandom >"$1"; } # PATH MIB

# random_bytes_at IMAGE OFFSET LENGTH: straight into an image that nobody exports.
random_bytes_at() { head -c "$3" /dev/urandom | dd of="$1" bs=64K seek="$2" oflag=seek_bytes conv=notrunc status=none; }

# io URI COMMAND...: qemu-io commands on an export.
io() {
  local uri=$1 command options=()
  shift
  for command in "$@"; do options+=(-c "$command"); done
  qemu-io -f raw "${options[@]}" "$uri" >>"$WORK/qemu-io.log" 2>&1 || fail "qemu-io failed: $(tail -n 3 "$WORK/qemu-io.log")"
}

# start_proxy URI NAME [--filter=FILTER [KEY=VALUE...]]: an NBD server in front of URI that logs all requests to $WORK/NAME.log.
# Sets $proxy_uri.
start_proxy() {
  local uri=$1 name=$2 filter=${3:-} socket=$WORK/$2.sock pid
  shift $(($# < 3 ? $# : 3))
  nbdkit -f -U "$socket" --filter=log ${filter:+"$filter"} nbd uri="$uri" logfile="$WORK/$name.log" "$@" \
    >>"$WORK/$name.err" 2>&1 &
  pid=$!
  at_exit kill "$pid"
  wait_until 10 test -S "$socket" || fail "nbdkit does not start: $(cat "$WORK/$name.err")"
  proxy_uri="nbd+unix:///?socket=$socket"
}

# attach_loop URI: a loop device on an NBD export by way of nbdfuse; sets $loop. Returns 1 where that cannot be done.
attach_loop() {
  local file=$WORK/fuse.$RANDOM
  [ "$(id -u)" -eq 0 ] && [ -w /dev/fuse ] && command -v nbdfuse losetup >/dev/null || return 1
  : >"$file"
  nbdfuse -P "$file.pid" "$file" "$1" >>"$WORK/nbdfuse.err" 2>&1 &
  local pid=$!
  wait_until 10 test -s "$file.pid" || { kill "$pid" 2>/dev/null; return 1; }
  at_exit umount_hard "$file"
  loop=$(losetup -f --show "$file") || { umount "$file"; return 1; }
  at_exit losetup -d "$loop"
}

# A frozen file system would stay in the kernel for ever, with its loop device.
umount_hard() {
  fsfreeze -u "$1" 2>/dev/null
  umount "$1" 2>/dev/null || umount -l "$1"
}

mount_at() { # DEVICE FOLDER
  mkdir -p "$2"
  mount "$1" "$2" || return 1
  at_exit umount_hard "$2"
}

### a guest that writes all the time, and would notice

# Its disk: ticker's part, then fio's. Ticker's is a power of two, and zero at first.
TICKER_BYTES=$((8 * MIB))

ticker() {
  if [ ! -x "$WORK/ticker" ]; then
    cc -O2 -o "$WORK/ticker" "$SOURCE/tests/integration/tools/ticker.c" -lnbd || skip "needs a C compiler and libnbd-dev"
  fi
  "$WORK/ticker" "$@"
}

guest_image() { # PATH MIB
  truncate -s "$TICKER_BYTES" "$1"
  head -c "$(($2 * MIB - TICKER_BYTES))" /dev/urandom >>"$1"
}

# start_guest URI IMAGE [FIO-OPTION...]: ticker and a verifying fio at work on the export, until stop_guest.
start_guest() {
  local uri=$1 size
  size=$(stat -c %s "$2")
  shift 2
  ticker check "$WORK/none" 0 0 >/dev/null 2>&1 || true # builds it
  "$WORK/ticker" write "$uri" 0 "$TICKER_BYTES" 2000 >"$WORK/ticks" 2>"$WORK/ticker.json" &
  TICKER_PID=$!
  fio --name=verified --ioengine=nbd "--uri=$uri" --rw=randwrite --bs=4k --offset="$TICKER_BYTES" \
    --size="$((size - TICKER_BYTES))" --iodepth=4 --rate_iops=500 --randseed="$RANDOM" --time_based --runtime=3600 \
    --verify=xxhash --verify_backlog=64 --verify_fatal=1 --verify_state_save=0 --output-format=json "$@" \
    >"$WORK/fio.json" 2>&1 &
  FIO_PID=$!
  wait_until 20 test -s "$WORK/ticks" || fail "the guest does not write: $(cat "$WORK/ticker.json")"
}
n_ticks() { tr -dc 0-9 <"$WORK/ticks"; }
ticks_go_on() { [ "$(n_ticks)" -gt "$1" ]; }

# expect_guest_writes WHAT: some more writes are done now.
expect_guest_writes() {
  local before
  before=$(n_ticks)
  wait_until 5 ticks_go_on "$((before + 200))" || fail "$1: the guest's writes hang"
}

# stop_guest MAX-MS: none of its requests failed, none took longer, and it read what it had written.
stop_guest() {
  local result=0 fio
  kill -TERM "$TICKER_PID" "$FIO_PID" || fail "the guest ended: $(cat "$WORK/ticker.json" "$WORK/fio.json")"
  wait "$TICKER_PID" || result=$?
  assert_eq "exit status of ticker ($(cat "$WORK/ticker.json"))" "$result" 0
  wait "$FIO_PID" || true # it was asked to end
  fio=$(sed -n '/^{/,$p' "$WORK/fio.json" | jq -c '.jobs[0] | {error, writes: .write.total_ios, reads: .read.total_ios,
    "max-ms": ([.write.clat_ns.max, .read.clat_ns.max] | max / 1e6 | round)}') || fail "fio: $(cat "$WORK/fio.json")"
  say "guest: ticker $(cat "$WORK/ticker.json"), fio $fio"
  assert_eq "errors that fio saw" "$(jq .error <<<"$fio")" 0
  assert_ge "writes of fio" "$(jq .writes <<<"$fio")" 1
  assert_le "longest write of ticker, ms" "$(jq '."max-ms"' "$WORK/ticker.json")" "$1"
  assert_le "longest request of fio, ms" "$(jq '."max-ms"' <<<"$fio")" "$1"
}

# is_of_one_instant POINT DISK: what is restored is what the guest had written at one instant.
is_of_one_instant() {
  local folder=$WORK/restore.$RANDOM$RANDOM tick
  cbt --quiet restore "$1" --to "$folder" >/dev/null || fail "restore of $1 failed"
  tick=$(ticker check "$folder/$2.raw" 0 "$TICKER_BYTES") || fail "point $1: $tick"
  rm -rf "$folder"
}

# What a session could leave behind: descriptors of the daemon and of the export, and space of the fleece.
# (The daemon keeps some packs open for reading; those do not count.)
open_fds() { find "/proc/$1/fd" -mindepth 1 ! -lname '*/store/packs/*' 2>/dev/null | wc -l; }
session_fds() { find "/proc/$1/fd" -mindepth 1 -printf '%l\n' 2>/dev/null | grep -cE 'memfd:cbt-session|/fleece' || true; }
nothing_left() { [ "$(session_fds "$1")" -eq 0 ] && [ "$(session_fds "$DAEMON_PID")" -eq 0 ]; }
expect_nothing_left() { # EXPORT-PID FOLDER-OF-FLEECE
  wait_until 10 nothing_left "$1" || fail "a session is left: $(ls -l "/proc/$1/fd" "/proc/$DAEMON_PID/fd")"
  assert_eq "files of the fleece" "$(find "$2" -mindepth 1 ! -name lost+found | wc -l)" 0
}

packs_bytes() { find "$STATE/store/packs" -type f -printf '%s\n' | awk '{ n += $1 } END { printf "%d\n", n }'; }
seed() { # prints a seed and takes it, so that a run can be repeated with CBT_TEST_SEED
  local value=${CBT_TEST_SEED:-$((RANDOM * 32768 + RANDOM))}
  RANDOM=$((value % 32768))
  say "seed $value (CBT_TEST_SEED repeats it)"
}
random_below() { echo $(((RANDOM * 32768 + RANDOM) % $1)); }
