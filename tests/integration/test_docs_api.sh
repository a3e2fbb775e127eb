#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The curl lines of docs/api.md get the answers that stand behind them, and there is a line for each method and path of its table.
. "$(dirname "$0")/lib-docs.sh"
enter_sandbox "$@"
. "$(dirname "$0")/lib.sh"
furnish_sandbox
random_image /var/lib/images/web.raw 4
start_daemon

# The document's curl: notes what was asked and answered.
curl() {
  local argument method=GET path=
  for argument in "$@"; do
    case $argument in
    http://localhost/*) path=${argument#http://localhost} ;;
    -d | --data-binary) [ "$method" != GET ] || method=POST ;;
    esac
    [ "${previous:-}" != -X ] || method=$argument
    local previous=$argument
  done
  command curl -w "%{stderr}%{http_code} $method ${path%%\?*}\n" "$@" 2>>"$WORK/answers"
}
expect() { # STATUS: of the last answer
  local answer
  answer=$(tail -n 1 "$WORK/answers")
  [ "${answer%% *}" = "$1" ] || fail "docs/api.md: ${answer#* } is answered with ${answer%% *}, not $1"
}

document docs/api.md
for _ in "$WORK"/blocks/*; do
  block '' "s/^\\(.*[^ ]\\) *# \\([0-9]\\{3\\}\\)\$/\\1\\nexpect \\2/"
done
end_document
stop_daemon

say "each method and path of the table has a line"
# The shell's own braces make three of {clear,enable,disable}, and leave {vm} alone.
# shellcheck disable=SC2016 # the document's back quotes
sed -n 's/^| `\([A-Z]*\) \([^ `]*\)`.*/\1 \2/p' "$SOURCE/docs/api.md" | sed 's,\.\.\.,/v1/vms/{vm}/disks/{disk},' |
  while read -r method path; do eval "printf '$method %s\n' $path"; done >rows
assert_ge "rows of the table" "$(wc -l <rows)" 40
while read -r method path; do
  pattern=$(sed 's/{[a-z]*}/[^\/]+/g' <<<"$path")
  grep -qE "^[0-9]+ $method $pattern\$" "$WORK/answers" || fail "no line of docs/api.md asks $method $path"
done <rows
