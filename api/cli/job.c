/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* job list, show, cancel, wait; and what a job looks like. */
#include "output.h"

#include <common/size.h>
#include <stdio.h>
#include <string.h>

#define DEFAULT_LIMIT "100" /* as that of the API */

static gint64
duration(JsonObject *job)
{
  return MAX(0, cli_number(job, "end-time") - cli_number(job, "start-time"));
}

/* TEXT, or what stands for a text that is missing. */
static const char *
shown(const char *text)
{
  return text ? text : "-";
}

static void
print_backup(JsonObject *job)
{
  g_autofree char *dirty = cli_format_size(job, "dirty"), *total = cli_format_size(job, "total");
  g_autofree char *stored = cli_format_size(job, "stored"), *reused = cli_format_size(job, "reused");
  g_autofree char *zero = cli_format_size(job, "zero-bytes"), *time = cli_format_duration(duration(job));
  printf("%s: %s %s %s\n", shown(cli_text(job, "vm")), shown(cli_text(job, "kind")),
         shown(cli_text(job, "type")), shown(cli_text(job, "uuid")));
  printf("  %s dirty of %s: %s stored, %s reused, %s zero, in %s\n", shown(dirty), shown(total),
         shown(stored), shown(reused), shown(zero), time);
}

/* What the job has to say of how it went; of a running QEMU, what is left there for somebody to look at. */
static void
print_notes(JsonObject *job)
{
  JsonNode *node = json_object_get_member(job, "notes");
  JsonArray *notes = node && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;
  for (guint i = 0; notes && i < json_array_get_length(notes); i++) {
    JsonNode *note = json_array_get_element(notes, i);
    if (JSON_NODE_HOLDS_VALUE(note) && json_node_get_value_type(note) == G_TYPE_STRING)
      printf("  Note: %s\n", json_node_get_string(note));
  }
}

/* That nobody was asked to freeze anything is not worth a line. */
static void
print_consistency(JsonObject *job)
{
  const char *consistency = cli_text(job, "consistency"), *why = cli_text(job, "consistency-reason");
  gint64 frozen_ms = cli_number(job, "frozen-ms");
  if (consistency && why)
    printf("  Consistency: %s, because: %s\n", consistency, why);
  else if (consistency && frozen_ms > 0)
    printf("  Consistency: %s, frozen for %" G_GINT64_FORMAT " ms\n", consistency, frozen_ms);
}

static gboolean
makes_point(JsonObject *job)
{
  const char *type = cli_text(job, "type");
  return g_strcmp0(type, "backup") == 0 || g_strcmp0(type, "import") == 0;
}

static gboolean
is_of_type(JsonObject *job, const char *type)
{
  return g_strcmp0(cli_text(job, "type"), type) == 0;
}

static void
print_done(JsonObject *job)
{
  g_autofree char *bytes = cli_format_size(job, "transferred"), *time = cli_format_duration(duration(job));
  if (makes_point(job))
    print_backup(job);
  else if (is_of_type(job, "verify"))
    cli_print_verify(job);
  else if (is_of_type(job, "gc"))
    cli_print_gc(job);
  else
    printf("%s: %s done, %s in %s\n", shown(cli_text(job, "vm")), shown(cli_text(job, "type")), shown(bytes),
           time);
  if (cli_text(job, "reason"))
    printf("  Reason: %s\n", cli_text(job, "reason"));
  print_consistency(job);
  print_notes(job);
}

/* For scripts: the uuid of the new point, or the number of the job that is left running. */
static void
print_quietly(JsonObject *job, gboolean is_done)
{
  if (!is_done)
    printf("%" G_GINT64_FORMAT "\n", cli_number(job, "id"));
  else if (makes_point(job))
    puts(shown(cli_text(job, "uuid")));
}

void
cli_print_job(Cli *cli, JsonNode *node)
{
  JsonObject *job = cli_object(node);
  gboolean is_done = g_strcmp0(cli_text(job, "status"), "done") == 0;
  if (cli->json)
    cli_print_json(cli, node);
  else if (cli->quiet)
    print_quietly(job, is_done);
  else if (is_done || (is_of_type(job, "verify") && cli_array(job, "damaged")))
    print_done(job); /* a verify that found damage is what people want to see */
  else
    printf("Job %" G_GINT64_FORMAT ", %s of %s, is %s\n", cli_number(job, "id"), shown(cli_text(job, "type")),
           shown(cli_text(job, "vm")), shown(cli_text(job, "status")));
}

gboolean
cli_run_job(Cli *cli, JsonNode *job, GError **error)
{
  g_autoptr(JsonNode) owned = job;
  if (!job)
    return FALSE;
  if (!cli_flag(cli, "no-wait"))
    return cli_wait_job(cli, job, TRUE, error);
  cli_print_job(cli, job);
  return TRUE;
}

static void
add_row(CliTable *table, JsonObject *job)
{
  cli_table_add(table, cli_format_number(job, "id"));
  cli_table_add(table, cli_format_text(job, "type"));
  cli_table_add(table, cli_format_text(job, "vm"));
  cli_table_add(table, cli_format_text(job, "status"));
  cli_table_add(table, cli_format_time(job, "start-time"));
  cli_table_add(table, cli_number(job, "end-time") > 0 ? cli_format_duration(duration(job)) : NULL);
  cli_table_add(table, cli_format_size(job, "transferred"));
  cli_table_add(table, cli_format_short(job, "uuid"));
  cli_table_add(table, cli_format_text(job, "errmsg"));
}

static char *
list_path(Cli *cli, GError **error)
{
  const char *vm = cli_option(cli, "vm"), *limit = cli_option(cli, "limit");
  if (vm && !cli_check_name("Vm", vm, error))
    return NULL;
  if (limit && !g_ascii_string_to_unsigned(limit, 10, 0, G_MAXUINT, NULL, NULL)) {
    cli_set_usage(error, "--limit: '%s' is no whole number", limit);
    return NULL;
  }
  const char *format = vm ? "/v1/jobs?limit=%s&vm=%s" : "/v1/jobs?limit=%s";
  return cli_path(error, format, limit ? limit : DEFAULT_LIMIT, vm);
}

static gboolean
list(Cli *cli, GError **error)
{
  g_autofree char *path = list_path(cli, error);
  return cli_list(cli, path, "JOB>|TYPE|VM|STATUS|START|TIME>|BYTES>|POINT|PROBLEM", add_row, error);
}

/* "/v1/jobs/ID" of the first argument. */
static char *
job_path(Cli *cli, GError **error)
{
  guint64 id;
  if (!g_ascii_string_to_unsigned(cli_arg(cli, 0), 10, 0, G_MAXINT64, &id, NULL)) {
    cli_set_usage(error, "'%s' is not the number of a job", cli_arg(cli, 0));
    return NULL;
  }
  return g_strdup_printf("/v1/jobs/%" G_GUINT64_FORMAT, id);
}

static void
print_fields(JsonObject *job)
{
  static const struct {
    const char *label, *key;
    char *(*format)(JsonObject *, const char *);
  } fields[] = {
      {"Job", "id", cli_format_number},        {"Type", "type", cli_format_text},
      {"Kind", "kind", cli_format_text},       {"Vm", "vm", cli_format_text},
      {"Trigger", "trigger", cli_format_text}, {"Status", "status", cli_format_text},
      {"Problem", "errmsg", cli_format_text},  {"Hint", "hint", cli_format_text},
      {"Reason", "reason", cli_format_text},   {"Started", "start-time", cli_format_time},
      {"Ended", "end-time", cli_format_time},  {"Total", "total", cli_format_size},
      {"Dirty", "dirty", cli_format_size},     {"Transferred", "transferred", cli_format_size},
      {"Zero", "zero-bytes", cli_format_size}, {"Reused", "reused", cli_format_size},
      {"Stored", "stored", cli_format_size},   {"Point", "uuid", cli_format_text},
  };
  for (guint i = 0; i < G_N_ELEMENTS(fields); i++)
    cli_print_field(fields[i].label, fields[i].format(job, fields[i].key));
  print_consistency(job);
  print_notes(job);
}

static gboolean
show(Cli *cli, GError **error)
{
  g_autofree char *path = job_path(cli, error);
  g_autoptr(JsonNode) node = cli_get(cli, path, JSON_NODE_OBJECT, error);
  if (!node)
    return FALSE;
  if (cli->json)
    cli_print_json(cli, node);
  else
    print_fields(cli_object(node));
  return TRUE;
}

static gboolean
cancel(Cli *cli, GError **error)
{
  g_autofree char *path = job_path(cli, error);
  g_autoptr(JsonNode) node = path ? cli_call(cli, "DELETE", path, NULL, error) : NULL;
  if (!node)
    return FALSE;
  cli_print_done(cli, node, "Job %s is being cancelled", cli_arg(cli, 0));
  return TRUE;
}

static gboolean
wait_for(Cli *cli, GError **error)
{
  g_autofree char *path = job_path(cli, error);
  g_autoptr(JsonNode) node = cli_get(cli, path, JSON_NODE_OBJECT, error);
  return node && cli_wait_job(cli, node, FALSE, error);
}

static const CliOption list_options[] = {
    {"vm", "NAME", FALSE, "only those of this vm"},
    {"limit", "N", FALSE, "at most so many (default 100)"},
    {0},
};

const CliCommand cli_job_commands[] = {
    {"job list", "[--vm NAME] [--limit N]", "List jobs, newest first", 0, 0, list_options, list,
     "cbt-backup job list\n"
     "cbt-backup job list --vm web --limit 10"},
    {"job show", "ID", "Show a job", 1, 1, NULL, show,
     "cbt-backup job show 12"},
    {"job cancel", "ID", "Cancel a job", 1, 1, NULL, cancel,
     "cbt-backup job cancel 12"},
    {"job wait", "ID", "Wait until a job has ended, and print it", 1, 1, NULL, wait_for,
     "cbt-backup job wait 12 && echo good"},
    {0},
};
