/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A job's thread runs its function and posts its end to the main queue; all else happens on the main thread.
 */
#include <daemon/engine.h>

#include <api/json.h>
#include <daemon/job-events.h>
#include <daemon/job-log.h>
#include <daemon/metrics.h>
#include <daemon/threads.h>
#include <pthread.h>

#define MAX_REMEMBERED 64 /* ended jobs kept in memory; the catalogue has all */

typedef struct {
  Engine *engine;
  Job *job; /* reference */
  ApiRequest *request;
  guint timeout_id;
} Waiter;

struct Engine {
  Daemon *daemon;
  GPtrArray *jobs; /* of Job, oldest first */
  guint n_active;
  GHashTable *held; /* names of vms -> GCancellable of who holds them */
  gint stopping;    /* atomic: nothing new is taken */
};

Engine *
engine_new(Daemon *daemon)
{
  Engine *engine = g_new0(Engine, 1);
  engine->daemon = daemon;
  engine->jobs = g_ptr_array_new_with_free_func((GDestroyNotify) job_unref);
  engine->held = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_object_unref);
  return engine;
}

gboolean
engine_is_stopping(Engine *engine)
{
  return g_atomic_int_get(&engine->stopping) != 0;
}

void
engine_stop(Engine *engine)
{
  GHashTableIter iter;
  gpointer cancellable;
  g_atomic_int_set(&engine->stopping, TRUE);
  g_hash_table_iter_init(&iter, engine->held);
  while (g_hash_table_iter_next(&iter, NULL, &cancellable))
    g_cancellable_cancel(cancellable);
  for (guint i = 0; i < engine->jobs->len; i++) {
    Job *job = g_ptr_array_index(engine->jobs, i);
    if (!job_is_finished(job) && !engine_cancel(engine, job, NULL))
      g_assert_not_reached();
  }
  while (engine->n_active > 0)
    g_main_context_iteration(NULL, TRUE);
}

void
engine_free(Engine *engine)
{
  g_ptr_array_unref(engine->jobs);
  g_hash_table_unref(engine->held);
  g_free(engine);
}

static gboolean
save_job(Engine *engine, Job *job, GError **error)
{
  g_autoptr(JsonNode) node = job_to_json(job);
  g_autofree char *json = api_json_to_text(node);
  CatalogueJob record = {.id = job->id,
                         .type = (char *) job_type_name(job->type),
                         .vm = job->vm,
                         .status = (char *) job_status_name(job->status),
                         .json = json};
  if (!catalogue_save_job(engine->daemon->catalogue, &record, error))
    return FALSE;
  job->id = record.id;
  return TRUE;
}

/* A state that cannot be written stands in memory all the same; the next start closes what it finds
 * unfinished. */
static void
save_state(Engine *engine, Job *job)
{
  g_autoptr(GError) error = NULL;
  if (!save_job(engine, job, &error))
    job_warning(job, "cannot remember job %" G_GINT64_FORMAT ": %s", job->id, error->message);
}

/* ---- waiting
 * -------------------------------------------------------------------------------------------------- */

static void
waiter_answer(Waiter *waiter)
{
  api_request_reply(waiter->request, 200, job_to_json(waiter->job));
  g_ptr_array_remove(waiter->job->waiters, waiter);
  job_unref(waiter->job);
  g_free(waiter);
}

static gboolean
on_wait_timeout(gpointer data)
{
  waiter_answer(data);
  return G_SOURCE_REMOVE;
}

static void
answer_waiters(Job *job)
{
  while (job->waiters->len > 0) {
    Waiter *waiter = g_ptr_array_index(job->waiters, 0);
    g_source_remove(waiter->timeout_id);
    waiter_answer(waiter);
  }
}

void
engine_wait(Engine *engine, Job *job, ApiRequest *request, guint timeout_ms)
{
  if (job_is_finished(job) || timeout_ms == 0) {
    api_request_reply(request, 200, job_to_json(job));
    return;
  }
  Waiter *waiter = g_new0(Waiter, 1);
  *waiter = (Waiter){.engine = engine, .job = job_ref(job), .request = request};
  waiter->timeout_id = g_timeout_add(timeout_ms, on_wait_timeout, waiter);
  g_ptr_array_add(job->waiters, waiter);
}

/* ---- running
 * -------------------------------------------------------------------------------------------------- */

static void
forget_oldest(Engine *engine)
{
  guint n_finished = 0;
  for (guint i = engine->jobs->len; i-- > 0;)
    if (job_is_finished(g_ptr_array_index(engine->jobs, i)) && ++n_finished > MAX_REMEMBERED)
      g_ptr_array_remove_index(engine->jobs, i);
}

static const char *
who_of(const Job *job)
{
  return job->vm ? job->vm : job_type_name(job->type);
}

static void
finish_job(Engine *engine, Job *job)
{
  const char *who = who_of(job);
  job->end_time = g_get_real_time();
  if (!job->error)
    job->status = JOB_DONE;
  else if (cbt_error_code(job->error) == CBT_ERROR_CANCELLED)
    job->status = JOB_CANCELLED;
  else
    job->status = JOB_ERROR;
  metrics_note_job(engine->daemon->metrics, job);
  save_state(engine, job);
  if (job->status == JOB_ERROR)
    job_error(job, "job %" G_GINT64_FORMAT " (%s): error: %s", job->id, who, job->error->message);
  else if (job->error)
    job_message(job, "job %" G_GINT64_FORMAT " (%s): cancelled: %s", job->id, who, job->error->message);
  else
    job_info(job, "job %" G_GINT64_FORMAT " (%s): done", job->id, who);
  answer_waiters(job);
  job_events_changed(engine->daemon->job_events, job);
  if (job->on_end)
    job->on_end(job, job->on_end_data);
}

typedef struct {
  Engine *engine;
  Job *job; /* reference of the run */
  GError *error;
} Run;

static void
on_job_ended(gpointer data)
{
  Run *run = data;
  Engine *engine = run->engine;
  engine->n_active--;
  run->job->error = run->error;
  finish_job(engine, run->job);
  job_unref(run->job);
  g_free(run);
  engine_start_queued(engine);
}

static void *
job_thread(void *data)
{
  Run *run = data;
  Daemon *daemon = run->engine->daemon;
  gboolean ok = store_check_in_place(daemon->store, &run->error) &&
                run->job->func(daemon, run->job, run->job->data, &run->error);
  g_assert(ok || run->error);
  main_queue_post(daemon->queue, on_job_ended, run);
  return NULL;
}

static void
end_unstarted(Run *run, int failed)
{
  cbt_set_error_errno(&run->error, failed, "cannot start a thread");
  main_queue_post(run->engine->daemon->queue, on_job_ended, run);
}

/* A job has a thread of its own, for it may change the thread's priority; it is made by one that may wait. */
static void
make_job_thread(gpointer data)
{
  pthread_t thread;
  int failed = pthread_create(&thread, NULL, job_thread, data);
  if (failed == 0)
    pthread_detach(thread);
  else
    end_unstarted(data, failed);
}

static void
start_job(Engine *engine, Job *job)
{
  Run *run = g_new0(Run, 1);
  *run = (Run){engine, job_ref(job), NULL};
  job->status = JOB_ACTIVE;
  job->start_time = g_get_real_time();
  engine->n_active++;
  save_state(engine, job);
  job_events_changed(engine->daemon->job_events, job);
  job_info(job, "job %" G_GINT64_FORMAT " (%s): %s begins", job->id, who_of(job), job_type_name(job->type));
  int failed = threads_run(engine->daemon->threads, make_job_thread, run);
  if (failed != 0)
    end_unstarted(run, failed);
}

gboolean
engine_has(Engine *engine, JobType type, const char *vm, gboolean only_queued)
{
  for (guint i = 0; i < engine->jobs->len; i++) {
    const Job *job = g_ptr_array_index(engine->jobs, i);
    if (job->type == type && (job->status == JOB_QUEUED || (!only_queued && job->status == JOB_ACTIVE)) &&
        (!vm || g_strcmp0(job->vm, vm) == 0))
      return TRUE;
  }
  return FALSE;
}

static gboolean
is_upkeep(const Job *job)
{
  return job->type == JOB_GC || job->type == JOB_VERIFY;
}

/* Jobs that are active, by what they share a limit with. */
typedef struct {
  guint n_jobs, n_gc, n_verify;
} Active;

static guint *
active_like(Active *active, const Job *job)
{
  if (!is_upkeep(job))
    return &active->n_jobs;
  return job->type == JOB_GC ? &active->n_gc : &active->n_verify;
}

static Active
count_active(Engine *engine)
{
  Active active = {0};
  for (guint i = 0; i < engine->jobs->len; i++) {
    const Job *job = g_ptr_array_index(engine->jobs, i);
    *active_like(&active, job) += job->status == JOB_ACTIVE;
  }
  return active;
}

/* Whether a vm that JOB uses is held; who holds it is to let go. */
static gboolean
waits_for_vm(Engine *engine, const Job *job)
{
  gboolean waits = FALSE;
  for (guint i = 0; i < job->vms_in_use->len; i++) {
    GCancellable *holder = g_hash_table_lookup(engine->held, job->vms_in_use->pdata[i]);
    if (holder)
      g_cancellable_cancel(holder);
    waits |= holder != NULL;
  }
  return waits;
}

static gboolean
may_start(Engine *engine, const Job *job, guint n_active)
{
  return !waits_for_vm(engine, job) && n_active < (is_upkeep(job) ? 1 : engine->daemon->config->max_jobs);
}

void
engine_start_queued(Engine *engine)
{
  Active active = count_active(engine);
  for (guint i = 0; i < engine->jobs->len; i++) {
    Job *job = g_ptr_array_index(engine->jobs, i);
    guint *n_active = active_like(&active, job);
    if (job->status != JOB_QUEUED || !may_start(engine, job, *n_active))
      continue;
    start_job(engine, job);
    ++*n_active;
  }
}

/* ---- what callers see
 * ----------------------------------------------------------------------------------------- */

Job *
engine_user_of(Engine *engine, const char *vm)
{
  for (guint i = 0; i < engine->jobs->len; i++) {
    Job *job = g_ptr_array_index(engine->jobs, i);
    if (!job_is_finished(job) && job_uses_vm(job, vm))
      return job;
  }
  return NULL;
}

gboolean
engine_hold(Engine *engine, const char *vm, GCancellable *cancellable)
{
  if (engine->stopping || engine_user_of(engine, vm) || g_hash_table_contains(engine->held, vm))
    return FALSE;
  g_hash_table_insert(engine->held, g_strdup(vm), g_object_ref(cancellable));
  return TRUE;
}

void
engine_release(Engine *engine, const char *vm)
{
  g_hash_table_remove(engine->held, vm);
  engine_start_queued(engine);
}

Job *
engine_reader_of(Engine *engine, const CbtUuid *point)
{
  for (guint i = 0; i < engine->jobs->len; i++) {
    Job *job = g_ptr_array_index(engine->jobs, i);
    if (!job_is_finished(job) && job_uses_point(job, point))
      return job;
  }
  return NULL;
}

/* BUSY if a vm that JOB uses is in use. */
static gboolean
check_vms_free(Engine *engine, const Job *job, GError **error)
{
  for (guint i = 0; i < job->vms_in_use->len; i++) {
    const char *vm = g_ptr_array_index(job->vms_in_use, i);
    const Job *other = engine_user_of(engine, vm);
    if (!other)
      continue;
    g_autofree char *hint =
        g_strdup_printf("Wait for it with: cbt-backup job wait %" G_GINT64_FORMAT, other->id);
    cbt_set_error(error, CBT_ERROR_BUSY, hint, "a %s of vm '%s' is %s already (job %" G_GINT64_FORMAT ")",
                  job_type_name(other->type), vm, job_status_name(other->status), other->id);
    return FALSE;
  }
  return TRUE;
}

Job *
engine_submit(Engine *engine, Job *job, GError **error)
{
  if (!check_vms_free(engine, job, error)) {
    job_unref(job);
    return NULL;
  }
  if (engine_is_stopping(engine))
    cbt_set_error(error, CBT_ERROR_BUSY, NULL, "the daemon is stopping");
  if (engine_is_stopping(engine) || !save_job(engine, job, error)) {
    job_unref(job);
    return NULL;
  }
  forget_oldest(engine);
  g_ptr_array_add(engine->jobs, job);
  engine_start_queued(engine);
  return job;
}

Job *
engine_find(Engine *engine, gint64 id)
{
  for (guint i = 0; i < engine->jobs->len; i++) {
    Job *job = g_ptr_array_index(engine->jobs, i);
    if (job->id == id)
      return job;
  }
  return NULL;
}

GPtrArray *
engine_list_active(Engine *engine)
{
  GPtrArray *active = g_ptr_array_new();
  for (guint i = 0; i < engine->jobs->len; i++)
    if (((const Job *) engine->jobs->pdata[i])->status == JOB_ACTIVE)
      g_ptr_array_add(active, engine->jobs->pdata[i]);
  return active;
}

void
engine_counts(Engine *engine, guint *n_active, guint *n_queued)
{
  *n_active = engine->n_active;
  *n_queued = 0;
  for (guint i = 0; i < engine->jobs->len; i++)
    *n_queued += ((Job *) g_ptr_array_index(engine->jobs, i))->status == JOB_QUEUED;
}

gboolean
engine_cancel(Engine *engine, Job *job, GError **error)
{
  if (job_is_finished(job)) {
    cbt_set_error(error, CBT_ERROR_STATE, NULL, "job %" G_GINT64_FORMAT " has ended already (%s)", job->id,
                  job_status_name(job->status));
    return FALSE;
  }
  g_cancellable_cancel(job->cancellable);
  if (job->status == JOB_QUEUED && !job_check(job, &job->error))
    finish_job(engine, job);
  return TRUE;
}
