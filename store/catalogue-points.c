/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Recovery points, how they are named, and the bases of bitmaps. Newest means the latest time, then the last
 * inserted. */
#include <store/catalogue-private.h>

#include <common/error.h>
#include <string.h>

#define POINT_COLUMNS                                                                                        \
  "seq, uuid, vm, incremental, parent, time, reason, note, protected, verified, damaged, consistency,"       \
  " consistency_reason, frozen_ms"
#define NEWEST_FIRST " ORDER BY time DESC, seq DESC"

#define PREFIX_MIN 4 /* characters of a uuid that are enough to name a point */

static void
set_not_found(const char *text, GError **error)
{
  cbt_set_error(error, CBT_ERROR_NOT_FOUND,
                "A point is named by its uuid, the first 4 or more characters of it, VM@latest, or VM@N.",
                "there is no recovery point '%s'", text);
}

/* ---- insert ---- */

static gboolean
insert_disk(Catalogue *catalogue, gint64 seq, gint64 position, const StorePointDisk *disk, GError **error)
{
  return catalogue_run(
      catalogue, error,
      "INSERT INTO point_disks (point, position, name, disk_id, path, bitmap, size, root, parent,"
      " reason, dirty, zero, reused, stored) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
      "iisussicusiiii", seq, position, disk->name, &disk->disk_id, disk->path, disk->bitmap,
      (gint64) disk->manifest.size, &disk->manifest.root, &disk->parent, disk->reason, (gint64) disk->dirty,
      (gint64) disk->zero, (gint64) disk->reused, (gint64) disk->stored);
}

static gboolean
insert_config(Catalogue *catalogue, gint64 seq, gint64 position, const StorePointConfig *config,
              GError **error)
{
  return catalogue_run(catalogue, error,
                       "INSERT INTO point_configs (point, position, name, chunk, size) VALUES (?,?,?,?,?)",
                       "iisci", seq, position, config->name, &config->id, (gint64) config->size);
}

gboolean
catalogue_insert_point_rows(Catalogue *catalogue, const StorePoint *point, GError **error)
{
  if (!catalogue_run(
          catalogue, error,
          "INSERT INTO points (uuid, vm, incremental, parent, time, reason, note, protected, verified,"
          " damaged, consistency, consistency_reason, frozen_ms) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
          "usiuissiiiisi", &point->uuid, point->vm, (gint64) point->incremental, &point->parent, point->time,
          point->reason, point->note, (gint64) point->is_protected, point->verified, point->damaged,
          (gint64) point->consistency, point->consistency_reason, (gint64) point->frozen_ms))
    return FALSE;
  gint64 seq = sqlite3_last_insert_rowid(catalogue->db);
  for (guint i = 0; i < point->disks->len; i++)
    if (!insert_disk(catalogue, seq, i, point->disks->pdata[i], error))
      return FALSE;
  for (guint i = 0; i < point->configs->len; i++)
    if (!insert_config(catalogue, seq, i, point->configs->pdata[i], error))
      return FALSE;
  return TRUE;
}

static gboolean
insert_once(Catalogue *catalogue, const StorePoint *point, GError **error)
{
  return catalogue_begin(catalogue, error) &&
         catalogue_end(catalogue, catalogue_insert_point_rows(catalogue, point, error), error);
}

gboolean
catalogue_insert_point(Catalogue *catalogue, const StorePoint *point, GError **error)
{
  GError *local = NULL;
  if (!store_point_check(point, error))
    return FALSE;
  if (insert_once(catalogue, point, &local) ||
      (catalogue_may_retry(catalogue, &local) && insert_once(catalogue, point, &local)))
    return TRUE;
  g_propagate_error(error, local);
  char text[CBT_UUID_TEXT_SIZE];
  g_prefix_error(error, "cannot add recovery point %s: ", cbt_uuid_format(&point->uuid, text));
  return FALSE;
}

/* ---- read ---- */

static gboolean
read_disk(sqlite3_stmt *stmt, StorePointDisk *disk, GError **error)
{
  g_free(disk->path);
  g_free(disk->bitmap);
  disk->path = catalogue_column_text(stmt, 2);
  disk->bitmap = catalogue_column_text(stmt, 3);
  disk->manifest.size = (guint64) sqlite3_column_int64(stmt, 4);
  disk->reason = catalogue_column_text(stmt, 7);
  disk->dirty = (guint64) sqlite3_column_int64(stmt, 8);
  disk->zero = (guint64) sqlite3_column_int64(stmt, 9);
  disk->reused = (guint64) sqlite3_column_int64(stmt, 10);
  disk->stored = (guint64) sqlite3_column_int64(stmt, 11);
  return catalogue_column_uuid(stmt, 1, &disk->disk_id, error) &&
         catalogue_column_chunk(stmt, 5, &disk->manifest.root, error) &&
         catalogue_column_uuid(stmt, 6, &disk->parent, error);
}

static gboolean
read_disks(Catalogue *catalogue, gint64 seq, StorePoint *point, GError **error)
{
  g_autoptr(sqlite3_stmt) stmt = catalogue_prepare(
      catalogue, error,
      "SELECT name, disk_id, path, bitmap, size, root, parent, reason, dirty, zero, reused, stored"
      " FROM point_disks WHERE point = ? ORDER BY position",
      "i", seq);
  CatalogueStep step = CATALOGUE_FAILED;
  while (stmt && (step = catalogue_step(catalogue, stmt, error)) == CATALOGUE_ROW)
    if (!read_disk(stmt, store_point_add_disk(point, (const char *) sqlite3_column_text(stmt, 0)), error))
      return FALSE;
  return step == CATALOGUE_DONE;
}

static gboolean
read_configs(Catalogue *catalogue, gint64 seq, StorePoint *point, GError **error)
{
  g_autoptr(sqlite3_stmt) stmt = catalogue_prepare(
      catalogue, error, "SELECT name, chunk, size FROM point_configs WHERE point = ? ORDER BY position", "i",
      seq);
  CatalogueStep step = CATALOGUE_FAILED;
  while (stmt && (step = catalogue_step(catalogue, stmt, error)) == CATALOGUE_ROW) {
    StorePointConfig *config = store_point_add_config(point, (const char *) sqlite3_column_text(stmt, 0));
    config->size = (guint64) sqlite3_column_int64(stmt, 2);
    if (!catalogue_column_chunk(stmt, 1, &config->id, error))
      return FALSE;
  }
  return step == CATALOGUE_DONE;
}

static gboolean
read_point_row(sqlite3_stmt *stmt, StorePoint *point, GError **error)
{
  point->vm = catalogue_column_text(stmt, 2);
  point->incremental = sqlite3_column_int64(stmt, 3) != 0;
  point->time = sqlite3_column_int64(stmt, 5);
  point->reason = catalogue_column_text(stmt, 6);
  point->note = catalogue_column_text(stmt, 7);
  point->is_protected = sqlite3_column_int64(stmt, 8) != 0;
  point->verified = sqlite3_column_int64(stmt, 9);
  point->damaged = sqlite3_column_int64(stmt, 10);
  point->consistency = (StoreConsistency) CLAMP(sqlite3_column_int64(stmt, 11), -1, STORE_N_CONSISTENCIES);
  point->consistency_reason = catalogue_column_text(stmt, 12);
  point->frozen_ms = (guint64) sqlite3_column_int64(stmt, 13);
  return catalogue_column_uuid(stmt, 1, &point->uuid, error) &&
         catalogue_column_uuid(stmt, 4, &point->parent, error);
}

/* The point of STMT's current row (POINT_COLUMNS). A row that was tampered with is CORRUPT. */
static StorePoint *
read_point(Catalogue *catalogue, sqlite3_stmt *stmt, GError **error)
{
  g_autoptr(StorePoint) point = store_point_new();
  g_autoptr(GError) reason = NULL;
  gint64 seq = sqlite3_column_int64(stmt, 0);
  if (!read_point_row(stmt, point, error) || !read_disks(catalogue, seq, point, error) ||
      !read_configs(catalogue, seq, point, error))
    return NULL;
  if (!store_point_check(point, &reason)) {
    g_autofree char *message = cbt_error_message(reason);
    cbt_set_error(error, CBT_ERROR_CORRUPT, CATALOGUE_REBUILD_HINT, "catalogue %s: %s", catalogue->path,
                  message);
    return NULL;
  }
  return g_steal_pointer(&point);
}

/* The first point of STMT (transfer full of STMT); NOT_FOUND names TEXT. */
static StorePoint *
read_first(Catalogue *catalogue, sqlite3_stmt *stmt, const char *text, GError **error)
{
  g_autoptr(sqlite3_stmt) owned = stmt;
  CatalogueStep step = stmt ? catalogue_step(catalogue, stmt, error) : CATALOGUE_FAILED;
  if (step == CATALOGUE_DONE)
    set_not_found(text, error);
  return step == CATALOGUE_ROW ? read_point(catalogue, stmt, error) : NULL;
}

StorePoint *
catalogue_get_point(Catalogue *catalogue, const CbtUuid *uuid, GError **error)
{
  char text[CBT_UUID_TEXT_SIZE];
  sqlite3_stmt *stmt =
      catalogue_prepare(catalogue, error, "SELECT " POINT_COLUMNS " FROM points WHERE uuid = ?", "u", uuid);
  return read_first(catalogue, stmt, cbt_uuid_format(uuid, text), error);
}

GPtrArray *
catalogue_list_points(Catalogue *catalogue, const char *vm_or_null, GError **error)
{
  g_autoptr(GPtrArray) points = g_ptr_array_new_with_free_func((GDestroyNotify) store_point_free);
  g_autoptr(sqlite3_stmt) stmt =
      vm_or_null
          ? catalogue_prepare(catalogue, error,
                              "SELECT " POINT_COLUMNS " FROM points WHERE vm = ?" NEWEST_FIRST, "s",
                              vm_or_null)
          : catalogue_prepare(catalogue, error, "SELECT " POINT_COLUMNS " FROM points" NEWEST_FIRST, "");
  CatalogueStep step = CATALOGUE_FAILED;
  while (stmt && (step = catalogue_step(catalogue, stmt, error)) == CATALOGUE_ROW) {
    StorePoint *point = read_point(catalogue, stmt, error);
    if (!point)
      return NULL;
    g_ptr_array_add(points, point);
  }
  return step == CATALOGUE_DONE ? g_steal_pointer(&points) : NULL;
}

StorePoint *
catalogue_latest_point_of_disk(Catalogue *catalogue, const char *vm, const char *disk, const CbtUuid *disk_id,
                               GError **error)
{
  sqlite3_stmt *stmt = catalogue_prepare(
      catalogue, error,
      "SELECT " POINT_COLUMNS " FROM points WHERE vm = ? AND EXISTS (SELECT 1 FROM point_disks d"
      " WHERE d.point = points.seq AND d.name = ? AND d.disk_id = ?)" NEWEST_FIRST " LIMIT 1",
      "ssu", vm, disk, disk_id);
  return read_first(catalogue, stmt, disk, error);
}

/* ---- resolve ---- */

/* VM@latest or VM@N: AT stands on the '@'. */
static StorePoint *
resolve_newest(Catalogue *catalogue, const char *text, const char *at, GError **error)
{
  g_autofree char *vm = g_strndup(text, (gsize) (at - text));
  guint64 n = 0;
  if (strcmp(at + 1, "latest") != 0 && !g_ascii_string_to_unsigned(at + 1, 10, 0, G_MAXUINT32, &n, NULL)) {
    set_not_found(text, error);
    return NULL;
  }
  sqlite3_stmt *stmt = catalogue_prepare(
      catalogue, error, "SELECT " POINT_COLUMNS " FROM points WHERE vm = ?" NEWEST_FIRST " LIMIT 1 OFFSET ?",
      "si", vm, (gint64) n);
  return read_first(catalogue, stmt, text, error);
}

static gboolean
is_uuid_prefix(const char *text)
{
  gsize length = strlen(text);
  return length >= PREFIX_MIN && length < CBT_UUID_TEXT_SIZE && strspn(text, "0123456789abcdef-") == length;
}

/* '~' sorts behind every character of a uuid. */
static StorePoint *
resolve_prefix(Catalogue *catalogue, const char *prefix, const char *text, GError **error)
{
  g_autoptr(sqlite3_stmt) stmt =
      catalogue_prepare(catalogue, error, "SELECT count(*) FROM points WHERE uuid >= ? AND uuid < ? || '~'",
                        "ss", prefix, prefix);
  if (!stmt || catalogue_step(catalogue, stmt, error) != CATALOGUE_ROW)
    return NULL;
  if (sqlite3_column_int64(stmt, 0) > 1) {
    cbt_set_error(error, CBT_ERROR_INVALID, "Give more characters of the uuid.",
                  "'%s' fits %" G_GINT64_FORMAT " recovery points", text,
                  (gint64) sqlite3_column_int64(stmt, 0));
    return NULL;
  }
  sqlite3_stmt *found = catalogue_prepare(
      catalogue, error, "SELECT " POINT_COLUMNS " FROM points WHERE uuid >= ? AND uuid < ? || '~'", "ss",
      prefix, prefix);
  return read_first(catalogue, found, text, error);
}

StorePoint *
catalogue_resolve_point(Catalogue *catalogue, const char *text, GError **error)
{
  const char *at = strchr(text, '@');
  if (at)
    return resolve_newest(catalogue, text, at, error);
  g_autofree char *prefix = g_ascii_strdown(text, -1);
  if (is_uuid_prefix(prefix))
    return resolve_prefix(catalogue, prefix, text, error);
  set_not_found(text, error);
  return NULL;
}

/* ---- change ---- */

/* TRUE if the last statement changed a row, else NOT_FOUND naming UUID. */
static gboolean
check_changed(Catalogue *catalogue, const CbtUuid *uuid, GError **error)
{
  char text[CBT_UUID_TEXT_SIZE];
  if (sqlite3_changes(catalogue->db) > 0)
    return TRUE;
  set_not_found(cbt_uuid_format(uuid, text), error);
  return FALSE;
}

gboolean
catalogue_remove_point(Catalogue *catalogue, const CbtUuid *uuid, GError **error)
{
  return catalogue_run(catalogue, error, "DELETE FROM points WHERE uuid = ?", "u", uuid) &&
         check_changed(catalogue, uuid, error);
}

gboolean
catalogue_update_point(Catalogue *catalogue, const StorePoint *point, GError **error)
{
  return store_point_check(point, error) &&
         catalogue_run(catalogue, error,
                       "UPDATE points SET note = ?, protected = ?, verified = ?, damaged = ? WHERE uuid = ?",
                       "siiiu", point->note, (gint64) point->is_protected, point->verified, point->damaged,
                       &point->uuid) &&
         check_changed(catalogue, &point->uuid, error);
}

/* ---- bases ---- */

gboolean
catalogue_set_base(Catalogue *catalogue, const CbtUuid *disk_id, const char *bitmap, const CbtUuid *base,
                   GError **error)
{
  gboolean ok;
  if (cbt_uuid_is_nil(base))
    ok = catalogue_run(catalogue, error, "DELETE FROM bases WHERE disk_id = ? AND bitmap = ?", "us", disk_id,
                       bitmap);
  else
    ok = catalogue_run(catalogue, error,
                       "INSERT INTO bases (disk_id, bitmap, base) VALUES (?,?,?)"
                       " ON CONFLICT (disk_id, bitmap) DO UPDATE SET base = excluded.base",
                       "usu", disk_id, bitmap, base);
  char text[CBT_UUID_TEXT_SIZE];
  if (!ok)
    g_prefix_error(error, "cannot set the base of bitmap '%s' of disk %s: ", bitmap,
                   cbt_uuid_format(disk_id, text));
  return ok;
}

gboolean
catalogue_get_base(Catalogue *catalogue, const CbtUuid *disk_id, const char *bitmap, CbtUuid *base,
                   GError **error)
{
  g_autoptr(sqlite3_stmt) stmt = catalogue_prepare(
      catalogue, error, "SELECT base FROM bases WHERE disk_id = ? AND bitmap = ?", "us", disk_id, bitmap);
  CatalogueStep step = stmt ? catalogue_step(catalogue, stmt, error) : CATALOGUE_FAILED;
  *base = (CbtUuid){0};
  if (step == CATALOGUE_ROW)
    return catalogue_column_uuid(stmt, 0, base, error);
  return step == CATALOGUE_DONE;
}

gboolean
catalogue_note_base(Catalogue *catalogue, const CbtUuid *disk_id, const char *bitmap,
                    const CatalogueBase *base, GError **error)
{
  return catalogue_run(catalogue, error,
                       "INSERT INTO bases (disk_id, bitmap, base, audit_next, instance) VALUES (?,?,?,?,?)"
                       " ON CONFLICT (disk_id, bitmap) DO UPDATE SET base = excluded.base,"
                       " audit_next = excluded.audit_next, instance = excluded.instance",
                       "usuis", disk_id, bitmap, &base->point, (gint64) base->audit_next, base->instance);
}

gboolean
catalogue_get_audit(Catalogue *catalogue, const CbtUuid *disk_id, const char *bitmap, guint64 *next_cluster,
                    GError **error)
{
  g_autoptr(sqlite3_stmt) stmt =
      catalogue_prepare(catalogue, error, "SELECT audit_next FROM bases WHERE disk_id = ? AND bitmap = ?",
                        "us", disk_id, bitmap);
  CatalogueStep step = stmt ? catalogue_step(catalogue, stmt, error) : CATALOGUE_FAILED;
  *next_cluster = step == CATALOGUE_ROW ? (guint64) sqlite3_column_int64(stmt, 0) : 0;
  return step != CATALOGUE_FAILED;
}

gboolean
catalogue_get_instance(Catalogue *catalogue, const CbtUuid *disk_id, const char *bitmap, char **instance,
                       GError **error)
{
  g_autoptr(sqlite3_stmt) stmt = catalogue_prepare(
      catalogue, error, "SELECT instance FROM bases WHERE disk_id = ? AND bitmap = ?", "us", disk_id, bitmap);
  CatalogueStep step = stmt ? catalogue_step(catalogue, stmt, error) : CATALOGUE_FAILED;
  *instance = step == CATALOGUE_ROW ? catalogue_column_text(stmt, 0) : NULL;
  return step != CATALOGUE_FAILED;
}
