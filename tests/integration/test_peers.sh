#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Who may talk to the daemon, and which paths they may name.
. "$(dirname "$0")/lib.sh"
need setpriv python3
need_root "to be somebody else"
python=$(PATH=/usr/bin:/bin command -v python3) || skip "needs the system's python3, which others may run"
"$python" -c 'import jsonschema' 2>/dev/null || skip "needs python3-jsonschema; scripts/install-packages brings it"
group=backup # Debian has it
nobody=65534
gid=$(getent group "$group" | cut -d: -f3) || skip "there is no group $group"
tools=$SOURCE/tests/integration/tools
cp -r "$tools" "$SOURCE/api/openapi.json" "$WORK" # where others can read

outsider() { setpriv --reuid "$nobody" --regid "$nobody" --clear-groups "$@"; }
member() { setpriv --reuid "$nobody" --regid "$nobody" --groups "$gid" "$@"; }

allowed=$WORK/allowed
mkdir -p "$allowed/sub" "$allowed/open" "$WORK/outside"
chmod 755 "$WORK" "$allowed" "$allowed/sub"
chmod 777 "$allowed/open"
random_image "$allowed/disk.img" 1
cp "$allowed/disk.img" "$allowed/open/disk.img"
cp "$allowed/disk.img" "$WORK/outside/disk.img"
echo "cores: 2" >"$allowed/vm.conf"
ln -s "$WORK/outside" "$allowed/out"
ln -s ../outside/disk.img "$allowed/link.img"
ln -s "$WORK/outside/new.img" "$allowed/nowhere.img"
ln -s sub "$allowed/inside"
cat >"$WORK/config" <<END
[daemon]
group=$group
allowed-paths=$WORK/none;$allowed
END
DAEMON_OPTIONS=(--config "$WORK/config")
start_daemon

say "the socket's mode says who may connect"
assert_eq "mode and owners of the socket" "$(stat -c '%a %U %G' "$SOCKET")" "660 root $group"
expect_exit 5 "No permission" outsider "$BUILD/bin/cbt-backup" --socket "$SOCKET" status
member "$BUILD/bin/cbt-backup" --socket "$SOCKET" status >/dev/null || fail "a member is refused"

say "who gets past it is refused on every route all the same"
chmod 666 "$SOCKET"
outsider "$python" "$WORK/tools/openapi_routes.py" "$SOCKET" "$WORK/openapi.json" >"$WORK/answers"
assert_ge "routes" "$(wc -l <"$WORK/answers")" 40
assert_eq "routes that an outsider is not refused on" "$(grep -v '^403 denied ' "$WORK/answers" || true)" ""
member "$python" "$WORK/tools/openapi_routes.py" "$SOCKET" "$WORK/openapi.json" >"$WORK/answers"
assert_eq "routes that a member is refused on" "$(grep '^403 ' "$WORK/answers" || true)" ""
"$python" "$WORK/tools/openapi_routes.py" "$SOCKET" "$WORK/openapi.json" >/dev/null
jobs_end() { api GET /v1/status && jq -e '."jobs-active" + ."jobs-queued" == 0' >/dev/null <<<"$body"; }
wait_until 20 jobs_end

# as_member METHOD PATH BODY: sets $status and $body.
as_member() {
  body=$(member curl -sS --unix-socket "$SOCKET" -X "$1" --data-binary "$3" -w '\n%{http_code}' "http://localhost$2")
  status=${body##*$'\n'}
  body=${body%$'\n'*}
}
refused() { # METHOD PATH BODY
  as_member "$@"
  assert_eq "$* ($body)" "$status" 403
  assert_eq "code" "$(jq -r .error.code <<<"$body")" denied
}

say "root names any path, a member those below the allowed folders"
cbt --quiet vm add root --disk "a=$WORK/outside/disk.img" >/dev/null
as_member POST /v1/vms "{\"name\":\"mine\",\"disks\":[{\"name\":\"a\",\"path\":\"$allowed/disk.img\"}],\"configs\":[\"$allowed/vm.conf\"]}"
assert_eq "status ($body)" "$status" 201
as_member POST /v1/vms/mine/backups "{\"kind\":\"full\",\"archive\":\"$allowed/sub/a.vma\"}"
assert_eq "status ($body)" "$status" 202
assert_eq "the backup" "$(wait_job "$(jq .id <<<"$body")" | jq -r '[.status, .errmsg] | join(" ")')" "done "
as_member POST /v1/points/mine@0/restore "{\"to\":\"$allowed/inside/new/folder\"}"
assert_eq "status ($body)" "$status" 202
assert_eq "the restore" "$(wait_job "$(jq .id <<<"$body")" | jq -r '[.status, .errmsg] | join(" ")')" "done "
assert_same_file "the restored disk" "$allowed/sub/new/folder/a.raw" "$allowed/disk.img"
as_member POST /v1/vms/imported/import "{\"path\":\"$allowed/sub/a.vma\"}"
assert_eq "status ($body)" "$status" 202
assert_eq "the import" "$(wait_job "$(jq .id <<<"$body")" | jq -r .status)" "done"

say "a folder's disk that is there already may be no link to elsewhere, but one to where a member may write"
mkdir "$allowed/linked"
ln -s "$WORK/outside/disk.img" "$allowed/linked/a.raw"
refused POST /v1/points/mine@0/restore "{\"to\":\"$allowed/linked\",\"in-place\":true}"
truncate -s 1M "$allowed/sub/other.raw"
ln -sfn "$allowed/sub/other.raw" "$allowed/linked/a.raw"
as_member POST /v1/points/mine@0/restore "{\"to\":\"$allowed/linked\",\"in-place\":true}"
assert_eq "status ($body)" "$status" 202
assert_eq "the restore" "$(wait_job "$(jq .id <<<"$body")" | jq -r '[.status, .errmsg] | join(" ")')" "done "
assert_same_file "the restored disk" "$allowed/sub/other.raw" "$allowed/disk.img"

say "other paths are refused wherever a request names one"
for path in "$WORK/outside/disk.img" "$allowed/../outside/disk.img" "$allowed/sub/../../outside/disk.img" "$allowed/out/disk.img" \
  "$allowed/link.img" "$allowed/nowhere.img" "$allowed/open/disk.img" "$allowed/open/new/disk.img" "${allowed}x/disk.img" /etc/shadow /; do
  refused POST /v1/vms "{\"name\":\"x\",\"disks\":[{\"name\":\"a\",\"path\":\"$path\"}]}"
  refused POST /v1/vms "{\"name\":\"x\",\"disks\":[{\"name\":\"a\",\"path\":\"$allowed/sub/a.vma\"}],\"configs\":[\"$path\"]}"
  refused POST /v1/vms "{\"name\":\"x\",\"qmp\":\"$path\"}"
  refused POST /v1/vms "{\"name\":\"x\",\"qga\":\"$path\",\"disks\":[]}"
  refused POST /v1/vms/mine/backups "{\"kind\":\"full\",\"archive\":\"$path\"}"
  refused POST /v1/points/mine@0/restore "{\"to\":\"$path\"}"
  refused POST /v1/points/mine@0/restore "{\"targets\":[{\"disk\":\"a\",\"path\":\"$path\"}],\"in-place\":true}"
  refused POST /v1/points/mine@0/archive "{\"path\":\"$path\"}"
  refused POST /v1/points/mine@0/archive "{\"path\":\"$path\",\"format\":\"chain\"}"
  refused POST /v1/vms/x/import "{\"path\":\"$path\"}"
  refused POST /v1/verify "{\"all\":true,\"repair\":true,\"from\":\"$path\"}"
  refused POST /v1/verify "{\"all\":true,\"repair\":true,\"from\":\"a=$path\"}"
done
if mknod "$allowed/device" b 7 0; then
  refused POST /v1/vms "{\"name\":\"x\",\"disks\":[{\"name\":\"a\",\"path\":\"$allowed/device\"}]}"
  assert_has "a block device" "$body" "only root may name"
fi
assert_eq "files outside" "$(find "$WORK/outside" "$allowed/open" -type f | wc -l)" 2
as_member POST /v1/vms/x/import '{"path":"relative"}'
assert_eq "status of a relative path" "$status" 400

say "without allowed-paths a member names none"
stop_daemon
sed -i '/allowed-paths/d' "$WORK/config"
start_daemon
refused POST /v1/vms/x/import "{\"path\":\"$allowed/sub/a.vma\"}"
stop_daemon
printf '[daemon]\nallowed-paths=relative\n' >"$WORK/config"
expect_exit 2 "allowed-paths" "$BUILD/bin/cbt-backupd" --state-dir "$STATE" --runtime-dir "$RUN" --config "$WORK/config"
