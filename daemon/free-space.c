/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* statvfs() in a detached thread, one at a time: while one hangs there is no second. */
#include <daemon/free-space.h>

#include <pthread.h>
#include <sys/statvfs.h>

struct FreeSpace {
  char *folder; /* constant */
  pthread_mutex_t lock;
  pthread_cond_t answered;
  /* under lock */
  guint n_refs; /* the owner's, and the thread's */
  gboolean asking;
  gboolean is_known;
  guint64 n_answers;
  guint64 bytes;
  guint64 total;
};

FreeSpace *
free_space_new(const char *folder)
{
  FreeSpace *space = g_new0(FreeSpace, 1);
  pthread_condattr_t attributes;
  space->folder = g_strdup(folder);
  space->n_refs = 1;
  pthread_mutex_init(&space->lock, NULL);
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(&space->answered, &attributes);
  pthread_condattr_destroy(&attributes);
  return space;
}

void
free_space_free(FreeSpace *space)
{
  pthread_mutex_lock(&space->lock);
  gboolean last = --space->n_refs == 0;
  pthread_mutex_unlock(&space->lock);
  if (!last)
    return;
  pthread_cond_destroy(&space->answered);
  pthread_mutex_destroy(&space->lock);
  g_free(space->folder);
  g_free(space);
}

static void *
ask_thread(void *data)
{
  FreeSpace *space = data;
  struct statvfs vfs;
  gboolean ok = statvfs(space->folder, &vfs) == 0;
  pthread_mutex_lock(&space->lock);
  space->asking = FALSE;
  space->n_answers++;
  if (ok) {
    space->bytes = (guint64) vfs.f_bavail * vfs.f_frsize;
    space->total = (guint64) vfs.f_blocks * vfs.f_frsize;
    space->is_known = TRUE;
  }
  pthread_cond_broadcast(&space->answered);
  pthread_mutex_unlock(&space->lock);
  free_space_free(space);
  return NULL;
}

/* Under the lock. */
static void
ask(FreeSpace *space)
{
  pthread_t thread;
  if (space->asking || pthread_create(&thread, NULL, ask_thread, space) != 0)
    return;
  pthread_detach(thread);
  space->asking = TRUE;
  space->n_refs++;
}

gboolean
free_space_get(FreeSpace *space, guint timeout_ms, guint64 *bytes, gboolean *is_known)
{
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  until.tv_sec += timeout_ms / 1000;
  until.tv_nsec += (glong) (timeout_ms % 1000) * 1000000;
  until.tv_sec += until.tv_nsec / 1000000000;
  until.tv_nsec %= 1000000000;
  pthread_mutex_lock(&space->lock);
  guint64 n_before = space->n_answers;
  ask(space);
  while (space->asking && space->n_answers == n_before &&
         pthread_cond_timedwait(&space->answered, &space->lock, &until) == 0)
    continue;
  gboolean is_new = space->n_answers != n_before;
  *bytes = space->bytes;
  *is_known = space->is_known;
  pthread_mutex_unlock(&space->lock);
  return is_new;
}

guint64
free_space_total(FreeSpace *space)
{
  pthread_mutex_lock(&space->lock);
  guint64 total = space->total;
  pthread_mutex_unlock(&space->lock);
  return total;
}
