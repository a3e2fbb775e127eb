/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* verify: are recovery points as they were backed up? And what the job has found, for people. */
#include "output.h"

#include <common/name.h>
#include <common/size.h>
#include <stdio.h>
#include <string.h>

#define ROWS_MAX 40u

/* ---- what was found ---- */

static void
add_use_row(CliTable *table, JsonObject *damage, JsonObject *use)
{
  const char *disk = cli_text(use, "disk");
  cli_table_add(table, g_strndup(cli_text(damage, "chunk") ? cli_text(damage, "chunk") : "-", 12));
  cli_table_add(table, cli_format_text(damage, "pack"));
  cli_table_add(table, cli_format_number(damage, "offset"));
  cli_table_add(table, cli_format_text(use, "vm"));
  cli_table_add(table, cli_format_short(use, "point"));
  cli_table_add(table, g_strdup(disk ? disk : cli_text(use, "config")));
  cli_table_add(table, cli_format_number(use, "offset"));
  cli_table_add(table, cli_format_number(use, "length"));
  cli_table_add(table, g_strdup(cli_true(damage, "repaired") ? "repaired" : "lost"));
}

static JsonObject *
object_at(JsonArray *array, guint i)
{
  return cli_object(json_array_get_element(array, i));
}

static void
print_uses(JsonArray *damaged)
{
  g_autoptr(CliTable) table = cli_table_new("CHUNK|PACK|AT>|VM|POINT|DISK|OFFSET>|LENGTH>|STATE");
  guint n_rows = 0, n_left = 0;
  for (guint i = 0; i < json_array_get_length(damaged); i++) {
    JsonObject *damage = object_at(damaged, i);
    JsonArray *uses = cli_array(damage, "used-by");
    for (guint u = 0; uses && u < json_array_get_length(uses); u++) {
      if (n_rows++ < ROWS_MAX)
        add_use_row(table, damage, object_at(uses, u));
      else
        n_left++;
    }
  }
  cli_table_print(table);
  if (n_left > 0)
    printf("... and %u more places; job show ID --json has them\n", n_left);
}

static void
add_point_row(CliTable *table, JsonObject *point)
{
  cli_table_add(table, cli_format_text(point, "vm"));
  cli_table_add(table, cli_format_text(point, "point"));
  cli_table_add(table, cli_format_number(point, "places"));
  cli_table_add(table, cli_format_size(point, "bytes"));
  cli_table_add(table, cli_format_text(point, "point-file"));
}

static void
print_damage(JsonObject *job)
{
  JsonArray *damaged = cli_array(job, "damaged"), *points = cli_array(job, "damaged-points");
  if (damaged && json_array_get_length(damaged) > 0)
    print_uses(damaged);
  if (points && json_array_get_length(points) > 0)
    cli_print_table("VM|DAMAGED POINT|PLACES>|BYTES>|POINT FILE", points, add_point_row);
}

void
cli_print_verify(JsonObject *job)
{
  gint64 seconds = MAX(0, cli_number(job, "end-time") - cli_number(job, "start-time"));
  g_autofree char *bytes = cbt_size_format((guint64) cli_number(job, "bytes-read"));
  g_autofree char *time = cli_format_duration(seconds), *from = cli_format_time(job, "resumed-from");
  g_autofree char *points = cli_format_count(cli_number(job, "points-verified"), "recovery point");
  g_autofree char *chunks = cli_format_count(cli_number(job, "chunks-read"), "chunk");
  print_damage(job);
  printf("%s: %s verified, %" G_GINT64_FORMAT " damaged; %s, %s, read in %s\n",
         cli_text(job, "vm") ? cli_text(job, "vm") : "all", points, cli_number(job, "points-damaged"), chunks,
         bytes, time);
  g_autofree char *damaged = cli_format_count(cli_number(job, "damaged-count"), "damaged chunk");
  if (cli_number(job, "damaged-count") > 0)
    printf("  %s, %" G_GINT64_FORMAT " repaired\n", damaged, cli_number(job, "repaired-count"));
  g_autofree char *skipped = cli_format_count(cli_number(job, "points-skipped"), "point");
  g_autofree char *unread = cli_format_count(cli_number(job, "chunks-skipped"), "chunk");
  if (from)
    printf("  Went on with the run of %s, which had verified %s and %s: these were not read again\n", from, skipped,
           unread);
  if (cli_number(job, "points-gone") > 0)
    printf("  Removed before their turn came: %" G_GINT64_FORMAT "\n", cli_number(job, "points-gone"));
}

/* ---- the command ---- */

/* A vm's name first: a point can be named in other ways. */
static gboolean
is_vm(Cli *cli, const char *text)
{
  g_autoptr(GError) error = NULL;
  if (!cbt_name_check("vm", text, NULL))
    return FALSE;
  g_autofree char *path = cli_path(&error, "/v1/points?vm=%s", text);
  g_autoptr(JsonNode) node = path ? cli_call(cli, "GET", path, NULL, &error) : NULL;
  return node != NULL;
}

static gboolean
add_what(Cli *cli, JsonObject *body, GError **error)
{
  const char *what = cli_arg(cli, 0);
  gboolean all = cli_flag(cli, "all");
  if (what && all)
    cli_set_usage(error, "--all is every point of every vm: leave '%s' out", what);
  else if (!what && !all)
    cli_set_usage(error, "Say what to verify: a recovery point, a vm (all its points), or --all");
  else if (all)
    json_object_set_boolean_member(body, "all", TRUE);
  else
    json_object_set_string_member(body, is_vm(cli, what) ? "vm" : "point", what);
  return (what != NULL) != (all != FALSE);
}

/* An image is a file that is there, or DISK=PATH; all else is for the daemon to find out. */
static gboolean
add_repair(Cli *cli, JsonObject *body, GError **error)
{
  const char *from = cli_option(cli, "from");
  if (from && !cli_flag(cli, "repair")) {
    cli_set_usage(error, "--from says where a repair takes bytes from: add --repair");
    return FALSE;
  }
  if (cli_flag(cli, "repair"))
    json_object_set_boolean_member(body, "repair", TRUE);
  if (!from)
    return TRUE;
  g_autofree char *disk = NULL, *path = NULL, *text = NULL;
  if (strchr(from, '=') && !g_file_test(from, G_FILE_TEST_EXISTS)) {
    if (!cli_split_disk("from", from, &disk, &path, error))
      return FALSE;
    text = g_strdup_printf("%s=%s", disk, path);
  } else {
    gboolean is_path = strchr(from, '/') || g_file_test(from, G_FILE_TEST_EXISTS);
    text = is_path ? cli_absolute(from) : g_strdup(from);
  }
  json_object_set_string_member(body, "from", text);
  return TRUE;
}

static gboolean
verify(Cli *cli, GError **error)
{
  g_autoptr(JsonObject) body = json_object_new();
  guint64 speed = 0;
  gboolean has_speed;
  if (!cli_option_speed(cli, &speed, &has_speed, error) || !add_repair(cli, body, error) ||
      !add_what(cli, body, error))
    return FALSE;
  if (speed > 0)
    json_object_set_int_member(body, "speed", (gint64) speed);
  if (cli_flag(cli, "restart"))
    json_object_set_boolean_member(body, "restart", TRUE);
  return cli_run_job(cli, cli_call(cli, "POST", "/v1/verify", g_steal_pointer(&body), error), error);
}

static const CliOption options[] = {
    {"all", NULL, FALSE, "every point of every vm"},
    {"speed", "SIZE", FALSE, "read at most so many bytes of the store a second (4K or more; 0: no limit)"},
    {"restart", NULL, FALSE, "do not go on where the same verify was cut off within the last day"},
    {"repair", NULL, FALSE,
     "store what is damaged again, from an older record of the same chunk if there is one, or --from"},
    {"from", "POINT|[DISK=]IMAGE", FALSE,
     "with --repair: a raw image, or another point, that may have the bytes; the digests decide"},
    {"no-wait", NULL, FALSE, "print the job and leave it running"},
    {0},
};

const CliCommand cli_verify_commands[] = {
    {"verify",
     "POINT|NAME | --all [--speed SIZE] [--repair [--from POINT|[DISK=]IMAGE]] [--restart] [--no-wait]",
     "Read recovery points and check each chunk; name what is damaged and who uses it (exit status 6)", 0, 1,
     options, verify,
     "cbt-backup verify web\n"
     "cbt-backup verify --all --speed 50M"},
    {0},
};
