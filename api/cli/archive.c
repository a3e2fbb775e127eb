/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* archive: a recovery point as one portable file, made by the daemon; or on standard output. */
#include "output.h"

#include <unistd.h>

static JsonObject *
make_body(Cli *cli, const char *format, const char *output, GError **error)
{
  guint64 speed = 0;
  gboolean has_speed;
  if (!cli_option_speed(cli, &speed, &has_speed, error))
    return NULL;
  JsonObject *body = json_object_new();
  g_autofree char *absolute = cli_absolute(output);
  json_object_set_string_member(body, "format", format);
  json_object_set_string_member(body, "path", absolute);
  if (has_speed)
    json_object_set_int_member(body, "speed", (gint64) speed);
  return body;
}

static gboolean
write_to_stdout(Cli *cli, const char *format, GError **error)
{
  guint64 speed = 0;
  gboolean has_speed;
  if (cli->json) {
    cli_set_usage(error, "--json and the archive cannot both go to standard output");
    return FALSE;
  }
  if (isatty(STDOUT_FILENO)) {
    cli_set_usage(error, "An archive is nothing for a terminal: send it to a pipe or a file");
    return FALSE;
  }
  if (!cli_option_speed(cli, &speed, &has_speed, error))
    return FALSE;
  g_autofree char *path = cli_path(error, "/v1/points/%s/archive", cli_arg(cli, 0));
  if (!path)
    return FALSE;
  g_autofree char *format_escaped = g_uri_escape_string(format, NULL, FALSE);
  g_autofree char *query =
      g_strdup_printf("%s?format=%s&speed=%" G_GUINT64_FORMAT, path, format_escaped, speed);
  g_autoptr(ApiClient) client = api_client_new(cli->socket_path);
  gboolean ok = api_client_stream(client, query, STDOUT_FILENO, error);
  if (!ok)
    cli_end_if_nobody_reads();
  return ok;
}

static gboolean
archive(Cli *cli, GError **error)
{
  const char *format = cli_option(cli, "format"), *output = cli_option(cli, "output");
  if (!output || *output == '\0') {
    cli_set_usage(error, "Say where the archive goes: --output FILE, or - for standard output");
    return FALSE;
  }
  if (g_str_equal(output, "-"))
    return write_to_stdout(cli, format ? format : "vma", error);
  g_autofree char *path = cli_path(error, "/v1/points/%s/archive", cli_arg(cli, 0));
  JsonObject *body = path ? make_body(cli, format ? format : "vma", output, error) : NULL;
  return body && cli_run_job(cli, cli_call(cli, "POST", path, body, error), error);
}

static const CliOption options[] = {
    {"format", "FORMAT", FALSE, "vma, the archive of Proxmox VE (default)"},
    {"output", "FILE", FALSE, "the file to make, compressed if it ends in .zst; - is standard output"},
    {"speed", "SIZE", FALSE, "at most so many bytes of the disks a second (64K or more; 0: no limit)"},
    {"chain", NULL, FALSE, NULL},
    {"no-wait", NULL, FALSE, "print the job and leave it running"},
    {0},
};

const CliCommand cli_archive_commands[] = {
    {"archive", "POINT [--format vma] --output FILE|- [--speed SIZE] [--no-wait]",
     "Write a recovery point into one portable file", 1, 1, options, archive},
    {0},
};
