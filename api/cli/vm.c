/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* vm add, list, show, remove. */
#include "output.h"

#include <common/size.h>

/* NAME=PATH, or NAME=NODE of a vm whose QEMU is asked. */
static JsonObject *
parse_disk(const char *text, gboolean is_live, GError **error)
{
  g_autofree char *name = NULL, *path = NULL;
  if (!cli_split_disk("disk", text, &name, &path, error))
    return NULL;
  JsonObject *disk = json_object_new();
  json_object_set_string_member(disk, "name", name);
  if (is_live)
    json_object_set_string_member(disk, "node", strchr(text, '=') + 1);
  else
    json_object_set_string_member(disk, "path", path);
  return disk;
}

static JsonArray *
parse_disks(Cli *cli, GError **error)
{
  gboolean is_live = cli_option(cli, "qmp") != NULL;
  g_autoptr(JsonArray) disks = json_array_new();
  for (const char *const *text = cli_option_values(cli, "disk"); *text; text++) {
    JsonObject *disk = parse_disk(*text, is_live, error);
    if (!disk)
      return NULL;
    json_array_add_object_element(disks, disk);
  }
  if (json_array_get_length(disks) == 0 && !is_live) {
    cli_set_usage(error, "A vm needs at least one --disk DISK=PATH, or --qmp SOCKET of a running QEMU");
    return NULL;
  }
  return g_steal_pointer(&disks);
}

static JsonArray *
parse_configs(Cli *cli)
{
  JsonArray *configs = json_array_new();
  for (const char *const *path = cli_option_values(cli, "config"); *path; path++) {
    g_autofree char *absolute = cli_absolute(*path);
    json_array_add_string_element(configs, absolute);
  }
  return configs;
}

static void
put_socket(Cli *cli, JsonObject *body, const char *key)
{
  const char *path = cli_option(cli, key);
  g_autofree char *absolute = path ? cli_absolute(path) : NULL;
  if (absolute)
    json_object_set_string_member(body, key, absolute);
}

static gboolean
add(Cli *cli, GError **error)
{
  guint64 granularity = 0;
  gboolean has_granularity;
  if (!cli_check_name("Vm", cli_arg(cli, 0), error) ||
      !cli_option_size(cli, "granularity", &granularity, &has_granularity, error))
    return FALSE;
  JsonArray *disks = parse_disks(cli, error);
  if (!disks)
    return FALSE;
  JsonObject *body = json_object_new();
  json_object_set_string_member(body, "name", cli_arg(cli, 0));
  json_object_set_array_member(body, "disks", disks);
  json_object_set_array_member(body, "configs", parse_configs(cli));
  put_socket(cli, body, "qmp");
  put_socket(cli, body, "qga");
  if (has_granularity)
    json_object_set_int_member(body, "granularity", (gint64) granularity);
  g_autoptr(JsonNode) vm = cli_call(cli, "POST", "/v1/vms", body, error);
  if (!vm)
    return FALSE;
  cli_print_done(cli, vm, "Added vm %s; back it up with: cbt-backup --full %s", cli_arg(cli, 0),
                 cli_arg(cli, 0));
  return TRUE;
}

static void
add_vm_row(CliTable *table, JsonObject *vm)
{
  JsonArray *disks = cli_array(vm, "disks");
  cli_table_add(table, cli_format_text(vm, "name"));
  cli_table_add(table, g_strdup_printf("%u", disks ? json_array_get_length(disks) : 0));
  cli_table_add(table, cbt_size_format((guint64) cli_sum(disks, "size")));
  cli_table_add(table, cli_format_number(vm, "points"));
  cli_table_add(table, cli_format_short(vm, "latest"));
  cli_table_add(table, cli_format_yes(vm, "exported"));
}

static gboolean
list(Cli *cli, GError **error)
{
  return cli_list(cli, "/v1/vms", "NAME|DISKS>|SIZE>|POINTS>|LATEST|EXPORTED", add_vm_row, error);
}

static void
add_disk_row(CliTable *table, JsonObject *disk)
{
  cli_table_add(table, cli_format_text(disk, "name"));
  cli_table_add(table, cli_format_size(disk, "size"));
  cli_table_add(table, cli_format_size(disk, "granularity"));
  cli_table_add(table, cli_format_text(disk, "path"));
  cli_table_add(table, cli_format_text(disk, "error"));
}

static void
print_configs(JsonArray *configs)
{
  for (guint i = 0; configs && i < json_array_get_length(configs); i++) {
    JsonNode *path = json_array_get_element(configs, i);
    if (JSON_NODE_HOLDS_VALUE(path) && json_node_get_value_type(path) == G_TYPE_STRING)
      cli_print_field("Config", json_node_dup_string(path));
  }
}

static gboolean
show(Cli *cli, GError **error)
{
  g_autofree char *path = cli_path(error, "/v1/vms/%s", cli_arg(cli, 0));
  g_autoptr(JsonNode) node = cli_get(cli, path, JSON_NODE_OBJECT, error);
  if (!node)
    return FALSE;
  if (cli->json) {
    cli_print_json(cli, node);
    return TRUE;
  }
  JsonObject *vm = cli_object(node);
  cli_print_field("Vm", cli_format_text(vm, "name"));
  cli_print_field("Created", cli_format_time(vm, "created"));
  if (cli_text(vm, "qmp"))
    cli_print_field("QEMU", cli_format_text(vm, "qmp"));
  if (cli_text(vm, "qga"))
    cli_print_field("Agent", cli_format_text(vm, "qga"));
  cli_print_field("Exported", cli_format_yes(vm, "exported"));
  cli_print_field("Points", cli_format_number(vm, "points"));
  cli_print_field("Latest", cli_format_text(vm, "latest"));
  print_configs(cli_array(vm, "configs"));
  cli_print_table("DISK|SIZE>|GRANULARITY>|PATH|PROBLEM", cli_array(vm, "disks"), add_disk_row);
  return TRUE;
}

static gboolean
remove_vm(Cli *cli, GError **error)
{
  g_autofree char *plain = cli_path(error, "/v1/vms/%s", cli_arg(cli, 0));
  if (!plain)
    return FALSE;
  g_autofree char *path =
      g_strconcat(plain, cli_flag(cli, "forget-points") ? "?forget-points=true" : "", NULL);
  g_autoptr(JsonNode) node = cli_call(cli, "DELETE", path, NULL, error);
  if (!node)
    return FALSE;
  cli_print_done(cli, node, "Removed vm %s, with its bitmaps and any policy; recovery points are %s", cli_arg(cli, 0),
                 cli_flag(cli, "forget-points") ? "forgotten" : "kept");
  return TRUE;
}

static const CliOption add_options[] = {
    {"disk", "DISK=PATH", TRUE, "a disk: its name, and its image file or block device; with --qmp the node, drive, "
                                "device or serial that QEMU knows it by"},
    {"config", "FILE", TRUE, "a configuration file that is kept with each recovery point"},
    {"granularity", "SIZE", FALSE, "bytes that one bit of the dirty bitmap stands for (default 64K)"},
    {"qmp", "SOCKET", FALSE, "monitor (QMP) of the running QEMU that has the disks; all of them, if none is named"},
    {"qga", "SOCKET", FALSE, "guest agent of the vm, which freezes its file systems for each recovery point"},
    {0},
};

static const CliOption remove_options[] = {
    {"forget-points", NULL, FALSE, "forget its recovery points, too"},
    {0},
};

const CliCommand cli_vm_commands[] = {
    {"vm add", "NAME (--disk DISK=PATH ... | --qmp SOCKET [--disk DISK=NODE ...]) [--qga SOCKET] [--config FILE ...] "
     "[--granularity SIZE]",
     "Register a vm with its disks, each with a bitmap 'default'", 1, 1, add_options, add,
     "cbt-backup vm add web --disk root=/var/lib/images/web.raw --config /etc/libvirt/qemu/web.xml\n"
     "cbt-backup vm add db --qmp /run/vm/db.qmp --qga /run/vm/db.qga"},
    {"vm list", "", "List the vms", 0, 0, NULL, list,
     "cbt-backup vm list\n"
     "cbt-backup --json vm list | jq -r '.[].name'"},
    {"vm show", "NAME", "Show a vm and its disks", 1, 1, NULL, show,
     "cbt-backup vm show web"},
    {"vm remove", "NAME [--forget-points]", "Forget a vm, its bitmaps and its policy; images are not touched, recovery points stay", 1, 1, remove_options,
     remove_vm,
     "cbt-backup vm remove web\n"
     "cbt-backup vm remove web --forget-points"},
    {0},
};
