/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Making the catalogue again from the store. */
#include "output.h"

#include <common/name.h>
#include <stdio.h>

static void
print_result(JsonObject *answer)
{
  JsonArray *problems = cli_array(answer, "problems");
  for (guint i = 0; problems && i < json_array_get_length(problems); i++) {
    JsonNode *node = json_array_get_element(problems, i);
    const char *text = JSON_NODE_HOLDS_VALUE(node) ? json_node_get_string(node) : NULL;
    g_autofree char *shown = cbt_printable(text ? text : "");
    printf("Warning: %s\n", shown);
  }
  g_autofree char *vms = cli_format_count(cli_number(answer, "vms"), "vm");
  g_autofree char *points = cli_format_count(cli_number(answer, "points"), "recovery point");
  printf("The catalogue was made again from the store: %s, %s\n", vms, points);
}

static gboolean
rebuild_catalogue(Cli *cli, GError **error)
{
  g_autoptr(JsonNode) node = cli_call(cli, "POST", "/v1/rebuild-catalogue", NULL, error);
  if (!node)
    return FALSE;
  if (cli->json)
    cli_print_json(cli, node);
  else if (!cli->quiet)
    print_result(cli_object(node));
  gint64 n_damaged = cli_number(cli_object(node), "damaged");
  if (n_damaged > 0)
    cbt_set_error(error, CBT_ERROR_CORRUPT, "The daemon's log and --json name them.",
                  "%" G_GINT64_FORMAT " files of vms or recovery points are damaged", n_damaged);
  return n_damaged == 0;
}

const CliCommand cli_rebuild_commands[] = {
    {"rebuild-catalogue", "",
     "Make the catalogue's vms, recovery points and bases of bitmaps again from the files of the store", 0, 0,
     NULL, rebuild_catalogue,
     "cbt-backup rebuild-catalogue"},
    {0},
};
