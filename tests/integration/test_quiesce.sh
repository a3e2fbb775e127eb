#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A guest is quiesced, and never stays frozen. Agents that are late, dead or liars are scripted (tools/agent.py); the real
# qemu-ga in a real guest with two disks that are written without pause is quiesced for one of them and for both, with
# scripts and without, while each process that takes part is killed or stopped in turn.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/lib-guest.sh"
need mkfs.xfs

quiesce_probe() { "$BUILD/tests/quiesce-probe" "$@"; }

# quiesce NAME [KEY=VALUE...]: all steps at once; sets $output, and $result, the last line.
quiesce() {
  local name=$1
  shift
  output=$(quiesce_probe run "$BUILD/bin/cbt-quiesce" "$WORK/$name.qga" "$@" </dev/null 2>>"$WORK/quiesce.err") || true
  result=${output##*$'\n'}
}

field() { jq -r --arg key "$1" '.[$key] // ""' <<<"$result"; }

# expect_result WHAT LEVEL FROZEN THAWED WHY
expect_result() {
  assert_eq "$1: level (output: $output)" "$(field level)" "$2"
  assert_eq "$1: file systems frozen" "$(field frozen)" "$3"
  assert_eq "$1: file systems thawed" "$(field thawed)" "$4"
  if [ -n "$5" ]; then assert_has "$1" "$(field why)" "$5"; else assert_eq "$1: why" "$(field why)" ""; fi
}

# start_steps NAME [KEY=VALUE...]: step by step, with next_step and last_step; sets $daemon, the process that stands for
# the daemon, and $watchdog, its cbt-quiesce.
start_steps() {
  local name=$1
  shift
  coproc STEPS {
    exec "$BUILD/tests/quiesce-probe" run "$BUILD/bin/cbt-quiesce" "$WORK/$name.qga" "$@" 2>>"$WORK/quiesce.err"
  }
  daemon=$STEPS_PID
  # shellcheck disable=SC1083,SC2093 # redirects only
  exec {from_steps}<&"${STEPS[0]}" {to_steps}>&"${STEPS[1]}" {STEPS[0]}<&- {STEPS[1]}>&-
  read_step
  wait_until 10 find_watchdog || fail "there is no cbt-quiesce: $step"
}
# Not from /proc/PID/task/TID/children, which may leave out a child while another one ends.
find_watchdog() {
  watchdog=$(sed -n "s/^\([0-9]*\) (cbt-quiesce) [^Z] $daemon .*/\1/p" /proc/[0-9]*/stat 2>/dev/null | head -n 1)
  [ -n "$watchdog" ]
}
read_step() { read -r -t 60 -u "$from_steps" step || fail "no step within a minute"; }
next_step() {
  echo >&"$to_steps"
  read_step
}
last_step() {
  next_step
  output=$step result=$step
  end_steps
}
end_steps() {
  exec {from_steps}<&- {to_steps}>&-
  wait "$daemon" 2>/dev/null || true
}
kill_the_daemon() {
  kill -KILL "$daemon"
  wait "$daemon" 2>/dev/null || true
}
process_is_gone() { ! kill -0 "$1" 2>/dev/null || [ "$(state_of "$1")" = Z ]; }
state_of() { sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2>/dev/null; }
expect_gone() { # WHAT PID
  wait_until 90 process_is_gone "$2" || fail "$1 does not end"
}

### scripted agents

# start_agent NAME [KEY=VALUE...]
start_agent() {
  local name=$1
  shift
  python3 "$SOURCE/tests/integration/tools/agent.py" "$WORK/$name.qga" "$WORK/$name.state" "$@" 2>>"$WORK/agent.err" &
  at_exit kill $!
  wait_until 10 test -S "$WORK/$name.qga" || fail "the scripted agent does not start: $(cat "$WORK/agent.err")"
}
agent_is() { [ "$(cat "$WORK/$1.state")" = "$2" ]; }
expect_thawed() { # NAME: and nothing is left behind
  agent_is "$1" thawed || fail "the guest of $1 is frozen"
  [ ! -e "$WORK/$1.qga.cbt-frozen" ] || fail "the mark of $1 is there still"
}

# case_of WHAT LEVEL FROZEN THAWED WHY QUIESCE-KEYS [AGENT-KEY=VALUE...]: an agent, quiesced once.
n_cases=0
case_of() {
  local what=$1 level=$2 frozen=$3 thawed=$4 why=$5 keys=$6
  shift 6
  n_cases=$((n_cases + 1))
  start_agent "s$n_cases" "$@"
  # shellcheck disable=SC2086 # are words
  quiesce "s$n_cases" $keys
  expect_result "$what" "$level" "$frozen" "$thawed" "$why"
  expect_thawed "s$n_cases"
}

say "agents that do as they say, and that do not"
case_of "an honest agent" fs 2 2 "" ""
case_of "an agent that freezes nothing" none 0 0 "nothing" "" freeze-count=0 thaw-count=0
case_of "an agent that says too much" none 5 5 "froze 5 file systems, of 2" "" freeze-count=5 thaw-count=5
case_of "an agent that says too little" none 1 2 "froze 1 file systems, of 2" "" freeze-count=1
case_of "an agent that thaws less" none 2 1 "2 file systems were frozen, but 1 thawed" "" thaw-count=1
case_of "an agent that is thawed after its freeze" none 2 2 "and that it is thawed" "" status=thawed
case_of "an agent that refuses, frozen" none 0 2 "the hook failed" "" "freeze-error=the hook failed"
case_of "a guest without file systems" none 0 0 "no file system" "" filesystems=0
case_of "scripts that cannot be run" fs 2 2 "guest-exec" level=app
assert_has "commands" "$(cat "$WORK/s1.state.log")" guest-fsfreeze-thaw
assert_eq "freezes of a guest without file systems" "$(grep -c guest-fsfreeze-freeze "$WORK/s8.state.log" || true)" 0

say "agents that are late"
case_of "a freeze beyond its budget" none 0 2 "no answer in time" budget=300 freeze-delay=1
case_of "a thaw that is lost" fs 2 2 "" "" drop-thaws=1
case_of "an agent that ends as it freezes, and comes back" none 0 2 "closed at the other end" "" dies=0.5
case_of "an agent that ends before it thaws, and comes back" fs 2 2 "" "" thaw-dies=0.5

say "an agent that falls silent while it is frozen is thawed at the next contact, and others are not"
start_agent silent "silent=$WORK/speak"
quiesce silent thaw=500 budget=300
expect_result "a silent agent" none 2 0 "may still be frozen"
agent_is silent frozen || fail "the silent agent is not frozen"
expect_exit 5 "No guest agent answers" quiesce_probe leftover "$WORK/silent.qga" 200
touch "$WORK/speak"
assert_eq "what was left" "$(quiesce_probe leftover "$WORK/silent.qga" 30000)" "was frozen"
expect_thawed silent
probe qga "$WORK/silent.qga" freeze >/dev/null
assert_eq "what others froze" "$(quiesce_probe leftover "$WORK/silent.qga" 30000)" "was not frozen"
agent_is silent frozen || fail "a guest that others froze was thawed"
quiesce silent
assert_has "what others froze" "$output" "frozen already, by somebody else"
agent_is silent frozen || fail "a guest that others froze was thawed"
probe qga "$WORK/silent.qga" thaw >/dev/null
expect_thawed silent

say "a mark is for one run of QEMU, and a backup that finds one thaws by itself"
start_agent again
start_steps again
next_step
kill -STOP "$watchdog"
kill_the_daemon
kill -KILL "$watchdog"
end_steps
agent_is again frozen || fail "the guest is not frozen"
cp "$WORK/again.qga.cbt-frozen" "$WORK/mark"
quiesce again
expect_result "after a freeze that was left" fs 2 2 ""
expect_thawed again
sed 's/$/9/' "$WORK/mark" >"$WORK/again.qga.cbt-frozen"
probe qga "$WORK/again.qga" freeze >/dev/null
assert_eq "the mark of another QEMU" "$(quiesce_probe leftover "$WORK/again.qga" 30000)" "was not frozen"
probe qga "$WORK/again.qga" thaw >/dev/null
expect_thawed again

say "two at once, none at all, and what is out of bounds"
start_steps again
quiesce again
assert_has "a second one" "$output" "another process quiesces the guest"
expect_exit 4 "another process quiesces" quiesce_probe leftover "$WORK/again.qga" 100
next_step
last_step
expect_result "the first one" fs 2 2 ""
: >"$WORK/none.qga"
quiesce none
assert_has "nobody there" "$output" "error:"
quiesce again budget=9001
assert_has "a long budget" "$output" "9000 ms at most"
expect_thawed again

say "a freeze that is cancelled"
start_agent cancelled freeze-delay=1
quiesce cancelled cancel=1
assert_has "a cancelled freeze" "$output" "was cancelled"
expect_thawed cancelled

say "each process is killed or stopped while the guest is frozen"
start_agent kills
start_steps kills budget=1000
assert_eq "session of cbt-quiesce" "$(sed 's/.*) //' "/proc/$watchdog/stat" | cut -d ' ' -f 4)" "$watchdog"
next_step
assert_eq "the step" "$step" frozen
kill -TERM "$watchdog" # is ignored
kill_the_daemon
expect_gone "cbt-quiesce without its daemon" "$watchdog"
end_steps
expect_thawed kills

start_steps kills budget=1000
next_step
kill -STOP "$daemon"
expect_gone "cbt-quiesce whose daemon is stopped" "$watchdog"
expect_thawed kills
kill -CONT "$daemon"
last_step
expect_result "a daemon that was stopped" none 2 2 "not taken in time"

start_steps kills
next_step
kill -KILL "$watchdog"
wait_until 30 agent_is kills thawed || fail "nobody thaws when cbt-quiesce is killed"
last_step
expect_result "cbt-quiesce killed before the point" none 2 2 "while the point was being taken"
expect_thawed kills

start_steps kills budget=1000
next_step
kill -STOP "$watchdog"
last_step
expect_result "cbt-quiesce stopped after the point" fs 2 2 ""
expect_gone "cbt-quiesce that was stopped" "$watchdog"
expect_thawed kills

start_steps kills
kill_the_daemon
expect_gone "cbt-quiesce that froze nothing" "$watchdog"
end_steps
expect_thawed kills

### the real agent in a real guest

say "a guest that writes on two disks"
truncate -s 64M "$WORK/a.raw"
mkfs.ext4 -q -F "$WORK/a.raw"
truncate -s 320M "$WORK/b.raw" # xfs takes no less than 300 MiB
mkfs.xfs -q "$WORK/b.raw"
GUEST_APPEND=cbt.writer start_guest_vm g1 \
  -drive "if=none,id=a,file=$WORK/a.raw,format=raw" -device virtio-blk-pci,drive=a,serial=cbt-a,addr=0x10 \
  -drive "if=none,id=b,file=$WORK/b.raw,format=raw" -device virtio-blk-pci,drive=b,addr=0x11
wait_until 60 writer_is_past g1 2 || fail "the guest does not write: $(guest g1 'cat /run/writer.log')"

guest_writes_on() {
  local n
  assert_eq "the status of the guest" "$(probe qga "$WORK/g1.qga" status)" thawed
  n=$(writer_n g1)
  wait_until 60 writer_is_past g1 "$n" || fail "the guest writes no more"
  [ ! -e "$WORK/g1.qga.cbt-frozen" ] || fail "the mark is there still"
}
writes_on() { # DRIVE
  qmp g1 query-blockstats | jq --arg drive "$1" '.[] | select(.device == $drive).stats.wr_operations'
}
status_of_guest_is() { [ "$(probe qga "$WORK/g1.qga" status)" = "$1" ]; }
disks() { echo "qmp=$WORK/g1.qmp"; printf 'disk=%s\n' "$@"; }

say "one of two disks, by its serial and by its slot, and both"
# shellcheck disable=SC2046 # are words
quiesce g1 $(disks a)
expect_result "the disk with ext4" fs 1 1 ""
# shellcheck disable=SC2046
quiesce g1 $(disks b)
expect_result "the disk with xfs" fs 1 1 ""
# shellcheck disable=SC2046
start_steps g1 $(disks a b) budget=9000
assert_eq "what there is to say" "$step" prepared:
next_step
assert_eq "the step" "$step" frozen
before=$(writes_on a) && before_b=$(writes_on b)
pause 0.5
assert_eq "writes on the disk with ext4" "$(writes_on a)" "$before"
assert_eq "writes on the disk with xfs" "$(writes_on b)" "$before_b"
last_step
expect_result "both disks" fs 2 2 ""
say "both disks were frozen for $(field frozen-ms) ms"
guest_writes_on

say "each process is killed or stopped while the real guest is frozen"
start_steps g1 budget=2000
next_step
assert_eq "the step" "$step" frozen
kill_the_daemon
expect_gone "cbt-quiesce without its daemon" "$watchdog"
end_steps
guest_writes_on
start_steps g1 budget=2000
next_step
kill -STOP "$daemon"
expect_gone "cbt-quiesce whose daemon is stopped" "$watchdog"
guest_writes_on
kill -CONT "$daemon"
last_step
expect_result "a daemon that was stopped" none 2 2 "not taken in time"
start_steps g1 budget=9000
next_step
kill -KILL "$watchdog"
wait_until 60 status_of_guest_is thawed || fail "nobody thaws when cbt-quiesce is killed"
last_step
expect_result "cbt-quiesce killed" none 2 2 "while the point was being taken"
guest_writes_on

say "both killed: the guest is thawed at the next start"
start_steps g1 budget=9000
next_step
kill -STOP "$watchdog"
kill_the_daemon
kill -KILL "$watchdog"
end_steps
assert_eq "the status of the guest" "$(probe qga "$WORK/g1.qga" status)" frozen
assert_eq "what was left" "$(quiesce_probe leftover "$WORK/g1.qga" 30000)" "was frozen"
guest_writes_on

say "the agent is killed while it is frozen, and started again"
# Frozen, it takes no orders: so this waits in the guest, gives the freeze some time, and tells by the console.
# shellcheck disable=SC2016 # is for the guest's shell
guest g1 'sh -c "until [ -e /run/qga.state.isfrozen ]; do usleep 20000; done
  sleep 2
  kill -9 $(cat /run/qga.pid); rm -f /run/qga.pid
  qemu-ga -d -m virtio-serial -p /dev/$(basename /sys/class/virtio-ports/*) -t /run -f /run/qga.pid -l /run/qga.log
  echo AGENT-AGAIN >/dev/console" </dev/null >/run/kill-agent.log 2>&1 &'
start_steps g1 budget=9000
next_step
wait_until 60 grep -q AGENT-AGAIN "$WORK/g1.serial" || fail "the agent was not started again"
last_step
say "$result"
assert_eq "file systems thawed by the new agent" "$(field thawed)" 2
assert_eq "is left frozen" "$(jq '."left-frozen"' <<<"$result")" false
guest_writes_on

say "scripts in the guest"
# script NAME: its text comes on standard input
script() {
  local path=/etc/cbt-backup/$1
  guest g1 "mkdir -p /etc/cbt-backup; echo '$(base64 -w 0)' | base64 -d >$path; chmod +x $path"
}
quiesce g1 level=app
expect_result "no scripts" fs 2 2 "/etc/cbt-backup/pre-freeze"
# shellcheck disable=SC2016 # are for the guest's shell
script pre-freeze <<<'#!/bin/busybox sh
echo "pre $1" >>/run/app.log
cat /run/pre.out; cat /run/pre.err >&2
exit $(cat /run/pre.status)'
quiesce g1 level=app
expect_result "one script" fs 2 2 "/etc/cbt-backup/post-thaw"
# shellcheck disable=SC2016
script post-thaw <<<'#!/bin/busybox sh
echo "post $1" >>/run/app.log
exit $(cat /run/post.status)'
guest g1 'cd /run; echo "cbt-backup: ready" >pre.out; echo "the database is away" >pre.err
  echo 0 >pre.status; echo 0 >post.status; rm -f app.log'
quiesce g1 level=app
expect_result "scripts that succeed" app 2 2 ""
assert_eq "calls of the scripts" "$(guest g1 'cat /run/app.log' | tr '\n' ' ')" "pre freeze post thaw "
guest g1 'echo 3 >/run/pre.status; rm /run/app.log'
quiesce g1 level=app
expect_result "a script that fails" fs 2 2 "ended with status 3: the database is away"
assert_eq "calls of the scripts" "$(guest g1 'cat /run/app.log' | tr '\n' ' ')" "pre freeze post thaw "
guest g1 'echo 0 >/run/pre.status; echo "nearly ready" >/run/pre.out'
quiesce g1 level=app
expect_result "a script that only seems to succeed" fs 2 2 "did not print the line 'cbt-backup: ready'"
guest g1 'echo "cbt-backup: ready" >/run/pre.out; echo 7 >/run/post.status'
quiesce g1 level=app
expect_result "a script after the thaw that fails" fs 2 2 "post-thaw in the guest ended with status 7"
guest g1 'echo 0 >/run/post.status; rm /run/app.log'
start_steps g1 level=app
kill_the_daemon
expect_gone "cbt-quiesce without its daemon" "$watchdog"
end_steps
assert_eq "calls of the scripts" "$(guest g1 'cat /run/app.log' | tr '\n' ' ')" "pre freeze post thaw "
guest_writes_on
stop_guest_vm g1
say "passed in $SECONDS s"
