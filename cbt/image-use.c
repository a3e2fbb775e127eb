/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * QEMU describes the use of an image by read locks on single bytes of it: byte 100 + n says "I do n", byte
 * 200 + n says "nobody else may do n". Who wants to use the image takes its own locks first and then looks
 * whether the opposite bytes are locked by others, so of two who come at once at least one sees the other.
 * The locks belong to the open file description (F_OFD_*): they outlive a fork, and end with the last close.
 *
 * File systems without such locks are used without, as QEMU does.
 *
 * A block device has a second protection: O_EXCL without O_CREAT claims it, as a mount, a volume group, a
 * RAID and swap do, of the device, of the whole disk it is on, or of a partition of it.
 */
#include <cbt/image-use.h>

#include <common/error.h>
#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define USED_BASE     100
#define UNSHARED_BASE 200
#define EXPORT_BYTE   190 /* ours: an export writes; QEMU does not look at it */

/* QEMU's bits; there are more, which are about its block graph. */
enum { DO_READ = 1 << 0, DO_WRITE = 1 << 1, DO_WRITE_UNCHANGED = 1 << 2, DO_RESIZE = 1 << 3, N_BITS = 4 };
#define DO_ALL (DO_READ | DO_WRITE | DO_WRITE_UNCHANGED | DO_RESIZE)

/* An export does not tell that it writes: a look at the image (qemu-img compare, info) shall not be refused,
 * and other writers are, since it shares writing with none. A backup of ours that would read it as it changes
 * is refused by EXPORT_BYTE. */
static const struct {
  guint used, told, unshared;
} uses[] = {
    [CBT_IMAGE_READ] = {DO_READ, DO_READ, DO_WRITE | DO_RESIZE},
    [CBT_IMAGE_EXPORT] = {DO_READ | DO_WRITE, DO_READ, DO_WRITE | DO_RESIZE},
    [CBT_IMAGE_REPLACE] = {DO_READ | DO_WRITE | DO_RESIZE, DO_READ | DO_WRITE | DO_RESIZE, DO_ALL},
};

/* ---- who ---- */

/* Whether process PID has IMAGE open, for writing if WRITABLE. statx() is told not to ask a server, which may
 * hang. */
static gboolean
has_open(const char *pid, const struct stat *image, gboolean writable)
{
  g_autofree char *path = g_build_filename("/proc", pid, "fd", NULL);
  g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
  const char *name;
  while (dir && (name = g_dir_read_name(dir)) != NULL) {
    g_autofree char *link = g_build_filename(path, name, NULL);
    struct stat mode;
    struct statx st;
    if (lstat(link, &mode) != 0 || (writable && !(mode.st_mode & S_IWUSR)) ||
        statx(AT_FDCWD, link, AT_STATX_DONT_SYNC, STATX_TYPE | STATX_INO, &st) != 0)
      continue;
    if (S_ISBLK(image->st_mode)
            ? S_ISBLK(st.stx_mode) && makedev(st.stx_rdev_major, st.stx_rdev_minor) == image->st_rdev
            : makedev(st.stx_dev_major, st.stx_dev_minor) == image->st_dev && st.stx_ino == image->st_ino)
      return TRUE;
  }
  return FALSE;
}

static char *
find_process(const struct stat *image, gboolean writable)
{
  g_autoptr(GDir) dir = g_dir_open("/proc", 0, NULL);
  g_autofree char *own = g_strdup_printf("%d", (int) getpid());
  const char *pid;
  while (dir && (pid = g_dir_read_name(dir)) != NULL) {
    if (!g_ascii_isdigit(*pid) || strcmp(pid, own) == 0 || !has_open(pid, image, writable))
      continue;
    g_autofree char *path = g_build_filename("/proc", pid, "comm", NULL);
    g_autofree char *name = NULL;
    if (!g_file_get_contents(path, &name, NULL, NULL))
      return g_strdup_printf("process %s has it open", pid);
    return g_strdup_printf("process %s (%s) has it open", pid, g_strchomp(name));
  }
  return NULL;
}

static char *
find_mount(dev_t device)
{
  g_autofree char *number = g_strdup_printf("%u:%u", major(device), minor(device));
  g_autofree char *text = NULL;
  if (!g_file_get_contents("/proc/self/mountinfo", &text, NULL, NULL))
    return NULL;
  g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
  for (char **line = lines; *line; line++) {
    g_auto(GStrv) words = g_strsplit(*line, " ", 6); /* id, parent, device, root, mount point, ... */
    if (g_strv_length(words) == 6 && strcmp(words[2], number) == 0)
      return g_strdup_printf("it is mounted at %s", words[4]);
  }
  return NULL;
}

/* "dm-0", "md1": what is made of the device. */
static char *
find_holder(dev_t device)
{
  g_autofree char *path = g_strdup_printf("/sys/dev/block/%u:%u/holders", major(device), minor(device));
  g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
  const char *name = dir ? g_dir_read_name(dir) : NULL;
  return name ? g_strdup_printf("it is part of %s", name) : NULL;
}

static void
set_claimed(const char *path, const struct stat *image, const char *hint, GError **error)
{
  g_autofree char *who = find_mount(image->st_rdev);
  if (!who)
    who = find_holder(image->st_rdev);
  cbt_set_error(error, CBT_ERROR_BUSY, hint, "%s is in use: %s", path,
                who ? who : "it, or a part of it, is mounted or claimed by another program");
}

static void
set_locked(int fd, const char *path, const char *hint, GError **error)
{
  struct stat image;
  g_autofree char *who = NULL;
  if (fstat(fd, &image) == 0) {
    who = find_process(&image, TRUE);
    if (!who)
      who = find_process(&image, FALSE);
  }
  cbt_set_error(error, CBT_ERROR_BUSY, hint, "%s is in use: %s", path,
                who ? who : "another program has locked it, as QEMU does");
}

/* ---- locks ---- */

static gboolean
is_locked_by_others(int fd, int byte)
{
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
  return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

gboolean
cbt_image_check_use(int fd, const char *path, CbtImageUse use, const char *hint, GError **error)
{
  for (int bit = 0; bit < N_BITS; bit++)
    if (((uses[use].used & (1u << bit)) && is_locked_by_others(fd, UNSHARED_BASE + bit)) ||
        ((uses[use].unshared & (1u << bit)) && is_locked_by_others(fd, USED_BASE + bit))) {
      set_locked(fd, path, hint, error);
      return FALSE;
    }
  if (use != CBT_IMAGE_READ || !is_locked_by_others(fd, EXPORT_BYTE))
    return TRUE;
  set_locked(fd, path, hint, error);
  return FALSE;
}

/* A lock that cannot be had, for whatever reason, is seen by the check or does not exist here. */
static void
lock_byte(int fd, int byte)
{
  struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
  if (fcntl(fd, F_OFD_SETLK, &lock) != 0)
    g_debug("cannot lock byte %d of an image: %s", byte, g_strerror(errno));
}

static void
take_locks(int fd, CbtImageUse use)
{
  if (use == CBT_IMAGE_EXPORT)
    lock_byte(fd, EXPORT_BYTE);
  for (int bit = 0; bit < N_BITS; bit++) {
    if (uses[use].told & (1u << bit))
      lock_byte(fd, USED_BASE + bit);
    if (uses[use].unshared & (1u << bit))
      lock_byte(fd, UNSHARED_BASE + bit);
  }
}

int
cbt_image_open(const char *path, CbtImageUse use, const char *hint, GError **error)
{
  struct stat st;
  gboolean is_block = stat(path, &st) == 0 && S_ISBLK(st.st_mode);
  CBT_AUTO_FD int fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY | (is_block ? O_EXCL : 0));
  if (fd < 0 && errno == EBUSY && is_block)
    set_claimed(path, &st, hint, error);
  else if (fd < 0)
    cbt_set_error_errno(error, errno, "cannot open %s for writing", path);
  if (fd < 0)
    return -1;
  take_locks(fd, use);
  return cbt_image_check_use(fd, path, use, hint, error) ? cbt_steal_fd(&fd) : -1;
}
