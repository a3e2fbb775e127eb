#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The commands of the documents beside README and operations.md work as they stand there; and no document has commands that no test knows.
. "$(dirname "$0")/lib-docs.sh"
enter_sandbox "$@"
. "$(dirname "$0")/lib.sh"
need qemu-system-x86_64
furnish_sandbox

# shellcheck disable=SC2016 # a fence of Markdown
say "documents with commands"
assert_eq "documents with commands that are to be run" \
  "$(cd "$SOURCE" && grep -lE '^```(sh|console)$' README.md CONTRIBUTING.md docs/*.md docs/*/*.md | tr '\n' ' ')" \
  "README.md CONTRIBUTING.md docs/api.md docs/benchmarks.md docs/bitmaps.md docs/operations.md docs/qemu.md docs/quiescing.md docs/troubleshooting.md "
say "CONTRIBUTING.md: not run: it is about running the tests"
say "docs/benchmarks.md: not run: how to measure, which takes the machine for many minutes"
unknown=$(cd "$SOURCE" && awk 'FNR == 1 { inside = 0 } /^```/ { inside = !inside; plain = inside && $0 == "```"; next }
  plain && /^(cbt-|curl |qemu-|systemctl)/ { print FILENAME ": " $0 }' README.md docs/*.md)
assert_eq "commands in blocks that are not marked as such" "$unknown" ""

random_image /var/lib/images/root.raw 2
random_image /var/lib/images/data.raw 2
start_daemon
vm_add web root=/var/lib/images/root.raw data=/var/lib/images/data.raw
backup full web >/dev/null
document docs/bitmaps.md
block 'cbt-backup bitmap add'
(block 'api() {') # it has a function of the name of one of ours
block 'cbt-backup bitmap create-successor' "s/--lease ID/--lease \"\$(cbt-backup --json bitmap show web\/root:vendor | jq -r '.\"lease-id\"')\"/"
end_document
cbt --quiet vm remove web

document docs/qemu.md
qemu-img create -q -f qcow2 /var/lib/images/web.qcow2 4M
block 'qemu-system-x86_64 ...' "s| \.\.\. | -S -nodefaults -display none -machine q35,accel=tcg -m 32 -daemonize |"
# Nobody is in the guest who could freeze it: without an agent, then.
block 'cbt-backup vm add web --qmp' 's/ --qga [^ ]*//'
end_document
assert_eq "points of the guest" "$(points web | wc -l)" 4
stop_daemon

document docs/quiescing.md
for text in '#!/bin/sh' '#!/bin/sh' '#!/bin/sh'; do
  next_block "$text"
  sh -n "$next" || fail "docs/quiescing.md: a script is no script: $(cat "$next")"
  no_run "$text" "it belongs into a guest with a data base; its syntax is checked"
done
end_document
