/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Messages are pushed onto a stack, which the main thread takes as a whole and turns round; an eventfd wakes
 * it. Whoever waits does so at a semaphore of its own. There is no lock: a thread of a job that gives way to
 * others might hold it for long, and the main thread would give way with it.
 */
#include <daemon/main-queue.h>

#include <common/fd.h>
#include <errno.h>
#include <glib-unix.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/eventfd.h>

typedef struct Message Message;

struct Message {
  MainFunc func;
  gpointer data;
  sem_t *ran; /* (nullable) where the caller waits */
  Message *next;
};

struct MainQueue {
  int event_fd; /* constant */
  guint source_id;
  _Atomic(Message *) messages; /* the last one first */
  atomic_uint n_pushing;       /* threads that use the queue just now */
};

static Message *
take_messages(MainQueue *queue)
{
  Message *reversed = NULL, *message = atomic_exchange(&queue->messages, NULL);
  while (message) {
    Message *next = message->next;
    message->next = reversed;
    reversed = message;
    message = next;
  }
  return reversed;
}

static void
run_messages(MainQueue *queue)
{
  Message *message = take_messages(queue);
  while (message) {
    g_autofree Message *done = message;
    message->func(message->data);
    if (message->ran)
      sem_post(message->ran);
    message = message->next;
  }
}

static gboolean
on_wake(gint fd, GIOCondition condition G_GNUC_UNUSED, gpointer data)
{
  guint64 count;
  while (read(fd, &count, sizeof count) < 0 && errno == EINTR)
    continue;
  run_messages(data);
  return G_SOURCE_CONTINUE;
}

MainQueue *
main_queue_new(void)
{
  MainQueue *queue = g_new0(MainQueue, 1);
  queue->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (queue->event_fd < 0)
    g_error("cannot make an eventfd: %s", g_strerror(errno));
  queue->source_id = g_unix_fd_add(queue->event_fd, G_IO_IN, on_wake, queue);
  return queue;
}

void
main_queue_free(MainQueue *queue)
{
  run_messages(queue);
  while (atomic_load(&queue->n_pushing) > 0) /* a thread whose message was run before it has woken anybody */
    sched_yield();
  g_source_remove(queue->source_id);
  cbt_clear_fd(&queue->event_fd);
  g_free(queue);
}

static void
push(MainQueue *queue, MainFunc func, gpointer data, sem_t *ran)
{
  Message *message = g_new(Message, 1);
  atomic_fetch_add(&queue->n_pushing, 1);
  *message = (Message){.func = func, .data = data, .ran = ran, .next = atomic_load(&queue->messages)};
  while (!atomic_compare_exchange_weak(&queue->messages, &message->next, message))
    continue;
  guint64 one = 1;
  while (write(queue->event_fd, &one, sizeof one) < 0 && errno == EINTR)
    continue;
  atomic_fetch_sub(&queue->n_pushing, 1);
}

void
main_queue_post(MainQueue *queue, MainFunc func, gpointer data)
{
  push(queue, func, data, NULL);
}

void
main_queue_call(MainQueue *queue, MainFunc func, gpointer data)
{
  sem_t ran;
  sem_init(&ran, 0, 0);
  push(queue, func, data, &ran);
  while (sem_wait(&ran) != 0) /* a signal */
    continue;
  sem_destroy(&ran);
}
