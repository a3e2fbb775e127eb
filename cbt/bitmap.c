/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two levels: words of 64 granules, and a summary with one bit for each word that is not zero.
 *
 * The one rule is that the summary is never poorer than the words: a setter marks the summary, then the word;
 * a clearer zeroes the word, then the summary. So whoever walks by the summary misses nothing, and neither
 * does whoever opens the words after the setter was killed between the two. A summary bit over a zero word
 * only costs a look.
 *
 * Bits behind the last granule may be anything in words that came from a file: walks and counts are cut at
 * n_bits.
 */
#include <cbt/bitmap.h>

#include <common/bytes.h>

#define WORD_BITS 64u
#define ALL_ONES  (~G_GUINT64_CONSTANT(0))

struct CbtBitmap {
  guint64 size;        /* bytes of the disk */
  guint64 granularity; /* bytes a bit */
  guint shift;         /* log2 of granularity */
  guint64 n_bits;
  gsize n_words;
  gsize n_summary;
  guint64 *words;
  guint64 *summary;
  gboolean owned; /* words and summary are freed with the bitmap */
};

static inline guint64
load(const guint64 *word)
{
  return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline void
store(guint64 *word, guint64 value)
{
  __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/* The bits from BIT (0 to 63) on. */
static inline guint64
mask_from(guint64 bit)
{
  return ALL_ONES << (bit % WORD_BITS);
}

/* The bits up to BIT (0 to 63), with it. */
static inline guint64
mask_to(guint64 bit)
{
  return ALL_ONES >> (WORD_BITS - 1 - bit % WORD_BITS);
}

gboolean
cbt_granularity_is_valid(guint64 granularity)
{
  return cbt_is_power_of_two(granularity) && granularity >= CBT_GRANULARITY_MIN &&
         granularity <= CBT_GRANULARITY_MAX;
}

gsize
cbt_bitmap_n_words(guint64 size, guint64 granularity)
{
  return cbt_div_up(cbt_div_up(size, granularity), WORD_BITS);
}

gsize
cbt_bitmap_n_summary_words(guint64 size, guint64 granularity)
{
  return cbt_div_up(cbt_bitmap_n_words(size, granularity), WORD_BITS);
}

CbtBitmap *
cbt_bitmap_new_over(guint64 size, guint64 granularity, guint64 *words, guint64 *summary)
{
  g_assert(size <= CBT_DISK_SIZE_MAX && cbt_granularity_is_valid(granularity));
  CbtBitmap *bitmap = g_new0(CbtBitmap, 1);
  bitmap->size = size;
  bitmap->granularity = granularity;
  bitmap->shift = (guint) __builtin_ctzll(granularity);
  bitmap->n_bits = cbt_div_up(size, granularity);
  bitmap->n_words = cbt_bitmap_n_words(size, granularity);
  bitmap->n_summary = cbt_bitmap_n_summary_words(size, granularity);
  bitmap->words = words;
  bitmap->summary = summary;
  return bitmap;
}

CbtBitmap *
cbt_bitmap_new(guint64 size, guint64 granularity)
{
  CbtBitmap *bitmap = cbt_bitmap_new_over(size, granularity, NULL, NULL);
  bitmap->owned = TRUE;
  bitmap->words = g_try_new0(guint64, MAX(bitmap->n_words, 1));
  bitmap->summary = g_try_new0(guint64, MAX(bitmap->n_summary, 1));
  if (bitmap->words == NULL || bitmap->summary == NULL)
    g_clear_pointer(&bitmap, cbt_bitmap_free);
  return bitmap;
}

CbtBitmap *
cbt_bitmap_copy(const CbtBitmap *bitmap, guint64 granularity)
{
  CbtBitmap *copy = cbt_bitmap_new(bitmap->size, granularity);
  if (copy != NULL)
    cbt_bitmap_merge(copy, bitmap);
  return copy;
}

void
cbt_bitmap_free(CbtBitmap *bitmap)
{
  if (bitmap == NULL)
    return;
  if (bitmap->owned) {
    g_free(bitmap->words);
    g_free(bitmap->summary);
  }
  g_free(bitmap);
}

guint64
cbt_bitmap_size(const CbtBitmap *bitmap)
{
  return bitmap->size;
}

guint64
cbt_bitmap_granularity(const CbtBitmap *bitmap)
{
  return bitmap->granularity;
}

/* Looks before it writes: a bit that is set already costs no locked instruction and dirties no page. Returns
 * how many bits it set. */
static inline guint64
or_word(CbtBitmap *bitmap, gsize index, guint64 mask)
{
  if ((load(&bitmap->words[index]) & mask) == mask)
    return 0;
  guint64 *summary = &bitmap->summary[index / WORD_BITS];
  guint64 bit = G_GUINT64_CONSTANT(1) << (index % WORD_BITS);
  if ((load(summary) & bit) == 0)
    __atomic_fetch_or(summary, bit, __ATOMIC_RELEASE);
  guint64 before = __atomic_fetch_or(&bitmap->words[index], mask, __ATOMIC_RELEASE);
  return (guint64) __builtin_popcountll(mask & ~before);
}

guint64
cbt_bitmap_set(CbtBitmap *bitmap, guint64 offset, guint64 length)
{
  if (offset >= bitmap->size || length == 0)
    return 0;
  guint64 last_byte = offset + MIN(length, bitmap->size - offset) - 1;
  guint64 first = offset >> bitmap->shift;
  guint64 last = last_byte >> bitmap->shift;
  gsize first_word = first / WORD_BITS;
  gsize last_word = last / WORD_BITS;
  if (first_word == last_word)
    return or_word(bitmap, first_word, mask_from(first) & mask_to(last));
  guint64 n = or_word(bitmap, first_word, mask_from(first));
  for (gsize i = first_word + 1; i < last_word; i++)
    n += or_word(bitmap, i, ALL_ONES);
  return n + or_word(bitmap, last_word, mask_to(last));
}

static void
clear_word(CbtBitmap *bitmap, gsize index, guint64 mask)
{
  guint64 before = load(&bitmap->words[index]);
  if ((before & mask) == 0)
    return;
  store(&bitmap->words[index], before & ~mask);
  if ((before & ~mask) == 0) {
    guint64 *summary = &bitmap->summary[index / WORD_BITS];
    store(summary, load(summary) & ~(G_GUINT64_CONSTANT(1) << (index % WORD_BITS)));
  }
}

void
cbt_bitmap_clear(CbtBitmap *bitmap, guint64 offset, guint64 length)
{
  if (offset >= bitmap->size || length == 0)
    return;
  guint64 first = cbt_div_up(offset, bitmap->granularity);
  guint64 end = length >= bitmap->size - offset ? bitmap->n_bits : (offset + length) >> bitmap->shift;
  if (first >= end)
    return;
  gsize last_word = (end - 1) / WORD_BITS;
  for (gsize i = first / WORD_BITS; i <= last_word; i++) {
    guint64 mask = i == first / WORD_BITS ? mask_from(first) : ALL_ONES;
    clear_word(bitmap, i, i == last_word ? mask & mask_to(end - 1) : mask);
  }
}

void
cbt_bitmap_set_all(CbtBitmap *bitmap)
{
  cbt_bitmap_set(bitmap, 0, bitmap->size);
}

/* Visits only words that the summary names, so that clearing a sparse bitmap dirties few pages. */
void
cbt_bitmap_clear_all(CbtBitmap *bitmap)
{
  for (gsize s = 0; s < bitmap->n_summary; s++) {
    guint64 marked = load(&bitmap->summary[s]);
    if (marked == 0)
      continue;
    for (guint64 left = marked; left != 0; left &= left - 1) {
      gsize index = s * WORD_BITS + (gsize) __builtin_ctzll(left);
      if (index < bitmap->n_words)
        store(&bitmap->words[index], 0);
    }
    store(&bitmap->summary[s], 0);
  }
}

gboolean
cbt_bitmap_get(const CbtBitmap *bitmap, guint64 offset)
{
  if (offset >= bitmap->size)
    return FALSE;
  guint64 bit = offset >> bitmap->shift;
  return (load(&bitmap->words[bit / WORD_BITS]) >> (bit % WORD_BITS)) & 1;
}

/* The first word at or after INDEX that may have a bit set; n_words if there is none. */
static gsize
next_marked_word(const CbtBitmap *bitmap, gsize index)
{
  if (index >= bitmap->n_words)
    return bitmap->n_words;
  gsize s = index / WORD_BITS;
  guint64 marked = load(&bitmap->summary[s]) & mask_from(index);
  while (marked == 0) {
    if (++s == bitmap->n_summary)
      return bitmap->n_words;
    marked = load(&bitmap->summary[s]);
  }
  return MIN(s * WORD_BITS + (gsize) __builtin_ctzll(marked), bitmap->n_words);
}

/* The first set bit at or after BIT; n_bits if there is none. */
static guint64
find_set(const CbtBitmap *bitmap, guint64 bit)
{
  if (bit >= bitmap->n_bits)
    return bitmap->n_bits;
  gsize index = bit / WORD_BITS;
  guint64 word = load(&bitmap->words[index]) & mask_from(bit);
  while (word == 0) {
    index = next_marked_word(bitmap, index + 1);
    if (index == bitmap->n_words)
      return bitmap->n_bits;
    word = load(&bitmap->words[index]);
  }
  return MIN(index * WORD_BITS + (guint64) __builtin_ctzll(word), bitmap->n_bits);
}

/* The first clear bit at or after BIT; LIMIT (at most n_bits) if there is none before it. */
static guint64
find_clear(const CbtBitmap *bitmap, guint64 bit, guint64 limit)
{
  if (bit >= limit)
    return limit;
  gsize index = bit / WORD_BITS;
  guint64 word = ~load(&bitmap->words[index]) & mask_from(bit);
  while (word == 0) {
    if (++index * WORD_BITS >= limit)
      return limit;
    word = ~load(&bitmap->words[index]);
  }
  return MIN(index * WORD_BITS + (guint64) __builtin_ctzll(word), limit);
}

/* The bits [first, end) as bytes, not before OFFSET and not behind the disk. */
static void
make_extent(const CbtBitmap *bitmap, guint64 first, guint64 end, guint64 offset, guint64 max_length,
            CbtExtent *extent)
{
  extent->offset = MAX(offset, first << bitmap->shift);
  extent->length = MIN(MIN(end << bitmap->shift, bitmap->size) - extent->offset, max_length);
}

gboolean
cbt_bitmap_next_dirty(const CbtBitmap *bitmap, guint64 offset, guint64 max_length, CbtExtent *extent)
{
  if (offset >= bitmap->size || max_length == 0)
    return FALSE;
  guint64 first = find_set(bitmap, offset >> bitmap->shift);
  if (first == bitmap->n_bits)
    return FALSE;
  guint64 start = MAX(offset, first << bitmap->shift);
  guint64 limit = bitmap->n_bits;
  if (max_length < bitmap->size - start)
    limit = cbt_div_up(start + max_length, bitmap->granularity);
  make_extent(bitmap, first, find_clear(bitmap, first, limit), offset, max_length, extent);
  return TRUE;
}

gboolean
cbt_bitmap_next_clean(const CbtBitmap *bitmap, guint64 offset, guint64 max_length, CbtExtent *extent)
{
  if (offset >= bitmap->size || max_length == 0)
    return FALSE;
  guint64 first = find_clear(bitmap, offset >> bitmap->shift, bitmap->n_bits);
  if (first == bitmap->n_bits)
    return FALSE;
  make_extent(bitmap, first, find_set(bitmap, first), offset, max_length, extent);
  return TRUE;
}

guint64
cbt_bitmap_n_dirty(const CbtBitmap *bitmap)
{
  guint64 n = 0;
  for (gsize i = next_marked_word(bitmap, 0); i < bitmap->n_words; i = next_marked_word(bitmap, i + 1)) {
    guint64 word = load(&bitmap->words[i]);
    if (i == bitmap->n_words - 1)
      word &= mask_to(bitmap->n_bits - 1);
    n += (guint64) __builtin_popcountll(word);
  }
  return n;
}

guint64
cbt_bitmap_count(const CbtBitmap *bitmap)
{
  if (bitmap->n_bits == 0)
    return 0;
  guint64 n = cbt_bitmap_n_dirty(bitmap);
  guint64 overhang = (bitmap->n_bits << bitmap->shift) - bitmap->size;
  return (n << bitmap->shift) - (cbt_bitmap_get(bitmap, bitmap->size - 1) ? overhang : 0);
}

/* One bit for each group of 2^SHIFT bits of WORD that is not zero. SHIFT is 0 to 5. */
static guint64
fold(guint64 word, guint shift)
{
  guint64 folded = 0;
  while (word != 0) {
    guint group = (guint) __builtin_ctzll(word) >> shift;
    guint next = (group + 1) << shift;
    folded |= G_GUINT64_CONSTANT(1) << group;
    word = next < WORD_BITS ? word & mask_from(next) : 0;
  }
  return folded;
}

/* DST is as coarse as SRC or coarser: a word of SRC falls into one word of DST. */
static void
merge_into_coarser(CbtBitmap *dst, const CbtBitmap *src)
{
  guint shift = dst->shift - src->shift;
  for (gsize i = next_marked_word(src, 0); i < src->n_words; i = next_marked_word(src, i + 1)) {
    guint64 word = load(&src->words[i]);
    guint64 bit = (i * WORD_BITS) >> shift;
    if (shift >= 6)
      word = word != 0;
    else if (shift > 0)
      word = fold(word, shift);
    if (word != 0)
      or_word(dst, bit / WORD_BITS, word << (bit % WORD_BITS));
  }
}

static void
merge_into_finer(CbtBitmap *dst, const CbtBitmap *src)
{
  CbtExtent extent;
  for (guint64 at = 0; cbt_bitmap_next_dirty(src, at, G_MAXUINT64, &extent);
       at = extent.offset + extent.length)
    cbt_bitmap_set(dst, extent.offset, extent.length);
}

void
cbt_bitmap_merge(CbtBitmap *dst, const CbtBitmap *src)
{
  g_assert(dst->size == src->size);
  if (dst->shift >= src->shift)
    merge_into_coarser(dst, src);
  else
    merge_into_finer(dst, src);
}

void
cbt_bitmap_rebuild_summary(CbtBitmap *bitmap)
{
  for (gsize s = 0; s < bitmap->n_summary; s++) {
    gsize first = s * WORD_BITS;
    gsize n = MIN(WORD_BITS, bitmap->n_words - first);
    guint64 marked = 0;
    for (gsize i = 0; i < n; i++)
      marked |= (guint64) (load(&bitmap->words[first + i]) != 0) << i;
    if (load(&bitmap->summary[s]) != marked)
      store(&bitmap->summary[s], marked);
  }
}
