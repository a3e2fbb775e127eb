/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What makes the catalogue durable, beside the thread that writes it: a sync of its log takes seconds on a
 * busy disk, and who writes the catalogue has others to answer.
 *
 * A commit appends to the log, and is durable when the log is synced. That is done here through a descriptor
 * of its own, once for all who wait. The log is copied into the database here, too, by a connection that does
 * nothing else; SQLite's own copying would sync in the middle of a commit. SQLite syncs what order needs:
 * the log before the copy, the database after it, and the first page of a log that begins anew, which is the
 * only sync that is left to a commit, one in LOG_PAGES_MAX pages.
 */
#include <store/catalogue-private.h>

#include <common/error.h>
#include <common/fd.h>
#include <common/file-ops.h>
#include <errno.h>
#include <fcntl.h>

/* SQLite's own measure; they fit into the room that the log has on a full disk. */
#define LOG_PAGES_MAX 1000

struct CatalogueSync {
  atomic_ullong n_commits;
  atomic_int n_log_pages;
  CatalogueCommitFunc on_commit; /* (nullable) thread of the catalogue, as its data */
  gpointer on_commit_data;
  pthread_mutex_t lock;
  /* under lock */
  unsigned long long n_synced; /* of the commits */
  gboolean
      is_suspect; /* a sync failed: pages of the log that the kernel holds for clean may not be on the disk */
  const CbtFileOps *ops;
  int log_fd;
  sqlite3 *copier;
};

static int
note_commit(void *data, sqlite3 *db G_GNUC_UNUSED, const char *name G_GNUC_UNUSED, int n_pages)
{
  CatalogueSync *sync = data;
  atomic_fetch_add(&sync->n_commits, 1);
  atomic_store(&sync->n_log_pages, n_pages);
  if (sync->on_commit)
    sync->on_commit(sync->on_commit_data);
  return SQLITE_OK;
}

CatalogueSync *
catalogue_sync_new(void)
{
  CatalogueSync *sync = g_new0(CatalogueSync, 1);
  pthread_mutex_init(&sync->lock, NULL);
  sync->n_commits = 1; /* what a process before this one left, and changes of the schema */
  sync->ops = cbt_file_ops_default();
  sync->log_fd = -1;
  return sync;
}

void
catalogue_sync_free(CatalogueSync *sync)
{
  g_assert(!sync->copier);
  pthread_mutex_destroy(&sync->lock);
  g_free(sync);
}

/* Both files are opened at once: whatever happens to their names, they are those that the catalogue writes.
 */
static gboolean
open_files(CatalogueSync *sync, const char *path, GError **error)
{
  g_autofree char *log = g_strconcat(path, "-wal", NULL);
  if (sqlite3_open_v2(path, &sync->copier, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK ||
      sqlite3_exec(sync->copier, "SELECT count(*) FROM sqlite_schema", NULL, NULL, NULL) != SQLITE_OK)
    return catalogue_fail(sync->copier, path, error);
  sync->log_fd = open(log, O_RDONLY | O_CLOEXEC);
  if (sync->log_fd < 0)
    cbt_set_error_errno(error, errno, "cannot open %s", log);
  return sync->log_fd >= 0;
}

gboolean
catalogue_sync_begin(Catalogue *catalogue, GError **error)
{
  CatalogueSync *sync = catalogue->sync;
  pthread_mutex_lock(&sync->lock);
  gboolean ok = open_files(sync, catalogue->path, error);
  pthread_mutex_unlock(&sync->lock);
  sqlite3_wal_hook(catalogue->db, note_commit, sync); /* in the place of SQLite's own copying */
  return ok;
}

void
catalogue_sync_end(Catalogue *catalogue)
{
  CatalogueSync *sync = catalogue->sync;
  pthread_mutex_lock(&sync->lock);
  sqlite3_close(sync->copier);
  sync->copier = NULL;
  cbt_clear_fd(&sync->log_fd);
  pthread_mutex_unlock(&sync->lock);
}

void
catalogue_on_commit(Catalogue *catalogue, CatalogueCommitFunc func, gpointer data)
{
  catalogue->sync->on_commit = func;
  catalogue->sync->on_commit_data = data;
}

void
catalogue_sync_set_ops(Catalogue *catalogue, const CbtFileOps *ops)
{
  catalogue->sync->ops = ops;
}

/* Waits for nobody: what somebody reads just now is left for the next time. Returns whether all was copied,
 * and is durable in the database. */
static gboolean
copy_log(CatalogueSync *sync, const char *path)
{
  int n_pages = 0, n_copied = 0;
  int result = sqlite3_wal_checkpoint_v2(sync->copier, NULL, SQLITE_CHECKPOINT_PASSIVE, &n_pages, &n_copied);
  if (result != SQLITE_OK && result != SQLITE_BUSY)
    g_warning("the log of catalogue %s is not copied: %s", path, sqlite3_errmsg(sync->copier));
  return result == SQLITE_OK && n_copied == n_pages;
}

/* The kernel tells of a failed write once, and holds the page for clean from then on: after that only a copy
 * of all pages, which are still in memory, is believed. */
static gboolean
sync_log(CatalogueSync *sync, const char *path, GError **error)
{
  unsigned long long n_commits = atomic_load(&sync->n_commits);
  if (sync->log_fd < 0) {
    cbt_set_error(error, CBT_ERROR_IO, NULL, "catalogue %s is not open", path);
    return FALSE;
  }
  if (sync->ops->fdatasync(sync->ops, sync->log_fd) != 0) {
    cbt_set_error_errno(error, errno, "cannot make catalogue %s durable", path);
    sync->is_suspect = TRUE;
    return FALSE;
  }
  if (sync->is_suspect && !copy_log(sync, path)) {
    cbt_set_error(error, CBT_ERROR_IO, NULL,
                  "catalogue %s could not be made durable before, and its log cannot be copied now", path);
    return FALSE;
  }
  sync->is_suspect = FALSE;
  sync->n_synced = n_commits;
  return TRUE;
}

gboolean
catalogue_sync(Catalogue *catalogue, GError **error)
{
  CatalogueSync *sync = catalogue->sync;
  unsigned long long wanted = atomic_load(&sync->n_commits);
  pthread_mutex_lock(&sync->lock);
  gboolean ok = sync->n_synced >= wanted || sync_log(sync, catalogue->path, error);
  if (ok && sync->copier && atomic_load(&sync->n_log_pages) >= LOG_PAGES_MAX)
    copy_log(sync, catalogue->path);
  pthread_mutex_unlock(&sync->lock);
  return ok;
}
