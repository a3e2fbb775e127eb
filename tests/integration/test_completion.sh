#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What the tab key offers: commands and options by the program's own tables, names by the daemon's answers; quickly and silently.
. "$(dirname "$0")/lib.sh"
need python3 zsh

random_image "$WORK/root.raw" 1
random_image "$WORK/data.raw" 1
random_image "$WORK/weaver.raw" 1
start_daemon
vm_add web "root=$WORK/root.raw" "data=$WORK/data.raw"
vm_add weaver "disk=$WORK/weaver.raw"
cbt --quiet bitmap add web/root:weekly >/dev/null
first=$(backup full web --note 'before the upgrade' | jq -r .uuid)
backup incremental web >/dev/null
export CBT_BACKUP_SOCKET=$SOCKET PATH=$BUILD/bin:$PATH

# offers WORD... -- CANDIDATE...: what is offered for the last WORD, and nothing else.
offers() {
  local -a words=()
  while [ "$1" != -- ]; do words+=("$1"); shift; done
  shift
  assert_eq "what is offered for '${words[*]}'" \
    "$(cbt-backup complete -- "${words[@]}" 2>&1 | cut -f1 | sort | tr '\n' ' ')" "$([ $# -eq 0 ] || printf '%s\n' "$@" | sort | tr '\n' ' ')"
}

say "commands and options"
offers pol -- policy
offers policy s -- set show
offers --f -- --full
offers --json vm sh -- show
offers restore web@0 --t -- --to --target
offers --full web --q -- --quiesce --quiet
offers --full web --quiesce '' -- none fs app
offers --full web --quiesce=a -- --quiesce=app
offers archive web@0 --format q -- qcow2
offers archive web@0 --output '' -- :files
offers store dump po -- points point
offers complet --
[ "$(cbt-backup complete -- '' | cut -f1 | sort -u | wc -l)" -eq "$(cbt-backup complete -- '' | wc -l)" ] ||
  fail "a command is offered twice"

say "every command that --help names is offered, word by word, with all of its options"
n_commands=0
while read -r -a command; do
  words=()
  for word in "${command[@]}"; do
    cbt-backup complete -- "${words[@]}" "$word" | cut -f1 | grep -qxF -e "$word" || fail "'$word' of '${command[*]}' is not offered"
    words+=("$word")
  done
  assert_eq "options of '${command[*]}'" "$(cbt-backup complete -- "${command[@]}" -- | cut -f1 | sort | tr '\n' ' ')" \
    "$(cbt-backup "${command[@]}" --help | sed -n 's/^  \(--[a-z-]*\).*/\1/p' | sort | tr '\n' ' ')"
  n_commands=$((n_commands + 1))
done < <(cbt-backup --help | sed -n '/^Vms and/,/^Everywhere/ s/^  \(\(-*[a-z][a-z-]* \)*-*[a-z][a-z-]*\)\( .*\|$\)/\1/p')
assert_ge "commands" "$n_commands" 40

say "names"
offers --full we -- web weaver
offers vm show wea -- weaver
offers restore w -- web@latest
offers restore web@ -- web@latest web@0 web@1
offers restore "${first:0:8}" -- "$first"
offers forget "${first:0:8}" -- "$first"
assert_has "what is said of a point" "$(cbt-backup complete -- show web@1)" "full, before the upgrade"
offers changes web/ -- web/root web/data
offers bitmap show web/root: -- web/root:default web/root:weekly
offers bitmap merge web/root --from w -- weekly
offers --full web --bitmap '' -- default weekly
offers --full web --disk r -- root
offers restore web@0 --target d -- data=
offers restore web@0 --target data=/x -- :files
offers restore web@0 --target=d -- --target=data=
offers job show '' -- 1 2
offers verify we -- web weaver web@latest
offers --socket "$WORK/none.sock" --full w --

say "bash"
# in_bash LINE: what the function makes of it, as bash calls it.
in_bash() {
  bash --norc -c '. "$1"; COMP_LINE=$2 COMP_POINT=${#2}
    _cbt_backup cbt-backup; printf "%s\n" "${COMPREPLY[@]}"' - "$SOURCE/api/cli/completion/cbt-backup.bash" "$1" 2>&1 |
    sort | tr '\n' ' '
}
assert_eq "bash, a command" "$(in_bash 'cbt-backup poli')" "policy "
assert_eq "bash, a point behind its @" "$(in_bash 'cbt-backup restore web@')" "@0 @1 @latest "
assert_eq "bash, a bitmap behind its colon" "$(in_bash 'cbt-backup bitmap show web/root:w')" "weekly "
assert_eq "bash, files" "$(in_bash "cbt-backup restore web@0 --target root=$WORK/ro")" "$WORK/root.raw "
assert_eq "bash, a new word" "$(in_bash 'cbt-backup vm show ')" "weaver web "

# typed LINE: the line that a person at a prompt has after the tab key.
typed() {
  python3 - "$SOURCE/api/cli/completion/cbt-backup.bash" "$1" <<'PYTHON'
import os, pty, re, select, sys
child, terminal = pty.fork()
if child == 0:
    os.environ.update(TERM="dumb", PS1="READY>", INPUTRC="/dev/null", HISTFILE="")
    os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
seen = ""
def until(pattern):
    global seen
    while not re.search(pattern, seen):
        if not select.select([terminal], [], [], 30)[0]:
            sys.exit("no answer: " + repr(seen))
        seen += os.read(terminal, 4096).decode()
until("READY>")
os.write(terminal, b"bind 'set enable-bracketed-paste off'; . " + sys.argv[1].encode() + b"\n")
until("(?s)bash\r.*READY>")
seen = ""
# What is typed behind the completion shows where that ended.
os.write(terminal, sys.argv[2].encode() + b"\t" + b"#END")
until("#END")
line = ""
for character in seen.split("#END")[0]:
    line = line[:-1] if character == "\b" else line + character
print(line.strip())
os.write(terminal, b"\x15exit\n")
os.close(terminal)
os.waitpid(child, 0)
PYTHON
}
assert_eq "a point at a prompt" "$(typed 'cbt-backup restore web@la')" "cbt-backup restore web@latest"
assert_eq "an option at a prompt" "$(typed 'cbt-backup restore web@latest --tar')" "cbt-backup restore web@latest --target"
assert_eq "a disk at a prompt" "$(typed 'cbt-backup restore web@latest --target da')" "cbt-backup restore web@latest --target data="

say "zsh"
# in_zsh WORD...: what the function hands to zsh, whose own functions are replaced by ones that print.
in_zsh() {
  zsh -f -c '
    _describe() { print -rl -- "${(@P)3%%:*}" }
    _files() { print files }
    compset() { : }
    words=(cbt-backup "$@[2,-1]") CURRENT=$#words PREFIX=$words[-1]
    source $1' - "$SOURCE/api/cli/completion/_cbt-backup" "$@" 2>&1 | sort | tr '\n' ' '
}
zsh -n "$SOURCE/api/cli/completion/_cbt-backup" || fail "zsh does not take the file"
assert_eq "zsh, a command" "$(in_zsh poli)" "policy "
assert_eq "zsh, a point" "$(in_zsh restore web@)" "web@0 web@1 web@latest "
assert_eq "zsh, files" "$(in_zsh restore web@0 --to "$WORK/ro")" "files "

say "a daemon that does not answer, or is gone"
kill -STOP "$DAEMON_PID"
offers vm show w --
kill -CONT "$DAEMON_PID"
stop_daemon
offers vm show w --
assert_eq "bash without a daemon" "$(in_bash 'cbt-backup vm show ')" " "
