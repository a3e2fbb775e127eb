/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Room for the catalogue on a full disk. Without it nothing could be done there that makes room, as each job
 * and each point that goes is a transaction, and nothing could be restored.
 *
 * While the database is open, its log has the blocks for CATALOGUE_ROOM bytes: SQLite writes it from the
 * start again after each checkpoint, and does not cut it. Some thousand transactions fit in.
 *
 * For the rest (opening it takes some room, and so does a database that grows) a file of CATALOGUE_ROOM bytes
 * beside the database is removed when less than LEAST is free, and made again when there is plenty. It is
 * looked after before each statement that may write, and at the start. It helps once: what others write may
 * take what it frees.
 */
#include <store/catalogue-private.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define CATALOGUE_ROOM (G_GUINT64_CONSTANT(4) << 20)
#define LEAST          (G_GUINT64_CONSTANT(1) << 20)
#define PLENTY         (4 * CATALOGUE_ROOM)

/* A hole would keep no room: the blocks are allocated. */
static gboolean
make_room_file(const char *path)
{
  int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0)
    return FALSE;
  gboolean ok = posix_fallocate(fd, 0, (off_t) CATALOGUE_ROOM) == 0;
  close(fd);
  if (!ok)
    unlink(path);
  return ok;
}

void
catalogue_keep_room(Catalogue *catalogue)
{
  struct statvfs vfs;
  if (statvfs(catalogue->folder, &vfs) != 0)
    return;
  guint64 available = (guint64) vfs.f_bavail * vfs.f_frsize;
  if (available < LEAST && catalogue->room != CATALOGUE_ROOM_GONE) {
    if (unlink(catalogue->room_path) == 0)
      g_message("the disk of %s is full: the room that was kept for the catalogue is given to it",
                catalogue->folder);
    catalogue->room = CATALOGUE_ROOM_GONE;
  } else if (available >= PLENTY && catalogue->room != CATALOGUE_ROOM_KEPT) {
    catalogue->room = make_room_file(catalogue->room_path) ? CATALOGUE_ROOM_KEPT : CATALOGUE_ROOM_GONE;
  }
}

void
catalogue_keep_log_room(const Catalogue *catalogue)
{
  g_autofree char *path = g_strconcat(catalogue->path, "-wal", NULL);
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0)
    return;
  if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t) CATALOGUE_ROOM) != 0)
    g_debug("no room is kept for %s: %s", path, g_strerror(errno));
  close(fd);
}
