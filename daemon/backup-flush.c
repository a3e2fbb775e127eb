/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A thread that writes and flushes when it is told to; what was told while it did so, it does in one go. */
#include <daemon/backup-flush.h>

#include <daemon/job.h>
#include <pthread.h>
#include <store/store.h>

#define STEP_BYTES (G_GUINT64_CONSTANT(32) << 20)

struct BackupFlush {
  const Daemon *daemon; /* constant */
  GThread *thread;      /* constant; NULL: there is none, and the commit has all to do */

  pthread_mutex_t lock; /* of the rest; none of GLib's, which race detectors do not see */
  pthread_cond_t changed;
  guint64 noted_bytes; /* since it was told to flush last */
  gboolean is_behind, is_wanted, is_over;
};

/* FALSE: there will be nothing more to do. */
static gboolean
wait_for_work(BackupFlush *self, gboolean *is_wanted)
{
  pthread_mutex_lock(&self->lock);
  while (!self->is_behind && !self->is_wanted && !self->is_over)
    pthread_cond_wait(&self->changed, &self->lock);
  gboolean more = !self->is_over;
  *is_wanted = self->is_wanted;
  self->is_behind = self->is_wanted = FALSE;
  pthread_mutex_unlock(&self->lock);
  return more;
}

static gpointer
flush_thread(gpointer data)
{
  BackupFlush *self = data;
  gboolean is_wanted;
  job_give_way(self->daemon);
  while (wait_for_work(self, &is_wanted)) {
    g_autoptr(GError) error = NULL;
    store_write_behind(self->daemon->store);
    if (is_wanted && !store_flush_early(self->daemon->store, &error))
      g_debug("early flush: %s", error->message);
  }
  return NULL;
}

BackupFlush *
backup_flush_new(const Daemon *daemon)
{
  BackupFlush *self = g_new0(BackupFlush, 1);
  self->daemon = daemon;
  pthread_mutex_init(&self->lock, NULL);
  pthread_cond_init(&self->changed, NULL);
  self->thread = g_thread_try_new("flush", flush_thread, self, NULL);
  return self;
}

static void
tell(BackupFlush *self, guint64 bytes, gboolean is_wanted, gboolean is_over)
{
  pthread_mutex_lock(&self->lock);
  self->noted_bytes += bytes;
  if (is_wanted || self->noted_bytes >= STEP_BYTES) {
    self->noted_bytes = 0;
    self->is_wanted = TRUE;
  }
  self->is_behind |= store_is_behind(self->daemon->store);
  self->is_over |= is_over;
  if (self->is_behind || self->is_wanted || self->is_over)
    pthread_cond_signal(&self->changed);
  pthread_mutex_unlock(&self->lock);
}

void
backup_flush_note(BackupFlush *self, guint64 bytes)
{
  tell(self, bytes, FALSE, FALSE);
}

void
backup_flush_now(BackupFlush *self)
{
  tell(self, 0, TRUE, FALSE);
}

void
backup_flush_free(BackupFlush *self)
{
  tell(self, 0, FALSE, TRUE);
  if (self->thread)
    g_thread_join(self->thread);
  pthread_mutex_destroy(&self->lock);
  pthread_cond_destroy(&self->changed);
  g_free(self);
}
