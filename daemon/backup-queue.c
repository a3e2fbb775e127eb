/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A run that is not all read yet, because its worker was faster, is left: it waits for nothing that others
 * could do. Whoever comes next goes on with it.
 */
#include <daemon/backup-queue.h>

#include <pthread.h>

struct BackupQueue {
  guint n_run;          /* constant */
  pthread_mutex_t lock; /* of all below */
  pthread_cond_t changed;
  GQueue blocks; /* of CbtReadBlock */
  GArray *taken; /* of guint64: the runs that workers are at */
  gboolean is_over;
};

BackupQueue *
backup_queue_new(guint n_run)
{
  BackupQueue *self = g_new0(BackupQueue, 1);
  g_assert(n_run > 0);
  self->n_run = n_run;
  pthread_mutex_init(&self->lock, NULL);
  pthread_cond_init(&self->changed, NULL);
  g_queue_init(&self->blocks);
  self->taken = g_array_new(FALSE, FALSE, sizeof(guint64));
  return self;
}

void
backup_queue_free(BackupQueue *self)
{
  if (!self)
    return;
  g_queue_clear(&self->blocks);
  g_array_unref(self->taken);
  pthread_mutex_destroy(&self->lock);
  pthread_cond_destroy(&self->changed);
  g_free(self);
}

void
backup_queue_push(BackupQueue *self, CbtReadBlock *block)
{
  pthread_mutex_lock(&self->lock);
  g_queue_push_tail(&self->blocks, block);
  pthread_cond_signal(&self->changed);
  pthread_mutex_unlock(&self->lock);
}

void
backup_queue_end(BackupQueue *self)
{
  pthread_mutex_lock(&self->lock);
  self->is_over = TRUE;
  pthread_cond_broadcast(&self->changed);
  pthread_mutex_unlock(&self->lock);
}

/* Where RUN is among the taken ones; their number if it is not. */
static guint
find_taken(const BackupQueue *self, guint64 run)
{
  guint i = 0;
  while (i < self->taken->len && g_array_index(self->taken, guint64, i) != run)
    i++;
  return i;
}

static GList *
choose(BackupQueue *self, guint64 run)
{
  GList *other = NULL;
  for (GList *link = self->blocks.head; link; link = link->next) {
    guint64 its = ((const CbtReadBlock *) link->data)->sequence / self->n_run;
    if (its == run)
      return link;
    if (!other && find_taken(self, its) == self->taken->len)
      other = link;
  }
  return other ? other : self->blocks.head;
}

CbtReadBlock *
backup_queue_take(BackupQueue *self, guint64 *run)
{
  CbtReadBlock *block = NULL;
  pthread_mutex_lock(&self->lock);
  while (g_queue_is_empty(&self->blocks) && !self->is_over)
    pthread_cond_wait(&self->changed, &self->lock);
  GList *link = choose(self, *run);
  guint place = find_taken(self, *run);
  if (place < self->taken->len)
    g_array_remove_index_fast(self->taken, place);
  if (link) {
    block = link->data;
    *run = block->sequence / self->n_run;
    g_array_append_val(self->taken, *run);
    g_queue_delete_link(&self->blocks, link);
  }
  pthread_mutex_unlock(&self->lock);
  return block;
}
