#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The house keeps its rules: dependencies point one way, headers compile alone, files are licensed and not too long.
set -euo pipefail
build=${1:?usage: $0 BUILD-DIRECTORY}
cd "$(dirname "$0")/../.."
failures=0
complain() {
  printf 'FAILED: %s\n%s\n' "$1" "$2" >&2
  failures=$((failures + 1))
}

sources() { find common cbt store api daemon tests -name '*.[ch]' | sort; }

# never FOLDER OTHER...: no file of FOLDER includes one of OTHER.
never() {
  local folder=$1 other found
  shift
  for other in "$@"; do
    found=$(grep -rnE "^[[:space:]]*#[[:space:]]*include[[:space:]]*[<\"](\.\./)*$other/" --include='*.[ch]' "$folder" || true)
    [ -z "$found" ] || complain "$folder/ must not include $other/" "$found"
  done
}
never common cbt store api daemon
never cbt store api daemon
never cbt/qemu cbt/plugin
never store cbt api daemon
never api cbt store daemon
for folder in common cbt store api; do never "$folder" tests; done

found=$(grep -rlE 'sqlite3\.h' --include='*.[ch]' common cbt store api daemon | grep -v '^store/catalogue' || true)
[ -z "$found" ] || complain "SQL lives in store/catalogue.c alone" "$found"

found=$(sources | xargs grep -L 'SPDX-License-Identifier: LGPL-2.1-or-later' || true)
[ -z "$found" ] || complain "no SPDX line" "$found"
found=$(find scripts .ci tests cmake -type f \( -name '*.sh' -o -path 'scripts/*' -o -path '.ci/*' -o -name '*.cmake' -o -path 'tests/bench/*' \) -print0 |
  xargs -0 grep -L 'SPDX-License-Identifier' || true)
[ -z "$found" ] || complain "no SPDX line" "$found"

found=$(sources | xargs wc -l | awk '$2 != "total" && $1 > 700')
[ -z "$found" ] || complain "above 700 lines" "$found"

found=$(sources | xargs grep -nE '\b(strcpy|strcat|sprintf|gets)[[:space:]]*\(' || true)
[ -z "$found" ] || complain "unsafe string functions" "$found"

# json-glib leaves one byte for cbt_json_escape().
found=$(grep -rnE 'json_to_string *\(|json_generator_' --include='*.c' common cbt store api daemon | grep -v 'cbt_json_escape(json_to_string(' || true)
[ -z "$found" ] || complain "JSON is written by cbt_json_escape(json_to_string())" "$found"

# Every header compiles alone, with the flags of the build.
modules='glib-2.0 gio-2.0 gio-unix-2.0 liburing sqlite3 libxxhash uuid libzstd libsoup-3.0 json-glib-1.0 nbdkit cmocka'
# shellcheck disable=SC2086,SC2207
flags=($(pkg-config --cflags $modules))
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
check_header() {
  local header=$1 output
  shift
  output=$(printf '#include <%s>\n' "$header" |
    "${CC:-cc}" -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Wstrict-prototypes -Werror -I. "$@" -fsyntax-only -x c - 2>&1) ||
    printf '%s\n%s\n' "$header" "$output" >"$work/$(tr / _ <<<"$header")"
}
n=0
while read -r header; do
  check_header "$header" "${flags[@]}" &
  n=$((n + 1))
  [ $((n % 4)) -ne 0 ] || wait
done < <(find common cbt store api daemon -name '*.h' | sort)
wait
for report in "$work"/*; do
  [ ! -e "$report" ] || complain "a header does not compile alone" "$(cat "$report")"
done

# What is installed and named in the contract is there.
for file in bin/cbt-backupd bin/cbt-backup; do
  [ -x "$build/$file" ] || complain "not built" "$file"
done

[ "$failures" -eq 0 ] || exit 1
echo "$n headers and $(sources | wc -l) source files keep the rules"
