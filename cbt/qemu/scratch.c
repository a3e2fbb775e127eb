/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qemu-img makes the qcow2 in the file that is open already, by its name in /dev/fd: it is opened anew there,
 * which also works when it has no other name.
 */
#include <cbt/qemu/scratch.h>

#include <common/fd.h>
#include <common/size.h>
#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#define FD_OF_CHILD 3
/* QEMU copies up to 1 MiB at once, of which nothing is there if it did not fit as a whole; and its tables. */
#define NEARLY ((1u << 20) + (128u << 10))

guint64
qemu_scratch_worst_bytes(guint64 size_bytes)
{
  return size_bytes + size_bytes / 4096 + (G_GUINT64_CONSTANT(4) << 20); /* tables, twice over */
}

static int
open_named(const char *folder)
{
  g_autofree char *path = g_build_filename(folder, ".cbt-scratch-XXXXXX", NULL);
  int fd = g_mkstemp_full(path, O_RDWR | O_CLOEXEC, 0600);
  if (fd >= 0)
    unlink(path);
  return fd;
}

static int
open_unnamed(const char *folder, GError **error)
{
  int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL))
    fd = open_named(folder);
  if (fd < 0)
    cbt_set_error_errno(error, errno, "Cannot make a scratch file in %s", folder);
  return fd;
}

static gboolean
make_qcow2(const QemuScratch *self, int fd, GError **error)
{
  g_autofree char *path = g_strdup_printf("/dev/fd/%d", FD_OF_CHILD);
  g_autofree char *size = g_strdup_printf("%" G_GUINT64_FORMAT, self->size_bytes);
  const char *argv[] = {"qemu-img", "create", "-q", "-f", "qcow2", path, size,
                        NULL,       NULL,     NULL, NULL, NULL,    NULL};
  const char *const backing[] = {"-u", "-b", self->backing, "-F", self->backing_format};
  g_autofree char *complaint = NULL;
  g_autoptr(GSubprocessLauncher) launcher =
      g_subprocess_launcher_new(G_SUBPROCESS_FLAGS_STDOUT_SILENCE | G_SUBPROCESS_FLAGS_STDERR_PIPE);
  int duplicate = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (duplicate < 0) {
    cbt_set_error_errno(error, errno, "Cannot duplicate a descriptor");
    return FALSE;
  }
  g_subprocess_launcher_take_fd(launcher, duplicate, FD_OF_CHILD);
  if (self->backing)
    memcpy(&argv[7], backing, sizeof backing);
  g_autoptr(GSubprocess) process = g_subprocess_launcher_spawnv(launcher, argv, NULL);
  if (process && g_subprocess_communicate_utf8(process, NULL, NULL, NULL, &complaint, NULL) &&
      g_subprocess_get_successful(process))
    return TRUE;
  cbt_set_error(error, process ? CBT_ERROR_IO : CBT_ERROR_UNREACHABLE, "It is in the package qemu-utils.",
                "qemu-img cannot make a scratch image: %s",
                complaint ? g_strstrip(complaint) : "it does not start");
  return FALSE;
}

static gboolean
set_no_room(const QemuScratch *self, guint64 needed_bytes, const char *what, guint64 there_bytes,
            GError **error)
{
  g_autofree char *needed = cbt_size_format(needed_bytes);
  g_autofree char *there = cbt_size_format(there_bytes);
  cbt_set_error(error, CBT_ERROR_NO_SPACE,
                "Make room, or have a QEMU (7.1 or newer) that can keep old bytes without this.",
                "A scratch file in %s could need %s, so that no write of the guest fails; %s %s",
                self->folder, needed, what, there);
  return FALSE;
}

static gboolean
reserve(const QemuScratch *self, int fd, GError **error)
{
  struct statvfs room;
  guint64 needed = qemu_scratch_worst_bytes(self->size_bytes);
  if (self->limit_bytes && self->limit_bytes < needed)
    return set_no_room(self, needed, "its limit is", self->limit_bytes, error);
  if (fstatvfs(fd, &room) != 0) {
    cbt_set_error_errno(error, errno, "Cannot see how much room is in %s", self->folder);
    return FALSE;
  }
  guint64 there = (guint64) room.f_bavail * room.f_frsize;
  if (there < needed)
    return set_no_room(self, needed, "there are", there, error);
  if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t) needed) == 0 || errno == EOPNOTSUPP)
    return TRUE; /* where nothing can be reserved, what was there a moment ago must do */
  if (errno == ENOSPC)
    return set_no_room(self, needed, "there are", there, error);
  cbt_set_error_errno(error, errno, "Cannot reserve room in %s", self->folder);
  return FALSE;
}

int
qemu_scratch_open(const QemuScratch *self, GError **error)
{
  CBT_AUTO_FD int fd = open_unnamed(self->folder, error);
  guint64 length = self->is_qcow2 ? self->limit_bytes : self->size_bytes;
  if (fd < 0 || (self->is_qcow2 && !make_qcow2(self, fd, error)) ||
      (self->is_reserved && !reserve(self, fd, error)))
    return -1;
  if (length && ftruncate(fd, (off_t) length) != 0) {
    cbt_set_error_errno(error, errno, "Cannot set the size of a scratch file in %s", self->folder);
    return -1;
  }
  return cbt_steal_fd(&fd);
}

/* Where the last data ends: QEMU fills a qcow2 from its begin on. */
static guint64
end_of_data(int fd)
{
  off_t at = 0, end = 0;
  while ((at = lseek(fd, end, SEEK_DATA)) >= 0 && (at = lseek(fd, at, SEEK_HOLE)) > end)
    end = at;
  return (guint64) end;
}

gboolean
qemu_scratch_check_room(int fd, const char *folder, guint64 limit_bytes, GError **error)
{
  struct statvfs room;
  if (limit_bytes && end_of_data(fd) + NEARLY > limit_bytes) {
    g_autofree char *limit = cbt_size_format(limit_bytes);
    cbt_set_error(error, CBT_ERROR_NO_SPACE, "Raise fleece-limit, or back up when the guest writes less.",
                  "the fleece limit of %s is too little for what had to be kept until it was read", limit);
    return FALSE;
  }
  if (fstatvfs(fd, &room) != 0 || (guint64) room.f_bavail * room.f_frsize >= NEARLY)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_NO_SPACE,
                "Make room in fleece-dir or choose another, or back up when the guest writes less.",
                "no room in %s for what had to be kept until it was read", folder);
  return FALSE;
}
