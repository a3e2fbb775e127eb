/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* export start, stop, list. */
#include "output.h"

#include <stdio.h>

static void
print_uris(JsonArray *exports)
{
  for (guint i = 0; i < json_array_get_length(exports); i++) {
    const char *uri = cli_text(cli_object(json_array_get_element(exports, i)), "uri");
    if (uri)
      puts(uri);
  }
}

static gboolean
start(Cli *cli, GError **error)
{
  g_autofree char *path = cli_path(error, "/v1/exports/%s", cli_arg(cli, 0));
  g_autoptr(JsonNode) node = path ? cli_call(cli, "POST", path, NULL, error) : NULL;
  if (!node)
    return FALSE;
  if (cli->json)
    cli_print_json(cli, node);
  else if (JSON_NODE_HOLDS_ARRAY(node))
    print_uris(json_node_get_array(node));
  return TRUE;
}

static gboolean
stop(Cli *cli, GError **error)
{
  g_autofree char *path = cli_path(error, "/v1/exports/%s", cli_arg(cli, 0));
  g_autoptr(JsonNode) node = path ? cli_call(cli, "DELETE", path, NULL, error) : NULL;
  if (!node)
    return FALSE;
  cli_print_done(cli, node, "Stopped the export of %s", cli_arg(cli, 0));
  return TRUE;
}

static void
add_row(CliTable *table, JsonObject *item)
{
  cli_table_add(table, cli_format_text(item, "vm"));
  cli_table_add(table, cli_format_text(item, "disk"));
  cli_table_add(table, cli_format_text(item, "state"));
  cli_table_add(table, cli_format_number(item, "pid"));
  cli_table_add(table, cli_format_text(item, "uri"));
}

static gboolean
list(Cli *cli, GError **error)
{
  return cli_list(cli, "/v1/exports", "VM|DISK|STATE|PID>|URI", add_row, error);
}

const CliCommand cli_export_commands[] = {
    {"export start", "NAME", "Serve the disks of a vm over NBD, tracked; prints one URI a disk", 1, 1, NULL,
     start,
     "cbt-backup export start web"},
    {"export stop", "NAME", "Stop serving the disks of a vm", 1, 1, NULL, stop,
     "cbt-backup export stop web"},
    {"export list", "", "List what is served", 0, 0, NULL, list,
     "cbt-backup export list\n"
     "cbt-backup --json export list | jq -r '.[].uri'"},
    {0},
};
