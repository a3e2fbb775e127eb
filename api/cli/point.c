/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Recovery points: list, show, forget, protect, unprotect, note. */
#include "output.h"

#include <common/size.h>

/* When it was last found good; a point whose last verify found damage says so. */
static char *
format_verified(JsonObject *point)
{
  return cli_number(point, "damaged") > 0 ? g_strdup("DAMAGED") : cli_format_time(point, "verified");
}

static void
add_point_row(CliTable *table, JsonObject *point)
{
  JsonArray *disks = cli_array(point, "disks");
  cli_table_add(table, cli_format_short(point, "uuid"));
  cli_table_add(table, cli_format_text(point, "vm"));
  cli_table_add(table, cli_format_time(point, "time"));
  cli_table_add(table, cli_format_text(point, "kind"));
  cli_table_add(table, cbt_size_format((guint64) cli_sum(disks, "size")));
  cli_table_add(table, cbt_size_format((guint64) cli_sum(disks, "dirty")));
  cli_table_add(table, cbt_size_format((guint64) cli_sum(disks, "stored")));
  cli_table_add(table, g_strdup(cli_true(point, "protected") ? "yes" : NULL));
  cli_table_add(table, format_verified(point));
  cli_table_add(table, cli_format_text(point, "note"));
}

static gboolean
list(Cli *cli, GError **error)
{
  g_autofree char *path = g_strdup("/v1/points");
  if (cli_arg(cli, 0)) {
    if (!cli_check_name("Vm", cli_arg(cli, 0), error))
      return FALSE;
    g_free(path);
    path = cli_path(error, "/v1/points?vm=%s", cli_arg(cli, 0));
  }
  return cli_list(cli, path, "POINT|VM|TIME|KIND|SIZE>|DIRTY>|STORED>|PROTECTED|VERIFIED|NOTE", add_point_row, error);
}

static void
add_disk_row(CliTable *table, JsonObject *disk)
{
  cli_table_add(table, cli_format_text(disk, "name"));
  cli_table_add(table, cli_format_size(disk, "size"));
  cli_table_add(table, cli_format_size(disk, "dirty"));
  cli_table_add(table, cli_format_size(disk, "zero-bytes"));
  cli_table_add(table, cli_format_size(disk, "reused"));
  cli_table_add(table, cli_format_size(disk, "stored"));
}

static gboolean
show(Cli *cli, GError **error)
{
  g_autofree char *path = cli_path(error, "/v1/points/%s", cli_arg(cli, 0));
  g_autoptr(JsonNode) node = cli_get(cli, path, JSON_NODE_OBJECT, error);
  if (!node)
    return FALSE;
  if (cli->json) {
    cli_print_json(cli, node);
    return TRUE;
  }
  JsonObject *point = cli_object(node);
  cli_print_field("Point", cli_format_text(point, "uuid"));
  cli_print_field("Vm", cli_format_text(point, "vm"));
  cli_print_field("Time", cli_format_time(point, "time"));
  cli_print_field("Kind", cli_format_text(point, "kind"));
  cli_print_field("Reason", cli_format_text(point, "reason"));
  cli_print_field("Parent", cli_format_text(point, "parent"));
  cli_print_field("Protected", cli_format_yes(point, "protected"));
  cli_print_field("Consistency", cli_format_text(point, "consistency"));
  cli_print_field("  because", cli_format_text(point, "consistency-reason"));
  cli_print_field("Verified", cli_format_time(point, "verified"));
  cli_print_field("Damaged", cli_format_time(point, "damaged"));
  cli_print_field("Note", cli_format_text(point, "note"));
  cli_print_table("DISK|SIZE>|DIRTY>|ZERO>|REUSED>|STORED>", cli_array(point, "disks"), add_disk_row);
  return TRUE;
}

static gboolean
forget(Cli *cli, GError **error)
{
  g_autofree char *path = cli_path(error, "/v1/points/%s", cli_arg(cli, 0));
  g_autoptr(JsonNode) node = path ? cli_call(cli, "DELETE", path, NULL, error) : NULL;
  if (!node)
    return FALSE;
  const char *warning = JSON_NODE_HOLDS_OBJECT(node) ? cli_text(cli_object(node), "warning") : NULL;
  cli_print_done(cli, node, "Forgot recovery point %s%s%s", cli_arg(cli, 0), warning ? "\nWarning: " : "",
                 warning ? warning : "");
  return TRUE;
}

/* PATCHes the point with BODY (transfer full). */
static gboolean
change(Cli *cli, JsonObject *body, const char *done, GError **error)
{
  g_autoptr(JsonObject) owned = body;
  g_autofree char *path = cli_path(error, "/v1/points/%s", cli_arg(cli, 0));
  g_autoptr(JsonNode) node = path ? cli_call(cli, "PATCH", path, g_steal_pointer(&owned), error) : NULL;
  if (!node)
    return FALSE;
  cli_print_done(cli, node, "Recovery point %s is %s", cli_arg(cli, 0), done);
  return TRUE;
}

static gboolean
set_protected(Cli *cli, gboolean is_protected, GError **error)
{
  JsonObject *body = json_object_new();
  json_object_set_boolean_member(body, "protected", is_protected);
  return change(cli, body, is_protected ? "protected" : "no longer protected", error);
}

static gboolean
protect(Cli *cli, GError **error)
{
  return set_protected(cli, TRUE, error);
}

static gboolean
unprotect(Cli *cli, GError **error)
{
  return set_protected(cli, FALSE, error);
}

static gboolean
note(Cli *cli, GError **error)
{
  JsonObject *body = json_object_new();
  json_object_set_string_member(body, "note", cli_arg(cli, 1));
  return change(cli, body, "noted", error);
}

const CliCommand cli_point_commands[] = {
    {"list", "[NAME]", "List recovery points, newest first", 0, 1, NULL, list,
     "cbt-backup list\n"
     "cbt-backup list web"},
    {"show", "POINT", "Show a recovery point", 1, 1, NULL, show,
     "cbt-backup show web@latest"},
    {"forget", "POINT", "Forget a recovery point", 1, 1, NULL, forget,
     "cbt-backup forget web@7"},
    {"protect", "POINT", "Keep a recovery point from being forgotten", 1, 1, NULL, protect,
     "cbt-backup protect web@latest"},
    {"unprotect", "POINT", "Take the protection away", 1, 1, NULL, unprotect,
     "cbt-backup unprotect web@3"},
    {"note", "POINT TEXT", "Write a note to a recovery point; an empty TEXT removes it", 2, 2, NULL, note,
     "cbt-backup note web@latest 'before the upgrade'"},
    {0},
};
