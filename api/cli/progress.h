/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The progress line of a job, on standard error and only if that is a terminal. */
#pragma once

#include <json-glib/json-glib.h>

typedef struct {
  gboolean is_shown;
  gint64 last_us, last_bytes;
  double rate; /* bytes a second, smoothed */
} CliProgress;

void cli_progress_init(CliProgress *progress, gboolean is_wanted);
/* Draws the line anew for JOB. */
void cli_progress_show(CliProgress *progress, JsonObject *job);
/* The part of the line behind the name (transfer full). */
char *cli_progress_format(CliProgress *progress, gint64 bytes, gint64 total);
/* Removes the line. */
void cli_progress_end(CliProgress *progress);
