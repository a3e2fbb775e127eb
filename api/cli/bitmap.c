/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* bitmap list, show, add, remove, and what changes the state of one. */
#include "output.h"

#include <string.h>

static void
add_row(CliTable *table, JsonObject *bitmap)
{
  cli_table_add(table, cli_format_text(bitmap, "name"));
  cli_table_add(table, cli_format_text(bitmap, "state"));
  cli_table_add(table, cli_format_size(bitmap, "count"));
  cli_table_add(table, cli_format_size(bitmap, "successor"));
  cli_table_add(table, cli_format_size(bitmap, "granularity"));
  cli_table_add(table, cli_format_short(bitmap, "base"));
  cli_table_add(table, cli_format_text(bitmap, "reason"));
}

static gboolean
list(Cli *cli, GError **error)
{
  g_autofree char *vm = NULL, *disk = NULL;
  if (!cli_split_target(cli_arg(cli, 0), &vm, &disk, NULL, error))
    return FALSE;
  g_autofree char *path = cli_path(error, "/v1/vms/%s/disks/%s/bitmaps", vm, disk);
  return cli_list(cli, path, "BITMAP|STATE|DIRTY>|SUCCESSOR>|GRANULARITY>|BASE|REASON", add_row, error);
}

/* ".../bitmaps/B" of the first argument, with "/ACTION" behind it if there is one. */
static char *
bitmap_path(Cli *cli, const char *action, GError **error)
{
  g_autofree char *vm = NULL, *disk = NULL, *bitmap = NULL;
  if (!cli_split_target(cli_arg(cli, 0), &vm, &disk, &bitmap, error))
    return NULL;
  g_autofree char *path = cli_path(error, "/v1/vms/%s/disks/%s/bitmaps/%s", vm, disk, bitmap);
  return path ? g_strconcat(path, action ? "/" : NULL, action, NULL) : NULL;
}

static gboolean
show(Cli *cli, GError **error)
{
  g_autofree char *path = bitmap_path(cli, NULL, error);
  g_autoptr(JsonNode) node = cli_get(cli, path, JSON_NODE_OBJECT, error);
  if (!node)
    return FALSE;
  if (cli->json) {
    cli_print_json(cli, node);
    return TRUE;
  }
  JsonObject *bitmap = cli_object(node);
  cli_print_field("Bitmap", cli_format_text(bitmap, "name"));
  cli_print_field("Disk", cli_format_text(bitmap, "disk"));
  cli_print_field("State", cli_format_text(bitmap, "state"));
  cli_print_field("Dirty", cli_format_size(bitmap, "count"));
  cli_print_field("Successor", cli_format_size(bitmap, "successor"));
  cli_print_field("Granularity", cli_format_size(bitmap, "granularity"));
  cli_print_field("Persistent", cli_format_yes(bitmap, "persistent"));
  cli_print_field("Base", cli_format_text(bitmap, "base"));
  cli_print_field("Reason", cli_format_text(bitmap, "reason"));
  cli_print_field("Lease", cli_format_text(bitmap, "lease-id"));
  cli_print_field("Lease ends", cli_format_time(bitmap, "lease-expires"));
  return TRUE;
}

static gboolean
add(Cli *cli, GError **error)
{
  g_autofree char *vm = NULL, *disk = NULL, *bitmap = NULL;
  guint64 granularity = 0;
  gboolean has_granularity;
  if (!cli_split_target(cli_arg(cli, 0), &vm, &disk, &bitmap, error) ||
      !cli_option_size(cli, "granularity", &granularity, &has_granularity, error))
    return FALSE;
  JsonObject *body = json_object_new();
  json_object_set_string_member(body, "name", bitmap);
  if (has_granularity)
    json_object_set_int_member(body, "granularity", (gint64) granularity);
  g_autofree char *path = cli_path(error, "/v1/vms/%s/disks/%s/bitmaps", vm, disk);
  g_autoptr(JsonNode) node = cli_call(cli, "POST", path, body, error);
  if (!node)
    return FALSE;
  cli_print_done(cli, node, "Added bitmap %s/%s:%s", vm, disk, bitmap);
  return TRUE;
}

static gboolean
remove_bitmap(Cli *cli, GError **error)
{
  g_autofree char *path = bitmap_path(cli, NULL, error);
  g_autoptr(JsonNode) node = path ? cli_call(cli, "DELETE", path, NULL, error) : NULL;
  if (!node)
    return FALSE;
  cli_print_done(cli, node, "Removed the bitmap");
  return TRUE;
}

/* POSTs ACTION with BODY (transfer full; may be NULL) and says what became of the bitmap. */
static gboolean
act(Cli *cli, const char *action, JsonObject *body, GError **error)
{
  g_autoptr(JsonObject) owned = body;
  g_autofree char *path = bitmap_path(cli, action, error);
  g_autoptr(JsonNode) node = path ? cli_call(cli, "POST", path, g_steal_pointer(&owned), error) : NULL;
  if (!node)
    return FALSE;
  g_autofree char *dirty = JSON_NODE_HOLDS_OBJECT(node) ? cli_format_size(cli_object(node), "count") : NULL;
  const char *state = JSON_NODE_HOLDS_OBJECT(node) ? cli_text(cli_object(node), "state") : NULL;
  const char *lease = JSON_NODE_HOLDS_OBJECT(node) ? cli_text(cli_object(node), "lease-id") : NULL;
  g_autofree char *end = lease ? cli_format_time(cli_object(node), "lease-expires") : NULL;
  if (lease)
    cli_print_done(cli, node, "The bitmap is %s; %s dirty; lease %s until %s", state ? state : "-",
                   dirty ? dirty : "-", lease, end ? end : "-");
  else
    cli_print_done(cli, node, "The bitmap is %s; %s dirty", state ? state : "-", dirty ? dirty : "-");
  return TRUE;
}

/* BODY with the option NAME, if it is given, as KEY in seconds. */
static gboolean
take_duration(Cli *cli, const char *name, const char *key, JsonObject *body, GError **error)
{
  guint64 seconds = 0;
  gboolean is_given;
  if (!cli_option_duration(cli, name, &seconds, &is_given, error))
    return FALSE;
  if (is_given)
    json_object_set_int_member(body, key, (gint64) seconds);
  return TRUE;
}

static gboolean
freeze(Cli *cli, GError **error)
{
  g_autoptr(JsonObject) body = json_object_new();
  return take_duration(cli, "lease", "lease", body, error) &&
         act(cli, "create-successor", g_steal_pointer(&body), error);
}

/* The action is the second word of the command. */
static gboolean
end_freeze(Cli *cli, GError **error)
{
  JsonObject *body = json_object_new();
  if (cli_option(cli, "lease"))
    json_object_set_string_member(body, "lease", cli_option(cli, "lease"));
  return act(cli, strchr(cli->command->name, ' ') + 1, body, error);
}

static gboolean
renew(Cli *cli, GError **error)
{
  g_autoptr(JsonObject) body = json_object_new();
  if (!cli_option(cli, "lease")) {
    cli_set_usage(error, "bitmap renew needs --lease ID");
    return FALSE;
  }
  json_object_set_string_member(body, "lease", cli_option(cli, "lease"));
  return take_duration(cli, "for", "seconds", body, error) &&
         act(cli, "renew", g_steal_pointer(&body), error);
}

/* The action is the second word of the command. */
static gboolean
change(Cli *cli, GError **error)
{
  return act(cli, strchr(cli->command->name, ' ') + 1, NULL, error);
}

static gboolean
merge(Cli *cli, GError **error)
{
  const char *from = cli_option(cli, "from");
  if (!from) {
    cli_set_usage(error, "bitmap merge needs --from BITMAP");
    return FALSE;
  }
  if (!cli_check_name("Bitmap", from, error))
    return FALSE;
  JsonObject *body = json_object_new();
  json_object_set_string_member(body, "from", from);
  return act(cli, "merge", body, error);
}

static const CliOption add_options[] = {
    {"granularity", "SIZE", FALSE, "bytes that one bit stands for (default 64K)"},
    {0},
};

static const CliOption merge_options[] = {
    {"from", "BITMAP", FALSE, "the bitmap of the same disk whose bits are added"},
    {0},
};

static const CliOption freeze_options[] = {
    {"lease", "DURATION", FALSE,
     "when to take the bitmap back if nobody ends the freeze: 1s to 7d (default 10m)"},
    {0},
};

static const CliOption end_options[] = {
    {"lease", "ID", FALSE, "only if this is the current lease; without it: whatever lease there is"},
    {0},
};

static const CliOption renew_options[] = {
    {"lease", "ID", FALSE, "the current lease, as create-successor gave it"},
    {"for", "DURATION", FALSE, "from now on: 1s to 7d (default 10m)"},
    {0},
};

#define ARGS "NAME/DISK[:BITMAP]"

const CliCommand cli_bitmap_commands[] = {
    {"bitmap list", "NAME/DISK", "List the bitmaps of a disk", 1, 1, NULL, list,
     "cbt-backup bitmap list web/root"},
    {"bitmap show", ARGS, "Show a bitmap", 1, 1, NULL, show,
     "cbt-backup bitmap show web/root:weekly"},
    {"bitmap add", ARGS " [--granularity SIZE]", "Begin another bitmap", 1, 1, add_options, add,
     "cbt-backup bitmap add web/root:weekly --granularity 1M"},
    {"bitmap remove", ARGS, "Remove a bitmap", 1, 1, NULL, remove_bitmap,
     "cbt-backup bitmap remove web/root:weekly"},
    {"bitmap clear", ARGS, "Set all of a bitmap to clean", 1, 1, NULL, change,
     "cbt-backup bitmap clear web/root:weekly"},
    {"bitmap enable", ARGS, "Let a bitmap record again", 1, 1, NULL, change,
     "cbt-backup bitmap enable web/root:weekly"},
    {"bitmap disable", ARGS, "Stop a bitmap from recording", 1, 1, NULL, change,
     "cbt-backup bitmap disable web/root:weekly"},
    {"bitmap merge", ARGS " --from BITMAP", "Add the bits of another bitmap", 1, 1, merge_options, merge,
     "cbt-backup bitmap merge web/root:weekly --from default"},
    {"bitmap create-successor", ARGS " [--lease DURATION]",
     "Freeze a bitmap under a lease; a successor records", 1, 1, freeze_options, freeze,
     "cbt-backup bitmap create-successor web/root:vendor --lease 1h"},
    {"bitmap renew", ARGS " --lease ID [--for DURATION]", "Let the lease of a frozen bitmap end later", 1, 1,
     renew_options, renew,
     "cbt-backup bitmap renew web/root:vendor --lease ID --for 2h"},
    {"bitmap abdicate", ARGS " [--lease ID]", "After a backup: the successor takes over", 1, 1, end_options,
     end_freeze,
     "cbt-backup bitmap abdicate web/root:vendor --lease ID"},
    {"bitmap reclaim", ARGS " [--lease ID]", "After a failed backup: take the successor's bits back", 1, 1,
     end_options, end_freeze,
     "cbt-backup bitmap reclaim web/root:vendor"},
    {0},
};
