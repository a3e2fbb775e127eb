/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A few extents go round between the reading thread and the taking ones: free ones wait in one queue, full
 * ones in another.
 */
#include <store/vma-pump.h>

#include <common/error.h>
#include <pthread.h>

typedef struct {
  const StoreVmaTaker *taker; /* constant */
  pthread_mutex_t lock;
  pthread_cond_t changed;
  GQueue free; /* of StoreVmaExtent; under lock, as all below */
  GQueue full;
  gboolean reading_done;
  GError *error;
} Pump;

static void
fail_locked(Pump *pump, GError *error)
{
  if (!pump->error)
    pump->error = error;
  else
    g_clear_error(&error);
}

/* NULL when there will be no more. Under lock. */
static StoreVmaExtent *
take_full_locked(Pump *pump)
{
  while (g_queue_is_empty(&pump->full) && !pump->reading_done && !pump->error)
    pthread_cond_wait(&pump->changed, &pump->lock);
  return pump->error ? NULL : g_queue_pop_head(&pump->full);
}

static void *
take_thread(void *data)
{
  Pump *pump = data;
  const StoreVmaTaker *taker = pump->taker;
  gpointer thread = taker->thread_new ? taker->thread_new(taker->user_data) : taker->user_data;
  StoreVmaExtent *extent;
  pthread_mutex_lock(&pump->lock);
  while ((extent = take_full_locked(pump)) != NULL) {
    GError *error = NULL;
    pthread_mutex_unlock(&pump->lock);
    gboolean ok = taker->take(thread, extent, &error);
    pthread_mutex_lock(&pump->lock);
    if (!ok)
      fail_locked(pump, error);
    g_queue_push_tail(&pump->free, extent);
    pthread_cond_broadcast(&pump->changed);
  }
  pthread_mutex_unlock(&pump->lock);
  if (taker->thread_free)
    taker->thread_free(thread);
  return NULL;
}

/* NULL when something failed. */
static StoreVmaExtent *
take_free(Pump *pump)
{
  pthread_mutex_lock(&pump->lock);
  while (g_queue_is_empty(&pump->free) && !pump->error)
    pthread_cond_wait(&pump->changed, &pump->lock);
  StoreVmaExtent *extent = pump->error ? NULL : g_queue_pop_head(&pump->free);
  pthread_mutex_unlock(&pump->lock);
  return extent;
}

static void
read_all(Pump *pump, StoreVmaReader *reader)
{
  StoreVmaExtent *extent;
  while ((extent = take_free(pump)) != NULL) {
    GError *error = NULL;
    gboolean more = store_vma_reader_next(reader, extent, &error);
    gboolean ended = !more && (error || !store_vma_reader_check_complete(reader, &error) || TRUE);
    pthread_mutex_lock(&pump->lock);
    g_queue_push_tail(more ? &pump->full : &pump->free, extent);
    if (error)
      fail_locked(pump, error);
    pump->reading_done = ended;
    pthread_cond_broadcast(&pump->changed);
    pthread_mutex_unlock(&pump->lock);
    if (ended)
      return;
  }
}

static void
run_threads(Pump *pump, StoreVmaReader *reader, guint n_threads)
{
  g_autofree pthread_t *threads = g_new0(pthread_t, n_threads);
  guint n_started = 0;
  while (n_started < n_threads && pthread_create(&threads[n_started], NULL, take_thread, pump) == 0)
    n_started++;
  if (n_started > 0)
    read_all(pump, reader);
  else
    cbt_set_error(&pump->error, CBT_ERROR_FAILED, NULL, "cannot start a thread");
  for (guint i = 0; i < n_started; i++)
    pthread_join(threads[i], NULL);
}

gboolean
store_vma_pump(StoreVmaReader *reader, const StoreVmaTaker *taker, guint n_threads, GError **error)
{
  Pump pump = {.taker = taker};
  n_threads = MAX(n_threads, 1);
  pthread_mutex_init(&pump.lock, NULL);
  pthread_cond_init(&pump.changed, NULL);
  for (guint i = 0; i < n_threads + 2; i++)
    g_queue_push_tail(&pump.free, store_vma_extent_new());
  run_threads(&pump, reader, n_threads);
  g_queue_clear_full(&pump.free, (GDestroyNotify) store_vma_extent_free);
  g_queue_clear_full(&pump.full, (GDestroyNotify) store_vma_extent_free);
  pthread_cond_destroy(&pump.changed);
  pthread_mutex_destroy(&pump.lock);
  if (pump.error)
    g_propagate_error(error, pump.error);
  return pump.error == NULL;
}
