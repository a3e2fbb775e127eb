/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* status. */
#include "output.h"

#include <stdio.h>

/* NULL if it has none. */
static JsonObject *
policy_of(JsonObject *vm)
{
  JsonNode *policy = json_object_get_member(vm, "policy");
  return policy && JSON_NODE_HOLDS_OBJECT(policy) ? json_node_get_object(policy) : NULL;
}

static void
add_row(CliTable *table, JsonObject *vm)
{
  cli_table_add(table, cli_format_text(vm, "name"));
  cli_table_add(table, cli_format_number(vm, "disks"));
  cli_table_add(table, cli_format_number(vm, "points"));
  cli_table_add(table, cli_format_short(vm, "latest"));
  cli_table_add(table, cli_format_time(vm, "latest-time"));
  cli_table_add(table, cli_format_yes(vm, "exported"));
  cli_table_add(table, cli_format_size(vm, "dirty"));
  JsonObject *policy = policy_of(vm);
  gboolean enabled = policy && cli_true(policy, "enabled");
  const char *instead = !policy ? NULL : cli_text(policy, "schedule") ? "disabled" : "damaged";
  cli_table_add(table, enabled ? cli_format_time(policy, "next-run") : g_strdup(instead));
  cli_table_add(table, policy ? cli_format_text(policy, "last-result") : NULL);
  cli_table_add(table, policy ? cli_format_number(policy, "failures") : NULL);
}

/* What keeps POLICY from doing its work; NULL if nothing does. One without a schedule could not be read. */
static char *
policy_problem(JsonObject *vm, JsonObject *policy)
{
  const char *name = cli_text(vm, "name"), *why = cli_text(policy, "errmsg");
  if (!cli_text(policy, "schedule"))
    return g_strdup(why);
  if (cli_number(policy, "failures") == 0)
    return NULL;
  return g_strdup_printf("the policy of vm %s failed %" G_GINT64_FORMAT " times in a row: %s",
                         name ? name : "-", cli_number(policy, "failures"), why ? why : "-");
}

static void
print_damage(JsonObject *vm)
{
  gint64 n = cli_number(vm, "damaged-points");
  const char *name = cli_text(vm, "name");
  if (n > 0)
    cli_print_field("Problem",
                    g_strdup_printf("%" G_GINT64_FORMAT " of the recovery points of vm %s are damaged; see: "
                                    "cbt-backup verify %s",
                                    n, name ? name : "-", name ? name : "-"));
}

/* Below the table. */
static void
print_problems(JsonArray *vms)
{
  for (guint i = 0; vms && i < json_array_get_length(vms); i++) {
    JsonObject *vm = cli_object(json_array_get_element(vms, i)), *policy = policy_of(vm);
    print_damage(vm);
    char *problem = policy ? policy_problem(vm, policy) : NULL;
    if (problem)
      cli_print_field("Problem", problem);
  }
}

static void
print_store(JsonObject *store)
{
  g_autofree char *bytes = cli_format_size(store, "bytes"), *space = cli_format_size(store, "free");
  g_autofree char *chunks = cli_format_number(store, "chunks"), *packs = cli_format_number(store, "packs");
  cli_print_field("Store", g_strdup_printf("%s in %s chunks, %s packs; %s free", bytes ? bytes : "-",
                                           chunks ? chunks : "-", packs ? packs : "-", space ? space : "-"));
  gint64 available = cli_number(store, "free"), reserve = cli_number(store, "reserve");
  if (space && available < reserve)
    cli_print_field("Problem",
                    g_strdup("less is free than the reserve: no backup begins before there is room"));
  if (json_object_has_member(store, "answers") && !cli_true(store, "answers"))
    cli_print_field("Problem", g_strdup("the store's file system does not answer"));
}

static void
print_status(JsonObject *status)
{
  JsonNode *store = json_object_get_member(status, "store");
  cli_print_field("Version", cli_format_text(status, "version"));
  cli_print_field("Up for", cli_format_duration(cli_number(status, "uptime")));
  cli_print_field("State", cli_format_text(status, "state-dir"));
  if (store && JSON_NODE_HOLDS_OBJECT(store))
    print_store(json_node_get_object(store));
  cli_print_field("Jobs",
                  g_strdup_printf("%" G_GINT64_FORMAT " active, %" G_GINT64_FORMAT " queued",
                                  cli_number(status, "jobs-active"), cli_number(status, "jobs-queued")));
  cli_print_table("VM|DISKS>|POINTS>|LATEST|TIME|EXPORTED|DIRTY>|NEXT RUN|RESULT|FAILURES>",
                  cli_array(status, "vms"), add_row);
  print_problems(cli_array(status, "vms"));
}

static gboolean
status(Cli *cli, GError **error)
{
  g_autoptr(JsonNode) node = cli_get(cli, "/v1/status", JSON_NODE_OBJECT, error);
  if (!node)
    return FALSE;
  if (cli->json)
    cli_print_json(cli, node);
  else
    print_status(cli_object(node));
  return TRUE;
}

const CliCommand cli_status_commands[] = {
    {"status", "", "Show the daemon, its store and the vms", 0, 0, NULL, status},
    {0},
};
