/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Recovery points as files: `points/UUID.point`, one for each, holding all that the catalogue knows of it, so that the
 * catalogue can be made again. A checked key file (GKeyFile with a checksum line); docs/formats/point.md.
 */
#pragma once

#include <common/file-ops.h>
#include <common/uuid.h>
#include <store/manifest.h>

typedef struct {
  char *name;
  CbtUuid disk_id;
  char *path;      /* of the image when it was backed up */
  char *bitmap;    /* the bitmap that this point is the base of; "" if none */
  StoreManifest manifest;
  CbtUuid parent;  /* the point that this disk's extents were relative to; nil: all of it was read */
  char *reason;    /* why all of it was read; NULL: it was incremental, or asked to be full */
  guint64 dirty;   /* bytes that had to be looked at */
  guint64 zero;    /* of them, bytes found zero */
  guint64 reused;  /* of them, bytes that the store had */
  guint64 stored;  /* bytes the store grew by, compressed, pages included */
} StorePointDisk;

typedef struct {
  char *name; /* base name of the file */
  StoreChunkId id;
  guint64 size; /* bytes */
} StorePointConfig;

/* What the guest had done for the instant. */
typedef enum {
  STORE_CONSISTENCY_CRASH, /* nothing: as if its power had gone */
  STORE_CONSISTENCY_FS,    /* its file systems were frozen */
  STORE_CONSISTENCY_APP,   /* and scripts in it had prepared its applications */
  STORE_N_CONSISTENCIES
} StoreConsistency;

const char *store_consistency_name(StoreConsistency consistency); /* "crash", "fs", "app" */

typedef struct {
  CbtUuid uuid;
  char *vm;
  gboolean incremental; /* kind: incremental or full */
  CbtUuid parent;       /* nil: none */
  gint64 time;          /* of the instant, microseconds since 1970 */
  char *reason;         /* (nullable) as in the interface's `reason` */
  char *note;           /* (nullable) */
  gboolean is_protected;
  gint64 verified;      /* microseconds since 1970 of the last good verify; 0: never */
  gint64 damaged;       /* of the verify that found damage, if it is the last one; 0: none was found */
  StoreConsistency consistency;
  char *consistency_reason; /* (nullable) why it is less than was asked */
  guint64 frozen_ms;        /* how long its file systems stood still */
  GPtrArray *disks;     /* of StorePointDisk */
  GPtrArray *configs;   /* of StorePointConfig */
} StorePoint;

StorePoint *store_point_new(void);
void store_point_free(StorePoint *point);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StorePoint, store_point_free)
/* Appends a zeroed one and returns it (transfer none). */
StorePointDisk *store_point_add_disk(StorePoint *point, const char *name);
StorePointConfig *store_point_add_config(StorePoint *point, const char *name);
/* (transfer none); NULL if there is none. */
StorePointDisk *store_point_find_disk(const StorePoint *point, const char *name);

/* A plain base name that is safe to make a file of: 1 to 255 bytes of UTF-8 without '/', '[', ']', control characters, or
 * a leading '.' or space. */
gboolean store_point_config_name_is_valid(const char *name);
/* What decode demands beyond syntax: valid and unique names, a uuid, sizes within limits. INVALID names what is wrong. */
gboolean store_point_check(const StorePoint *point, GError **error) G_GNUC_WARN_UNUSED_RESULT;

#define STORE_POINT_LENGTH_MAX (1u << 20) /* of a point file, bytes */

/* Text of POINT, and back. Bytes that are no UTF-8 in a path, reason or note become U+FFFD. CORRUPT (checksum, a missing or wrong key, named), UNSUPPORTED (newer version). */
char *store_point_encode(const StorePoint *point, gsize *length);
StorePoint *store_point_decode(const char *text, gsize length, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* FOLDER is the store's points folder. Save replaces durably (invariant 3, second step); INVALID, TOO_LARGE: a point
 * that could not be read back is not written. */
gboolean store_point_save(const CbtFileOps *ops, const char *folder, const StorePoint *point, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
StorePoint *store_point_load(const CbtFileOps *ops, const char *folder, const CbtUuid *uuid, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
gboolean store_point_remove(const CbtFileOps *ops, const char *folder, const CbtUuid *uuid, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
/* Moves the file of a point, which cannot be read, out of the way: UUID.point.damaged-TIME; *to (transfer full). */
gboolean store_point_set_aside(const CbtFileOps *ops, const char *folder, const CbtUuid *uuid, char **to, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
/* Whether their texts are equal. */
gboolean store_point_equal(const StorePoint *a, const StorePoint *b);
/* The uuids of all point files in FOLDER, in no order. */
GArray *store_point_list(const char *folder, GError **error) G_GNUC_WARN_UNUSED_RESULT;
