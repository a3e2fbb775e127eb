/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The one line on a terminal that says how far a job is. */
#include "progress.h"

#include "output.h"
#include <common/size.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BAR_WIDTH 16
#define SMOOTHING 0.1 /* weight of the latest rate */

void
cli_progress_init(CliProgress *progress, gboolean is_wanted)
{
  *progress = (CliProgress){.is_shown = is_wanted && isatty(STDERR_FILENO)};
}

static guint
terminal_width(void)
{
  struct winsize size;
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

static void
update_rate(CliProgress *self, gint64 now_us, gint64 bytes)
{
  gint64 elapsed_us = now_us - self->last_us;
  if (self->last_us > 0 && elapsed_us > 0) {
    double rate = (double) MAX(0, bytes - self->last_bytes) * G_USEC_PER_SEC / (double) elapsed_us;
    self->rate = self->rate > 0 ? self->rate * (1 - SMOOTHING) + rate * SMOOTHING : rate;
  }
  self->last_us = now_us;
  self->last_bytes = bytes;
}

char *
cli_progress_format(CliProgress *self, gint64 bytes, gint64 total)
{
  double part = total > 0 ? CLAMP((double) bytes / (double) total, 0, 1) : 0;
  char bar[BAR_WIDTH + 1];
  for (int i = 0; i < BAR_WIDTH; i++)
    bar[i] = i < (int) (part * BAR_WIDTH) ? '#' : '.';
  bar[BAR_WIDTH] = '\0';
  g_autofree char *done = cbt_size_format((guint64) MAX(0, bytes)),
                  *all = cbt_size_format((guint64) MAX(0, total));
  g_autofree char *rate = cbt_size_format((guint64) self->rate);
  g_autofree char *left = self->rate >= 1 && total >= bytes
                              ? cli_format_duration((gint64) ((double) (total - bytes) / self->rate))
                              : NULL;
  return g_strdup_printf("[%s] %3d%%  %s / %s  %s/s  %s%s", bar, (int) (part * 100), done, all, rate,
                         left ? left : "", left ? " left" : "");
}

void
cli_progress_show(CliProgress *self, JsonObject *job)
{
  if (!self->is_shown)
    return;
  const char *vm = cli_text(job, "vm"), *type = cli_text(job, "type");
  gint64 dirty = cli_number(job, "dirty"), bytes = cli_number(job, "transferred");
  update_rate(self, g_get_monotonic_time(), bytes);
  g_autofree char *state =
      g_strcmp0(cli_text(job, "status"), "queued") == 0
          ? g_strdup("waiting for its turn")
          : cli_progress_format(self, bytes, dirty > 0 ? dirty : cli_number(job, "total"));
  g_autofree char *line = g_strdup_printf("%s: %s %s", vm ? vm : "-", type ? type : "job", state);
  fprintf(stderr, "\r%.*s\033[K", (int) terminal_width() - 1, line);
  fflush(stderr);
}

void
cli_progress_end(CliProgress *self)
{
  if (self->is_shown)
    fputs("\r\033[K", stderr);
}
