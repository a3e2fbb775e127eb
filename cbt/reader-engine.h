/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The lower half of a reader, behind a small table: it takes reads, keeps many in flight, and makes each whole. It does
 * not know extents, blocks or who takes the data. The ring (cbt/reader-ring.c) is the engine of images that have a
 * descriptor; a source whose class has `new_engine` brings its own.
 *
 * Of one thread at a time, but for n_reads. Freed when nothing is in flight, or when it failed.
 */
#pragma once

#include <glib.h>

/* One read, in memory of the caller's from start until it is reaped. */
typedef struct {
  guint64 offset; /* bytes, inside the disk */
  guint32 length; /* bytes */
  guint8 *data;   /* in the arena; room for length rounded up to 4096 */
  /* the engine's own */
  guint32 done;    /* bytes that have arrived */
  guint n_retries; /* in a row, without a byte */
  gboolean direct; /* the way it was last submitted */
} CbtEngineRead;

typedef struct CbtReaderEngine CbtReaderEngine;

typedef struct {
  /* Queues READ; it goes out with the next wait at the latest. */
  void (*start)(CbtReaderEngine *engine, CbtEngineRead *read);
  /* Sends what is queued and waits until something can be reaped, a signal came, or TIMEOUT_MS (below 1000) passed.
   * FALSE if the engine itself failed so that the arena may still be written to, for ever. */
  gboolean (*wait)(CbtReaderEngine *engine, guint timeout_ms, GError **error);
  /* The next read that is over, or NULL. ERROR is set if that one failed, naming the offset. */
  CbtEngineRead *(*reap)(CbtReaderEngine *engine, GError **error);
  guint (*n_in_flight)(const CbtReaderEngine *engine);
  /* Reads sent so far, continued and repeated ones too. Any thread. */
  guint64 (*n_reads)(const CbtReaderEngine *engine);
  /* Reads shall not make those wait who write to the image. */
  void (*set_nowait)(CbtReaderEngine *engine);
  /* Nobody wants what is in flight any more: all of it can be reaped at once, failed, and so can all that is started
   * later. NULL for an engine that can only wait for it. */
  void (*stop)(CbtReaderEngine *engine);
  void (*free)(CbtReaderEngine *engine);
} CbtReaderEngineClass;

struct CbtReaderEngine {
  const CbtReaderEngineClass *klass;
};
