/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the parts of the catalogue share: statements whose every value is bound, errors from SQLite's codes,
 * and transactions. catalogue.c has open, statements and vms; catalogue-schema.c the tables;
 * catalogue-points.c points and bases; catalogue-leases.c leases; catalogue-jobs.c jobs and exports;
 * catalogue-policies.c policies; catalogue-rebuild.c all that can be made again; catalogue-sync.c makes it
 * durable.
 */
#pragma once

#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <store/catalogue.h>

#include <common/file-ops.h>

typedef struct CatalogueSync CatalogueSync;

struct Catalogue {
  sqlite3 *db; /* NULL: it could not be opened again */
  CatalogueSync *sync;
  char *path;
  char *room_path; /* NULL: none; see catalogue-room.c, as the next two */
  gboolean has_room;
  gint64 room_tried;  /* monotonic; 0: never */
  gboolean may_retry; /* the last transaction failed for want of room, and there is some now */
};

/* Takes the room that a full disk leaves the catalogue, if it has none and there is plenty. */
void catalogue_keep_room(Catalogue *catalogue);
/* Gives it to the disk. TRUE if there was any, and it is worth trying again. */
gboolean catalogue_give_room(Catalogue *catalogue);
/* Has the log of an open database take the blocks that it may need. */
void catalogue_keep_log_room(const Catalogue *catalogue);

CatalogueSync *catalogue_sync_new(void);
void catalogue_sync_free(CatalogueSync *sync);
/* Takes the files of a database that was just opened; and gives them back before it is closed. */
gboolean catalogue_sync_begin(Catalogue *catalogue, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void catalogue_sync_end(Catalogue *catalogue);
/* For tests that have a sync fail. OPS (transfer none) must outlive the catalogue. */
void catalogue_sync_set_ops(Catalogue *catalogue, const CbtFileOps *ops);

/* "CBTC": tells our files from others' SQLite databases. */
#define CATALOGUE_APPLICATION_ID 0x43425443

/* What to do about a damaged one. */
#define CATALOGUE_REBUILD_HINT                                                                               \
  "Run 'cbt-backupd --rebuild-catalogue': it sets the file aside and makes a new one from the store. Or "    \
  "move it "                                                                                                 \
  "away yourself, with its -wal and -shm files."

G_DEFINE_AUTOPTR_CLEANUP_FUNC(sqlite3_stmt, sqlite3_finalize)

/* ERROR from what SQLite reported last: NO_SPACE, IO, CORRUPT, BUSY, DENIED, EXISTS (a unique key), NOT_FOUND
 * (a foreign key), or FAILED. Always FALSE. */
gboolean catalogue_fail(sqlite3 *db, const char *path, GError **error);

/*
 * Compiles SQL and binds a value to each parameter in order: one letter of TYPES for each.
 *   s const char * (NULL: null)   i gint64   u const CbtUuid * (nil: null)   c const StoreChunkId *
 */
sqlite3_stmt *catalogue_prepare(Catalogue *catalogue, GError **error, const char *sql, const char *types,
                                ...) G_GNUC_WARN_UNUSED_RESULT;

typedef enum { CATALOGUE_FAILED, CATALOGUE_ROW, CATALOGUE_DONE } CatalogueStep;
CatalogueStep catalogue_step(Catalogue *catalogue, sqlite3_stmt *stmt,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Prepares and runs a statement that gives no rows. */
gboolean catalogue_run(Catalogue *catalogue, GError **error, const char *sql, const char *types,
                       ...) G_GNUC_WARN_UNUSED_RESULT;

/* Values of the current row. Text: (transfer full), NULL for null. Uuid: nil for null; FALSE with CORRUPT if
 * it is none. */
char *catalogue_column_text(sqlite3_stmt *stmt, int column);
gboolean catalogue_column_uuid(sqlite3_stmt *stmt, int column, CbtUuid *uuid,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean catalogue_column_chunk(sqlite3_stmt *stmt, int column, StoreChunkId *id,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;

gboolean catalogue_begin(Catalogue *catalogue, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Commits if OK, else (or if that fails) rolls back, leaving ERROR as it was set. Returns whether it was
 * committed. */
gboolean catalogue_end(Catalogue *catalogue, gboolean ok, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Once after an end that failed: whether the same is worth doing again, as the full disk got room; ERROR is
 * cleared then. */
gboolean catalogue_may_retry(Catalogue *catalogue, GError **error);

/* Opens the file at its path, which is there, and brings it up to date; and closes it. Without a database
 * every call fails. */
gboolean catalogue_open_database(Catalogue *catalogue, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void catalogue_close_database(Catalogue *catalogue);
/* An empty file with the mode of a catalogue, if there is none. */
gboolean catalogue_make_file(const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* The rows of one, inside a transaction of the caller's. */
gboolean catalogue_insert_vm_rows(Catalogue *catalogue, const CatalogueVm *vm,
                                  GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean catalogue_insert_point_rows(Catalogue *catalogue, const StorePoint *point,
                                     GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Brings the schema to version N_MIGRATIONS: step i, from version i, is migrations[i]; each with its version
 * number in one transaction. UNSUPPORTED for a newer version, CORRUPT for a database that is no catalogue. */
gboolean catalogue_schema_migrate(Catalogue *catalogue, const char *const *migrations, gint64 n_migrations,
                                  GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean catalogue_schema_update(Catalogue *catalogue, GError **error) G_GNUC_WARN_UNUSED_RESULT;
