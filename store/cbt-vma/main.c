/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* cbt-vma: lists, makes, extracts and verifies VMA archives, without a daemon or a store. */
#include "tool.h"

#include <common/error.h>
#include <common/name.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

static const char help[] =
    "Usage: cbt-vma COMMAND ...\n"
    "\n"
    "Lists, makes, extracts and verifies VMA archives, the format of Proxmox VE's backups. An archive that "
    "was\n"
    "compressed with zstd is read as it is. '-' as FILE is standard input (for create: standard output).\n"
    "\n"
    "  list FILE                              what is in it\n"
    "  config FILE [-c NAME]                  print a configuration file (default qemu-server.conf)\n"
    "  create FILE [-c CONFIG]... [NAME=]PATH...\n"
    "                                         make an archive of raw images; FILE must not exist, or be a "
    "FIFO;\n"
    "                                         compressed if it ends in .zst; FILE.xxh3 gets checksums\n"
    "  extract FILE [-r MAP] DIR              take everything out into DIR, which must not exist; what an "
    "error\n"
    "                                         left unfinished there is named *.partial\n"
    "  verify FILE [-v]                       read all of it and check what can be checked\n"
    "\n"
    "MAP (- is standard input, unless FILE is) says where disks go, a line each, up to 'done':\n"
    "  [format=raw:]1:NAME=PATH   into PATH, an image or device with contents: zeros are written\n"
    "  [format=raw:]0:NAME=PATH   into PATH, which reads as zeros already\n"
    "  skip=NAME                  leave this disk out\n"
    "\n"
    "-h or --help explains, --version prints the version; both do nothing else.\n"
    "\n"
    "Examples:\n"
    "  cbt-vma create web.vma -c web.xml root=web.raw\n"
    "  cbt-vma list web.vma\n"
    "  cbt-vma config web.vma -c web.xml\n"
    "  cbt-vma verify web.vma && cbt-vma extract web.vma web\n"
    "  cbt-vma create - root=web.raw | zstd | ssh other 'cat >web.vma.zst'\n"
    "  printf '1:root=old.raw\\ndone\\n' | cbt-vma extract -r - web.vma configs\n"
    "\n"
    "Exit status: 0 done, 1 failed or damaged.\n";

static const struct {
  const char *name;
  gboolean (*run)(char **args, GError **error);
} commands[] = {
    {"list", tool_list},       {"config", tool_config}, {"create", tool_create},
    {"extract", tool_extract}, {"verify", tool_verify},
};

void
tool_set_usage(GError **error, const char *format, ...)
{
  va_list args;
  va_start(args, format);
  g_autofree char *message = g_strdup_vprintf(format, args);
  va_end(args);
  cbt_set_error(error, CBT_ERROR_INVALID, "See cbt-vma --help.", "%s", message);
}

static gboolean
run(char **words, GError **error)
{
  if (!words[0]) {
    tool_set_usage(error, "a command is missing");
    return FALSE;
  }
  for (char **word = words; *word; word++) {
    if (strcmp(*word, "--help") == 0 || strcmp(*word, "-h") == 0)
      return fputs(help, stdout) >= 0;
    if (strcmp(*word, "--version") == 0)
      return printf("cbt-vma %s\n", CBT_VERSION) > 0;
  }
  for (gsize i = 0; i < G_N_ELEMENTS(commands); i++)
    if (strcmp(words[0], commands[i].name) == 0)
      return commands[i].run(words + 1, error);
  tool_set_usage(error, "there is no command '%s'", words[0]);
  return FALSE;
}

int
main(int argc G_GNUC_UNUSED, char **argv)
{
  g_autoptr(GError) error = NULL;
  signal(SIGPIPE, SIG_IGN);
  gboolean ok = run(argv + 1, &error);
  if (ok && fflush(stdout) != 0) {
    cbt_set_error(&error, CBT_ERROR_IO, NULL, "cannot write to standard output");
    ok = FALSE;
  }
  if (ok)
    return 0;
  g_autofree char *message = cbt_error_message(error);
  g_autofree char *hint = cbt_error_hint(error);
  g_autofree char *shown = cbt_printable(message); /* there may be names of an archive in it */
  fprintf(stderr, "cbt-vma: %s\n%s%s", shown, hint ? hint : "", hint ? "\n" : "");
  return 1;
}
