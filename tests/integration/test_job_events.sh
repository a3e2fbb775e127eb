#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Who follows a job is told each change and its end; who leaves, or does not read, costs neither the job nor memory.
. "$(dirname "$0")/lib.sh"
need python3

mib=24
random_image "$WORK/disk.img" "$mib"
start_daemon
vm_add vm1 "root=$WORK/disk.img"

# follow ID FILE: the events of a job, in the background; sets $follower.
follow() {
  curl -sSN --unix-socket "$SOCKET" -D "$2.head" "http://localhost/v1/jobs/$1/events" >"$2" 2>"$2.err" &
  follower=$!
}
events() { grep '^event: ' "$1" | sort | uniq -c | awk '{ print $3 "=" $1 }'; } # FILE
end_of() { sed -n '/^event: end$/{n;s/^data: //p}' "$1"; }                      # FILE

say "a job's changes, and its end"
id=$(start_backup full vm1 --speed 16M)
follow "$id" "$WORK/all"
wait "$follower" || fail "the stream was cut off: $(cat "$WORK/all.err")"
assert_has "head" "$(cat "$WORK/all.head")" "Content-Type: text/event-stream"
assert_eq "ends" "$(grep -c '^event: end$' "$WORK/all")" 1
assert_ge "progress" "$(grep -c '^event: progress$' "$WORK/all")" 2
assert_eq "the finished job" "$(end_of "$WORK/all" | jq -S .)" "$(wait_job "$id" | jq -S .)"
sed -n 's/^data: //p' "$WORK/all" | jq -s -e 'map(.transferred) | . == sort' >/dev/null || fail "progress goes back: $(cat "$WORK/all")"
sed -n 's/^data: //p' "$WORK/all" | jq -s -e 'map([.status, .transferred]) | (unique | length) >= 3' >/dev/null ||
  fail "few changes: $(cat "$WORK/all")"

say "a job that has ended; one that is in the catalogue only; none"
follow "$id" "$WORK/ended"
wait "$follower"
assert_eq "events" "$(events "$WORK/ended")" "end=1"
stop_daemon
start_daemon
follow "$id" "$WORK/old"
wait "$follower"
assert_eq "events" "$(events "$WORK/old")" "end=1"
assert_eq "the job" "$(end_of "$WORK/old" | jq -r '[.status, .id] | join(" ")')" "done $id"
expect_status 404 "job" GET /v1/jobs/4711/events
expect_status 404 "job" GET /v1/jobs/x/events

say "a client that leaves ends its stream, and not the job"
sockets() { find "/proc/$DAEMON_PID/fd" -lname 'socket:*' | wc -l; }
no_more_sockets() { [ "$(sockets)" -le "$1" ]; }
before=$(sockets)
id=$(start_backup full vm1 --speed 8M)
follow "$id" "$WORK/left"
wait_until 20 grep -q '^event: progress' "$WORK/left" || fail "no event comes"
kill "$follower"
wait "$follower" || true
wait_until 20 no_more_sockets "$before" || fail "the stream of a client that left is still there"
assert_eq "status" "$(job_status "$id")" active
assert_eq "status" "$(wait_job "$id" | jq -r .status)" "done"

say "clients that read nothing: neither the job nor another client waits, and memory does not grow"
truncate -s 2G "$WORK/large.img"
head -c $((4 * MIB)) /dev/urandom | dd of="$WORK/large.img" conv=notrunc status=none
vm_add vm2 "root=$WORK/large.img"
backup full vm2 >/dev/null
resident() { awk '/^VmRSS/ { print $2 }' "/proc/$DAEMON_PID/status"; }
# Asks for PATH and reads nothing until its standard input ends; then it prints how many bytes came, or copies them.
cat >"$WORK/sleeper.py" <<'END'
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(f"GET {sys.argv[2]} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
print("asked", flush=True)
sys.stdin.read()
n = 0
while data := s.recv(1 << 20):
    n += len(data)
print(n)
END
mkfifo "$WORK/hold"
exec {hold}<>"$WORK/hold"
python3 "$WORK/sleeper.py" "$SOCKET" "/v1/points/vm2@latest/archive?format=raw" <"$WORK/hold" >"$WORK/archive.out" &
sleeper=$!
wait_until 20 grep -q asked "$WORK/archive.out"
stream_is_active() { api GET "/v1/jobs?vm=vm2" && jq -e '.[0] | .type == "archive" and .status == "active"' >/dev/null <<<"$body"; }
wait_until 20 stream_is_active || fail "the stream does not begin: $body"
stream=$(jq '.[0].id' <<<"$body")
id=$(start_backup full vm1 --speed 8M)
for _ in 1 2 3 4; do
  python3 "$WORK/sleeper.py" "$SOCKET" "/v1/jobs/$id/events" <"$WORK/hold" >>"$WORK/events.out" &
done
all_asked() { [ "$(grep -c asked "$WORK/events.out")" -eq 4 ]; }
wait_until 20 all_asked
assert_eq "status of the job" "$(wait_job "$id" | jq -r .status)" "done"
moved() { api GET "/v1/jobs/$stream" && jq .transferred <<<"$body"; }
first=$(moved)
memory=$(resident)
for _ in $(seq 50); do api GET /v1/status; assert_eq "status beside clients that sleep" "$status" 200; done
assert_eq "bytes that a client took which reads nothing" "$(moved)" "$first"
assert_le "KiB more of memory" "$(($(resident) - memory))" 8192
kill "$sleeper"
wait "$sleeper" || true
assert_eq "the stream of a client that left" "$(wait_job "$stream" | jq -r .status)" error
stop_daemon
