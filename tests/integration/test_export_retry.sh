#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# An export that died and cannot be started comes back by itself as soon as what kept it down is gone.
. "$(dirname "$0")/lib.sh"

random_image "$WORK/web.raw" 4
start_daemon
vm_add web "root=$WORK/web.raw"
uri=$(uri_of web)
io "$uri" "write -P 1 0 64k"
backup full web >/dev/null
io "$uri" "write -P 2 1M 64k"

say "while its image is away it is down, and the log says when it is tried again"
mv "$WORK/web.raw" "$WORK/away.raw"
kill -KILL "$(export_pid web)"
log_says() { grep -q "$1" "$WORK/daemon.log"; }
wait_until 20 log_says "tried again in 2 s" || fail "no second try: $(cat "$WORK/daemon.log")"
exports_run web && fail "it runs without an image"

say "with the image back it comes up, and no change is missed"
mv "$WORK/away.raw" "$WORK/web.raw"
wait_until 30 exports_run web || fail "it does not come back"
io "$uri" "write -P 3 2M 64k"
backup incremental web >/dev/null
restore_matches web@latest root "$WORK/web.raw"

say "one that is stopped stays stopped"
mv "$WORK/web.raw" "$WORK/away.raw"
kill -KILL "$(export_pid web)"
wait_until 20 log_says "tried again in 1 s"
cbt --quiet export stop web
mv "$WORK/away.raw" "$WORK/web.raw"
pause 2.5
exports_run web && fail "it was started though it was stopped"
stop_daemon
