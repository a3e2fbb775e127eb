#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The page of `ui` shows vms, points, changes and jobs, to who has the token, and changes nothing.
. "$(dirname "$0")/lib.sh"
PLAYWRIGHT=playwright-core@1.49.1

random_image "$WORK/web.raw" 8
random_image "$WORK/slow.raw" 16
random_image "$WORK/bare.raw" 1
start_daemon
vm_add web "root=$WORK/web.raw"
vm_add slow "root=$WORK/slow.raw"
vm_add bare "root=$WORK/bare.raw"
backup full web >/dev/null
uri=$(uri_of web)
backup incremental web >/dev/null
io "$uri" "write -P 7 1M 192k"

start_ui() { # sets $url and $origin
  : >"$WORK/url"
  "$BUILD/bin/cbt-backup" --socket "$SOCKET" --quiet ui >"$WORK/url" 2>"$WORK/ui.err" &
  UI_PID=$!
  at_exit kill "$UI_PID"
  wait_until 10 test -s "$WORK/url" || fail "it prints no address: $(cat "$WORK/ui.err")"
  url=$(cat "$WORK/url")
  origin=${url%%/\?*}
}
# get PATH [CURL-OPTION...]: sets $code; the answer is in $WORK/page, its head in $WORK/head.
get() { code=$(curl -s -o "$WORK/page" -D "$WORK/head" -w '%{http_code}' "${@:2}" "$origin$1"); }
expect() { # WHAT CODE
  assert_eq "$1" "$code" "$2"
}

say "nobody gets in without the token, and it works once"
start_ui
assert_has "where it listens" "$origin" "http://127.0.0.1:"
get /
expect "without a token" 403
get /api/v1/status
expect "its data without a token" 403
get "/?token=0123456789abcdef"
expect "with another token" 403
get "/?${url#*\?}" -c "$WORK/cookies"
expect "with the token" 303
assert_has "the cookie" "$(cat "$WORK/head")" "HttpOnly; SameSite=Strict"
get "/?${url#*\?}"
expect "with the token once more" 403
get / -b "$WORK/cookies"
expect "with the cookie" 200
get "/?${url#*\?}" -b "$WORK/cookies"
expect "the address once more, with the cookie" 303
for header in "content-security-policy: default-src 'none'; script-src 'self'" "x-content-type-options: nosniff" "referrer-policy: no-referrer"; do
  assert_has "headers" "$(tr 'A-Z' 'a-z' <"$WORK/head")" "$header"
done
get / -H 'Cookie: cbt-backup-ui=00'
expect "with another cookie" 403

say "only what reads passes, under our own name"
get /api/v1/status -b "$WORK/cookies"
assert_eq "vms" "$(jq -r '[.vms[].name] | join(" ")' "$WORK/page")" "bare slow web"
get /api/v1/status -b "$WORK/cookies" -H "Host: evil.example:${origin##*:}"
expect "another host" 403
get /api/v1/status -b "$WORK/cookies" -H "Host: 127.0.0.1"
expect "another port" 403
for method in POST PUT PATCH DELETE OPTIONS; do
  get /api/v1/vms/web -b "$WORK/cookies" -X "$method" --max-time 5
  expect "$method" 405
done
for path in /api/v1/points/web@latest/archive{,%3Fformat=raw,%23,%253Fformat=raw,%0a} /api/v1/openapi.json /api/metrics /api/v2 /api/ /none /../etc/passwd; do
  get "$path" -b "$WORK/cookies" --path-as-is
  expect "$path" 404
done
get '/api/v1/points/web@9' -b "$WORK/cookies"
expect "a point that there is not" 404
jq -e .error.message "$WORK/page" >/dev/null || fail "no proper error: $(cat "$WORK/page")"
assert_eq "vms after all that" "$(cbt_json vm list | jq length)" 3
if ss -ltnp >"$WORK/listening" 2>/dev/null; then
  assert_has "where it listens" "$(grep "pid=$UI_PID," "$WORK/listening")" "127.0.0.1:"
fi

say "it says when the daemon is away, and ends on SIGINT"
kill "$UI_PID"
wait "$UI_PID" || fail "exit status $?"
expect_exit 5 "does not answer" "$BUILD/bin/cbt-backup" --socket "$WORK/none.sock" ui
expect_exit 2 "no number" cbt ui --port 70000

say "in a browser"
need chromium node npm
[ -z "${CBT_TEST_PLAYWRIGHT:-}" ] && CBT_TEST_PLAYWRIGHT=$WORK/npm/node_modules/playwright-core &&
  { npm install --silent --no-audit --no-fund --prefix "$WORK/npm" "$PLAYWRIGHT" >"$WORK/npm.log" 2>&1 || skip "cannot get $PLAYWRIGHT from npm"; }
start_ui
id=$(start_backup full slow --speed 512K)
mkdir -p "${CBT_TEST_SHOTS:-$WORK/shots}"
timeout 60 node "$SOURCE/tests/integration/tools/ui.js" "$CBT_TEST_PLAYWRIGHT" "$url" "${CBT_TEST_SHOTS:-$WORK/shots}" >"$WORK/browser" 2>&1 ||
  fail "the page: $(cat "$WORK/browser")"
cbt --quiet job cancel "$id" >/dev/null
stop_daemon
