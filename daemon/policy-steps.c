/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/policy-steps.h>

#include <common/bytes.h>
#include <daemon/engine.h>
#include <daemon/gc.h>
#include <daemon/verify.h>

static void
submit(Daemon *daemon, const char *vm, Job *job)
{
  g_autoptr(GError) error = NULL;
  const char *type = job_type_name(job->type);
  job->by_policy = TRUE;
  if (!engine_submit(daemon->engine, job, &error))
    g_warning("policy of vm '%s': no %s: %s", vm, type, error->message);
}

/* The one that was not verified for the longest time first. */
static int
compare_verified(gconstpointer a, gconstpointer b)
{
  const StorePoint *x = *(StorePoint *const *) a, *y = *(StorePoint *const *) b;
  if (x->verified != y->verified)
    return x->verified < y->verified ? -1 : 1;
  return (x->time > y->time) - (x->time < y->time);
}

void
policy_verify(Daemon *daemon, const char *vm, guint share)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(GPtrArray) points = catalogue_list_points(daemon->catalogue, vm, &error);
  if (!points) {
    g_warning("policy of vm '%s': %s", vm, error->message);
    return;
  }
  g_ptr_array_sort(points, compare_verified);
  g_ptr_array_set_size(points, (gint) cbt_div_up((guint64) points->len * share, 100));
  g_autofree char *scope = g_strdup_printf("policy of vm %s", vm);
  VerifyRequest *request = verify_request_new(scope, points);
  request->vm = g_strdup(vm);
  request->restart = TRUE; /* what was cut off comes first anyway: it was not verified */
  submit(daemon, vm, verify_job_new(request));
}

void
policy_collect_garbage(Daemon *daemon, const char *vm)
{
  /* One that waits takes what was just removed with it. */
  if (!engine_has_queued(daemon->engine, JOB_GC))
    submit(daemon, vm, gc_job_new());
}
