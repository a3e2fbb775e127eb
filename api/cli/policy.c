/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* policy set, show, remove, list. */
#include "output.h"

#include <string.h>

static const char *const counts[] = {"keep-last",    "keep-hourly", "keep-daily",   "keep-weekly",
                                     "keep-monthly", "keep-yearly", "verify-share", NULL};

static const CliOption set_options[] = {
    {"schedule", "SCHEDULE", FALSE,
     "when: 'every 15m', 'hourly :15', 'daily 02:30,14:30' or 'weekly mon,thu 03:00', by the local clock"},
    {"keep-last", "N", FALSE, "after each backup keep the N newest points, and remove what no rule keeps"},
    {"keep-hourly", "N", FALSE, "keep the newest point of each of the last N hours that have one"},
    {"keep-daily", "N", FALSE, "the same of days; 0 takes a rule away, and without rules all is kept"},
    {"keep-weekly", "N", FALSE, "of weeks, from Monday to Sunday"},
    {"keep-monthly", "N", FALSE, "of months"},
    {"keep-yearly", "N", FALSE, "of years"},
    {"bitmap", "BITMAP", FALSE, "the bitmap to back up by (default: 'default')"},
    {"speed", "SIZE", FALSE, "read at most so many bytes a second (4K or more; 0: no limit)"},
    {"verify-share", "PERCENT", FALSE, "after each backup verify so much of the vm's points, 0 to 100"},
    {"gc", NULL, FALSE, "collect garbage when points were removed, as it is by default"},
    {"no-gc", NULL, FALSE, "do not collect garbage"},
    {"enable", NULL, FALSE, "run again; what was missed meanwhile is not caught up"},
    {"disable", NULL, FALSE, "do not run until it is enabled"},
    {0},
};

/* ---- set ---- */

/* KEY becomes true with the flag YES, false with NO. */
static gboolean
add_flags(Cli *cli, JsonObject *body, const char *key, const char *yes, const char *no, GError **error)
{
  if (cli_flag(cli, yes) && cli_flag(cli, no)) {
    cli_set_usage(error, "--%s and --%s contradict each other", yes, no);
    return FALSE;
  }
  if (cli_flag(cli, yes) || cli_flag(cli, no))
    json_object_set_boolean_member(body, key, cli_flag(cli, yes));
  return TRUE;
}

static gboolean
fill_body(Cli *cli, JsonObject *body, GError **error)
{
  guint64 speed = 0;
  gboolean has_speed;
  const char *bitmap = cli_option(cli, "bitmap");
  if ((bitmap && !cli_check_name("Bitmap", bitmap, error)) || !cli_add_counts(cli, body, counts, error) ||
      !cli_option_speed(cli, &speed, &has_speed, error) ||
      !add_flags(cli, body, "gc", "gc", "no-gc", error) ||
      !add_flags(cli, body, "enabled", "enable", "disable", error))
    return FALSE;
  if (bitmap)
    json_object_set_string_member(body, "bitmap", bitmap);
  if (has_speed)
    json_object_set_int_member(body, "speed", (gint64) speed);
  if (cli_option(cli, "schedule"))
    json_object_set_string_member(body, "schedule", cli_option(cli, "schedule"));
  if (json_object_get_size(body) > 0)
    return TRUE;
  cli_set_usage(error, "There is nothing to set; see: cbt-backup policy set --help");
  return FALSE;
}

static gboolean
set(Cli *cli, GError **error)
{
  g_autoptr(JsonObject) body = json_object_new();
  g_autofree char *path = cli_path(error, "/v1/vms/%s/policy", cli_arg(cli, 0));
  if (!path || !fill_body(cli, body, error))
    return FALSE;
  g_autoptr(JsonNode) node = cli_call(cli, "PUT", path, g_steal_pointer(&body), error);
  if (!node)
    return FALSE;
  g_autofree char *next = cli_format_time(cli_object(node), "next-run");
  const char *schedule = cli_text(cli_object(node), "schedule");
  cli_print_done(cli, node, "Policy of vm %s: %s; next run %s", cli_arg(cli, 0), schedule ? schedule : "-",
                 next ? next : "never: it is disabled");
  return TRUE;
}

/* ---- show and list ---- */

/* "last 3, daily 7" */
static char *
format_retention(JsonObject *policy)
{
  GString *text = g_string_new(NULL);
  for (const char *const *key = counts; g_str_has_prefix(*key, "keep-"); key++)
    if (cli_number(policy, *key) > 0)
      g_string_append_printf(text, "%s%s %" G_GINT64_FORMAT, text->len > 0 ? ", " : "",
                             *key + strlen("keep-"), cli_number(policy, *key));
  return g_string_free(text->len > 0 ? text : g_string_append(text, "all"), FALSE);
}

static void
print_policy(JsonObject *policy)
{
  gint64 speed = cli_number(policy, "speed");
  cli_print_field("Vm", cli_format_text(policy, "vm"));
  cli_print_field("Schedule", cli_format_text(policy, "schedule"));
  cli_print_field("Enabled", cli_format_yes(policy, "enabled"));
  cli_print_field("Keep", format_retention(policy));
  cli_print_field("Bitmap", cli_format_text(policy, "bitmap"));
  cli_print_field("Speed", speed > 0 ? cli_format_size(policy, "speed") : NULL);
  cli_print_field("Verify", g_strdup_printf("%" G_GINT64_FORMAT " %%", cli_number(policy, "verify-share")));
  cli_print_field("Gc", cli_format_yes(policy, "gc"));
  cli_print_field("Next run", cli_format_time(policy, "next-run"));
  cli_print_field("Last run", cli_format_time(policy, "last-run"));
  cli_print_field("Result", cli_format_text(policy, "last-result"));
  cli_print_field("Problem", cli_format_text(policy, "errmsg"));
  cli_print_field("Last job", cli_format_number(policy, "last-job"));
  cli_print_field("Removed", cli_format_number(policy, "removed"));
  cli_print_field("Failures", cli_format_number(policy, "failures"));
}

static gboolean
show(Cli *cli, GError **error)
{
  g_autofree char *path = cli_path(error, "/v1/vms/%s/policy", cli_arg(cli, 0));
  g_autoptr(JsonNode) node = cli_get(cli, path, JSON_NODE_OBJECT, error);
  if (!node)
    return FALSE;
  if (cli->json)
    cli_print_json(cli, node);
  else
    print_policy(cli_object(node));
  return TRUE;
}

static void
add_row(CliTable *table, JsonObject *policy)
{
  cli_table_add(table, cli_format_text(policy, "vm"));
  gboolean is_damaged = !cli_text(policy, "schedule");
  cli_table_add(table, is_damaged ? g_strdup("damaged") : cli_format_text(policy, "schedule"));
  cli_table_add(table, is_damaged ? NULL : format_retention(policy));
  cli_table_add(table,
                cli_true(policy, "enabled") ? cli_format_time(policy, "next-run") : g_strdup("disabled"));
  cli_table_add(table, cli_format_time(policy, "last-run"));
  cli_table_add(table, cli_format_text(policy, "last-result"));
  cli_table_add(table, cli_format_number(policy, "failures"));
}

static gboolean
list(Cli *cli, GError **error)
{
  return cli_list(cli, "/v1/policies", "VM|SCHEDULE|KEEP|NEXT RUN|LAST RUN|RESULT|FAILURES>", add_row, error);
}

/* ---- remove ---- */

static gboolean
remove_policy(Cli *cli, GError **error)
{
  g_autofree char *path = cli_path(error, "/v1/vms/%s/policy", cli_arg(cli, 0));
  g_autoptr(JsonNode) node = path ? cli_call(cli, "DELETE", path, NULL, error) : NULL;
  if (!node)
    return FALSE;
  cli_print_done(cli, node, "Removed the policy of vm %s", cli_arg(cli, 0));
  return TRUE;
}

const CliCommand cli_policy_commands[] = {
    {"policy set", "NAME [--schedule SCHEDULE] [--keep-last N ...] [--verify-share PERCENT] [--disable]",
     "Back a vm up by itself at the times of a schedule, and prune it; what is not named stays as it is", 1,
     1, set_options, set,
     "cbt-backup policy set web --schedule 'daily 02:30' --keep-daily 7 --keep-weekly 4\n"
     "cbt-backup policy set web --disable"},
    {"policy show", "NAME", "Show a vm's policy, its next run, and how the last one ended", 1, 1, NULL, show,
     "cbt-backup policy show web"},
    {"policy remove", "NAME", "Take a vm's policy away; what it made stays", 1, 1, NULL, remove_policy,
     "cbt-backup policy remove web"},
    {"policy list", "", "List the policies", 0, 0, NULL, list,
     "cbt-backup policy list"},
    {0},
};
