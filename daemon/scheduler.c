/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The catalogue is asked each time: policies are few, and it is the truth. Timers do not follow when the
 * clock is set or the host slept, so they never run for longer than RECHECK_US.
 *
 * A run is noted as `running` before its job is submitted. A daemon that dies in it finds that at its next
 * start, and counts it as a failure: whatever makes a daemon die in a backup is not tried again at once.
 */
#include <daemon/scheduler.h>

#include <daemon/backup.h>
#include <daemon/engine.h>
#include <daemon/gc.h>
#include <daemon/policy-steps.h>
#include <daemon/prune.h>
#include <daemon/task.h>

#define RECHECK_US (15 * G_USEC_PER_SEC)
#define BUSY_US    (2 * G_USEC_PER_SEC) /* until it is looked again whether a vm is free */

struct Scheduler {
  Daemon *daemon; /* constant */
  gint64 started; /* monotonic; 0: not, or no more */
  guint timer_id;
  GHashTable *runs; /* names of the vms that have one under way */
  gboolean owes_gc; /* what was pruned may not be collected yet: the last one failed, or a daemon ended before
                       it */
  char *gc_vm;      /* (nullable) the vm whose policy began the last one */
  GHashTable *damaged; /* names of the vms whose policies make no sense, and why: what the log was told of */
};

Scheduler *
scheduler_new(Daemon *daemon)
{
  Scheduler *scheduler = g_new0(Scheduler, 1);
  scheduler->daemon = daemon;
  scheduler->owes_gc = TRUE;
  scheduler->runs = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  scheduler->damaged = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
  return scheduler;
}

void
scheduler_free(Scheduler *scheduler)
{
  g_hash_table_unref(scheduler->runs);
  g_hash_table_unref(scheduler->damaged);
  g_free(scheduler->gc_vm);
  g_free(scheduler);
}

static gint64
jitter_max(const Scheduler *scheduler)
{
  return (gint64) scheduler->daemon->config->jitter * G_USEC_PER_SEC;
}

gint64
scheduler_due(const Scheduler *scheduler, const StorePolicy *policy)
{
  return store_policy_due(policy, g_get_real_time(), jitter_max(scheduler), NULL);
}

static gboolean
save(Scheduler *scheduler, const StorePolicy *policy)
{
  g_autoptr(GError) error = NULL;
  if (catalogue_save_policy(scheduler->daemon->catalogue, policy, &error))
    return TRUE;
  g_warning("%s", error->message);
  return FALSE;
}

static void set_timer(Scheduler *scheduler, gint64 delay_us);

/* ---- the catalogue ---- */

/* A policy that makes no sense keeps none of the others waiting. The log has it once, until it is another. */
static void
note_damaged(Scheduler *scheduler, GHashTable *damaged)
{
  GHashTableIter iter;
  gpointer vm, why;
  g_hash_table_iter_init(&iter, damaged);
  while (g_hash_table_iter_next(&iter, &vm, &why))
    if (g_strcmp0(g_hash_table_lookup(scheduler->damaged, vm), why) != 0)
      g_warning("%s; vm '%s' is not backed up by itself", (char *) why, (char *) vm);
  g_hash_table_unref(scheduler->damaged);
  scheduler->damaged = g_hash_table_ref(damaged);
}

/* NULL is an error that the log has. */
static GPtrArray *
list_policies(Scheduler *scheduler)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(GHashTable) damaged = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
  GPtrArray *policies = catalogue_list_policies(scheduler->daemon->catalogue, damaged, &error);
  if (policies)
    note_damaged(scheduler, damaged);
  else
    g_warning("%s", error->message);
  return policies;
}

/* ---- the end of a run ---- */

static void
note_result(Scheduler *scheduler, StorePolicy *policy, const GError *error)
{
  gint64 now = g_get_real_time();
  g_autofree char *why = error ? cbt_error_message(error) : NULL;
  if (!error)
    store_policy_done(policy);
  else if (cbt_error_code(error) != CBT_ERROR_CANCELLED)
    store_policy_failed(policy, now, jitter_max(scheduler), NULL, why);
  else if (scheduler->started)
    store_policy_cancelled(policy, why);
  else
    store_policy_interrupted(policy, now, "the daemon stopped");
  save(scheduler, policy);
  if (policy->last_result == STORE_POLICY_ERROR)
    g_warning("policy of vm '%s': failure %" G_GUINT64_FORMAT " in a row: %s", policy->vm, policy->n_failures,
              why);
}

/* ---- what comes after a run ---- */

static void
on_upkeep_ended(Job *job, gpointer data)
{
  Scheduler *scheduler = data;
  const char *vm = job->type == JOB_GC ? scheduler->gc_vm : job->vm;
  if (job->type == JOB_GC)
    scheduler->owes_gc = job->status != JOB_DONE;
  g_autoptr(StorePolicy) policy =
      job->status == JOB_ERROR ? catalogue_get_policy(scheduler->daemon->catalogue, vm, NULL) : NULL;
  if (!policy)
    return;
  g_autofree char *message = cbt_error_message(job->error);
  g_autofree char *why = g_strdup_printf("the backup is done, but the %s after it failed: %s",
                                         job_type_name(job->type), message);
  store_policy_upkeep_failed(policy, why);
  save(scheduler, policy);
}

static void
submit_upkeep(Scheduler *scheduler, const char *vm, Job *job)
{
  g_autoptr(GError) error = NULL;
  const char *type = job_type_name(job->type);
  job->by_policy = TRUE;
  job->on_end = on_upkeep_ended;
  job->on_end_data = scheduler;
  if (!engine_submit(scheduler->daemon->engine, job, &error))
    g_warning("policy of vm '%s': no %s: %s", vm, type, error->message);
}

/* One that waits or runs is enough: backups may come faster than points are read. */
static void
verify_share(Scheduler *scheduler, const StorePolicy *policy)
{
  Daemon *daemon = scheduler->daemon;
  g_autoptr(GError) error = NULL;
  if (policy->verify_share == 0 || engine_has(daemon->engine, JOB_VERIFY, policy->vm, FALSE))
    return;
  Job *job = policy_verify_job_new(daemon, policy->vm, (guint) policy->verify_share, &error);
  if (job)
    submit_upkeep(scheduler, policy->vm, job);
  else if (error)
    g_warning("policy of vm '%s': %s", policy->vm, error->message);
}

/* One that waits takes what was just removed with it. */
static void
collect_garbage(Scheduler *scheduler, const StorePolicy *policy)
{
  if (!policy->gc || (policy->n_removed == 0 && !scheduler->owes_gc) ||
      engine_has(scheduler->daemon->engine, JOB_GC, NULL, TRUE))
    return;
  g_free(scheduler->gc_vm);
  scheduler->gc_vm = g_strdup(policy->vm);
  submit_upkeep(scheduler, policy->vm, gc_job_new());
}

/* ERROR (nullable) is why it failed. The policy may be gone by now, and the vm, too. */
static void
finish_run(Scheduler *scheduler, const char *vm, guint n_removed, const GError *error)
{
  Daemon *daemon = scheduler->daemon;
  g_autoptr(StorePolicy) policy = catalogue_get_policy(daemon->catalogue, vm, NULL);
  if (policy) {
    policy->n_removed = n_removed;
    note_result(scheduler, policy, error);
    if (scheduler->started && !error)
      verify_share(scheduler, policy);
    if (scheduler->started)
      collect_garbage(scheduler, policy);
  }
  g_hash_table_remove(scheduler->runs, vm);
  set_timer(scheduler, 0);
}

/* ---- the prune ---- */

typedef struct {
  Scheduler *scheduler;
  char *vm;
  Prune *prune;
  GError *error;
} PruneStep;

static JsonNode *
run_prune(Daemon *daemon G_GNUC_UNUSED, gpointer data, guint *status G_GNUC_UNUSED,
          GError **error G_GNUC_UNUSED)
{
  PruneStep *step = data;
  if (!prune_run(step->prune, &step->error))
    g_prefix_error(&step->error, "the backup is done, but the prune failed: ");
  return NULL;
}

static void
finish_prune(gpointer data)
{
  PruneStep *step = data;
  finish_run(step->scheduler, step->vm, prune_n_removed(step->prune), step->error);
  g_clear_error(&step->error);
  prune_free(step->prune);
  g_free(step->vm);
  g_free(step);
}

static void
start_prune(Scheduler *scheduler, const StorePolicy *policy)
{
  g_autoptr(GError) error = NULL;
  Prune *prune = prune_new(scheduler->daemon, policy->vm, &policy->retention, FALSE, &error);
  if (!prune) {
    finish_run(scheduler, policy->vm, 0, error);
    return;
  }
  prune_skip_bytes(prune);
  PruneStep *step = g_new0(PruneStep, 1);
  *step = (PruneStep){scheduler, g_strdup(policy->vm), prune, NULL};
  task_run(scheduler->daemon, NULL, 0, run_prune, step, finish_prune);
}

/* ---- the backup ---- */

static void
on_backup_ended(Job *job, gpointer data)
{
  Scheduler *scheduler = data;
  g_autoptr(StorePolicy) policy = catalogue_get_policy(scheduler->daemon->catalogue, job->vm, NULL);
  gboolean prunes = policy && store_retention_has_rules(&policy->retention);
  if (!job->error && prunes && scheduler->started)
    start_prune(scheduler, policy);
  else
    finish_run(scheduler, job->vm, 0, job->error);
}

static Job *
make_job(Scheduler *scheduler, const StorePolicy *policy, GError **error)
{
  CatalogueVm *vm = catalogue_get_vm(scheduler->daemon->catalogue, policy->vm, error);
  if (!vm)
    return NULL;
  BackupRequest *request = backup_request_new(vm, TRUE, policy->bitmap);
  request->speed = policy->speed;
  request->audit = scheduler->daemon->config->audit;
  Job *job = backup_job_new(request, error);
  if (job) {
    job->by_policy = TRUE;
    job->on_end = on_backup_ended;
    job->on_end_data = scheduler;
  }
  return job;
}

static void
start_run(Scheduler *scheduler, StorePolicy *policy)
{
  g_autoptr(GError) error = NULL;
  store_policy_begin(policy, g_get_real_time(), jitter_max(scheduler));
  if (!save(scheduler, policy))
    return;
  g_hash_table_add(scheduler->runs, g_strdup(policy->vm));
  Job *job = make_job(scheduler, policy, &error);
  job = job ? engine_submit(scheduler->daemon->engine, job, &error) : NULL;
  if (!job) {
    finish_run(scheduler, policy->vm, 0, error);
    return;
  }
  policy->last_job = job->id;
  save(scheduler, policy);
}

/* ---- the timer ---- */

/* Microseconds until POLICY needs to be looked at; starts what is due. What was missed meanwhile waits for
 * its jitter as well, or all vms would begin when the daemon does. */
static gint64
look_at(Scheduler *scheduler, StorePolicy *policy)
{
  gint64 now = g_get_real_time();
  if (g_hash_table_contains(scheduler->runs, policy->vm) || !policy->enabled)
    return RECHECK_US;
  if (store_policy_follow_clock(policy, now) && !save(scheduler, policy))
    return RECHECK_US;
  gint64 early =
      scheduler->started + store_policy_jitter(policy, jitter_max(scheduler)) - g_get_monotonic_time();
  gint64 left = MAX(scheduler_due(scheduler, policy) - now, early);
  if (left > 0)
    return left;
  if (engine_user_of(scheduler->daemon->engine, policy->vm))
    return BUSY_US;
  start_run(scheduler, policy);
  return RECHECK_US;
}

static gboolean
on_timer(gpointer data)
{
  Scheduler *scheduler = data;
  gint64 next = RECHECK_US;
  scheduler->timer_id = 0;
  g_autoptr(GPtrArray) policies = list_policies(scheduler);
  for (guint i = 0; policies && i < policies->len; i++)
    next = MIN(next, look_at(scheduler, g_ptr_array_index(policies, i)));
  if (scheduler->timer_id == 0)
    set_timer(scheduler, next);
  return G_SOURCE_REMOVE;
}

static void
set_timer(Scheduler *scheduler, gint64 delay_us)
{
  if (scheduler->timer_id)
    g_source_remove(scheduler->timer_id);
  scheduler->timer_id = 0;
  if (scheduler->started)
    scheduler->timer_id = g_timeout_add((guint) ((delay_us + 999) / 1000), on_timer, scheduler);
}

void
scheduler_look_again(Scheduler *scheduler)
{
  set_timer(scheduler, 0);
}

static void
close_dead_runs(Scheduler *scheduler)
{
  g_autoptr(GPtrArray) policies = list_policies(scheduler);
  for (guint i = 0; policies && i < policies->len; i++) {
    StorePolicy *policy = g_ptr_array_index(policies, i);
    if (policy->last_result != STORE_POLICY_RUNNING)
      continue;
    store_policy_failed(policy, g_get_real_time(), jitter_max(scheduler), NULL,
                        "the daemon ended while the run was under way");
    save(scheduler, policy);
  }
}

void
scheduler_start(Scheduler *scheduler)
{
  close_dead_runs(scheduler);
  scheduler->started = g_get_monotonic_time();
  set_timer(scheduler, 0);
}

void
scheduler_stop(Scheduler *scheduler)
{
  scheduler->started = 0;
  set_timer(scheduler, 0);
}
