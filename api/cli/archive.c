/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* archive: a recovery point as portable files, made by the daemon; or on standard output. */
#include "output.h"

#include <string.h>
#include <unistd.h>

typedef struct {
  const char *format, *disk, *output;
  guint64 speed; /* 0: no limit */
} Wanted;

static gboolean
get_format(Cli *cli, Wanted *wanted, GError **error)
{
  wanted->format = cli_option(cli, "format");
  gboolean is_chain = cli_flag(cli, "chain");
  if (is_chain && wanted->format && strcmp(wanted->format, "qcow2") != 0) {
    cli_set_usage(error, "--chain makes qcow2 images: leave --format out");
    return FALSE;
  }
  if (is_chain)
    wanted->format = "chain";
  else if (!wanted->format)
    wanted->format = "vma";
  return TRUE;
}

static gboolean
get_disk(Cli *cli, Wanted *wanted, GError **error)
{
  const char *const *disks = cli_option_values(cli, "disk");
  wanted->disk = disks[0];
  if (!wanted->disk)
    return TRUE;
  if (!disks[1])
    return cli_check_name("Disk", wanted->disk, error);
  cli_set_usage(error, "--disk is given twice");
  return FALSE;
}

static gboolean
get_wanted(Cli *cli, Wanted *wanted, GError **error)
{
  gboolean has_speed;
  wanted->output = cli_option(cli, "output");
  if (wanted->output && *wanted->output)
    return get_format(cli, wanted, error) && get_disk(cli, wanted, error) &&
           cli_option_speed(cli, &wanted->speed, &has_speed, error);
  cli_set_usage(error, "Say where the archive goes: --output FILE, or - for standard output");
  return FALSE;
}

static JsonObject *
make_body(const Wanted *wanted)
{
  JsonObject *body = json_object_new();
  g_autofree char *absolute = cli_absolute(wanted->output);
  json_object_set_string_member(body, "format", wanted->format);
  json_object_set_string_member(body, "path", absolute);
  if (wanted->disk)
    json_object_set_string_member(body, "disk", wanted->disk);
  if (wanted->speed > 0)
    json_object_set_int_member(body, "speed", (gint64) wanted->speed);
  return body;
}

static gboolean
check_stdout(Cli *cli, const Wanted *wanted, GError **error)
{
  if (strcmp(wanted->format, "chain") == 0)
    cli_set_usage(error, "A chain is several files: --output names a folder");
  else if (cli->json)
    cli_set_usage(error, "--json and the archive cannot both go to standard output");
  else if (isatty(STDOUT_FILENO))
    cli_set_usage(error, "An archive is nothing for a terminal: send it to a pipe or a file");
  else
    return TRUE;
  return FALSE;
}

static gboolean
write_to_stdout(Cli *cli, const Wanted *wanted, GError **error)
{
  g_autofree char *path =
      check_stdout(cli, wanted, error) ? cli_path(error, "/v1/points/%s/archive", cli_arg(cli, 0)) : NULL;
  if (!path)
    return FALSE;
  g_autofree char *format = g_uri_escape_string(wanted->format, NULL, FALSE);
  g_autoptr(GString) query = g_string_new(path);
  g_string_append_printf(query, "?format=%s&speed=%" G_GUINT64_FORMAT, format, wanted->speed);
  if (wanted->disk)
    g_string_append_printf(query, "&disk=%s", wanted->disk);
  g_autoptr(ApiClient) client = api_client_new(cli->socket_path);
  if (api_client_stream(client, query->str, STDOUT_FILENO, error))
    return TRUE;
  cli_end_if_nobody_reads();
  return FALSE;
}

static gboolean
archive(Cli *cli, GError **error)
{
  Wanted wanted = {0};
  if (!get_wanted(cli, &wanted, error))
    return FALSE;
  if (strcmp(wanted.output, "-") == 0)
    return write_to_stdout(cli, &wanted, error);
  g_autofree char *path = cli_path(error, "/v1/points/%s/archive", cli_arg(cli, 0));
  return path && cli_run_job(cli, cli_call(cli, "POST", path, make_body(&wanted), error), error);
}

static const CliOption options[] = {
    {"format", "vma|raw|qcow2", FALSE,
     "vma: the archive of Proxmox VE, all disks and configs (default); raw: an image with holes; qcow2"},
    {"output", "FILE", FALSE,
     "the file to make, a vma one compressed if it ends in .zst; a folder that is there gets each disk as "
     "DISK.raw or DISK.qcow2; - is standard output"},
    {"disk", "DISK", FALSE, "of a raw or qcow2 image: which one of several disks"},
    {"chain", NULL, FALSE,
     "a qcow2 base and an overlay for each incremental up to the point, into the folder --output, which may "
     "have a part of them"},
    {"speed", "SIZE", FALSE, "at most so many bytes of the disks a second (4K or more; 0: no limit)"},
    {"no-wait", NULL, FALSE, "print the job and leave it running"},
    {0},
};

#define ARGS                                                                                                 \
  "POINT [--format vma|raw|qcow2 [--disk DISK]] --output FILE|- | --chain --output DIR [--speed SIZE] "      \
  "[--no-wait]"

const CliCommand cli_archive_commands[] = {
    {"archive", ARGS, "Write a recovery point into portable files", 1, 1, options, archive,
     "cbt-backup archive web@latest --output /mnt/usb/web.vma.zst\n"
     "cbt-backup archive web@latest --chain --output /mnt/usb/web"},
    {0},
};
