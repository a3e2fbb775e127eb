/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The holder of the lock may remove the file; so who got the lock looks whether it still is the file there.
 */
#include <cbt/qemu/quiesce-mark.h>

#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#define SUFFIX ".cbt-frozen"

/* NULL if there is no such socket. */
static char *
identify(const char *socket)
{
  struct stat info;
  if (stat(socket, &info) != 0)
    return NULL;
  return g_strdup_printf("frozen %ju %ju %jd.%09ld\n", (uintmax_t) info.st_dev, (uintmax_t) info.st_ino,
                         (intmax_t) info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
}

static gboolean
is_current(const QemuQuiesceMark *mark)
{
  struct stat ours, there;
  return fstat(mark->fd, &ours) == 0 && stat(mark->path, &there) == 0 && ours.st_ino == there.st_ino &&
         ours.st_dev == there.st_dev;
}

gboolean
qemu_quiesce_mark_open(QemuQuiesceMark *mark, const char *socket, gboolean create, GError **error)
{
  int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | (create ? O_CREAT : 0);
  *mark = (QemuQuiesceMark){.socket = g_strdup(socket), .path = g_strconcat(socket, SUFFIX, NULL), .fd = -1};
  for (;;) {
    mark->fd = open(mark->path, flags, 0600);
    if (mark->fd < 0)
      return TRUE;
    if (flock(mark->fd, LOCK_EX | LOCK_NB) != 0) {
      qemu_quiesce_mark_close(mark);
      cbt_set_error(error, CBT_ERROR_BUSY, "Wait for it: it ends in seconds.",
                    "Another process quiesces the guest behind %s", socket);
      return FALSE;
    }
    if (is_current(mark))
      return TRUE;
    cbt_clear_fd(&mark->fd);
  }
}

gboolean
qemu_quiesce_mark_is_set(const QemuQuiesceMark *mark)
{
  char text[128];
  if (mark->fd < 0)
    return FALSE;
  g_autofree char *identity = identify(mark->socket);
  ssize_t n = pread(mark->fd, text, sizeof(text), 0);
  return identity && n == (ssize_t) strlen(identity) && memcmp(text, identity, (size_t) n) == 0;
}

void
qemu_quiesce_mark_set(const QemuQuiesceMark *mark)
{
  g_autofree char *identity = identify(mark->socket);
  if (mark->fd >= 0 && identity &&
      (pwrite(mark->fd, identity, strlen(identity), 0) < 0 ||
       ftruncate(mark->fd, (off_t) strlen(identity)) != 0))
    g_debug("cannot write %s: %s", mark->path, g_strerror(errno));
}

void
qemu_quiesce_mark_remove(QemuQuiesceMark *mark)
{
  if (mark->fd >= 0)
    unlink(mark->path);
  qemu_quiesce_mark_close(mark);
}

void
qemu_quiesce_mark_close(QemuQuiesceMark *mark)
{
  cbt_clear_fd(&mark->fd);
  g_clear_pointer(&mark->socket, g_free);
  g_clear_pointer(&mark->path, g_free);
}
