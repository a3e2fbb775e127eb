/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <store/policy.h>

#include <common/error.h>
#include <common/name.h>

static const char *const result_names[] = {
    [STORE_POLICY_NEVER] = NULL,    [STORE_POLICY_RUNNING] = "running",     [STORE_POLICY_DONE] = "done",
    [STORE_POLICY_ERROR] = "error", [STORE_POLICY_CANCELLED] = "cancelled",
};

StorePolicy *
store_policy_new(const char *vm)
{
  StorePolicy *policy = g_new0(StorePolicy, 1);
  policy->vm = g_strdup(vm);
  policy->bitmap = g_strdup("default");
  policy->gc = TRUE;
  policy->enabled = TRUE;
  return policy;
}

void
store_policy_free(StorePolicy *policy)
{
  if (!policy)
    return;
  g_free(policy->vm);
  g_free(policy->bitmap);
  g_free(policy->last_error);
  g_free(policy);
}

gboolean
store_policy_check(const StorePolicy *policy, GError **error)
{
  const char *wrong = NULL;
  if (!cbt_name_is_valid(policy->bitmap))
    wrong = "bitmap";
  else if (policy->speed > STORE_POLICY_COUNT_MAX ||
           (policy->speed > 0 && policy->speed < STORE_POLICY_SPEED_MIN))
    wrong = "speed";
  else if (policy->verify_share > STORE_POLICY_VERIFY_SHARE_MAX)
    wrong = "verify-share";
  for (guint i = 0; i < STORE_RETENTION_N_NUMBERS && !wrong; i++)
    if (policy->retention.numbers[i] > STORE_POLICY_COUNT_MAX)
      wrong = store_retention_rule_name(i);
  if (!wrong)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "'%s' is not possible", wrong);
  return FALSE;
}

const char *
store_policy_result_name(StorePolicyResult result)
{
  return result_names[result];
}

gboolean
store_policy_result_parse(const char *text, StorePolicyResult *result)
{
  for (guint i = 0; i < G_N_ELEMENTS(result_names); i++)
    if (g_strcmp0(text, result_names[i]) == 0) {
      *result = (StorePolicyResult) i;
      return TRUE;
    }
  return FALSE;
}

/* g_str_hash() of names that differ in their last digit differs by one: the multiplication (by 2^64 divided
 * by the golden ratio) puts these far from each other. */
gint64
store_policy_jitter(const StorePolicy *policy, gint64 jitter_max)
{
  gint64 most = MIN(jitter_max, store_schedule_period(&policy->schedule) / 10);
  guint64 spread = (g_str_hash(policy->vm) * G_GUINT64_CONSTANT(0x9E3779B97F4A7C15)) >> 32;
  return (gint64) ((double) spread / 4294967296.0 * (double) most);
}

gint64
store_policy_due(const StorePolicy *policy, gint64 now, gint64 jitter_max, GTimeZone *zone)
{
  if (!policy->enabled)
    return 0;
  gint64 due = store_schedule_next(&policy->schedule, MIN(policy->done_until, now), zone) +
               store_policy_jitter(policy, jitter_max);
  return policy->next_retry != 0 ? MIN(due, policy->next_retry) : due;
}

/* A run notes an instant before its beginning as done: one that is later was noted by a restart. */
gint64
store_policy_wanted(const StorePolicy *policy, gint64 good, gint64 created, gint64 jitter_max, GTimeZone *zone)
{
  if (!policy->enabled)
    return 0;
  gint64 since = good != 0 ? good : created;
  if (policy->done_until > policy->last_run)
    since = MAX(since, policy->done_until);
  return store_schedule_next(&policy->schedule, since, zone) + store_policy_jitter(policy, jitter_max);
}

gboolean
store_policy_follow_clock(StorePolicy *policy, gint64 now)
{
  gboolean far = policy->next_retry > now + STORE_POLICY_RETRY_MAX;
  if (policy->done_until <= now && !far)
    return FALSE;
  policy->done_until = MIN(policy->done_until, now);
  if (far)
    policy->next_retry = now;
  return TRUE;
}

static void
set_result(StorePolicy *policy, StorePolicyResult result, const char *why)
{
  g_autofree char *error = g_strdup(why);
  g_free(policy->last_error);
  policy->last_error = g_steal_pointer(&error);
  policy->last_result = result;
  policy->next_retry = 0;
}

void
store_policy_restart(StorePolicy *policy, gint64 now)
{
  policy->done_until = now;
  policy->n_failures = 0;
  policy->next_retry = 0;
}

void
store_policy_upkeep_failed(StorePolicy *policy, const char *why)
{
  if (policy->last_result != STORE_POLICY_DONE) /* another run has begun */
    return;
  set_result(policy, STORE_POLICY_ERROR, why);
  policy->n_failures = 1;
}

/* What the schedule asks for later than this has its jitter still before it. */
void
store_policy_begin(StorePolicy *policy, gint64 now, gint64 jitter_max)
{
  policy->done_until = now - store_policy_jitter(policy, jitter_max);
  policy->last_run = now;
  policy->last_job = 0;
  policy->n_removed = 0;
  set_result(policy, STORE_POLICY_RUNNING, NULL);
}

void
store_policy_done(StorePolicy *policy)
{
  set_result(policy, STORE_POLICY_DONE, NULL);
  policy->n_failures = 0;
}

void
store_policy_cancelled(StorePolicy *policy, const char *why)
{
  set_result(policy, STORE_POLICY_CANCELLED, why);
}

void
store_policy_interrupted(StorePolicy *policy, gint64 now, const char *why)
{
  set_result(policy, STORE_POLICY_CANCELLED, why);
  policy->next_retry = now;
}

void
store_policy_failed(StorePolicy *policy, gint64 now, gint64 jitter_max, GTimeZone *zone, const char *why)
{
  set_result(policy, STORE_POLICY_ERROR, why);
  gint64 delay = STORE_POLICY_RETRY_MIN << MIN(policy->n_failures, 6);
  gint64 retry = now + MIN(delay, STORE_POLICY_RETRY_MAX);
  gint64 next = store_schedule_next(&policy->schedule, MIN(policy->done_until, now), zone) +
                store_policy_jitter(policy, jitter_max);
  policy->n_failures++;
  policy->next_retry = retry < next ? retry : 0;
}
