#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The manual pages say what the programs say: every command, option, key and exit status of --help is in its page, and nothing else.
. "$(dirname "$0")/lib.sh"
need man mandoc nbdkit

say "the pages are sound, and are found where they are installed"
DESTDIR=$WORK/root cmake --install "$BUILD" --prefix /usr >"$WORK/install.log" 2>&1 || fail "$(tail -n 5 "$WORK/install.log")"
pages=$WORK/root/usr/share/man
for page in man1/cbt-backup.1 man1/cbt-vma.1 man1/nbdkit-cbt-plugin.1 man5/cbt-backup.conf.5 man8/cbt-backupd.8 man8/cbt-quiesce.8; do
  [ -s "$pages/$page" ] || fail "$page is not installed"
  # Pages of programs that stand beside ours are not here.
  complaints=$(mandoc -T lint -W warning "$pages/$page" 2>&1) || fail "$page: $complaints"
  complaints=$(MANWIDTH=120 man --warnings --no-hyphenation --no-justification -E UTF-8 -l "$pages/$page" 2>&1 >"$WORK/$(basename "$page").txt")
  assert_eq "what man says of $page" "$complaints" ""
done
assert_eq "pages without a test" "$(find "$pages" -type f | wc -l)" 6
for completion in bash-completion/completions/cbt-backup zsh/vendor-completions/_cbt-backup; do
  [ -s "$WORK/root/usr/share/$completion" ] || fail "$completion is not installed"
done
# Where one page names another one of ours, that is there.
while read -r name section; do
  [ -s "$pages/man$section/$name.$section" ] || fail "$name($section) is named, but is not there"
done < <(cat "$pages"/man*/* | sed -n 's/^\.Xr \([a-z.-]*cbt[a-z.-]*\) \([0-9]\).*/\1 \2/p' | sort -u)

# same WHAT HELP PAGE: the two lists have the same lines.
same() {
  sort -u "$2" -o "$2"
  sort -u "$3" -o "$3"
  [ -s "$2" ] || fail "$1: nothing is found"
  diff "$2" "$3" >"$WORK/difference" || fail "$1: help (<) and manual (>) differ: $(cat "$WORK/difference")"
}
# In a list of options of a page, as it is written.
page_options() { sed -n 's/^\.It .*Fl -\([a-z-]*\).*/--\1/p' "$1"; }
exit_statuses() { grep -oE '\b[0-9] [a-z]+' | cut -d ' ' -f 1; }
page_statuses() { sed -n '/^\.Sh EXIT/,/^\.Sh [^E]/ s/^\.It \([0-9]\)$/\1/p' "$1"; }

say "cbt-backup"
"$BUILD/bin/cbt-backup" --help >"$WORK/help"
sed -n '/^Vms and/,/^Everywhere/ s/^  \(\(-*[a-z][a-z-]* \)*-*[a-z][a-z-]*\)\( .*\|$\)/\1/p' "$WORK/help" >"$WORK/commands"
sed -n 's/^\.It Cm "\([^"]*\)".*/\1/p' "$pages/man1/cbt-backup.1" | sed 's/\\-/-/g' >"$WORK/page.commands"
assert_ge "commands" "$(wc -l <"$WORK/commands")" 40
{
  cat "$WORK/help"
  # shellcheck disable=SC2086 # words
  while read -r command; do "$BUILD/bin/cbt-backup" $command --help; done <"$WORK/commands"
} | sed -n 's/^  \(--[a-z-]*\) .*/\1/p' | grep -vxE -e '--(full|incremental)' >"$WORK/options"
page_options "$pages/man1/cbt-backup.1" >"$WORK/page.options"
same "commands" "$WORK/commands" "$WORK/page.commands"
same "options" "$WORK/options" "$WORK/page.options"
sed -n '/^Exit status/,$p' "$WORK/help" | exit_statuses >"$WORK/statuses"
page_statuses "$pages/man1/cbt-backup.1" >"$WORK/page.statuses"
same "exit statuses" "$WORK/statuses" "$WORK/page.statuses"
# What a reader sees of one command: its arguments, an option with its explanation, an example.
tr -s ' \n' ' ' <"$WORK/cbt-backup.1.txt" >"$WORK/text"
for text in 'restore POINT (--to DIR | --target DISK=PATH ...) [--in-place] [--no-wait]' \
  '--in-place write into what exists, and there only what differs.' 'cbt-backup restore web@latest --to /srv/restore'; do
  grep -qF -e "$text" "$WORK/text" || fail "the page does not show: $text"
done

say "cbt-backupd"
"$BUILD/bin/cbt-backupd" --help >"$WORK/help"
sed -n 's/^  \(-h, \)*\(--[a-z-]*\).*/\2/p' "$WORK/help" >"$WORK/options"
page_options "$pages/man8/cbt-backupd.8" >"$WORK/page.options"
same "options of the daemon" "$WORK/options" "$WORK/page.options"
sed -n '/^Exit status/,$p' "$WORK/help" | sed 's/See .*//' | exit_statuses >"$WORK/statuses"
page_statuses "$pages/man8/cbt-backupd.8" >"$WORK/page.statuses"
same "exit statuses of the daemon" "$WORK/statuses" "$WORK/page.statuses"

say "cbt-backup.conf"
# ask_config LINE...: what the daemon says of a file of these lines.
ask_config() {
  printf '%s\n' "$@" >"$WORK/conf"
  "$BUILD/bin/cbt-backupd" --config "$WORK/conf" --state-dir "$WORK/none" --runtime-dir "$WORK/none" 2>&1 || true
}
ask_config '[nope]' 'a=1' | sed -n 's/^The groups are: //p' | tr -d '[]' | tr ' ' '\n' >"$WORK/groups"
while read -r group; do
  ask_config "[$group]" 'nope=1' | sed -n 's/^Its keys are: //p' | tr ' ' '\n' | sed "s/^/$group /"
done <"$WORK/groups" >"$WORK/keys"
awk '/^\.Ss \[/ { group = substr($2, 2, length($2) - 2) } /^\.Sh EX/ { exit } /^\.It Cm/ && group { print group, $3 }' \
  "$pages/man5/cbt-backup.conf.5" >"$WORK/page.keys"
assert_ge "keys" "$(wc -l <"$WORK/keys")" 15
same "keys of the configuration" "$WORK/keys" "$WORK/page.keys"
sed -n '/^\.Bd/,/^\.Ed/p' "$pages/man5/cbt-backup.conf.5" | grep -v '^\.' | sed 's/\\-/-/g; s/^group=.*//' >"$WORK/example"
DAEMON_OPTIONS=(--config "$WORK/example")
sed -i "s,/var/tmp/fleece,$WORK/fleece," "$WORK/example"
start_daemon
stop_daemon

say "cbt-vma"
"$BUILD/bin/cbt-vma" --help >"$WORK/help"
sed -n 's/^  \([a-z]*\) FILE.*/\1/p' "$WORK/help" >"$WORK/commands"
sed -n 's/^\.It Cm \([a-z]*\) Ar FILE.*/\1/p' "$pages/man1/cbt-vma.1" >"$WORK/page.commands"
same "commands of cbt-vma" "$WORK/commands" "$WORK/page.commands"
grep -oE '(^|[[ ])-[a-z]\b|--[a-z]+' "$WORK/help" | tr -d '[ ' >"$WORK/options"
grep -oE 'Fl -?[a-z]+' "$pages/man1/cbt-vma.1" | sed 's/Fl /-/' >"$WORK/page.options"
same "options of cbt-vma" "$WORK/options" "$WORK/page.options"
sed -n '/^MAP/,/^$/ s/^  \([^ ]*=[^ ]*\) .*/\1/p' "$WORK/help" >"$WORK/maps"
sed -n 's/^\.It Li //p' "$pages/man1/cbt-vma.1" >"$WORK/page.maps"
same "lines of a map" "$WORK/maps" "$WORK/page.maps"

sed -n '/^Exit status/p' "$WORK/help" | exit_statuses >"$WORK/statuses"
page_statuses "$pages/man1/cbt-vma.1" >"$WORK/page.statuses"
same "exit statuses of cbt-vma" "$WORK/statuses" "$WORK/page.statuses"
# The examples, one after the other; the other host is this one.
mkdir "$WORK/vma" "$WORK/bin"
cd "$WORK/vma"
random_image web.raw 1
random_image old.raw 1
echo '<domain/>' >web.xml
printf '#!/bin/sh\nshift\nexec sh -c "$*"\n' >"$WORK/bin/ssh"
chmod +x "$WORK/bin/ssh"
sed -n '/^Examples:/,/^$/ s/^  //p' "$WORK/help" >"$WORK/examples"
assert_ge "examples" "$(wc -l <"$WORK/examples")" 5
tr -s ' \n' ' ' <"$WORK/cbt-vma.1.txt" >"$WORK/text"
while read -r example; do
  grep -qF -e "$example" "$WORK/text" || fail "the page does not show: $example"
  PATH=$WORK/bin:$BUILD/bin:$PATH bash -o pipefail -c "$example" >>"$WORK/vma.out" </dev/null || fail "$example"
done <"$WORK/examples"
assert_same_file "what was extracted" web/disk-root.raw web.raw
assert_same_file "what was extracted by a map" old.raw web.raw
cd "$WORK"

say "the plugin"
nbdkit --help "$BUILD/lib/nbdkit-cbt-plugin.so" 2>"$WORK/plugin.err" | sed -n 's/^\([a-z-]*\)=[A-Z].*/\1/p' >"$WORK/parameters"
sed -n 's/^\.It Cm \([a-z-]*\) Ns.*/\1/p' "$pages/man1/nbdkit-cbt-plugin.1" >"$WORK/page.parameters"
same "parameters of the plugin" "$WORK/parameters" "$WORK/page.parameters"
