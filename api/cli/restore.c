/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* restore. */
#include "output.h"

static gboolean
add_targets(Cli *cli, JsonObject *body, GError **error)
{
  g_autoptr(JsonArray) targets = json_array_new();
  for (const char *const *text = cli_option_values(cli, "target"); *text; text++) {
    g_autofree char *disk = NULL, *path = NULL;
    if (!cli_split_disk("target", *text, &disk, &path, error))
      return FALSE;
    JsonObject *target = json_object_new();
    json_object_set_string_member(target, "disk", disk);
    json_object_set_string_member(target, "path", path);
    json_array_add_object_element(targets, target);
  }
  json_object_set_array_member(body, "targets", g_steal_pointer(&targets));
  return TRUE;
}

static JsonObject *
make_body(Cli *cli, GError **error)
{
  g_autoptr(JsonObject) body = json_object_new();
  const char *to = cli_option(cli, "to");
  if (!to == !cli_flag(cli, "target")) {
    cli_set_usage(error, "Say where to restore to: either --to DIR or --target DISK=PATH");
    return NULL;
  }
  if (to && *to == '\0') {
    cli_set_usage(error, "--to needs a folder");
    return NULL;
  }
  if (to) {
    g_autofree char *absolute = cli_absolute(to);
    json_object_set_string_member(body, "to", absolute);
  } else if (!add_targets(cli, body, error)) {
    return NULL;
  }
  if (cli_flag(cli, "in-place"))
    json_object_set_boolean_member(body, "in-place", TRUE);
  return g_steal_pointer(&body);
}

static gboolean
restore(Cli *cli, GError **error)
{
  g_autofree char *path = cli_path(error, "/v1/points/%s/restore", cli_arg(cli, 0));
  JsonObject *body = path ? make_body(cli, error) : NULL;
  return body && cli_run_job(cli, cli_call(cli, "POST", path, body, error), error);
}

static const CliOption options[] = {
    {"to", "DIR", FALSE, "write DIR/DISK.raw for each disk, and the configuration files"},
    {"target", "DISK=PATH", TRUE, "write this disk to that file or block device"},
    {"in-place", NULL, FALSE, "write into what exists, and there only what differs"},
    {"no-wait", NULL, FALSE, "print the job and leave it running"},
    {0},
};

const CliCommand cli_restore_commands[] = {
    {"restore", "POINT (--to DIR | --target DISK=PATH ...) [--in-place] [--no-wait]",
     "Write the disks of a recovery point", 1, 1, options, restore,
     "cbt-backup restore web@latest --to /srv/restore\n"
     "cbt-backup restore web@3 --target root=/var/lib/images/web.raw --in-place"},
    {0},
};
