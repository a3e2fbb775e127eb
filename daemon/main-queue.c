/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A locked list, and an eventfd that wakes the main loop. */
#include <daemon/main-queue.h>

#include <common/fd.h>
#include <errno.h>
#include <glib-unix.h>
#include <pthread.h>
#include <sys/eventfd.h>

typedef struct {
  MainFunc func;
  gpointer data;
  gboolean *ran; /* (nullable) where the caller waits */
} Message;

struct MainQueue {
  int event_fd; /* constant */
  guint source_id;
  pthread_mutex_t lock;
  pthread_cond_t has_run;
  GQueue messages; /* of Message; under lock, as every `ran` is */
};

static Message *
take_message(MainQueue *queue)
{
  pthread_mutex_lock(&queue->lock);
  Message *message = g_queue_pop_head(&queue->messages);
  pthread_mutex_unlock(&queue->lock);
  return message;
}

static void
run_messages(MainQueue *queue)
{
  Message *message;
  while ((message = take_message(queue)) != NULL) {
    message->func(message->data);
    if (message->ran) {
      pthread_mutex_lock(&queue->lock);
      *message->ran = TRUE;
      pthread_cond_broadcast(&queue->has_run);
      pthread_mutex_unlock(&queue->lock);
    }
    g_free(message);
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
  pthread_mutex_init(&queue->lock, NULL);
  pthread_cond_init(&queue->has_run, NULL);
  g_queue_init(&queue->messages);
  queue->source_id = g_unix_fd_add(queue->event_fd, G_IO_IN, on_wake, queue);
  return queue;
}

void
main_queue_free(MainQueue *queue)
{
  run_messages(queue);
  g_source_remove(queue->source_id);
  cbt_clear_fd(&queue->event_fd);
  pthread_mutex_destroy(&queue->lock);
  pthread_cond_destroy(&queue->has_run);
  g_free(queue);
}

static void
push_locked(MainQueue *queue, MainFunc func, gpointer data, gboolean *ran)
{
  Message *message = g_new(Message, 1);
  *message = (Message){.func = func, .data = data, .ran = ran};
  g_queue_push_tail(&queue->messages, message);
  guint64 one = 1;
  while (write(queue->event_fd, &one, sizeof one) < 0 && errno == EINTR)
    continue;
}

void
main_queue_post(MainQueue *queue, MainFunc func, gpointer data)
{
  pthread_mutex_lock(&queue->lock);
  push_locked(queue, func, data, NULL);
  pthread_mutex_unlock(&queue->lock);
}

void
main_queue_call(MainQueue *queue, MainFunc func, gpointer data)
{
  gboolean ran = FALSE;
  pthread_mutex_lock(&queue->lock);
  push_locked(queue, func, data, &ran);
  while (!ran)
    pthread_cond_wait(&queue->has_run, &queue->lock);
  pthread_mutex_unlock(&queue->lock);
}
