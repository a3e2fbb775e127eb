#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A linter of others finds nothing to say about the API's document. It comes from the npm registry, for this test alone.
. "$(dirname "$0")/lib.sh"
linter=@redocly/cli@2.77.0
command -v node npm >/dev/null || skip "needs node and npm"
export REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true HOME=$WORK
timeout 300 npm install --prefix "$WORK" --no-audit --no-fund --ignore-scripts --loglevel=error "$linter" >"$WORK/npm.log" 2>&1 ||
  skip "npm cannot install $linter: $(tail -n 1 "$WORK/npm.log")"
"$WORK/node_modules/.bin/redocly" lint --extends=recommended-strict "$SOURCE/api/openapi.json" >"$WORK/lint.log" 2>&1 ||
  fail "$(cat "$WORK/lint.log")"
say "$linter: $(grep -i 'valid' "$WORK/lint.log" | tail -n 1)"
