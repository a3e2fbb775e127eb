/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the daemon has done since it started, counted for /metrics. Counters begin at zero with each start,
 * which is how Prometheus expects it. Threads: main only.
 */
#pragma once

#include <api/prometheus.h>
#include <daemon/job.h>

typedef struct Metrics Metrics;

Metrics *metrics_new(void);
void metrics_free(Metrics *metrics);

/* JOB has ended. */
void metrics_note_job(Metrics *metrics, const Job *job);
/* The families of jobs. What the jobs of ACTIVE (of Job) have done so far is counted in. */
void metrics_put_jobs(const Metrics *metrics, const GPtrArray *active, ApiPrometheus *text);
/* The families of this process, by the names that Prometheus's own clients give them. */
void metrics_put_process(ApiPrometheus *text);
