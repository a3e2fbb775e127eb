/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The order: regions closed in memory; image and arrays synced; flags taken away. A crash before the last
 * step leaves flags that nobody needs. If a sync fails, the flags stay as well: a later trim tries again.
 *
 * A descriptor of one's own matters: the kernel reports a failed write-back once for each open file. A sync
 * of the guest's descriptor here would take the error away from the guest's next flush.
 */
#include <cbt/region-trim.h>

#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>

struct CbtRegionTrim {
  /* constant after creation */
  const CbtFileOps *ops;
  CbtRegionLog *log;
  int *fds;
  guint n_fds;
  pthread_t thread;
  gint done; /* atomic */
};

static void *
run(void *user_data)
{
  CbtRegionTrim *trim = user_data;
  g_autoptr(GError) error = NULL;
  gboolean ok = TRUE;
  for (guint i = 0; ok && i < trim->n_fds; i++)
    ok = trim->ops->fdatasync(trim->ops, trim->fds[i]) == 0;
  if (!ok)
    g_message("the region log is not trimmed: cannot sync what it covers: %s", g_strerror(errno));
  else if (!cbt_region_log_finish_trim(trim->log, &error))
    g_debug("%s", error->message);
  __atomic_store_n(&trim->done, TRUE, __ATOMIC_RELEASE);
  return NULL;
}

static void
trim_free(CbtRegionTrim *trim)
{
  for (guint i = 0; i < trim->n_fds; i++)
    cbt_clear_fd(&trim->fds[i]);
  g_free(trim->fds);
  g_free(trim);
}

/* Another open file description of what FD is. */
static int
open_again(int fd)
{
  char path[32];
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  return open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
}

CbtRegionTrim *
cbt_region_trim_start(const CbtFileOps *ops, CbtRegionLog *log, const int *fds, guint n_fds)
{
  CbtRegionTrim *trim = g_new0(CbtRegionTrim, 1);
  gboolean ok = TRUE;
  trim->ops = ops;
  trim->log = log;
  trim->fds = g_new(int, n_fds);
  for (; ok && trim->n_fds < n_fds; trim->n_fds++)
    ok = (trim->fds[trim->n_fds] = open_again(fds[trim->n_fds])) >= 0;
  if (ok) {
    cbt_region_log_begin_trim(log);
    ok = pthread_create(&trim->thread, NULL, run, trim) == 0;
  }
  if (!ok) {
    trim_free(trim);
    return NULL;
  }
  return trim;
}

gboolean
cbt_region_trim_is_done(const CbtRegionTrim *trim)
{
  return __atomic_load_n(&trim->done, __ATOMIC_ACQUIRE);
}

void
cbt_region_trim_join(CbtRegionTrim *trim)
{
  if (trim == NULL)
    return;
  pthread_join(trim->thread, NULL);
  trim_free(trim);
}
