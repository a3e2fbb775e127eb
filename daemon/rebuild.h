/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Making the catalogue again from the files of the store: vms, recovery points, and the base of each bitmap.
 *
 * What a file says wins over the catalogue. Where a file is missing or damaged and the catalogue still has
 * what was in it, the file is written again; a damaged one is kept beside it. A damaged file of which nothing
 * else is known stays where it is, and is named. A point that has no file, and of which the store has not all
 * chunks any more, is named and left out.
 *
 * Threads: main.
 */
#pragma once

#include <daemon/daemon.h>

typedef struct {
  guint n_vms;
  guint n_points;
  guint n_damaged;     /* files that cannot be read, whatever was done about it */
  gboolean file_made;  /* the catalogue's file was gone, and was written again */
  GPtrArray *problems; /* of char *: what is not as it was, for people */
} RebuildResult;

void rebuild_result_clear(RebuildResult *result);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(RebuildResult, rebuild_result_clear)

/* BUSY while a job is queued or active. Nothing has changed if it fails, but for files that were written
 * again. */
gboolean rebuild_catalogue(Daemon *daemon, RebuildResult *result, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* At the start: does that if the catalogue is empty and the store is not, and says so in the log. */
gboolean rebuild_if_lost(Daemon *daemon, GError **error) G_GNUC_WARN_UNUSED_RESULT;
