/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The kernel is asked itself, with the identity for file systems of this thread alone set to that of the
 * owner, which takes root's capabilities from it as well. His further groups are not asked for: a template
 * that only they may read is refused.
 */
#include <cbt/qemu/image-trust.h>

#include <common/error.h>
#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/fsuid.h>
#include <unistd.h>

/* Folders below /dev in which others than root may make links. */
static const char *const shared[] = {"/dev/shm/", "/dev/mqueue/", "/dev/hugepages/"};

/* Whether FD is a device that root, or udev, gave the name PATH. */
static gboolean
is_named_device(int fd, const char *path)
{
  struct stat st;
  g_auto(GStrv) parts = g_strsplit(path, "/", -1);
  g_autofree char *plain = g_canonicalize_filename(path, "/");
  if (!g_str_has_prefix(plain, "/dev/") || g_strv_contains((const char *const *) parts, "..") ||
      fstat(fd, &st) != 0 || !S_ISBLK(st.st_mode))
    return FALSE;
  for (guint i = 0; i < G_N_ELEMENTS(shared); i++)
    if (g_str_has_prefix(plain, shared[i]))
      return FALSE;
  return TRUE;
}

gboolean
qemu_image_check_name(int fd, const char *path, GError **error)
{
  g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", fd);
  g_autofree char *real = g_file_read_link(link, NULL);
  if (g_strcmp0(real, path) == 0 || is_named_device(fd, path))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_DENIED,
                "Put the image in its place again, or start its guest on where it is now.",
                "disk image %s leads to %s now, and is not read", path, real ? real : "somewhere else");
  return FALSE;
}

/* Whether this thread has that identity: the calls that set it tell of no failure. */
static gboolean
has_identity(const struct stat *owner)
{
  return (uid_t) setfsuid((uid_t) -1) == owner->st_uid && (gid_t) setfsgid((gid_t) -1) == owner->st_gid;
}

/* As opened by the owner of OWNER; errno if it fails. */
static int
open_as(const struct stat *owner, const char *path)
{
  int gid = setfsgid(owner->st_gid), uid = setfsuid(owner->st_uid);
  int fd = -1, errsv = EPERM;
  if (has_identity(owner)) {
    fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    errsv = errno;
  }
  setfsuid((uid_t) uid);
  setfsgid((gid_t) gid);
  errno = errsv;
  return fd;
}

gboolean
qemu_image_check_below(const struct stat *owner, const char *path, GError **error)
{
  if (owner->st_uid == geteuid())
    return TRUE;
  CBT_AUTO_FD int fd = g_path_is_absolute(path) ? open_as(owner, path) : -1;
  if (fd >= 0)
    return TRUE;
  const char *why = g_path_is_absolute(path) ? g_strerror(errno) : "it is no file";
  cbt_set_error(error, CBT_ERROR_DENIED,
                "Give the images below to root, or make them readable for whom the topmost one belongs to.",
                "disk image %s, which an image names that belongs to user %u, is not read, for that user may "
                "not read it: %s",
                path, (guint) owner->st_uid, why);
  return FALSE;
}
