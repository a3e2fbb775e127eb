/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/policy-steps.h>

#include <common/bytes.h>
#include <daemon/verify.h>

/* The one that was not verified for the longest time first. */
static int
compare_verified(gconstpointer a, gconstpointer b)
{
  const StorePoint *x = *(StorePoint *const *) a, *y = *(StorePoint *const *) b;
  if (x->verified != y->verified)
    return x->verified < y->verified ? -1 : 1;
  return (x->time > y->time) - (x->time < y->time);
}

Job *
policy_verify_job_new(Daemon *daemon, const char *vm, guint share, GError **error)
{
  g_autoptr(GPtrArray) points = catalogue_list_points(daemon->catalogue, vm, error);
  if (!points || points->len == 0)
    return NULL;
  g_ptr_array_sort(points, compare_verified);
  g_ptr_array_set_size(points, (gint) cbt_div_up((guint64) points->len * share, 100));
  g_autofree char *scope = g_strdup_printf("policy of vm %s", vm);
  VerifyRequest *request = verify_request_new(scope, points);
  request->vm = g_strdup(vm);
  request->restart = TRUE; /* what was cut off comes first anyway: it was not verified */
  return verify_job_new(request);
}
