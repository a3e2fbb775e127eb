/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Jobs and exports. Ids of jobs are never given twice (AUTOINCREMENT). The table is bounded: an insert drops
 * finished jobs that are older than the newest CATALOGUE_JOBS_KEPT.
 */
#include <store/catalogue-private.h>

#include <common/error.h>

#define JOB_COLUMNS "id, type, vm, status, json"
#define UNFINISHED  "status IN ('queued', 'active')"

void
catalogue_job_free(CatalogueJob *job)
{
  if (!job)
    return;
  g_free(job->type);
  g_free(job->vm);
  g_free(job->status);
  g_free(job->json);
  g_free(job);
}

void
catalogue_export_free(CatalogueExport *export)
{
  if (!export)
    return;
  g_free(export->vm);
  g_free(export->disk);
  g_free(export->socket);
  g_free(export->control);
  g_free(export);
}

static void
set_no_job(gint64 id, GError **error)
{
  cbt_set_error(error, CBT_ERROR_NOT_FOUND, "'cbt-backup job list' shows those there are.",
                "there is no job %" G_GINT64_FORMAT, id);
}

static gboolean
insert_job_rows(Catalogue *catalogue, const CatalogueJob *job, gint64 *id, GError **error)
{
  if (!catalogue_run(catalogue, error, "INSERT INTO jobs (type, vm, status, json) VALUES (?,?,?,?)", "ssss",
                     job->type, job->vm, job->status, job->json))
    return FALSE;
  *id = sqlite3_last_insert_rowid(catalogue->db);
  return catalogue_run(catalogue, error, "DELETE FROM jobs WHERE id <= ? AND NOT " UNFINISHED, "i",
                       *id - CATALOGUE_JOBS_KEPT);
}

static gboolean
insert_once(Catalogue *catalogue, const CatalogueJob *job, gint64 *id, GError **error)
{
  return catalogue_begin(catalogue, error) &&
         catalogue_end(catalogue, insert_job_rows(catalogue, job, id, error), error);
}

static gboolean
insert_job(Catalogue *catalogue, CatalogueJob *job, GError **error)
{
  gint64 id = 0;
  GError *local = NULL;
  gboolean ok = insert_once(catalogue, job, &id, &local) ||
                (catalogue_may_retry(catalogue, &local) && insert_once(catalogue, job, &id, &local));
  if (ok)
    job->id = id;
  else
    g_propagate_error(error, local);
  return ok;
}

gboolean
catalogue_save_job(Catalogue *catalogue, CatalogueJob *job, GError **error)
{
  if (job->id == 0)
    return insert_job(catalogue, job, error);
  if (!catalogue_run(catalogue, error, "UPDATE jobs SET type = ?, vm = ?, status = ?, json = ? WHERE id = ?",
                     "ssssi", job->type, job->vm, job->status, job->json, job->id))
    return FALSE;
  if (sqlite3_changes(catalogue->db) > 0)
    return TRUE;
  set_no_job(job->id, error);
  return FALSE;
}

static CatalogueJob *
read_job(sqlite3_stmt *stmt)
{
  CatalogueJob *job = g_new0(CatalogueJob, 1);
  job->id = sqlite3_column_int64(stmt, 0);
  job->type = catalogue_column_text(stmt, 1);
  job->vm = catalogue_column_text(stmt, 2);
  job->status = catalogue_column_text(stmt, 3);
  job->json = catalogue_column_text(stmt, 4);
  return job;
}

CatalogueJob *
catalogue_get_job(Catalogue *catalogue, gint64 id, GError **error)
{
  g_autoptr(sqlite3_stmt) stmt =
      catalogue_prepare(catalogue, error, "SELECT " JOB_COLUMNS " FROM jobs WHERE id = ?", "i", id);
  CatalogueStep step = stmt ? catalogue_step(catalogue, stmt, error) : CATALOGUE_FAILED;
  if (step == CATALOGUE_DONE)
    set_no_job(id, error);
  return step == CATALOGUE_ROW ? read_job(stmt) : NULL;
}

/* All jobs of STMT (transfer full of STMT). */
static GPtrArray *
read_jobs(Catalogue *catalogue, sqlite3_stmt *stmt, GError **error)
{
  g_autoptr(sqlite3_stmt) owned = stmt;
  g_autoptr(GPtrArray) jobs = g_ptr_array_new_with_free_func((GDestroyNotify) catalogue_job_free);
  CatalogueStep step = CATALOGUE_FAILED;
  while (stmt && (step = catalogue_step(catalogue, stmt, error)) == CATALOGUE_ROW)
    g_ptr_array_add(jobs, read_job(stmt));
  return step == CATALOGUE_DONE ? g_steal_pointer(&jobs) : NULL;
}

GPtrArray *
catalogue_list_jobs(Catalogue *catalogue, guint limit, GError **error)
{
  sqlite3_stmt *stmt = catalogue_prepare(
      catalogue, error, "SELECT " JOB_COLUMNS " FROM jobs ORDER BY id DESC LIMIT ?", "i", (gint64) limit);
  return read_jobs(catalogue, stmt, error);
}

GPtrArray *
catalogue_list_unfinished_jobs(Catalogue *catalogue, GError **error)
{
  sqlite3_stmt *stmt = catalogue_prepare(
      catalogue, error, "SELECT " JOB_COLUMNS " FROM jobs WHERE " UNFINISHED " ORDER BY id", "");
  return read_jobs(catalogue, stmt, error);
}

gboolean
catalogue_save_export(Catalogue *catalogue, const CatalogueExport *export, GError **error)
{
  if (catalogue_run(catalogue, error,
                    "INSERT INTO exports (vm, disk, pid, socket, control) VALUES (?,?,?,?,?)"
                    " ON CONFLICT (vm, disk) DO UPDATE"
                    " SET pid = excluded.pid, socket = excluded.socket, control = excluded.control",
                    "ssiss", export->vm, export->disk, export->pid, export->socket, export->control))
    return TRUE;
  g_prefix_error(error, "cannot note the export of %s/%s: ", export->vm, export->disk);
  return FALSE;
}

static CatalogueExport *
read_export(sqlite3_stmt *stmt)
{
  CatalogueExport *export = g_new0(CatalogueExport, 1);
  export->vm = catalogue_column_text(stmt, 0);
  export->disk = catalogue_column_text(stmt, 1);
  export->pid = sqlite3_column_int64(stmt, 2);
  export->socket = catalogue_column_text(stmt, 3);
  export->control = catalogue_column_text(stmt, 4);
  return export;
}

GPtrArray *
catalogue_list_exports(Catalogue *catalogue, const char *vm_or_null, GError **error)
{
  g_autoptr(GPtrArray) exports = g_ptr_array_new_with_free_func((GDestroyNotify) catalogue_export_free);
  g_autoptr(sqlite3_stmt) stmt = catalogue_prepare(catalogue, error,
                                                   "SELECT vm, disk, pid, socket, control FROM exports"
                                                   " WHERE vm = ?1 OR ?1 IS NULL ORDER BY vm, disk",
                                                   "s", vm_or_null);
  CatalogueStep step = CATALOGUE_FAILED;
  while (stmt && (step = catalogue_step(catalogue, stmt, error)) == CATALOGUE_ROW)
    g_ptr_array_add(exports, read_export(stmt));
  return step == CATALOGUE_DONE ? g_steal_pointer(&exports) : NULL;
}

gboolean
catalogue_remove_exports(Catalogue *catalogue, const char *vm, GError **error)
{
  return catalogue_run(catalogue, error, "DELETE FROM exports WHERE vm = ?", "s", vm);
}
