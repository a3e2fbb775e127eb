/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The job that collects garbage (store/gc.h). All other jobs may run beside it; of its own kind one at a
 * time, the next one waits.
 */
#pragma once

#include <daemon/job.h>

/* (transfer full) */
Job *gc_job_new(void);
