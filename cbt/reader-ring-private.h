/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The lower half of the reader: an io_uring over one image, which keeps each read going until it is whole.
 *
 * It does not know extents, blocks or who takes the data. One thread at a time; for cbt/reader.c and the
 * tests.
 */
#pragma once

#include <cbt/source.h>

/* Alignment of direct reads: offsets, lengths and memory. No device asks for more in practice. */
#define CBT_READER_ALIGNMENT 4096

typedef struct CbtReaderRing CbtReaderRing;

/* One read, in memory of the caller's from start until it is reaped. */
typedef struct {
  guint64 offset; /* bytes */
  guint32 length; /* bytes */
  guint8 *data;   /* in the arena; room for length rounded up to CBT_READER_ALIGNMENT */
  /* private */
  guint32 done;    /* bytes that have arrived */
  guint n_retries; /* in a row, without a byte */
  gboolean direct; /* the way it was last submitted */
} CbtRingRead;

/* For at most DEPTH reads in flight into ARENA (transfer none). UNSUPPORTED without io_uring. */
CbtReaderRing *cbt_reader_ring_new(CbtSource *source, guint8 *arena, gsize arena_size, guint depth,
                                   gboolean direct, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Direct reads shall not wait for write-back, nor make writers of the image wait. */
void cbt_reader_ring_set_nowait(CbtReaderRing *ring);
void cbt_reader_ring_free(CbtReaderRing *ring);

/* Queues READ; it goes out with the next wait. */
void cbt_reader_ring_start(CbtReaderRing *ring, CbtRingRead *read);
/* Submits what is queued and waits until something can be reaped, a signal came, or TIMEOUT_MS (below 1000)
 * passed. FALSE if the ring itself failed: the kernel may then still write to the arena. */
gboolean cbt_reader_ring_wait(CbtReaderRing *ring, guint timeout_ms,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* The next read that is over, or NULL. ERROR is set if that one failed, naming the offset. */
CbtRingRead *cbt_reader_ring_reap(CbtReaderRing *ring, GError **error);

guint cbt_reader_ring_n_in_flight(const CbtReaderRing *ring);
/* Reads submitted so far, continued and repeated ones too. Any thread. */
guint64 cbt_reader_ring_n_reads(const CbtReaderRing *ring);
