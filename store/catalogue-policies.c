/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Policies: one row a vm, with what was asked for and what became of it. A row goes with its vm. */
#include <store/catalogue-private.h>

#include <common/error.h>

#define POLICY_COLUMNS                                                                                       \
  "vm, bitmap, schedule, keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly, speed," \
  " verify_share, gc, enabled, done_until, last_run, last_result, last_error, last_job, removed, failures,"  \
  " next_retry"

gboolean
catalogue_save_policy(Catalogue *catalogue, const StorePolicy *policy, GError **error)
{
  const guint64 *keep = policy->retention.numbers;
  g_autofree char *schedule = store_schedule_format(&policy->schedule);
  if (catalogue_run(
          catalogue, error,
          "INSERT INTO policies (" POLICY_COLUMNS ") VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
          " ON CONFLICT (vm) DO UPDATE SET bitmap = excluded.bitmap, schedule = excluded.schedule,"
          " keep_last = excluded.keep_last, keep_hourly = excluded.keep_hourly,"
          " keep_daily = excluded.keep_daily, keep_weekly = excluded.keep_weekly,"
          " keep_monthly = excluded.keep_monthly, keep_yearly = excluded.keep_yearly,"
          " speed = excluded.speed, verify_share = excluded.verify_share, gc = excluded.gc,"
          " enabled = excluded.enabled, done_until = excluded.done_until, last_run = excluded.last_run,"
          " last_result = excluded.last_result, last_error = excluded.last_error,"
          " last_job = excluded.last_job, removed = excluded.removed, failures = excluded.failures,"
          " next_retry = excluded.next_retry",
          "sssiiiiiiiiiiiissiiii", policy->vm, policy->bitmap, schedule, (gint64) keep[0], (gint64) keep[1],
          (gint64) keep[2], (gint64) keep[3], (gint64) keep[4], (gint64) keep[5], (gint64) policy->speed,
          (gint64) policy->verify_share, (gint64) policy->gc, (gint64) policy->enabled, policy->done_until,
          policy->last_run, store_policy_result_name(policy->last_result), policy->last_error,
          policy->last_job, (gint64) policy->n_removed, (gint64) policy->n_failures, policy->next_retry))
    return TRUE;
  g_prefix_error(error, "cannot note the policy of vm '%s': ", policy->vm);
  return FALSE;
}

/* NULL, or what of POLICY, read from STMT's current row, no policy can have (transfer full). */
static char *
read_texts(sqlite3_stmt *stmt, StorePolicy *policy)
{
  g_autoptr(GError) error = NULL;
  g_autofree char *schedule = catalogue_column_text(stmt, 2), *result = catalogue_column_text(stmt, 15);
  g_free(policy->bitmap);
  policy->bitmap = catalogue_column_text(stmt, 1);
  policy->last_error = catalogue_column_text(stmt, 16);
  if (!cbt_name_is_valid(policy->vm))
    return g_strdup("'vm' is not possible");
  if (!store_schedule_parse(schedule, &policy->schedule, NULL))
    return g_strdup("'schedule' is not possible");
  if (!store_policy_result_parse(result, &policy->last_result))
    return g_strdup("'last-result' is not possible");
  return store_policy_check(policy, &error) ? NULL : cbt_error_message(error);
}

/* Of a number that cannot be below 0. */
static guint64
read_count(sqlite3_stmt *stmt, int column)
{
  return (guint64) MAX(0, sqlite3_column_int64(stmt, column));
}

/* The policy of STMT's current row. A setting below 0 is none, rather than 0: without one rule, the others
 * would remove what it keeps. */
static StorePolicy *
read_policy(sqlite3_stmt *stmt, GError **error)
{
  const char *vm = (const char *) sqlite3_column_text(stmt, 0);
  g_autoptr(StorePolicy) policy = store_policy_new(vm ? vm : "");
  for (int i = 0; i < STORE_RETENTION_N_NUMBERS; i++)
    policy->retention.numbers[i] = (guint64) sqlite3_column_int64(stmt, 3 + i);
  policy->speed = (guint64) sqlite3_column_int64(stmt, 9);
  policy->verify_share = (guint64) sqlite3_column_int64(stmt, 10);
  policy->gc = sqlite3_column_int64(stmt, 11) != 0;
  policy->enabled = sqlite3_column_int64(stmt, 12) != 0;
  policy->done_until = (gint64) read_count(stmt, 13);
  policy->last_run = (gint64) read_count(stmt, 14);
  policy->last_job = sqlite3_column_int64(stmt, 17);
  policy->n_removed = read_count(stmt, 18);
  policy->n_failures = read_count(stmt, 19);
  policy->next_retry = (gint64) read_count(stmt, 20);
  g_autofree char *wrong = read_texts(stmt, policy);
  if (!wrong)
    return g_steal_pointer(&policy);
  g_autofree char *shown = cbt_printable(policy->vm);
  cbt_set_error(error, CBT_ERROR_CORRUPT,
                "Remove it and set it again: cbt-backup policy remove. Or take what the vm's file says: "
                "cbt-backup rebuild-catalogue.",
                "the catalogue has a policy of vm '%s' that makes no sense: %s", shown, wrong);
  return NULL;
}

StorePolicy *
catalogue_get_policy(Catalogue *catalogue, const char *vm, GError **error)
{
  g_autoptr(sqlite3_stmt) stmt =
      catalogue_prepare(catalogue, error, "SELECT " POLICY_COLUMNS " FROM policies WHERE vm = ?", "s", vm);
  CatalogueStep step = stmt ? catalogue_step(catalogue, stmt, error) : CATALOGUE_FAILED;
  if (step == CATALOGUE_DONE)
    cbt_set_error(error, CBT_ERROR_NOT_FOUND, "Give it one with: cbt-backup policy set",
                  "vm '%s' has no policy", vm);
  return step == CATALOGUE_ROW ? read_policy(stmt, error) : NULL;
}

static void
add_damaged(GHashTable *damaged, sqlite3_stmt *stmt, const GError *error)
{
  const char *vm = (const char *) sqlite3_column_text(stmt, 0);
  if (damaged)
    g_hash_table_insert(damaged, cbt_printable(vm ? vm : ""), cbt_error_message(error));
}

GPtrArray *
catalogue_list_policies(Catalogue *catalogue, GHashTable *damaged, GError **error)
{
  g_autoptr(GPtrArray) policies = g_ptr_array_new_with_free_func((GDestroyNotify) store_policy_free);
  g_autoptr(sqlite3_stmt) stmt =
      catalogue_prepare(catalogue, error, "SELECT " POLICY_COLUMNS " FROM policies ORDER BY vm", "");
  CatalogueStep step = CATALOGUE_FAILED;
  while (stmt && (step = catalogue_step(catalogue, stmt, error)) == CATALOGUE_ROW) {
    g_autoptr(GError) damage = NULL;
    StorePolicy *policy = read_policy(stmt, &damage);
    if (policy)
      g_ptr_array_add(policies, policy);
    else
      add_damaged(damaged, stmt, damage);
  }
  return step == CATALOGUE_DONE ? g_steal_pointer(&policies) : NULL;
}

gboolean
catalogue_remove_policy(Catalogue *catalogue, const char *vm, GError **error)
{
  if (!catalogue_run(catalogue, error, "DELETE FROM policies WHERE vm = ?", "s", vm))
    return FALSE;
  if (sqlite3_changes(catalogue->db) > 0)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_NOT_FOUND, NULL, "vm '%s' has no policy", vm);
  return FALSE;
}
