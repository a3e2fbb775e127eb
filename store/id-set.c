/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A digest of the id names one of 2^16 buckets; a bucket is a sorted array of entries, the rest of the digest
 * or the whole id. It grows by an eighth, so that next to nothing is given away; to move half a bucket for
 * each new id costs less than the look into memory that any hash table needs.
 */
#include <store/id-set.h>

#include <string.h>
#include <xxhash.h>

#define N_BUCKETS    (1u << 16)
#define INEXACT_SIZE 6u

_Static_assert(N_BUCKETS == 1u << (64 - 8 * INEXACT_SIZE), "bucket and entry are the whole digest");

typedef struct {
  guint8 *entries;
  guint32 n;
  guint32 n_max;
} Bucket;

struct StoreIdSet {
  gsize entry_size;
  guint64 count;
  guint64 memory;
  Bucket buckets[N_BUCKETS];
};

StoreIdSet *
store_id_set_new(gboolean exact)
{
  StoreIdSet *set = g_new0(StoreIdSet, 1);
  set->entry_size = exact ? STORE_CHUNK_ID_SIZE : INEXACT_SIZE;
  return set;
}

void
store_id_set_free(StoreIdSet *set)
{
  for (guint i = 0; set && i < N_BUCKETS; i++)
    g_free(set->buckets[i].entries);
  g_free(set);
}

/* The bucket of ID, and what stands for it there. */
static guint
entry_of(const StoreIdSet *set, const StoreChunkId *id, guint8 entry[STORE_CHUNK_ID_SIZE])
{
  guint64 digest = XXH3_64bits(id->bytes, sizeof id->bytes);
  guint64 rest = GUINT64_TO_LE(digest); /* the lower 48 bits are the first 6 bytes */
  if (set->entry_size == STORE_CHUNK_ID_SIZE)
    memcpy(entry, id->bytes, STORE_CHUNK_ID_SIZE);
  else
    memcpy(entry, &rest, INEXACT_SIZE);
  return (guint) (digest >> 48);
}

/* Where ENTRY stands in BUCKET, or would; TRUE if it does. */
static gboolean
find(const Bucket *bucket, gsize entry_size, const guint8 *entry, guint32 *place)
{
  guint32 low = 0, high = bucket->n;
  while (low < high) {
    guint32 middle = low + (high - low) / 2;
    int order = memcmp(bucket->entries + middle * entry_size, entry, entry_size);
    if (order == 0)
      return TRUE;
    if (order < 0)
      low = middle + 1;
    else
      high = middle;
  }
  *place = low;
  return FALSE;
}

gboolean
store_id_set_contains(const StoreIdSet *set, const StoreChunkId *id)
{
  guint8 entry[STORE_CHUNK_ID_SIZE];
  guint32 place;
  guint bucket = entry_of(set, id, entry);
  return find(&set->buckets[bucket], set->entry_size, entry, &place);
}

gboolean
store_id_set_add(StoreIdSet *set, const StoreChunkId *id)
{
  guint8 entry[STORE_CHUNK_ID_SIZE];
  guint32 place;
  Bucket *bucket = &set->buckets[entry_of(set, id, entry)];
  gsize size = set->entry_size;
  if (find(bucket, size, entry, &place))
    return FALSE;
  if (bucket->n == bucket->n_max) {
    guint32 more = MAX(4, bucket->n_max / 8);
    bucket->entries = g_realloc(bucket->entries, (bucket->n_max + more) * size);
    bucket->n_max += more;
    set->memory += more * size;
  }
  guint8 *at = bucket->entries + place * size;
  memmove(at + size, at, (bucket->n - place) * size);
  memcpy(at, entry, size);
  bucket->n++;
  set->count++;
  return TRUE;
}

guint64
store_id_set_count(const StoreIdSet *set)
{
  return set->count;
}

guint64
store_id_set_memory(const StoreIdSet *set)
{
  return set->memory;
}
