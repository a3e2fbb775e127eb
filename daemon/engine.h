/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The job engine: which jobs run, wait and ran. At most `max-jobs` at once, the rest queue in order; one that
 * uses a vm's images. Upkeep (verify, gc) does not count, so that no backup waits for it: of each kind one runs
 * at a time, beside the others.
 *
 * Threads: main only, but for what it starts and what says so.
 */
#pragma once

#include <daemon/job.h>

Engine *engine_new(Daemon *daemon);
/* Whether engine_stop() was called: then a job does not wait for what can wait. Any thread. */
gboolean engine_is_stopping(Engine *engine);
/* Takes no more jobs, cancels every one and waits for their threads (running the main loop meanwhile). It
 * still answers. */
void engine_stop(Engine *engine);
/* After engine_stop(), when nobody asks any more. */
void engine_free(Engine *engine);

/* Queues JOB (transfer full) and gives it its id; returns it (transfer none). BUSY if another one that
 * uses an image of the same vm is queued or active; errors of the catalogue. */
Job *engine_submit(Engine *engine, Job *job, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Starts what may start by now: `max-jobs` was raised. */
void engine_start_queued(Engine *engine);
/* One that is queued or active, or ended lately. (transfer none); NULL if it is not in memory. */
Job *engine_find(Engine *engine, gint64 id);
/* The queued or active job that uses VM's images, or NULL. */
Job *engine_user_of(Engine *engine, const char *vm);
/*
 * Keeps jobs of VM queued until engine_release(): for what nobody waits for. Cancels CANCELLABLE (a reference is taken) as
 * soon as one is submitted, or the engine stops. FALSE if a job uses the vm, or it is held already, or the engine stops.
 */
gboolean engine_hold(Engine *engine, const char *vm, GCancellable *cancellable) G_GNUC_WARN_UNUSED_RESULT;
void engine_release(Engine *engine, const char *vm);
/* The queued or active job that reads POINT, or NULL. */
Job *engine_reader_of(Engine *engine, const CbtUuid *point);
/* Whether a job of TYPE, and of VM unless that is NULL, waits for its turn, or (unless ONLY_QUEUED) is active. */
gboolean engine_has(Engine *engine, JobType type, const char *vm, gboolean only_queued);
/* Those that are active, of Job (transfer container). */
GPtrArray *engine_list_active(Engine *engine);
void engine_counts(Engine *engine, guint *n_active, guint *n_queued);
/* STATE if it has ended. */
gboolean engine_cancel(Engine *engine, Job *job, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Answers REQUEST with JOB when it has ended, or after TIMEOUT_MS. */
void engine_wait(Engine *engine, Job *job, ApiRequest *request, guint timeout_ms);
