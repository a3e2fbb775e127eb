/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Threads take the next number, make that piece, and wait until it is its turn. The thread that has the turn
 * is never the one that waits, so there is always one that moves.
 */
#include <store/ordered-writer.h>

#include <common/error.h>
#include <pthread.h>
#include <stdatomic.h>

typedef struct {
  const StoreOrderedFuncs *funcs; /* constant, up to cancellable */
  gpointer user_data;
  guint64 n_pieces;
  GCancellable *cancellable;
  atomic_ullong next; /* to be made */
  pthread_mutex_t lock;
  pthread_cond_t changed;
  guint64 turn; /* the piece to be written next; under lock, as error */
  GError *error;
} OrderedWrite;

/* FALSE if the others have failed meanwhile. */
static gboolean
wait_for_turn(OrderedWrite *write, guint64 number)
{
  pthread_mutex_lock(&write->lock);
  while (write->turn != number && !write->error)
    pthread_cond_wait(&write->changed, &write->lock);
  gboolean ok = !write->error;
  pthread_mutex_unlock(&write->lock);
  return ok;
}

static void
pass_turn(OrderedWrite *write)
{
  pthread_mutex_lock(&write->lock);
  write->turn++;
  pthread_cond_broadcast(&write->changed);
  pthread_mutex_unlock(&write->lock);
}

static void
fail(OrderedWrite *write, GError *error)
{
  pthread_mutex_lock(&write->lock);
  if (!write->error)
    write->error = g_steal_pointer(&error);
  pthread_cond_broadcast(&write->changed);
  pthread_mutex_unlock(&write->lock);
  g_clear_error(&error);
}

static gboolean
check_going_on(const OrderedWrite *write, GError **error)
{
  if (!g_cancellable_is_cancelled(write->cancellable))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_CANCELLED, NULL, "cancelled by request");
  return FALSE;
}

static gboolean
do_piece(OrderedWrite *write, gpointer thread, guint64 number, GError **error)
{
  if (!check_going_on(write, error) || !write->funcs->make(thread, number, error) ||
      !wait_for_turn(write, number) || !write->funcs->write(thread, number, error))
    return FALSE;
  pass_turn(write);
  return TRUE;
}

static void *
write_thread(void *data)
{
  OrderedWrite *write = data;
  GError *error = NULL;
  gpointer thread = write->funcs->thread_new(write->user_data, &error);
  guint64 number;
  while (thread && (number = atomic_fetch_add(&write->next, 1)) < write->n_pieces &&
         do_piece(write, thread, number, &error))
    continue;
  if (error)
    fail(write, error);
  if (thread)
    write->funcs->thread_free(thread);
  return NULL;
}

static void
run_threads(OrderedWrite *write, guint n_threads)
{
  n_threads = MIN(n_threads ? n_threads : g_get_num_processors(), STORE_ORDERED_THREADS_MAX);
  n_threads = (guint) MAX(1, MIN(n_threads, write->n_pieces));
  pthread_t threads[STORE_ORDERED_THREADS_MAX];
  guint n_started = 0;
  while (n_started < n_threads && pthread_create(&threads[n_started], NULL, write_thread, write) == 0)
    n_started++;
  if (n_started == 0)
    write_thread(write);
  for (guint i = 0; i < n_started; i++)
    pthread_join(threads[i], NULL);
}

gboolean
store_ordered_write(const StoreOrderedFuncs *funcs, gpointer user_data, guint64 n_pieces, guint n_threads,
                    GCancellable *cancellable, GError **error)
{
  OrderedWrite write = {
      .funcs = funcs, .user_data = user_data, .n_pieces = n_pieces, .cancellable = cancellable};
  pthread_mutex_init(&write.lock, NULL);
  pthread_cond_init(&write.changed, NULL);
  run_threads(&write, n_threads);
  pthread_cond_destroy(&write.changed);
  pthread_mutex_destroy(&write.lock);
  if (write.error)
    g_propagate_error(error, write.error);
  return write.error == NULL;
}
