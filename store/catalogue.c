/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opening, statements and transactions.
 *
 * A commit does not wait for the disk (synchronous=NORMAL): it survives the end of the process, and a loss of
 * power once catalogue_sync() was called (catalogue-sync.c). Statements are compiled for each call: it costs
 * microseconds, and calls are few.
 *
 * An insert looks for what is in its way first, inside its transaction, so that the error can name it; the
 * unique keys stand behind that.
 */
#include <store/catalogue-private.h>

#include <common/error.h>
#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#define BUSY_TIMEOUT_MS 10000

/* ---- errors ---- */

static const struct {
  int sqlite;
  CbtErrorCode code;
  const char *hint;
} error_codes[] = {
    {SQLITE_CONSTRAINT_FOREIGNKEY, CBT_ERROR_NOT_FOUND, NULL},
    {SQLITE_CONSTRAINT_UNIQUE, CBT_ERROR_EXISTS, NULL},
    {SQLITE_CONSTRAINT_PRIMARYKEY, CBT_ERROR_EXISTS, NULL},
    {SQLITE_FULL, CBT_ERROR_NO_SPACE, "Free space on the file system of the state directory."},
    {SQLITE_IOERR, CBT_ERROR_IO, NULL},
    {SQLITE_CANTOPEN, CBT_ERROR_IO, NULL},
    {SQLITE_NOTADB, CBT_ERROR_CORRUPT, CATALOGUE_REBUILD_HINT},
    {SQLITE_CORRUPT, CBT_ERROR_CORRUPT, CATALOGUE_REBUILD_HINT},
    {SQLITE_BUSY, CBT_ERROR_BUSY, NULL},
    {SQLITE_LOCKED, CBT_ERROR_BUSY, NULL},
    {SQLITE_READONLY, CBT_ERROR_DENIED, NULL},
    {SQLITE_PERM, CBT_ERROR_DENIED, NULL},
    {SQLITE_AUTH, CBT_ERROR_DENIED, NULL},
    {SQLITE_TOOBIG, CBT_ERROR_TOO_LARGE, NULL},
};

gboolean
catalogue_fail(sqlite3 *db, const char *path, GError **error)
{
  int extended = sqlite3_extended_errcode(db);
  for (guint i = 0; i < G_N_ELEMENTS(error_codes); i++)
    if (error_codes[i].sqlite == extended || error_codes[i].sqlite == (extended & 0xff)) {
      cbt_set_error(error, error_codes[i].code, error_codes[i].hint, "catalogue %s: %s", path,
                    sqlite3_errmsg(db));
      return FALSE;
    }
  cbt_set_error(error, CBT_ERROR_FAILED, NULL, "catalogue %s: %s", path, sqlite3_errmsg(db));
  return FALSE;
}

static gboolean
fail(Catalogue *catalogue, GError **error)
{
  return catalogue_fail(catalogue->db, catalogue->path, error);
}

/* ---- statements ---- */

static int
bind_uuid(sqlite3_stmt *stmt, int at, const CbtUuid *uuid)
{
  char text[CBT_UUID_TEXT_SIZE];
  if (cbt_uuid_is_nil(uuid))
    return sqlite3_bind_null(stmt, at);
  return sqlite3_bind_text(stmt, at, cbt_uuid_format(uuid, text), -1, SQLITE_TRANSIENT);
}

static int
bind_chunk(sqlite3_stmt *stmt, int at, const StoreChunkId *id)
{
  char text[STORE_CHUNK_ID_TEXT_SIZE];
  return sqlite3_bind_text(stmt, at, store_chunk_id_format(id, text), -1, SQLITE_TRANSIENT);
}

static int
bind_values(sqlite3_stmt *stmt, const char *types, va_list args)
{
  int result = SQLITE_OK;
  for (int at = 1; types[at - 1] && result == SQLITE_OK; at++)
    switch (types[at - 1]) {
    case 's':
      result = sqlite3_bind_text(stmt, at, va_arg(args, const char *), -1, SQLITE_TRANSIENT);
      break;
    case 'i':
      result = sqlite3_bind_int64(stmt, at, va_arg(args, gint64));
      break;
    case 'u':
      result = bind_uuid(stmt, at, va_arg(args, const CbtUuid *));
      break;
    case 'c':
      result = bind_chunk(stmt, at, va_arg(args, const StoreChunkId *));
      break;
    default:
      g_assert_not_reached();
    }
  return result;
}

static sqlite3_stmt *
prepare_va(Catalogue *catalogue, GError **error, const char *sql, const char *types, va_list args)
{
  g_autoptr(sqlite3_stmt) stmt = NULL;
  if (!catalogue->db) {
    cbt_set_error(error, CBT_ERROR_IO, "Start the daemon again.", "catalogue %s could not be opened again",
                  catalogue->path);
    return NULL;
  }
  if (sqlite3_prepare_v2(catalogue->db, sql, -1, &stmt, NULL) == SQLITE_OK) {
    g_assert((gsize) sqlite3_bind_parameter_count(stmt) == strlen(types));
    if (bind_values(stmt, types, args) == SQLITE_OK)
      return g_steal_pointer(&stmt);
  }
  fail(catalogue, error);
  return NULL;
}

sqlite3_stmt *
catalogue_prepare(Catalogue *catalogue, GError **error, const char *sql, const char *types, ...)
{
  va_list args;
  va_start(args, types);
  sqlite3_stmt *stmt = prepare_va(catalogue, error, sql, types, args);
  va_end(args);
  return stmt;
}

CatalogueStep
catalogue_step(Catalogue *catalogue, sqlite3_stmt *stmt, GError **error)
{
  switch (sqlite3_step(stmt)) {
  case SQLITE_ROW:
    return CATALOGUE_ROW;
  case SQLITE_DONE:
    return CATALOGUE_DONE;
  default:
    fail(catalogue, error);
    return CATALOGUE_FAILED;
  }
}

gboolean
catalogue_run(Catalogue *catalogue, GError **error, const char *sql, const char *types, ...)
{
  va_list args;
  catalogue_keep_room(catalogue);
  va_start(args, types);
  g_autoptr(sqlite3_stmt) stmt = prepare_va(catalogue, error, sql, types, args);
  va_end(args);
  if (!stmt)
    return FALSE;
  int result = sqlite3_step(stmt);
  /* What is part of a transaction is for its caller to try again. */
  if (result == SQLITE_FULL && sqlite3_get_autocommit(catalogue->db) && catalogue_give_room(catalogue)) {
    sqlite3_reset(stmt);
    result = sqlite3_step(stmt);
  }
  return result == SQLITE_ROW || result == SQLITE_DONE || fail(catalogue, error);
}

char *
catalogue_column_text(sqlite3_stmt *stmt, int column)
{
  return g_strdup((const char *) sqlite3_column_text(stmt, column));
}

gboolean
catalogue_column_uuid(sqlite3_stmt *stmt, int column, CbtUuid *uuid, GError **error)
{
  const char *text = (const char *) sqlite3_column_text(stmt, column);
  *uuid = (CbtUuid){0};
  if (!text || cbt_uuid_parse(text, uuid))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_CORRUPT, CATALOGUE_REBUILD_HINT, "the catalogue has a %s that is no uuid",
                sqlite3_column_name(stmt, column));
  return FALSE;
}

gboolean
catalogue_column_chunk(sqlite3_stmt *stmt, int column, StoreChunkId *id, GError **error)
{
  const char *text = (const char *) sqlite3_column_text(stmt, column);
  if (text && store_chunk_id_parse(text, id))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_CORRUPT, CATALOGUE_REBUILD_HINT,
                "the catalogue has a %s that is no chunk id", sqlite3_column_name(stmt, column));
  return FALSE;
}

gboolean
catalogue_begin(Catalogue *catalogue, GError **error)
{
  return catalogue_run(catalogue, error, "BEGIN IMMEDIATE", "");
}

gboolean
catalogue_end(Catalogue *catalogue, gboolean ok, GError **error)
{
  if (ok && catalogue_run(catalogue, error, "COMMIT", ""))
    return TRUE;
  gboolean is_full = (sqlite3_extended_errcode(catalogue->db) & 0xff) == SQLITE_FULL;
  /* Some failures have rolled back by themselves. */
  if (!sqlite3_get_autocommit(catalogue->db))
    sqlite3_exec(catalogue->db, "ROLLBACK", NULL, NULL, NULL);
  catalogue->may_retry = is_full && catalogue_give_room(catalogue);
  return FALSE;
}

gboolean
catalogue_may_retry(Catalogue *catalogue, GError **error)
{
  gboolean may = catalogue->may_retry;
  catalogue->may_retry = FALSE;
  if (may)
    g_clear_error(error);
  return may;
}

/* ---- open and close ---- */

/* SQLite gives the log files the mode of the database, so only the database must be made with the right one.
 * Log files that lie there without a database are of one that was taken away. */
gboolean
catalogue_make_file(const char *path, GError **error)
{
  g_autofree char *log = g_strconcat(path, "-wal", NULL);
  g_autofree char *shared = g_strconcat(path, "-shm", NULL);
  if (access(path, F_OK) != 0 && errno == ENOENT) {
    unlink(log);
    unlink(shared);
  }
  CBT_AUTO_FD int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd >= 0)
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot open catalogue %s", path);
  return FALSE;
}

/* Whether pages, and what indexes say, fit together; it reads all of the file. A quick_check would not see an
 * index that names a key which no row has: the point could be listed and not be found. */
static gboolean
check_sound(Catalogue *catalogue, GError **error)
{
  g_autoptr(sqlite3_stmt) stmt = catalogue_prepare(catalogue, error, "PRAGMA integrity_check(1)", "");
  if (!stmt || catalogue_step(catalogue, stmt, error) != CATALOGUE_ROW)
    return FALSE;
  const char *found = (const char *) sqlite3_column_text(stmt, 0);
  if (g_strcmp0(found, "ok") == 0)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_CORRUPT, CATALOGUE_REBUILD_HINT, "catalogue %s is damaged: %s",
                catalogue->path, found ? found : "it cannot be checked");
  return FALSE;
}

static gboolean
set_up(Catalogue *catalogue, GError **error)
{
  static const char *const pragmas[] = {
      "PRAGMA journal_mode = WAL",
      "PRAGMA synchronous = NORMAL",
      "PRAGMA foreign_keys = ON",
      "PRAGMA trusted_schema = OFF",
  };
  sqlite3_extended_result_codes(catalogue->db, 1);
  sqlite3_busy_timeout(catalogue->db, BUSY_TIMEOUT_MS);
  sqlite3_db_config(catalogue->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
  for (guint i = 0; i < G_N_ELEMENTS(pragmas); i++)
    if (sqlite3_exec(catalogue->db, pragmas[i], NULL, NULL, NULL) != SQLITE_OK)
      return fail(catalogue, error);
  if (!check_sound(catalogue, error) || !catalogue_schema_update(catalogue, error))
    return FALSE;
  catalogue_keep_log_room(catalogue);
  catalogue_keep_room(catalogue);
  return catalogue_sync_begin(catalogue, error);
}

static gboolean
open_once(Catalogue *catalogue, GError **error)
{
  g_assert(!catalogue->db);
  if (sqlite3_open_v2(catalogue->path, &catalogue->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) ==
      SQLITE_OK)
    return set_up(catalogue, error);
  return fail(catalogue, error);
}

gboolean
catalogue_open_database(Catalogue *catalogue, GError **error)
{
  g_autoptr(GError) local = NULL;
  if (open_once(catalogue, &local))
    return TRUE;
  /* That a log's index cannot be made for want of space is an I/O error to SQLite. */
  gboolean may_be_full = g_error_matches(local, CBT_ERROR, CBT_ERROR_NO_SPACE) ||
                         g_error_matches(local, CBT_ERROR, CBT_ERROR_IO);
  if (may_be_full && catalogue_give_room(catalogue)) {
    catalogue_close_database(catalogue);
    return open_once(catalogue, error);
  }
  g_propagate_error(error, g_steal_pointer(&local));
  return FALSE;
}

void
catalogue_close_database(Catalogue *catalogue)
{
  catalogue_sync_end(catalogue);
  int result = sqlite3_close(catalogue->db);
  g_assert(result == SQLITE_OK); /* no statement may be left */
  catalogue->db = NULL;
}

Catalogue *
catalogue_open(const char *path, GError **error)
{
  if (!catalogue_make_file(path, error))
    return NULL;
  g_autoptr(Catalogue) catalogue = g_new0(Catalogue, 1);
  catalogue->path = g_strdup(path);
  catalogue->room_path = g_strconcat(path, ".room", NULL);
  catalogue->sync = catalogue_sync_new();
  if (!catalogue_open_database(catalogue, error))
    return NULL;
  return g_steal_pointer(&catalogue);
}

void
catalogue_close(Catalogue *catalogue)
{
  if (!catalogue)
    return;
  catalogue_close_database(catalogue);
  catalogue_sync_free(catalogue->sync);
  g_free(catalogue->path);
  g_free(catalogue->room_path);
  g_free(catalogue);
}
