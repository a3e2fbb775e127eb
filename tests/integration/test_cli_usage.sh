#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What cbt-backup says to wrong lines, and with which exit status; no daemon runs.
# Usage: test_cli_usage.sh BUILD_DIR
set -u

program=$1/bin/cbt-backup
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
export CBT_BACKUP_SOCKET=$dir/none.sock
export TSAN_OPTIONS=atexit_sleep_ms=0:${TSAN_OPTIONS:-}
failed=0

complain() {
    echo "FAILED: $*"
    failed=1
}

# expect STATUS PATTERN ARGUMENT...: the exit status, and a line of standard error that matches.
expect() {
    local wanted=$1 pattern=$2 status
    shift 2
    "$program" "$@" >"$dir/out" 2>"$dir/err"
    status=$?
    [ $status -eq "$wanted" ] || complain "'$*' ended with $status, not $wanted: $(cat "$dir/err")"
    grep -q -e "$pattern" "$dir/err" || complain "'$*' did not say '$pattern': $(cat "$dir/err")"
}

# helps PATTERN ARGUMENT...: standard output matches, the status is 0, standard error is empty.
helps() {
    local pattern=$1
    shift
    "$program" "$@" >"$dir/out" 2>"$dir/err" || complain "'$*' ended with $?"
    grep -q -e "$pattern" "$dir/out" || complain "'$*' did not print '$pattern'"
    [ ! -s "$dir/err" ] || complain "'$*' complained: $(cat "$dir/err")"
}

# Help and version
helps '^cbt-backup [0-9]' --version
helps '^Usage: cbt-backup COMMAND' --help
helps '^Usage: cbt-backup COMMAND' -h
helps 'Exit status' --help
helps 'vm add NAME' vm --help
helps '^Usage: cbt-backup vm add NAME' vm add --help
helps '--granularity SIZE' vm --help add
helps '^Usage: cbt-backup --full NAME' --full --help
helps '--in-place' restore --help
helps '^Usage: cbt-backup list' --help list

# Each command that the general help names explains itself, with examples that are lines of it: without a daemon they come as far as
# asking for it, and what works without one ends in some other way than by a usage error.
# shellcheck disable=SC2317 # eval calls it
cbt-backup() {
    "$program" "$@" >"$dir/out" 2>"$dir/err"
}
"$program" --help | sed -n '/^Vms and/,/^Everywhere/ s/^  \(\(-*[a-z][a-z-]* \)*-*[a-z][a-z-]*\)\( .*\|$\)/\1/p' >"$dir/commands"
[ "$(wc -l <"$dir/commands")" -ge 40 ] || complain "the help names few commands"
while read -r command; do
    # shellcheck disable=SC2086
    helps "^Usage: cbt-backup $command" $command --help
    sed -n '/^Examples\{0,1\}:$/,$ s/^  //p' "$dir/out" >"$dir/examples"
    [ -s "$dir/examples" ] || complain "'$command' has no example"
    while read -r example; do
        eval "${example%% | *}" && status=0 || status=$?
        [ "$status" -eq 5 ] || { [ "$status" -ne 2 ] && [[ $command =~ ^(store\ |doctor) ]]; } ||
            complain "'$example' ended with $status: $(cat "$dir/err")"
        [[ $example = *"$command"* ]] || complain "'$example' is no example of '$command'"
    done <"$dir/examples"
done <"$dir/commands"
unset -f cbt-backup

# No line of the help is wider than a terminal.
for command in '' vm bitmap archive verify --full; do
    # shellcheck disable=SC2086
    "$program" $command --help | grep -v '^  cbt-backup' | awk 'length > 100' | grep . && complain "'$command --help' has long lines"
done

# Lines that make no command
expect 2 'command is missing'
expect 2 "no command 'nope'" nope
expect 2 "half a command" vm
expect 2 "no command 'vm nope'" vm nope
expect 2 "no option '--nope'" --nope
expect 2 "no option '-x'" list -x
expect 2 'needs a value' list --socket
expect 2 'takes no value' list --json=yes
expect 2 'given twice' --full web --note a --note b
expect 2 "no option of 'list'" list --granularity 64K
expect 2 'Missing arguments' vm show
expect 2 'Missing arguments' --full
expect 2 'Too many arguments' list a b
expect 2 'Too many arguments' --full a --incremental b
expect 2 'UTF-8' show $'\xff'

# Arguments that the command line can judge
expect 2 'at least one --disk' vm add web
expect 2 'DISK=PATH' vm add web --disk root
expect 2 'DISK=PATH' vm add web --disk root=
expect 2 'DISK=PATH' vm add web --disk =path
expect 2 'not valid' vm add web --disk 'ro/ot=path'
expect 2 'not valid' vm add 'we b' --disk root=path
expect 2 'not a size' vm add web --disk root=path --granularity 64Q
expect 2 'not a size' --full web --speed fast
expect 2 'not valid' --full web --disk '../x'
expect 2 'not valid' --full ''
expect 2 'NAME/DISK' changes web
expect 2 'NAME/DISK' bitmap show web
expect 2 'NAME/DISK' bitmap list web/root:default
expect 2 'not valid' bitmap show web/root:
expect 2 'not valid' bitmap show web/a/b
expect 2 '--from' bitmap merge web/root
expect 2 'not a duration' bitmap create-successor web/root --lease 1w
expect 2 '--lease ID' bitmap renew web/root --for 1h
expect 2 '--bitmap cannot be combined with --to' changes web/root --bitmap b --to live
expect 2 '--lease needs --bitmap' changes web/root --lease x
expect 2 'either --to DIR or --target' restore web@latest
expect 2 'either --to DIR or --target' restore web@latest --to x --target root=y
expect 2 'DISK=PATH' restore web@latest --target root
expect 2 'number of a job' job show x
expect 2 'names a file' --full web --archive -
expect 2 'cannot be a name' show ..
expect 2 'cannot be a name' show ''
expect 2 'nothing to set' policy set web
expect 2 'contradict each other' policy set web --enable --disable
expect 2 'contradict each other' policy set web --gc --no-gc
expect 2 "keep-daily: 'x' is no whole number" policy set web --keep-daily x
expect 2 'less than the minimum of 4K' policy set web --speed 1
expect 2 "half a command" policy

expect 2 'neither none nor fs nor app' --incremental web --quiesce all

# What is right, and where it is explained
expect 2 '^Use 1 to 63 letters, digits' vm add 'we b' --disk root=path
expect 2 '^Write a number of bytes' vm add web --disk root=path --granularity 64Q
expect 2 '^Try: cbt-backup vm add --help$' vm add web --dsk root=path
expect 2 '^Try: cbt-backup --full --help$' --full
expect 2 '^Try: cbt-backup --help$' nope

# No daemon
expect 5 "does not answer on $CBT_BACKUP_SOCKET" status
expect 5 'Start it with: ' --full web
expect 5 '--socket PATH or CBT_BACKUP_SOCKET' --full web
expect 5 "does not answer on $dir/other" vm list --socket "$dir/other"
expect 5 'does not answer on /' --socket="$dir/other" vm list

# Who reads the output may stop when he likes, as with any other program
exec {gone}> >(exit)
wait $!
"$program" --help >&"$gone" 2>"$dir/err"
status=$?
[ "$status" -eq 141 ] || complain "output that nobody reads ended with $status, not by SIGPIPE"
[ ! -s "$dir/err" ] || complain "output that nobody reads: $(cat "$dir/err")"
exec {gone}>&-

# One JSON document, for errors as well
expect 5 'does not answer' --json status
grep -q '^{"error":{"code":"unreachable","message":".*","hint":".*"}}$' "$dir/out" || complain "no JSON error"
[ "$(wc -l <"$dir/out")" -eq 1 ] || complain "more than one line of JSON"
expect 2 "no option" nope --nope --json
grep -q '^{"error":{"code":"invalid",' "$dir/out" || complain "no JSON usage error"
expect 2 "no command" nope
[ ! -s "$dir/out" ] || complain "an error on standard output without --json"

exit $failed
