/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Removing recovery points by rules. */
#include "output.h"

#include <common/size.h>
#include <stdio.h>
#include <string.h>

static const CliOption prune_options[] = {
    {"keep-last", "N", FALSE, "keep the N newest points"},
    {"keep-hourly", "N", FALSE, "keep the newest point of each of the last N hours that have one"},
    {"keep-daily", "N", FALSE, "the same of days"},
    {"keep-weekly", "N", FALSE, "of weeks, from Monday to Sunday"},
    {"keep-monthly", "N", FALSE, "of months"},
    {"keep-yearly", "N", FALSE, "of years"},
    {"dry-run", NULL, FALSE, "only say what would be kept and removed, and what would come free"},
    {0},
};

static const char *const rules[] = {"keep-last",    "keep-hourly", "keep-daily", "keep-weekly",
                                    "keep-monthly", "keep-yearly", NULL};

static void
add_row(CliTable *table, JsonObject *point)
{
  cli_table_add(table, cli_format_short(point, "uuid"));
  cli_table_add(table, cli_format_text(point, "vm"));
  cli_table_add(table, cli_format_time(point, "time"));
  cli_table_add(table, cli_format_text(point, "action"));
  cli_table_add(table, cli_format_text(point, "rule"));
}

static gboolean
is_removed(JsonObject *point)
{
  return g_strcmp0(cli_text(point, "action"), "remove") == 0;
}

static guint
count_removed(JsonArray *points)
{
  guint n = 0;
  for (guint i = 0; points && i < json_array_get_length(points); i++) {
    JsonNode *node = json_array_get_element(points, i);
    n += JSON_NODE_HOLDS_OBJECT(node) && is_removed(json_node_get_object(node));
  }
  return n;
}

static void
print_warnings(JsonArray *points)
{
  for (guint i = 0; points && i < json_array_get_length(points); i++) {
    JsonNode *node = json_array_get_element(points, i);
    JsonObject *point = cli_object(node);
    g_autofree char *uuid = cli_format_short(point, "uuid");
    if (cli_text(point, "warning"))
      printf("Warning: %s: %s\n", uuid ? uuid : "-", cli_text(point, "warning"));
  }
}

static void
print_result(JsonObject *answer)
{
  JsonArray *points = cli_array(answer, "points");
  gboolean dry_run = cli_true(answer, "dry-run");
  guint n = points ? json_array_get_length(points) : 0, n_removed = count_removed(points);
  g_autofree char *size = cbt_size_format((guint64) cli_number(answer, "bytes-freed"));
  if (n > 0)
    cli_print_table("POINT|VM|TIME|ACTION|RULE", points, add_row);
  print_warnings(points);
  if (cli_text(answer, "warning"))
    printf("Warning: %s\n", cli_text(answer, "warning"));
  g_autofree char *of = cli_format_count(n, "recovery point");
  printf("%s %u of %s; %s %s\n", dry_run ? "Would remove" : "Removed", n_removed, of, size,
         dry_run ? "would come free" : "to come free with gc");
}

static gboolean
prune(Cli *cli, GError **error)
{
  g_autoptr(JsonObject) body = json_object_new();
  const char *vm = cli_arg(cli, 0);
  if ((vm && !cli_check_name("Vm", vm, error)) || !cli_add_counts(cli, body, rules, error))
    return FALSE;
  if (vm)
    json_object_set_string_member(body, "vm", vm);
  if (cli_flag(cli, "dry-run"))
    json_object_set_boolean_member(body, "dry-run", TRUE);
  g_autoptr(JsonNode) node = cli_call(cli, "POST", "/v1/prune", g_steal_pointer(&body), error);
  if (!node)
    return FALSE;
  if (cli->json)
    cli_print_json(cli, node);
  else if (!cli->quiet || cli_flag(cli, "dry-run"))
    print_result(cli_object(node));
  return TRUE;
}

const CliCommand cli_prune_commands[] = {
    {"prune", "[NAME] [--keep-last N ...] [--dry-run]",
     "Remove the recovery points, of one vm or of each, that no rule keeps; without rules all are kept", 0, 1,
     prune_options, prune,
     "cbt-backup prune web --keep-last 3 --keep-daily 7 --dry-run\n"
     "cbt-backup prune --keep-daily 14 --keep-monthly 12"},
    {0},
};
