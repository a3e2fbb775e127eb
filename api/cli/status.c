/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* status: what needs attention first, then the vms, then the rest. */
#include "output.h"

#include <stdio.h>

/* ---- what needs attention ---- */

static void
print_attention(JsonArray *attention)
{
  gboolean colour = cli_has_colour();
  for (guint i = 0; attention && i < json_array_get_length(attention); i++) {
    JsonObject *found = cli_object(json_array_get_element(attention, i));
    gboolean fails = g_strcmp0(cli_text(found, "level"), "fail") == 0;
    const char *text = cli_text(found, "text"), *hint = cli_text(found, "hint");
    if (colour)
      fputs(fails ? CLI_RED : CLI_YELLOW, stdout);
    cli_print_field(fails ? "Problem" : "Warning", g_strdup(text ? text : "-"));
    if (colour)
      fputs(CLI_RESET, stdout);
    cli_print_field("", g_strdup(hint));
  }
}

/* ---- the vms ---- */

/* NULL if it has none. */
static JsonObject *
policy_of(JsonObject *vm)
{
  JsonNode *policy = json_object_get_member(vm, "policy");
  return policy && JSON_NODE_HOLDS_OBJECT(policy) ? json_node_get_object(policy) : NULL;
}

/* "3 d", "5 h", "12 min", "40 s" */
static char *
format_age(gint64 seconds)
{
  static const struct {
    gint64 from, unit;
    const char *name;
  } units[] = {{2 * 86400, 86400, "d"}, {2 * 3600, 3600, "h"}, {120, 60, "min"}, {0, 1, "s"}};
  guint i = 0;
  while (seconds < units[i].from && units[i].from > 0)
    i++;
  return g_strdup_printf("%" G_GINT64_FORMAT " %s", MAX(seconds, 0) / units[i].unit, units[i].name);
}

/* The time of KEY as an age, by the clock of the daemon; NULL if it has none. */
static char *
format_age_of(JsonObject *vm, const char *key, gint64 now)
{
  gint64 time = cli_number(vm, key);
  return time > 0 ? format_age(now - time) : NULL;
}

/* The age against what the policy allows: "40 min of 60 min". */
static char *
format_good(JsonObject *vm, gint64 now)
{
  gint64 good = cli_number(vm, "good-time"), wanted = cli_number(vm, "wanted-time");
  g_autofree char *age = format_age_of(vm, "good-time", now);
  if (!age || wanted <= good)
    return g_steal_pointer(&age);
  g_autofree char *allowed = format_age(wanted - good);
  return g_strdup_printf("%s of %s", age, allowed);
}

/* The states of its bitmaps, each once; NULL: none is known. */
static char *
format_bitmaps(JsonObject *vm)
{
  JsonArray *bitmaps = cli_array(vm, "bitmaps");
  g_autoptr(GPtrArray) states = g_ptr_array_new();
  for (guint i = 0; bitmaps && i < json_array_get_length(bitmaps); i++) {
    const char *state = cli_text(cli_object(json_array_get_element(bitmaps, i)), "state");
    if (state && !g_ptr_array_find_with_equal_func(states, state, g_str_equal, NULL))
      g_ptr_array_add(states, (char *) state);
  }
  g_ptr_array_add(states, NULL);
  return states->len > 1 ? g_strjoinv(",", (char **) states->pdata) : NULL;
}

static char *
format_next_run(JsonObject *vm)
{
  JsonObject *policy = policy_of(vm);
  if (!policy)
    return NULL;
  if (cli_true(policy, "enabled"))
    return cli_format_time(policy, "next-run");
  return g_strdup(cli_text(policy, "schedule") ? "disabled" : "damaged");
}

static void
print_vms(JsonArray *vms, gint64 now)
{
  g_autoptr(CliTable) table =
      cli_table_new("VM|HEALTH|POINTS>|GOOD POINT|AGE>|NEXT RUN|DIRTY>|EXPORTED|BITMAPS|VERIFIED>|JOB>");
  for (guint i = 0; vms && i < json_array_get_length(vms); i++) {
    JsonObject *vm = cli_object(json_array_get_element(vms, i));
    cli_table_add(table, cli_format_text(vm, "name"));
    cli_table_add(table, cli_format_text(vm, "health"));
    cli_table_add(table, cli_format_number(vm, "points"));
    cli_table_add(table, cli_format_short(vm, "good"));
    cli_table_add(table, format_good(vm, now));
    cli_table_add(table, format_next_run(vm));
    cli_table_add(table, cli_format_size(vm, "dirty"));
    cli_table_add(table, cli_format_yes(vm, "exported"));
    cli_table_add(table, format_bitmaps(vm));
    cli_table_add(table, format_age_of(vm, "verified-time", now));
    cli_table_add(table, cli_format_number(vm, "job"));
  }
  cli_table_print(table);
}

/* Why whole disks were last read, where nobody asked for it. */
static void
print_fulls(JsonArray *vms)
{
  for (guint i = 0; vms && i < json_array_get_length(vms); i++) {
    JsonObject *vm = cli_object(json_array_get_element(vms, i));
    const char *reason = cli_text(vm, "full-reason"), *name = cli_text(vm, "name");
    g_autofree char *time = cli_format_time(vm, "full-time");
    if (reason && time)
      cli_print_field("Last full", g_strdup_printf("of vm %s, %s: %s", name ? name : "-", time, reason));
  }
}

/* ---- the rest ---- */

static void
print_store(JsonObject *store)
{
  g_autofree char *bytes = cli_format_size(store, "bytes"), *space = cli_format_size(store, "free");
  g_autofree char *chunks = cli_format_number(store, "chunks"), *packs = cli_format_number(store, "packs");
  cli_print_field("Store", g_strdup_printf("%s in %s chunks, %s packs; %s free", bytes ? bytes : "-",
                                           chunks ? chunks : "-", packs ? packs : "-", space ? space : "-"));
}

static void
print_status(JsonObject *status)
{
  JsonNode *store = json_object_get_member(status, "store");
  JsonArray *vms = cli_array(status, "vms");
  print_attention(cli_array(status, "attention"));
  print_vms(vms, cli_number(status, "time"));
  print_fulls(vms);
  if (store && JSON_NODE_HOLDS_OBJECT(store))
    print_store(json_node_get_object(store));
  cli_print_field("Jobs",
                  g_strdup_printf("%" G_GINT64_FORMAT " active, %" G_GINT64_FORMAT " queued",
                                  cli_number(status, "jobs-active"), cli_number(status, "jobs-queued")));
  g_autofree char *up = format_age(cli_number(status, "uptime"));
  const char *version = cli_text(status, "version"), *state = cli_text(status, "state-dir");
  cli_print_field("Daemon", g_strdup_printf("version %s, up for %s, state in %s", version ? version : "-", up,
                                            state ? state : "-"));
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
    {"status", "", "Show what needs attention, the vms, and the store", 0, 0, NULL, status,
     "cbt-backup status"},
    {0},
};
