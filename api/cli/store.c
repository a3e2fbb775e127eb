/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* store: runs cbt-store in place of this program. It works without a daemon, and links what this one does
 * not. */
#include "cli.h"

#include <common/error.h>
#include <errno.h>
#include <unistd.h>

/* Beside this program in a build tree; where it is installed, in the folder of programs for programs. */
static char *
find_tool(void)
{
  g_autofree char *exe = g_file_read_link("/proc/self/exe", NULL);
  g_autofree char *bin = exe ? g_path_get_dirname(exe) : g_strdup(".");
  const char *const candidates[] = {".", "../" CBT_LIBEXECDIR "/cbt-backup"};
  for (gsize i = 0; i < G_N_ELEMENTS(candidates); i++) {
    g_autofree char *path = g_build_filename(bin, candidates[i], "cbt-store", NULL);
    if (g_file_test(path, G_FILE_TEST_IS_EXECUTABLE))
      return g_steal_pointer(&path);
  }
  return g_strdup(CBT_FULL_LIBEXECDIR "/cbt-backup/cbt-store");
}

static gboolean
run_tool(Cli *cli, const char *command, GError **error)
{
  g_autofree char *tool = find_tool();
  g_autoptr(GPtrArray) words = g_ptr_array_new();
  g_ptr_array_add(words, tool);
  g_ptr_array_add(words, (gpointer) command);
  for (guint i = 0; cli_arg(cli, i); i++)
    g_ptr_array_add(words, (gpointer) cli_arg(cli, i));
  if (cli_option(cli, "store")) {
    g_ptr_array_add(words, (gpointer) "--store");
    g_ptr_array_add(words, (gpointer) cli_option(cli, "store"));
  }
  if (cli->json)
    g_ptr_array_add(words, (gpointer) "--json");
  if (cli->quiet)
    g_ptr_array_add(words, (gpointer) "--quiet");
  g_ptr_array_add(words, NULL);
  execv(tool, (char **) words->pdata);
  cbt_set_error_errno(error, errno, "cannot run %s", tool);
  return FALSE;
}

static gboolean
check(Cli *cli, GError **error)
{
  return run_tool(cli, "check", error);
}

static gboolean
dump(Cli *cli, GError **error)
{
  return run_tool(cli, "dump", error);
}

static const CliOption options[] = {
    {"store", "DIR", FALSE, "the store's folder; without it that of a daemon started without options"},
    {0},
};

const CliCommand cli_store_commands[] = {
    {"store check", "[--store DIR]",
     "Without a daemon: read a store from end to end, change nothing, name what is damaged (exit status 6)",
     0, 0, options, check,
     "cbt-backup store check --store /var/lib/cbt-backup/store"},
    {"store dump", "[packs|pack N|points|point UUID|manifest UUID/DISK|index|format] [--store DIR]",
     "Without a daemon: show what stands in a store", 0, 2, options, dump,
     "cbt-backup store dump points\n"
     "cbt-backup store dump pack 1 --store /mnt/old/store"},
    {0},
};
