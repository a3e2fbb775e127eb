/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checked key files: what point files and vm files have in common. UTF-8 text: a comment line, a key file
 * whose first group is named by the kind and has the key `format`, and as the very last line a checksum of
 * every byte before it (docs/formats/point.md).
 *
 * Puts leave out what is nil or NULL, so equal objects have equal texts. Each get names group and key in its
 * error, CORRUPT. Keys and groups that nobody asks for are ignored: a later release may add some within one
 * version.
 */
#pragma once

#include <common/file-ops.h>
#include <common/uuid.h>
#include <store/chunk.h>

typedef struct {
  const char *what;    /* for messages: "recovery point" */
  const char *heading; /* the comment line */
  const char *group;   /* the first one */
  const char *suffix;  /* of the file's name */
  guint64 version;
  gsize length_max; /* bytes */
} StoreKeyfileKind;

#define STORE_KEYFILE_LENGTH_MAX (1u << 20)

/* The text of FILE with its checksum (transfer full). */
char *store_keyfile_seal(const StoreKeyfileKind *kind, GKeyFile *file, gsize *length);
/* Checks the checksum, the syntax, the first group, and the version. CORRUPT; UNSUPPORTED (newer version). */
GKeyFile *store_keyfile_unseal(const StoreKeyfileKind *kind, const char *text, gsize length,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Bytes that are no UTF-8 become U+FFFD. */
void store_keyfile_put_text(GKeyFile *file, const char *group, const char *key, const char *value);
void store_keyfile_put_uuid(GKeyFile *file, const char *group, const char *key, const CbtUuid *uuid);
void store_keyfile_put_chunk(GKeyFile *file, const char *group, const char *key, const StoreChunkId *id);

/* A value that is not REQUIRED and not there leaves *value as it is; a text becomes NULL. */
gboolean store_keyfile_get_u64(GKeyFile *file, const char *group, const char *key, gboolean required,
                               guint64 *value, GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean store_keyfile_get_time(GKeyFile *file, const char *group, const char *key, gboolean required,
                                gint64 *value, GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean store_keyfile_get_text(GKeyFile *file, const char *group, const char *key, gboolean required,
                                char **value, GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean store_keyfile_get_uuid(GKeyFile *file, const char *group, const char *key, gboolean required,
                                CbtUuid *uuid, GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean store_keyfile_get_chunk(GKeyFile *file, const char *group, const char *key, StoreChunkId *id,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* One of two words; *value is TRUE for the first. */
gboolean store_keyfile_get_choice(GKeyFile *file, const char *group, const char *key, const char *if_true,
                                  const char *if_false, gboolean *value,
                                  GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Sets the CORRUPT error that names KEY; always FALSE. */
gboolean store_keyfile_wrong_value(const char *group, const char *key, GError **error);

/* The file of the object NAME in FOLDER (transfer full). */
char *store_keyfile_path(const StoreKeyfileKind *kind, const char *folder, const char *name);
/* Replaces it durably. TOO_LARGE, with HINT. */
gboolean store_keyfile_save(const StoreKeyfileKind *kind, const CbtFileOps *ops, const char *path,
                            const char *text, gsize length, const char *hint,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean store_keyfile_remove(const CbtFileOps *ops, const char *folder, const char *path,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Renames the file at PATH to PATH.damaged-TIME, so that another one can take its place. *to (transfer full):
 * where it is. */
gboolean store_keyfile_set_aside(const CbtFileOps *ops, const char *folder, const char *path, char **to,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Names, without the suffix, of all files of KIND in FOLDER, in no order (of char *). */
GPtrArray *store_keyfile_list(const StoreKeyfileKind *kind, const char *folder,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;
