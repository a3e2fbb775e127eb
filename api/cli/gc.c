/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* gc: gives space back that no recovery point needs. And what came of it, for people. */
#include "output.h"

#include <common/size.h>
#include <stdio.h>

void
cli_print_gc(JsonObject *job)
{
  gint64 seconds = MAX(0, cli_number(job, "end-time") - cli_number(job, "start-time"));
  g_autofree char *freed = cbt_size_format((guint64) cli_number(job, "bytes-freed"));
  g_autofree char *live = cbt_size_format((guint64) cli_number(job, "bytes-live"));
  g_autofree char *copied = cbt_size_format((guint64) cli_number(job, "bytes-copied"));
  g_autofree char *time = cli_format_duration(seconds);
  g_autofree char *packs = cli_format_count(cli_number(job, "packs-removed"), "pack");
  g_autofree char *chunks = cli_format_count(cli_number(job, "chunks-live"), "chunk");
  printf("Freed %s in %s: %s removed, %s of live data copied out; in use: %s of %s\n", freed, time, packs, copied,
         chunks, live);
}

static gboolean
gc(Cli *cli, GError **error)
{
  return cli_run_job(cli, cli_call(cli, "POST", "/v1/gc", NULL, error), error);
}

static const CliOption gc_options[] = {
    {"no-wait", NULL, FALSE, "print the job and leave it running"},
    {0},
};

const CliCommand cli_gc_commands[] = {
    {"gc", "[--no-wait]", "Give the space back that no recovery point needs any more, at once; backups go on",
     0, 0, gc_options, gc,
     "cbt-backup gc"},
    {0},
};
