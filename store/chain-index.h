/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The index of an exported chain: `chain.json`, which says which files of a folder belong to which recovery
 * point (docs/formats/chain.md). It is written last, so what it names is complete. For store/chain.c and its
 * tests.
 */
#pragma once

#include <common/file-ops.h>
#include <common/uuid.h>

#define STORE_CHAIN_INDEX_NAME       "chain.json"
#define STORE_CHAIN_INDEX_FORMAT     "cbt-backup-chain"
#define STORE_CHAIN_INDEX_VERSION    1
#define STORE_CHAIN_INDEX_LENGTH_MAX (64u << 20) /* bytes */
#define STORE_CHAIN_INDEX_DEPTH_MAX  8           /* of nested objects and arrays */

typedef struct {
  char *name;
  guint64 size;       /* of the disk, bytes */
  char *file;         /* in the folder */
  guint64 bytes;      /* of the file */
  char *backing_file; /* in the folder; NULL: the file holds all of the disk */
} StoreChainDisk;

typedef struct {
  char *name;
  guint64 size; /* bytes */
} StoreChainConfig;

typedef struct {
  CbtUuid uuid;
  gint64 time; /* seconds since 1970 */
  gboolean incremental;
  CbtUuid parent;      /* nil: none */
  GPtrArray *disks;    /* of StoreChainDisk */
  char *config_folder; /* in the folder; NULL: there are no configuration files */
  GPtrArray *configs;  /* of StoreChainConfig */
} StoreChainPoint;

typedef struct {
  CbtUuid store;
  char *vm;
  GPtrArray *points; /* of StoreChainPoint, by time */
} StoreChainIndex;

StoreChainIndex *store_chain_index_new(const CbtUuid *store, const char *vm);
void store_chain_index_free(StoreChainIndex *index);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreChainIndex, store_chain_index_free)
StoreChainPoint *store_chain_point_new(const CbtUuid *uuid);
void store_chain_point_free(StoreChainPoint *point);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreChainPoint, store_chain_point_free)
/* Appends one (transfer none). */
StoreChainDisk *store_chain_point_add_disk(StoreChainPoint *point, const char *name);
StoreChainConfig *store_chain_point_add_config(StoreChainPoint *point, const char *name);

/* (transfer none); NULL if there is none. */
StoreChainPoint *store_chain_index_find(const StoreChainIndex *index, const CbtUuid *uuid);
StoreChainDisk *store_chain_point_find_disk(const StoreChainPoint *point, const char *name);
/* Takes POINT over, in the place of the one with its uuid, or else where its time puts it. */
void store_chain_index_put(StoreChainIndex *index, StoreChainPoint *point);

/* Text of INDEX (transfer full), and back. CORRUPT names what is wrong, UNSUPPORTED a newer version. */
char *store_chain_index_encode(const StoreChainIndex *index);
StoreChainIndex *store_chain_index_decode(const char *text, gsize length,
                                          GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* The index in FOLDER; a new one if there is none. STATE: it is of another store or vm, which is named. */
StoreChainIndex *store_chain_index_load(const CbtFileOps *ops, const char *folder, const CbtUuid *store,
                                        const char *vm, GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean store_chain_index_save(const CbtFileOps *ops, const char *folder, const StoreChainIndex *index,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
