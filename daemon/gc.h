/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The job that collects garbage (store/gc.h). All other jobs may run beside it; of its own kind there is one at
 * a time.
 */
#pragma once

#include <daemon/job.h>

/* (transfer full) */
Job *gc_job_new(void);
