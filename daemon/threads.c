/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Each thread has a semaphore that it waits at. When it has nothing to do it puts itself on a stack, from
 * which only the main thread takes: so compare-and-swap is enough, and the main thread never waits for a lock
 * that a thread holds which is not running.
 */
#include <daemon/threads.h>

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

typedef struct Worker Worker;

struct Worker {
  Threads *threads; /* constant */
  pthread_t thread; /* main thread */
  sem_t has_work;
  ThreadsFunc func; /* passed on by the semaphore, as the next; NULL: none, it ends */
  gpointer data;
  Worker *next; /* on the stack, below it */
};

struct Threads {
  _Atomic(Worker *) idle;
  GPtrArray *all; /* main thread; of Worker */
};

Threads *
threads_new(void)
{
  Threads *threads = g_new0(Threads, 1);
  threads->all = g_ptr_array_new_with_free_func(g_free);
  return threads;
}

void
threads_free(Threads *threads)
{
  for (guint i = 0; i < threads->all->len; i++) {
    Worker *worker = threads->all->pdata[i];
    sem_post(&worker->has_work); /* there is none */
    pthread_join(worker->thread, NULL);
    sem_destroy(&worker->has_work);
  }
  g_ptr_array_unref(threads->all);
  g_free(threads);
}

static void
put_idle(Worker *worker)
{
  Threads *threads = worker->threads;
  worker->next = atomic_load(&threads->idle);
  while (!atomic_compare_exchange_weak(&threads->idle, &worker->next, worker))
    continue;
}

static Worker *
take_idle(Threads *threads)
{
  Worker *worker = atomic_load(&threads->idle);
  while (worker && !atomic_compare_exchange_weak(&threads->idle, &worker, worker->next))
    continue;
  return worker;
}

static void *
run_worker(void *data)
{
  Worker *worker = data;
  for (;;) {
    while (sem_wait(&worker->has_work) != 0) /* a signal */
      continue;
    ThreadsFunc func = worker->func;
    if (!func)
      return NULL;
    worker->func = NULL;
    func(worker->data);
    put_idle(worker);
  }
}

int
threads_run(Threads *threads, ThreadsFunc func, gpointer data)
{
  Worker *worker = take_idle(threads);
  if (!worker) {
    worker = g_new0(Worker, 1);
    worker->threads = threads;
    sem_init(&worker->has_work, 0, 0);
    int failed = pthread_create(&worker->thread, NULL, run_worker, worker);
    if (failed != 0) {
      sem_destroy(&worker->has_work);
      g_free(worker);
      return failed;
    }
    g_ptr_array_add(threads->all, worker);
  }
  worker->func = func;
  worker->data = data;
  sem_post(&worker->has_work);
  return 0;
}
