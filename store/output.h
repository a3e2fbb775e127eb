/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where an exported disk goes, byte after byte: a file, or a stream that cannot seek. One thread at a time.
 */
#pragma once

#include <common/file-ops.h>
#include <gio/gio.h>

typedef gboolean (*StoreOutputFunc)(gpointer user_data, const guint8 *data, gsize length, GError **error);

typedef struct {
  StoreOutputFunc func;  /* takes the bytes; NULL: they go to fd */
  gpointer user_data;    /* of func */
  int fd;                /* (transfer none) */
  const CbtFileOps *ops; /* of a file, written from its beginning; NULL: a stream, written where it stands */
  const char *name;      /* (nullable) for messages; transfer none */
  guint64 written;       /* bytes so far */
} StoreOutput;

/* What all exports have in common. */
typedef struct {
  guint n_threads;           /* 0: one a processor */
  GCancellable *cancellable; /* (nullable) */
  /* (nullable) After BYTES of the output were written; may wait, as for a rate limit. From any thread, one at
   * a time. */
  void (*progress)(gpointer user_data, guint64 bytes);
  gpointer user_data;
} StoreOutputOptions;

/* NO_SPACE, IO, UNREACHABLE (a broken pipe), or what the function set. */
gboolean store_output_write(StoreOutput *output, const guint8 *data, gsize length,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;
