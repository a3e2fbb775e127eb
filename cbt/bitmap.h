/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A dirty bitmap: which granules of a disk were written. Pure memory; it knows no files and no states.
 *
 * Bits stand in uint64_t words, least significant bit first. A summary level above has one bit a word, so that a
 * sparse bitmap is walked by looking at 1/64 of it. The words may be the caller's (a mapped file).
 *
 * Threads: cbt_bitmap_set() may run in any number of threads and processes at once, beside readers of the same
 * words. All other changes need that nobody sets at the same time; a reader beside a setter sees each bit either
 * way. The last granule may reach past the end of the disk; extents and counts are clipped to the disk.
 */
#pragma once

#include <common/extent.h>

#define CBT_GRANULARITY_MIN     G_GUINT64_CONSTANT(4096)
#define CBT_GRANULARITY_MAX     (G_GUINT64_CONSTANT(16) << 20)
#define CBT_GRANULARITY_DEFAULT CBT_CLUSTER_SIZE
/* Largest disk: 2^34 granules of the default granularity. */
#define CBT_DISK_SIZE_MAX (G_GUINT64_CONSTANT(1) << 50)

typedef struct CbtBitmap CbtBitmap;

/* TRUE for a power of two from CBT_GRANULARITY_MIN to CBT_GRANULARITY_MAX. */
gboolean cbt_granularity_is_valid(guint64 granularity);
/* Words that the bits, and the summary, of a disk of SIZE bytes need. */
gsize cbt_bitmap_n_words(guint64 size, guint64 granularity);
gsize cbt_bitmap_n_summary_words(guint64 size, guint64 granularity);

/* All clean. SIZE in bytes, at most CBT_DISK_SIZE_MAX; GRANULARITY valid. NULL if memory is short. */
CbtBitmap *cbt_bitmap_new(guint64 size, guint64 granularity);
/* Over WORDS and SUMMARY, which stay the caller's and must outlive the bitmap. Their contents are taken as they are. */
CbtBitmap *cbt_bitmap_new_over(guint64 size, guint64 granularity, guint64 *words, guint64 *summary);
/* A copy with memory of its own, at another GRANULARITY or the same: never less dirty than BITMAP. NULL if memory is
 * short. */
CbtBitmap *cbt_bitmap_copy(const CbtBitmap *bitmap, guint64 granularity);
void cbt_bitmap_free(CbtBitmap *bitmap);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CbtBitmap, cbt_bitmap_free)

guint64 cbt_bitmap_size(const CbtBitmap *bitmap);        /* bytes of the disk */
guint64 cbt_bitmap_granularity(const CbtBitmap *bitmap); /* bytes a bit */

/* Marks every granule that the range touches. Atomic; word before summary would lose bits for a walker, so the summary
 * comes first. The range is clipped to the disk. Returns how many granules this call found clean. */
guint64 cbt_bitmap_set(CbtBitmap *bitmap, guint64 offset, guint64 length);
/* Cleans the granules that lie wholly inside the range (the last one of the disk counts as whole at its end). */
void cbt_bitmap_clear(CbtBitmap *bitmap, guint64 offset, guint64 length);
void cbt_bitmap_set_all(CbtBitmap *bitmap);
void cbt_bitmap_clear_all(CbtBitmap *bitmap);

gboolean cbt_bitmap_get(const CbtBitmap *bitmap, guint64 offset);
/* Dirty bytes. */
guint64 cbt_bitmap_count(const CbtBitmap *bitmap);
/* Dirty granules. */
guint64 cbt_bitmap_n_dirty(const CbtBitmap *bitmap);
/* The first dirty (clean) extent at or after OFFSET, whole as far as it reaches but at most MAX_LENGTH bytes.
 * FALSE if there is none. */
gboolean cbt_bitmap_next_dirty(const CbtBitmap *bitmap, guint64 offset, guint64 max_length, CbtExtent *extent);
gboolean cbt_bitmap_next_clean(const CbtBitmap *bitmap, guint64 offset, guint64 max_length, CbtExtent *extent);

/* DST |= SRC. Both of one size; granularities may differ, and DST is never less dirty than SRC. */
void cbt_bitmap_merge(CbtBitmap *dst, const CbtBitmap *src);
/* Makes the summary from the words, for words that came from a file. */
void cbt_bitmap_rebuild_summary(CbtBitmap *bitmap);
