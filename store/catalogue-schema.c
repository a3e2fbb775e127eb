/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The tables, and how a file of an older release is brought up to date. docs/formats/catalogue.md has the
 * meaning of each column. A released migration is never edited: a change of the schema is one more entry at
 * the end.
 *
 * uuids and chunk ids are text, so that an operator can read them and a prefix can be looked up by the index.
 */
#include <store/catalogue-private.h>

#include <common/error.h>

static const char *const schema_migrations[] = {
    /* 0 -> 1 */
    "CREATE TABLE vms ("
    "  name TEXT PRIMARY KEY,"
    "  created INTEGER NOT NULL"
    ") STRICT;"
    "CREATE TABLE disks ("
    "  id TEXT PRIMARY KEY,"
    "  vm TEXT NOT NULL REFERENCES vms(name) ON DELETE CASCADE,"
    "  position INTEGER NOT NULL,"
    "  name TEXT NOT NULL,"
    "  path TEXT NOT NULL UNIQUE,"
    "  granularity INTEGER NOT NULL,"
    "  UNIQUE (vm, name)"
    ") STRICT;"
    "CREATE TABLE vm_configs ("
    "  vm TEXT NOT NULL REFERENCES vms(name) ON DELETE CASCADE,"
    "  position INTEGER NOT NULL,"
    "  path TEXT NOT NULL,"
    "  PRIMARY KEY (vm, path)"
    ") STRICT;"
    "CREATE TABLE points ("
    "  seq INTEGER PRIMARY KEY,"
    "  uuid TEXT NOT NULL UNIQUE,"
    "  vm TEXT NOT NULL,"
    "  incremental INTEGER NOT NULL,"
    "  parent TEXT,"
    "  time INTEGER NOT NULL,"
    "  reason TEXT,"
    "  note TEXT,"
    "  protected INTEGER NOT NULL,"
    "  verified INTEGER NOT NULL"
    ") STRICT;"
    "CREATE INDEX points_by_vm ON points (vm, time);"
    "CREATE INDEX points_by_time ON points (time);"
    "CREATE TABLE point_disks ("
    "  point INTEGER NOT NULL REFERENCES points(seq) ON DELETE CASCADE,"
    "  position INTEGER NOT NULL,"
    "  name TEXT NOT NULL,"
    "  disk_id TEXT,"
    "  path TEXT NOT NULL,"
    "  bitmap TEXT NOT NULL,"
    "  size INTEGER NOT NULL,"
    "  root TEXT NOT NULL,"
    "  parent TEXT,"
    "  reason TEXT,"
    "  dirty INTEGER NOT NULL,"
    "  zero INTEGER NOT NULL,"
    "  reused INTEGER NOT NULL,"
    "  stored INTEGER NOT NULL,"
    "  PRIMARY KEY (point, position),"
    "  UNIQUE (point, name)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE TABLE point_configs ("
    "  point INTEGER NOT NULL REFERENCES points(seq) ON DELETE CASCADE,"
    "  position INTEGER NOT NULL,"
    "  name TEXT NOT NULL,"
    "  chunk TEXT NOT NULL,"
    "  size INTEGER NOT NULL,"
    "  PRIMARY KEY (point, position),"
    "  UNIQUE (point, name)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE TABLE bases ("
    "  disk_id TEXT NOT NULL REFERENCES disks(id) ON DELETE CASCADE,"
    "  bitmap TEXT NOT NULL,"
    "  base TEXT NOT NULL,"
    "  PRIMARY KEY (disk_id, bitmap)"
    ") STRICT;"
    "CREATE TABLE jobs ("
    "  id INTEGER PRIMARY KEY AUTOINCREMENT,"
    "  type TEXT NOT NULL,"
    "  vm TEXT,"
    "  status TEXT NOT NULL,"
    "  json TEXT NOT NULL"
    ") STRICT;"
    "CREATE INDEX jobs_unfinished ON jobs (id) WHERE status IN ('queued', 'active');"
    "CREATE TABLE exports ("
    "  vm TEXT NOT NULL REFERENCES vms(name) ON DELETE CASCADE,"
    "  disk TEXT NOT NULL,"
    "  pid INTEGER NOT NULL,"
    "  socket TEXT NOT NULL,"
    "  control TEXT NOT NULL,"
    "  PRIMARY KEY (vm, disk)"
    ") STRICT;",
    /* 1 -> 2 */
    "ALTER TABLE bases ADD COLUMN audit_next INTEGER NOT NULL DEFAULT 0;",
    /* 2 -> 3 */
    "CREATE TABLE leases ("
    "  disk_id TEXT NOT NULL REFERENCES disks(id) ON DELETE CASCADE,"
    "  bitmap TEXT NOT NULL,"
    "  id TEXT NOT NULL,"
    "  expires INTEGER NOT NULL,"
    "  PRIMARY KEY (disk_id, bitmap)"
    ") STRICT;",
    /* 3 -> 4 */
    "CREATE TABLE policies ("
    "  vm TEXT PRIMARY KEY REFERENCES vms(name) ON DELETE CASCADE,"
    "  bitmap TEXT NOT NULL,"
    "  schedule TEXT NOT NULL,"
    "  keep_last INTEGER NOT NULL,"
    "  keep_hourly INTEGER NOT NULL,"
    "  keep_daily INTEGER NOT NULL,"
    "  keep_weekly INTEGER NOT NULL,"
    "  keep_monthly INTEGER NOT NULL,"
    "  keep_yearly INTEGER NOT NULL,"
    "  speed INTEGER NOT NULL,"
    "  verify_share INTEGER NOT NULL,"
    "  gc INTEGER NOT NULL,"
    "  enabled INTEGER NOT NULL,"
    "  done_until INTEGER NOT NULL,"
    "  last_run INTEGER NOT NULL,"
    "  last_result TEXT,"
    "  last_error TEXT,"
    "  last_job INTEGER NOT NULL,"
    "  removed INTEGER NOT NULL,"
    "  failures INTEGER NOT NULL,"
    "  next_retry INTEGER NOT NULL"
    ") STRICT;",
    /* 4 -> 5 */
    "ALTER TABLE points ADD COLUMN damaged INTEGER NOT NULL DEFAULT 0;",
    /* 5 -> 6 */
    "ALTER TABLE vms ADD COLUMN qmp TEXT;"
    "ALTER TABLE vms ADD COLUMN qga TEXT;"
    "ALTER TABLE vms ADD COLUMN follows INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE disks ADD COLUMN node TEXT;"
    "ALTER TABLE disks ADD COLUMN format TEXT;"
    "ALTER TABLE disks ADD COLUMN size INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE points ADD COLUMN consistency INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE points ADD COLUMN consistency_reason TEXT;"
    "ALTER TABLE points ADD COLUMN frozen_ms INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE bases ADD COLUMN instance TEXT;"
    "CREATE TABLE journal ("
    "  vm TEXT PRIMARY KEY REFERENCES vms(name) ON DELETE CASCADE,"
    "  job INTEGER NOT NULL,"
    "  step TEXT NOT NULL,"
    "  time INTEGER NOT NULL"
    ") STRICT;",
    /* 6 -> 7: for the summary of a vm's points, so that it reads no row of theirs but few */
    "CREATE INDEX points_by_state ON points (vm, damaged, time, verified);"
    "CREATE INDEX points_full ON points (vm, time) WHERE incremental = 0 OR reason IS NOT NULL;",
};

static gboolean
exec(Catalogue *catalogue, const char *sql, GError **error)
{
  return sqlite3_exec(catalogue->db, sql, NULL, NULL, NULL) == SQLITE_OK ||
         catalogue_fail(catalogue->db, catalogue->path, error);
}

/* The first column of the first row of SQL. */
static gboolean
get_number(Catalogue *catalogue, const char *sql, gint64 *value, GError **error)
{
  g_autoptr(sqlite3_stmt) stmt = catalogue_prepare(catalogue, error, sql, "");
  if (!stmt || catalogue_step(catalogue, stmt, error) == CATALOGUE_FAILED)
    return FALSE;
  *value = sqlite3_column_int64(stmt, 0);
  return TRUE;
}

/* A new file is empty; any other carries our application id. */
static gboolean
check_is_catalogue(Catalogue *catalogue, GError **error)
{
  gint64 application_id = 0, n_objects = 0;
  if (!get_number(catalogue, "PRAGMA application_id", &application_id, error) ||
      !get_number(catalogue, "SELECT count(*) FROM sqlite_schema", &n_objects, error))
    return FALSE;
  if (application_id == CATALOGUE_APPLICATION_ID || (application_id == 0 && n_objects == 0))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_CORRUPT,
                "Move the file away; the daemon makes a catalogue again from the store.",
                "catalogue %s is a database of another program", catalogue->path);
  return FALSE;
}

static gboolean
migrate_step(Catalogue *catalogue, const char *migration, gint64 version, GError **error)
{
  if (!catalogue_begin(catalogue, error))
    return FALSE;
  g_autofree char *marks =
      g_strdup_printf("PRAGMA application_id = %d; PRAGMA user_version = %" G_GINT64_FORMAT,
                      CATALOGUE_APPLICATION_ID, version);
  gboolean ok = exec(catalogue, migration, error) && exec(catalogue, marks, error);
  return catalogue_end(catalogue, ok, error);
}

gboolean
catalogue_schema_migrate(Catalogue *catalogue, const char *const *migrations, gint64 n_migrations,
                         GError **error)
{
  gint64 version = 0;
  if (!check_is_catalogue(catalogue, error) || !get_number(catalogue, "PRAGMA user_version", &version, error))
    return FALSE;
  if (version < 0 || version > n_migrations) {
    cbt_set_error(
        error, CBT_ERROR_UNSUPPORTED, "Use the release of cbt-backup that wrote it, or a later one.",
        "catalogue %s has schema version %" G_GINT64_FORMAT ", this release knows up to %" G_GINT64_FORMAT,
        catalogue->path, version, n_migrations);
    return FALSE;
  }
  for (; version < n_migrations; version++)
    if (!migrate_step(catalogue, migrations[version], version + 1, error)) {
      g_prefix_error(error, "cannot bring the schema to version %" G_GINT64_FORMAT ": ", version + 1);
      return FALSE;
    }
  return TRUE;
}

gboolean
catalogue_schema_update(Catalogue *catalogue, GError **error)
{
  return catalogue_schema_migrate(catalogue, schema_migrations, G_N_ELEMENTS(schema_migrations), error);
}
