/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Messages about a job. In the journal they have the fields JOB_ID and VM, so that `journalctl JOB_ID=12`
 * finds all of them; on standard error they are lines like any other. Any thread.
 */
#pragma once

#include <glib.h>
#include <syslog.h>

/* VM may be NULL: of no one vm. PRIORITY is that of syslog(3), from LOG_ERR to LOG_INFO. */
void job_log(gint64 id, const char *vm, int priority, const char *format, ...) G_GNUC_PRINTF(4, 5);

/* JOB has an id and a vm: a Job or a CatalogueJob. */
#define job_info(job, ...)    job_log((job)->id, (job)->vm, LOG_INFO, __VA_ARGS__)
#define job_message(job, ...) job_log((job)->id, (job)->vm, LOG_NOTICE, __VA_ARGS__)
/* It failed. */
#define job_error(job, ...)   job_log((job)->id, (job)->vm, LOG_ERR, __VA_ARGS__)
#define job_warning(job, ...) job_log((job)->id, (job)->vm, LOG_WARNING, __VA_ARGS__)
