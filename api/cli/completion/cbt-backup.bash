# SPDX-License-Identifier: LGPL-2.1-or-later
# Completion of cbt-backup for bash: what can be typed is asked of the program itself.
# shellcheck shell=bash

_cbt_backup() {
  local line=${COMP_LINE:0:COMP_POINT} current breaks='' fixed='' candidate character
  local -a words
  read -ra words <<<"$line"
  [[ $line == *[[:space:]] ]] && words+=('')
  current=${words[-1]}
  # readline replaces only what stands behind the last of the characters that break words for it; an @ it replaces, too.
  for character in : = @; do
    [[ $COMP_WORDBREAKS == *"$character"* ]] && breaks+=$character
  done
  [ -z "$breaks" ] || fixed=${current%"${current##*["$breaks"]}"} fixed=${fixed%@}
  COMPREPLY=()
  while IFS=$'\t' read -r candidate _; do
    case $candidate in
    :files)
      compopt -o filenames 2>/dev/null
      while read -r candidate; do COMPREPLY+=("$candidate"); done < <(compgen -f -- "${current##*=}")
      ;;
    *)
      [[ $candidate == *= ]] && compopt -o nospace 2>/dev/null
      COMPREPLY+=("${candidate#"$fixed"}")
      ;;
    esac
  done < <("$1" complete -- "${words[@]:1}" 2>/dev/null)
}
complete -F _cbt_backup cbt-backup
