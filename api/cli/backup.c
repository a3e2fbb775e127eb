/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* --full and --incremental. */
#include "output.h"

static gboolean
add_disks(Cli *cli, JsonObject *body, GError **error)
{
  const char *const *names = cli_option_values(cli, "disk");
  g_autoptr(JsonArray) disks = json_array_new();
  for (; *names; names++) {
    if (!cli_check_name("Disk", *names, error))
      return FALSE;
    json_array_add_string_element(disks, *names);
  }
  if (json_array_get_length(disks) > 0)
    json_object_set_array_member(body, "disks", g_steal_pointer(&disks));
  return TRUE;
}

static gboolean
add_quiesce(Cli *cli, JsonObject *body, GError **error)
{
  static const char *const levels[] = {"none", "fs", "app", NULL};
  const char *level = cli_option(cli, "quiesce");
  if (level && !g_strv_contains(levels, level)) {
    cli_set_usage(error, "--quiesce: '%s' is neither none nor fs nor app", level);
    return FALSE;
  }
  if (level)
    json_object_set_string_member(body, "quiesce", level);
  return TRUE;
}

static gboolean
add_snapshot(Cli *cli, JsonObject *body, GError **error)
{
  const char *kind = cli_option(cli, "snapshot");
  if (kind && !g_str_equal(kind, "none") && !g_str_equal(kind, "external")) {
    cli_set_usage(error, "--snapshot: '%s' is neither none nor external", kind);
    return FALSE;
  }
  if (kind)
    json_object_set_string_member(body, "snapshot", kind);
  return TRUE;
}

static gboolean
add_audit(Cli *cli, JsonObject *body, GError **error)
{
  const char *text = cli_option(cli, "audit");
  guint64 n_clusters;
  if (!text)
    return TRUE;
  if (!g_ascii_string_to_unsigned(text, 10, 0, G_MAXINT32, &n_clusters, NULL)) {
    cli_set_usage(error, "--audit: '%s' is not a number of clusters", text);
    return FALSE;
  }
  json_object_set_int_member(body, "audit", (gint64) n_clusters);
  return TRUE;
}

static gboolean
add_archive(Cli *cli, JsonObject *body, GError **error)
{
  const char *file = cli_option(cli, "archive");
  if (!file)
    return TRUE;
  if (*file == '\0' || g_str_equal(file, "-")) {
    cli_set_usage(error, "--archive names a file; for a stream: cbt-backup archive POINT --output -");
    return FALSE;
  }
  g_autofree char *absolute = cli_absolute(file);
  json_object_set_string_member(body, "archive", absolute);
  return TRUE;
}

static JsonObject *
make_body(Cli *cli, const char *kind, GError **error)
{
  g_autoptr(JsonObject) body = json_object_new();
  guint64 speed = 0;
  gboolean has_speed;
  const char *bitmap = cli_option(cli, "bitmap"), *note = cli_option(cli, "note");
  if (!add_quiesce(cli, body, error) || !add_snapshot(cli, body, error) ||
      !cli_option_speed(cli, &speed, &has_speed, error) || !add_audit(cli, body, error) ||
      !add_disks(cli, body, error) || !add_archive(cli, body, error) ||
      (bitmap && !cli_check_name("Bitmap", bitmap, error)))
    return NULL;
  json_object_set_string_member(body, "kind", kind);
  if (bitmap)
    json_object_set_string_member(body, "bitmap", bitmap);
  if (has_speed)
    json_object_set_int_member(body, "speed", (gint64) speed);
  if (note)
    json_object_set_string_member(body, "note", note);
  return g_steal_pointer(&body);
}

static gboolean
backup(Cli *cli, const char *kind, GError **error)
{
  JsonObject *body = cli_check_name("Vm", cli_arg(cli, 0), error) ? make_body(cli, kind, error) : NULL;
  if (!body)
    return FALSE;
  g_autofree char *path = cli_path(error, "/v1/vms/%s/backups", cli_arg(cli, 0));
  return cli_run_job(cli, cli_call(cli, "POST", path, body, error), error);
}

static gboolean
full(Cli *cli, GError **error)
{
  return backup(cli, "full", error);
}

static gboolean
incremental(Cli *cli, GError **error)
{
  return backup(cli, "incremental", error);
}

static const CliOption options[] = {
    {"bitmap", "BITMAP", FALSE, "the bitmap that says what changed (default 'default')"},
    {"speed", "SIZE", FALSE, "read at most so many bytes a second (4K or more; 0: no limit)"},
    {"audit", "N", FALSE,
     "compare so many clusters that the bitmap calls clean with the latest point (default 256, 0: none)"},
    {"disk", "DISK", TRUE, "back up this disk only"},
    {"note", "TEXT", FALSE, "a note for the recovery point"},
    {"no-wait", NULL, FALSE, "print the job and leave it running"},
    {"archive", "FILE", FALSE,
     "also write the point as a vma archive, a full backup's in the same pass; compressed if it ends in "
     ".zst"},
    {"quiesce", "none|fs|app", FALSE,
     "what the guest's agent does for the instant: fs: freeze its file systems; app: run its scripts, too; "
     "default fs where the vm has an agent"},
    {"snapshot", "none|external", FALSE,
     "external: of a running QEMU, overlays beside the images take what the guest writes meanwhile, "
     "and are "
     "committed"},
    {0},
};

#define ARGS                                                                                                 \
  "NAME [--bitmap BITMAP] [--speed SIZE] [--audit N] [--disk DISK ...] [--note TEXT] [--archive FILE] "      \
  "[--quiesce none|fs|app] [--snapshot none|external] [--no-wait]"

const CliCommand cli_backup_commands[] = {
    {"--full", ARGS, "Back up all data of a vm and print the finished job; with --quiet the new point's uuid",
     1, 1, options, full,
     "cbt-backup --full web\n"
     "cbt-backup --full web --archive /mnt/usb/web.vma.zst --note 'before the upgrade'"},
    {"--incremental", ARGS,
     "Back up what changed since the latest backup; a full one, with the reason, if there is none", 1, 1,
     options, incremental,
     "cbt-backup --incremental web\n"
     "cbt-backup --incremental web --speed 50M --quiesce fs"},
    {0},
};
