/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The jobs that a policy has done when backup and prune are done. Main thread. */
#pragma once

#include <daemon/job.h>

/* Verifies SHARE percent (1 to 100) of VM's points, those that were not for the longest time (transfer full). NULL without
 * an error: it has none. */
Job *policy_verify_job_new(Daemon *daemon, const char *vm, guint share, GError **error) G_GNUC_WARN_UNUSED_RESULT;
