/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A chain of Bloom filters, each twice the size of the one before: four bits a chunk, taken from its digest,
 * which is keyed and so as good as random. Adding is four atomic ORs.
 *
 * A chunk that was never added is asked for in each filter of the chain, so each must say yes seldom: with 16
 * bits for each chunk and four of them set a full one does in 0.24 % of all cases, and a chain of all
 * fourteen in 3 %.
 *
 * Why no chunk is lost: a put pins its digest, then looks it up; a collection removes an entry from the
 * index, then asks whether it is pinned. Both are sequentially consistent, so one of the two sees the other:
 * the collection puts the entry back, or the put finds nothing and appends the chunk anew.
 */
#include <store/pins.h>

#include <store/store-private.h>
#include <string.h>

#define WORDS_FIRST     512u /* 4 KiB: 2048 chunks */
#define BITS_PER_CHUNK  16u
#define BITS_SET        4u
#define WORDS_FOR_CHAIN (STORE_PINS_BYTES_MAX / 2 / sizeof(guint64)) /* of the last filter */

typedef struct Filter Filter;
struct Filter {
  Filter *older;    /* (nullable) */
  guint64 n_words;  /* a power of two */
  guint64 n_chunks; /* atomic */
  guint64 words[];  /* atomic */
};

struct StorePins {
  Store *store;
  guint32 first_pack; /* no chunk was appended for these pins before */
  Filter *newest;     /* atomic; changed with the store's pins_lock */
  gboolean is_over;   /* protected by the store's pins_lock, as the list of all pins is */
};

static Filter *
filter_new(guint64 n_words, Filter *older)
{
  Filter *filter = g_malloc0(sizeof *filter + n_words * sizeof(guint64));
  filter->older = older;
  filter->n_words = n_words;
  return filter;
}

static void
pins_destroy(StorePins *pins)
{
  for (Filter *filter = pins->newest, *older; filter; filter = older) {
    older = filter->older;
    g_free(filter);
  }
  g_free(pins);
}

StorePins *
store_pins_new(Store *store)
{
  StorePins *pins = g_new0(StorePins, 1);
  pins->store = store;
  pins->newest = filter_new(WORDS_FIRST, NULL);
  pthread_mutex_lock(&store->pins_lock);
  pins->first_pack = store_pack_end(store->packs).pack;
  g_ptr_array_add(store->pins, pins);
  pthread_mutex_unlock(&store->pins_lock);
  return pins;
}

void
store_pins_free(StorePins *pins)
{
  Store *store = pins->store;
  pthread_mutex_lock(&store->pins_lock);
  gboolean is_wanted = store->is_collecting;
  if (is_wanted)
    pins->is_over = TRUE;
  else
    g_ptr_array_remove_fast(store->pins, pins);
  pthread_mutex_unlock(&store->pins_lock);
  if (!is_wanted)
    pins_destroy(pins);
}

/* ---- adding and asking ---- */

typedef struct {
  guint64 at[BITS_SET]; /* modulo the bits of a filter */
} Bits;

/* The bits of ID, without its ordinal. */
static Bits
bits_of(const StoreChunkId *id)
{
  Bits bits;
  guint64 step;
  memcpy(&bits.at[0], id->bytes, sizeof bits.at[0]);
  memcpy(&step, id->bytes + STORE_CHUNK_ID_SIZE - 1 - sizeof step, sizeof step);
  for (guint i = 1; i < BITS_SET; i++)
    bits.at[i] = bits.at[i - 1] + (step | 1);
  return bits;
}

static guint64
mask_of(guint64 bit)
{
  return G_GUINT64_CONSTANT(1) << bit % 64;
}

static void
grow(StorePins *pins, const Filter *full)
{
  pthread_mutex_lock(&pins->store->pins_lock);
  if (pins->newest == full)
    __atomic_store_n(&pins->newest, filter_new(full->n_words * 2, pins->newest), __ATOMIC_SEQ_CST);
  pthread_mutex_unlock(&pins->store->pins_lock);
}

void
store_pins_add(StorePins *pins, const StoreChunkId *id)
{
  Filter *filter = __atomic_load_n(&pins->newest, __ATOMIC_SEQ_CST);
  Bits bits = bits_of(id);
  for (guint i = 0; i < BITS_SET; i++)
    __atomic_fetch_or(&filter->words[bits.at[i] / 64 % filter->n_words], mask_of(bits.at[i]),
                      __ATOMIC_SEQ_CST);
  guint64 n = __atomic_add_fetch(&filter->n_chunks, 1, __ATOMIC_RELAXED);
  if (n * BITS_PER_CHUNK >= filter->n_words * 64 && filter->n_words < WORDS_FOR_CHAIN)
    grow(pins, filter);
}

static gboolean
filter_contains(const Filter *filter, const Bits *bits)
{
  for (guint i = 0; i < BITS_SET; i++) {
    const guint64 *word = &filter->words[bits->at[i] / 64 % filter->n_words];
    if (!(__atomic_load_n(word, __ATOMIC_SEQ_CST) & mask_of(bits->at[i])))
      return FALSE;
  }
  return TRUE;
}

static gboolean
pins_contain(const StorePins *pins, const Bits *bits)
{
  const Filter *filter = __atomic_load_n(&pins->newest, __ATOMIC_SEQ_CST);
  while (filter && !filter_contains(filter, bits))
    filter = filter->older;
  return filter != NULL;
}

gboolean
store_pins_contain(Store *store, const StoreChunkId *id)
{
  gboolean found = FALSE;
  Bits bits = bits_of(id);
  pthread_mutex_lock(&store->pins_lock);
  for (guint i = 0; i < store->pins->len && !found; i++)
    found = pins_contain(store->pins->pdata[i], &bits);
  pthread_mutex_unlock(&store->pins_lock);
  return found;
}

/* ---- collections ---- */

gboolean
store_pins_begin_collection(Store *store, guint32 *first_pack)
{
  *first_pack = G_MAXUINT32;
  pthread_mutex_lock(&store->pins_lock);
  gboolean ok = !store->is_collecting;
  store->is_collecting = TRUE;
  for (guint i = 0; i < store->pins->len; i++)
    *first_pack = MIN(*first_pack, ((const StorePins *) store->pins->pdata[i])->first_pack);
  pthread_mutex_unlock(&store->pins_lock);
  return ok;
}

void
store_pins_end_collection(Store *store)
{
  pthread_mutex_lock(&store->pins_lock);
  store->is_collecting = FALSE;
  for (guint i = store->pins->len; i-- > 0;) {
    StorePins *pins = store->pins->pdata[i];
    if (!pins->is_over)
      continue;
    g_ptr_array_remove_index_fast(store->pins, i);
    pins_destroy(pins);
  }
  pthread_mutex_unlock(&store->pins_lock);
}
