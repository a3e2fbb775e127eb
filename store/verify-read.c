/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading a batch. The items are sorted by where they stand, and the threads take them one after the other,
 * so that together they go through the packs in order.
 */
#include <store/verify-private.h>

#include <common/error.h>
#include <store/index-format.h>

#define ITEMS_PER_THREAD 16 /* fewer are not worth a thread */

typedef struct {
  StoreVerify *verify;
  StoreVerifyItem *items;
  guint n;
  gint next; /* atomic */
} Batch;

typedef struct {
  Batch *batch;
  StoreWorker *worker;
} Reader;

static guint64
place_of(const StoreVerify *verify, const StoreChunkId *id, guint64 *n_bytes)
{
  StoreLocation location;
  *n_bytes = 0;
  if (!store_index_lookup(verify->store->index, id, &location))
    return 0;
  *n_bytes = location.length;
  return store_index_pack_location(&location);
}

static gboolean
get(StoreWorker *worker, const StoreVerifyItem *item, guint8 *data, GError **error)
{
  gsize length = 0;
  if (!store_manifest_get_chunk(worker, &item->id, data, &length, error))
    return FALSE;
  if (item->type == STORE_CHUNK_PAGE) {
    StorePage page;
    return store_page_decode(data, length, item->level, item->page ? item->page : &page, error);
  }
  if (item->length == 0 || item->length == length)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "it has %zu bytes, and should have %zu", length,
                item->length);
  return FALSE;
}

static void
read_item(const StoreVerify *verify, StoreWorker *worker, StoreVerifyItem *item, guint8 *data)
{
  item->place = place_of(verify, &item->id, &item->n_bytes);
  if (!get(worker, item, data, &item->error))
    g_assert(item->error);
}

void
store_verify_read_one(StoreVerify *verify, StoreVerifyItem *item)
{
  g_autofree guint8 *data = g_malloc(STORE_CHUNK_LENGTH_MAX);
  read_item(verify, verify->workers[0], item, data);
}

static void
run_reader(const Reader *reader)
{
  Batch *batch = reader->batch;
  StoreVerify *verify = batch->verify;
  g_autofree guint8 *data = g_malloc(STORE_CHUNK_LENGTH_MAX);
  guint i;
  while (!g_atomic_int_get(&verify->stopped) && (i = (guint) g_atomic_int_add(&batch->next, 1)) < batch->n) {
    StoreVerifyItem *item = &batch->items[i];
    read_item(verify, reader->worker, item, data);
    if (verify->options.progress &&
        !verify->options.progress(item->n_bytes, item->covers, verify->options.user_data))
      g_atomic_int_set(&verify->stopped, 1);
  }
}

static void *
reader_thread(void *data)
{
  run_reader(data);
  return NULL;
}

/* The caller's thread reads as well; a thread that cannot be started is done without. */
static void
run_readers(Batch *batch)
{
  StoreVerify *verify = batch->verify;
  pthread_t threads[STORE_VERIFY_THREADS_MAX];
  Reader readers[STORE_VERIFY_THREADS_MAX];
  guint n_wanted = MIN(verify->n_threads, 1 + batch->n / ITEMS_PER_THREAD), n_started = 1;
  for (; n_started < n_wanted; n_started++) {
    readers[n_started] = (Reader){batch, verify->workers[n_started]};
    if (pthread_create(&threads[n_started], NULL, reader_thread, &readers[n_started]) != 0)
      break;
  }
  readers[0] = (Reader){batch, verify->workers[0]};
  run_reader(&readers[0]);
  for (guint i = 1; i < n_started; i++)
    pthread_join(threads[i], NULL);
}

static int
compare_places(const void *a, const void *b)
{
  guint64 x = ((const StoreVerifyItem *) a)->place, y = ((const StoreVerifyItem *) b)->place;
  return (x > y) - (x < y);
}

static void
note_results(StoreVerify *verify, Batch *batch)
{
  guint n_read = MIN(batch->n, (guint) batch->next);
  for (guint i = 0; i < n_read; i++) {
    StoreVerifyItem *item = &batch->items[i];
    verify->counts.n_chunks++;
    verify->counts.bytes += item->n_bytes;
    if (item->error)
      store_verify_note_damage(verify, item);
  }
}

gboolean
store_verify_read(StoreVerify *verify, GArray *items)
{
  Batch batch = {.verify = verify, .n = items->len};
  batch.items = (StoreVerifyItem *) (gpointer) items->data;
  for (guint i = 0; i < batch.n; i++)
    batch.items[i].place = place_of(verify, &batch.items[i].id, &batch.items[i].n_bytes);
  g_array_sort(items, compare_places);
  run_readers(&batch);
  note_results(verify, &batch);
  return !g_atomic_int_get(&verify->stopped);
}
