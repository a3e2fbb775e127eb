/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What there is to say of a vm's points at a glance, by few statements however many there are. */
#include <store/catalogue-private.h>

#include <common/error.h>

#define NEWEST " ORDER BY time DESC, seq DESC LIMIT 1"

void
catalogue_point_summary_clear(CataloguePointSummary *summary)
{
  g_clear_pointer(&summary->full_reason, g_free);
}

static gboolean
count(Catalogue *catalogue, const char *vm, CataloguePointSummary *summary, GError **error)
{
  g_autoptr(sqlite3_stmt) stmt =
      catalogue_prepare(catalogue, error,
                        "SELECT count(*), coalesce(sum(damaged <> 0), 0),"
                        " coalesce(sum(damaged = 0 AND verified = 0), 0), coalesce(max(verified), 0)"
                        " FROM points WHERE vm = ?",
                        "s", vm);
  if (!stmt || catalogue_step(catalogue, stmt, error) != CATALOGUE_ROW)
    return FALSE;
  summary->n_points = (guint64) sqlite3_column_int64(stmt, 0);
  summary->n_damaged = (guint64) sqlite3_column_int64(stmt, 1);
  summary->n_unverified = (guint64) sqlite3_column_int64(stmt, 2);
  summary->verified = sqlite3_column_int64(stmt, 3);
  return TRUE;
}

/* SQL selects uuid and time of one point, or of none. */
static gboolean
find(Catalogue *catalogue, const char *sql, const char *vm, CbtUuid *uuid, gint64 *time, GError **error)
{
  g_autoptr(sqlite3_stmt) stmt = catalogue_prepare(catalogue, error, sql, "s", vm);
  CatalogueStep step = stmt ? catalogue_step(catalogue, stmt, error) : CATALOGUE_FAILED;
  if (step != CATALOGUE_ROW)
    return step == CATALOGUE_DONE;
  *time = sqlite3_column_int64(stmt, 1);
  return catalogue_column_uuid(stmt, 0, uuid, error);
}

static gboolean
find_full(Catalogue *catalogue, const char *vm, CataloguePointSummary *summary, GError **error)
{
  g_autoptr(sqlite3_stmt) stmt = catalogue_prepare(
      catalogue, error,
      "SELECT time, reason FROM points WHERE vm = ? AND (incremental = 0 OR reason IS NOT NULL)" NEWEST, "s",
      vm);
  CatalogueStep step = stmt ? catalogue_step(catalogue, stmt, error) : CATALOGUE_FAILED;
  if (step == CATALOGUE_ROW) {
    summary->full_time = sqlite3_column_int64(stmt, 0);
    summary->full_reason = catalogue_column_text(stmt, 1);
  }
  return step != CATALOGUE_FAILED;
}

gboolean
catalogue_summarize_points(Catalogue *catalogue, const char *vm, CataloguePointSummary *summary,
                           GError **error)
{
  *summary = (CataloguePointSummary){0};
  if (!count(catalogue, vm, summary, error))
    return FALSE;
  if (summary->n_points == 0)
    return TRUE;
  if (find(catalogue, "SELECT uuid, time FROM points WHERE vm = ?" NEWEST, vm, &summary->latest,
           &summary->latest_time, error) &&
      find(catalogue, "SELECT uuid, time FROM points WHERE vm = ? AND damaged = 0" NEWEST, vm, &summary->good,
           &summary->good_time, error) &&
      find_full(catalogue, vm, summary, error))
    return TRUE;
  catalogue_point_summary_clear(summary);
  return FALSE;
}

guint64
catalogue_n_changes(const Catalogue *catalogue)
{
  return catalogue->db ? (guint64) sqlite3_total_changes64(catalogue->db) : 0;
}
