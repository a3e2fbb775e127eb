/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A source: where the bytes of a disk are read from, behind a small table, so that files, block devices and NBD
 * exports look the same to a backup.
 */
#pragma once

#include <cbt/bitmap-file.h>
#include <cbt/reader-engine.h>

typedef struct CbtSource CbtSource;

typedef struct {
  const char *type; /* "file", "block", ... */
  void (*close)(CbtSource *source);
  /* The run at OFFSET, at most LENGTH bytes: its length and whether it is a hole (reads as zeros). */
  gboolean (*next_extent)(CbtSource *source, guint64 offset, guint64 length, CbtExtent *extent, gboolean *hole,
                          GError **error);
  /* A descriptor to read from, DIRECT (O_DIRECT) or through the page cache; -1 if the source has none. (transfer none) */
  int (*get_fd)(CbtSource *source, gboolean direct);
  /* Whether the bytes changed since the source was opened, by somebody who is not tracked; sets *changed. */
  gboolean (*check_changed)(CbtSource *source, gboolean *changed, GError **error);
  /* NULL if the disk is read through its descriptor. Otherwise what reads it: at most DEPTH reads at a time, into ARENA
   * (transfer none), which outlives it; DIRECT as in the reader's options. Each reader has its own. */
  CbtReaderEngine *(*new_engine)(CbtSource *source, guint8 *arena, gsize arena_size, guint depth, gboolean direct,
                                 GError **error);
} CbtSourceClass;

struct CbtSource {
  const CbtSourceClass *klass;
  guint64 size; /* bytes */
};

/* Opens an image file or block device read-only. Errors name PATH: NOT_FOUND; INVALID for a directory or any other kind of
 * file, or a size of 0 or no multiple of 512, or above CBT_DISK_SIZE_MAX; DENIED; IO. */
CbtSource *cbt_source_open_file(const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void cbt_source_close(CbtSource *source);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CbtSource, cbt_source_close)

gboolean cbt_source_next_extent(CbtSource *source, guint64 offset, guint64 length, CbtExtent *extent, gboolean *hole,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
int cbt_source_fd(CbtSource *source, gboolean direct);
gboolean cbt_source_check_changed(CbtSource *source, gboolean *changed, GError **error) G_GNUC_WARN_UNUSED_RESULT;
