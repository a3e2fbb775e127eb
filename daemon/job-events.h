/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who follows jobs: each client gets an event `progress` when a job has changed, at most a few a second, and
 * an event `end` with the finished job, the last of its stream. A client that leaves, or reads nothing for
 * long, ends its stream; the job does not notice.
 *
 * Threads: main only.
 */
#pragma once

#include <daemon/job.h>

JobEvents *job_events_new(void);
/* Cuts off those that are left. */
void job_events_free(JobEvents *events);
/* Answers REQUEST with the events of JOB. */
void job_events_follow(JobEvents *events, Job *job, ApiRequest *request);
/* Answers REQUEST with the end of a job, JSON, that is no longer in memory. */
void job_events_tell_end(JobEvents *events, const char *json, ApiRequest *request);
/* JOB has begun or ended: its followers need not wait. */
void job_events_changed(JobEvents *events, const Job *job);
