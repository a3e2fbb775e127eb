/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How a recovery point comes to be: packs durable, point file durable, catalogue (invariant 3). */
#pragma once

#include <daemon/job.h>

/* Commits POINT, whose chunks were all put. ALSO (nullable) runs on the main thread right after the catalogue
 * has it. On failure, or if JOB was cancelled, no point is left; if its file cannot be removed, the log says so.
 * From the job's thread. */
gboolean commit_point(Daemon *daemon, Job *job, const StorePoint *point, void (*also)(gpointer data),
                      gpointer data, GError **error) G_GNUC_WARN_UNUSED_RESULT;
