/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The reader: turns a stream of extents into a stream of filled buffers, with many large reads in flight: by io_uring
 * where the source has a descriptor, else by the source's own engine (cbt/reader-engine.h).
 *
 * Extents are cut into blocks of at most `block_size`, aligned so that no block crosses a multiple of it. Blocks are
 * numbered in the order of the extents and delivered in the order of completion, from the thread that calls
 * cbt_reader_run(). The receiver gives each buffer back with cbt_reader_release() from any thread; while all buffers
 * are out, reading waits: that is the bound on memory.
 *
 * Direct reads use registered aligned buffers; where O_DIRECT is refused (open or read), the page cache serves.
 * A short read is continued, EAGAIN and EINTR are tried again, a read behind the end of the image is an error.
 */
#pragma once

#include <cbt/source.h>
#include <gio/gio.h>

typedef struct {
  guint64 sequence; /* 0, 1, 2, ... in the order of the extents */
  guint64 offset;   /* of the disk, bytes */
  guint32 length;   /* bytes in data; a multiple of the cluster size but at the disk's end or an extent's */
  guint8 *data;     /* block_size bytes, aligned to 4096; behind `length` zeros up to the disk's next cluster
                       boundary */
  /* private */
  guint index;
} CbtReadBlock;

typedef struct {
  guint32 block_size; /* bytes, a power of two from 64 KiB to 4 MiB */
  guint n_blocks;     /* buffers; also the deepest queue; at most 1 GiB of them */
  gboolean direct;
} CbtReaderOptions;

#define CBT_READER_OPTIONS_DEFAULT ((CbtReaderOptions) {.block_size = 256 * 1024, .n_blocks = 64, .direct = TRUE})

/* Sets *extent to the next one (ascending, not overlapping, inside the disk) and returns TRUE; FALSE at the end, or with
 * ERROR set. */
typedef gboolean (*CbtNextExtentFunc)(gpointer user_data, CbtExtent *extent, GError **error);
/* Takes BLOCK over until it is released. Must not wait: see CbtPaceFunc. */
typedef void (*CbtBlockFunc)(gpointer user_data, CbtReadBlock *block);
/* Is told of each block of LENGTH bytes as it is started; the next one is not before the monotonic time (microseconds) that
 * it returns. A reader is slowed by starting late, and takes at once what it asked for: QEMU, whose answers nobody takes,
 * would stand still with its guest as soon as it must drain its requests. */
typedef gint64 (*CbtPaceFunc)(gpointer user_data, guint32 length);

typedef struct CbtReader CbtReader;

/* Allocates engine and buffers. SOURCE must outlive it. INVALID options; UNSUPPORTED if the kernel has no
 * io_uring or does not let us use it; what a source's own engine says. */
CbtReader *cbt_reader_new(CbtSource *source, const CbtReaderOptions *options, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
/* Before the first run: direct reads give way to the page cache where others are writing to the image. */
void cbt_reader_set_nowait(CbtReader *reader);
/* Before the first run: PACE says how fast. */
void cbt_reader_set_pace(CbtReader *reader, CbtPaceFunc pace, gpointer user_data);
/* All blocks must have been released. */
void cbt_reader_free(CbtReader *reader);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CbtReader, cbt_reader_free)

/*
 * Reads every extent and returns when the last block was delivered. IO names the offset of the failed read; CANCELLED;
 * INVALID for an extent out of order or outside the disk; or what NEXT set. One thread at a time, any one.
 * On an error no further block is delivered, and none is in flight when it returns. A source's own engine may be of no use
 * after it.
 */
gboolean cbt_reader_run(CbtReader *reader, CbtNextExtentFunc next, CbtBlockFunc deliver, gpointer user_data,
                        GCancellable *cancellable, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void cbt_reader_release(CbtReader *reader, CbtReadBlock *block);

/* Bytes asked from the image, and number of reads (continued and repeated ones count again), so far. Any thread. */
guint64 cbt_reader_bytes_read(const CbtReader *reader);
guint64 cbt_reader_n_reads(const CbtReader *reader);
