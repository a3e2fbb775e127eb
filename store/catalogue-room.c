/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Room for the catalogue on a full disk. Without it nothing could be done there that makes room, as each job
 * and each point that goes is a transaction, and nothing could be restored.
 *
 * While the database is open, its log has the blocks for CATALOGUE_ROOM bytes: SQLite writes it from the
 * start again after each checkpoint, and does not cut it. Some thousand transactions fit in.
 *
 * For the rest (opening it takes some room, and so does a database that grows) there is a file of
 * CATALOGUE_ROOM bytes beside it. It is removed when SQLite says that the disk is full, and when a database
 * cannot be opened for that; once a minute, and at each opening, it is made again if the disk has plenty. No
 * file system is asked for its room, as one that does not answer would hold up everything. It helps once:
 * what others write may take what it frees.
 */
#include <store/catalogue-private.h>

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define CATALOGUE_ROOM (G_GUINT64_CONSTANT(4) << 20)
#define PLENTY         (4 * CATALOGUE_ROOM)
#define TRY_AGAIN_US   (60 * G_USEC_PER_SEC)

/* A hole would keep no room: the blocks are allocated. */
static gboolean
make_room_file(const char *path)
{
  int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0)
    return FALSE;
  gboolean ok = posix_fallocate(fd, 0, (off_t) PLENTY) == 0 && ftruncate(fd, (off_t) CATALOGUE_ROOM) == 0;
  close(fd);
  if (!ok)
    unlink(path);
  return ok;
}

void
catalogue_keep_room(Catalogue *catalogue)
{
  gint64 now = g_get_monotonic_time();
  if (!catalogue->room_path || catalogue->has_room ||
      (catalogue->room_tried && now - catalogue->room_tried < TRY_AGAIN_US))
    return;
  catalogue->room_tried = now;
  catalogue->has_room = access(catalogue->room_path, F_OK) == 0 || make_room_file(catalogue->room_path);
}

gboolean
catalogue_give_room(Catalogue *catalogue)
{
  if (!catalogue->room_path || unlink(catalogue->room_path) != 0)
    return FALSE;
  g_message("the disk of %s is full: it gets the room that was kept for it", catalogue->path);
  catalogue->has_room = FALSE;
  catalogue->room_tried = g_get_monotonic_time();
  return TRUE;
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
