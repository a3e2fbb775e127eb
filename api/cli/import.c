/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* import. */
#include "output.h"

static gboolean
import(Cli *cli, GError **error)
{
  const char *note = cli_option(cli, "note");
  if (!cli_check_name("Vm", cli_arg(cli, 0), error))
    return FALSE;
  g_autofree char *path = cli_path(error, "/v1/vms/%s/import", cli_arg(cli, 0));
  g_autofree char *absolute = cli_absolute(cli_arg(cli, 1));
  if (!path)
    return FALSE;
  JsonObject *body = json_object_new();
  json_object_set_string_member(body, "path", absolute);
  if (note)
    json_object_set_string_member(body, "note", note);
  return cli_run_job(cli, cli_call(cli, "POST", path, body, error), error);
}

static const CliOption options[] = {
    {"note", "TEXT", FALSE, "a note for the recovery point"},
    {"no-wait", NULL, FALSE, "print the job and leave it running"},
    {0},
};

const CliCommand cli_import_commands[] = {
    {"import", "NAME FILE [--note TEXT] [--no-wait]",
     "Make a recovery point of a VMA archive, of Proxmox VE too; the vm need not be known", 2, 2, options,
     import,
     "cbt-backup import web2 /mnt/usb/web.vma"},
    {0},
};
