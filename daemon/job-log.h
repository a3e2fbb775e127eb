/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Messages about a job. In the journal they have the fields JOB_ID and VM, so that `journalctl JOB_ID=12`
 * finds all of them; on standard error they are lines like any other. Any thread.
 */
#pragma once

#include <glib.h>

/* VM may be NULL: of no one vm. */
void job_log(gint64 id, const char *vm, GLogLevelFlags level, const char *format, ...) G_GNUC_PRINTF(4, 5);

/* JOB has an id and a vm: a Job or a CatalogueJob. */
#define job_info(job, ...)    job_log((job)->id, (job)->vm, G_LOG_LEVEL_INFO, __VA_ARGS__)
#define job_message(job, ...) job_log((job)->id, (job)->vm, G_LOG_LEVEL_MESSAGE, __VA_ARGS__)
#define job_warning(job, ...) job_log((job)->id, (job)->vm, G_LOG_LEVEL_WARNING, __VA_ARGS__)
