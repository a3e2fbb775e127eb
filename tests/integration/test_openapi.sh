#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The daemon does what its OpenAPI document says, and nothing else; docs/api.md names all that the document names.
. "$(dirname "$0")/lib.sh"
need python3 nbdkit
python3 -c 'import jsonschema' 2>/dev/null || skip "needs python3-jsonschema; scripts/install-packages brings it"
document=$SOURCE/api/openapi.json

random_image "$WORK/disk.img" 4
random_image "$WORK/other.img" 1
echo "cores: 2" >"$WORK/vm.conf"
start_daemon
python3 "$SOURCE/tests/integration/tools/openapi_check.py" "$SOCKET" "$document" "$WORK" || fail "the daemon and its document differ"
stop_daemon

say "docs/api.md has each route, parameter and key"
jq -r '.paths | to_entries[] | .key as $path | .value | to_entries[] | select(.key != "parameters") | "\(.key | ascii_upcase) \($path)"' \
  "$document" | while read -r method path; do
  path=${path/'{bitmap}'/'{b}'}
  short="...${path#/v1/vms/'{vm}'/disks/'{disk}'}"
  grep -qF -e "\`$method $path\`" -e "\`$method $short\`" "$SOURCE/docs/api.md" ||
    grep -qE "\`$method \.\.\./bitmaps/\{b\}/\{[a-z,-]*\b${path##*/}\b" "$SOURCE/docs/api.md" || echo "$method $path"
done >"$WORK/missing"
assert_eq "routes that docs/api.md does not have" "$(cat "$WORK/missing")" ""
jq -r '[.components.schemas[] | .. | objects | .properties? // empty | keys[]] + [.paths[][] | objects | .parameters[]?.name] | unique[]' \
  "$document" | while read -r name; do
  grep -qE "[\`\"?&,({ ]$name[][\`\"=&,)} ]" "$SOURCE/docs/api.md" || echo "$name"
done >"$WORK/missing"
assert_eq "names that docs/api.md does not have" "$(tr '\n' ' ' <"$WORK/missing")" ""
