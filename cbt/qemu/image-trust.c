/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The kernel is asked itself, with the identity for file systems and the groups of this thread alone set to
 * those of the owner, which takes root's capabilities from it as well. The groups are those of the system's
 * accounts, and never that of the image, which may be one that its owner is not in.
 */
#include <cbt/qemu/image-trust.h>

#include <common/error.h>
#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NO_GROUP   65534 /* of who has no account */
#define GROUPS_MAX 65536 /* the kernel's limit */

/* The C library's setgroups() is for all threads of the process. */
#ifdef SYS_setgroups32
#define SET_GROUPS SYS_setgroups32
#else
#define SET_GROUPS SYS_setgroups
#endif

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

/* Whom this thread is for the kernel where files are concerned. */
typedef struct {
  uid_t uid;
  GArray *groups; /* of gid_t, the first one the user's own */
} Identity;

static void
identity_clear(Identity *identity)
{
  g_clear_pointer(&identity->groups, g_array_unref);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Identity, identity_clear)

static void
add_account(GArray *groups, const char *name, gid_t gid)
{
  int n = 64;
  do {
    g_array_set_size(groups, (guint) n);
  } while (getgrouplist(name, gid, (gid_t *) groups->data, &n) < 0 && n <= GROUPS_MAX);
  g_array_set_size(groups, (guint) CLAMP(n, 0, GROUPS_MAX));
}

/* getgrouplist() tells the user's own group, too, but not where. */
static void
identity_of(Identity *identity, uid_t uid)
{
  char buffer[16384];
  struct passwd account, *found = NULL;
  gid_t own = NO_GROUP;
  identity->uid = uid;
  identity->groups = g_array_new(FALSE, TRUE, sizeof(gid_t));
  if (getpwuid_r(uid, &account, buffer, sizeof buffer, &found) == 0 && found) {
    own = found->pw_gid;
    add_account(identity->groups, found->pw_name, own);
  }
  g_array_prepend_val(identity->groups, own);
}

static gboolean
own_identity(Identity *identity)
{
  gid_t own = getegid();
  int n = getgroups(0, NULL);
  identity->uid = geteuid();
  identity->groups = g_array_new(FALSE, TRUE, sizeof(gid_t));
  g_array_set_size(identity->groups, (guint) MAX(n, 0));
  gboolean ok = n >= 0 && getgroups(n, (gid_t *) identity->groups->data) == n;
  g_array_prepend_val(identity->groups, own);
  return ok;
}

static gboolean
set_groups(const GArray *groups)
{
  return syscall(SET_GROUPS, (gsize) groups->len - 1, (const gid_t *) groups->data + 1) == 0;
}

/* The calls that set the rest tell of no failure. */
static gboolean
assume(const Identity *identity)
{
  gid_t gid = g_array_index(identity->groups, gid_t, 0);
  setfsgid(gid);
  setfsuid(identity->uid);
  return (uid_t) setfsuid((uid_t) -1) == identity->uid && (gid_t) setfsgid((gid_t) -1) == gid;
}

/* As opened by USER; errno if it fails. Groups are set while this thread has root's capabilities. */
static int
open_as(uid_t user, const char *path)
{
  g_auto(Identity) self = {0}, other = {0};
  int fd = -1, errsv = EPERM;
  identity_of(&other, user);
  if (own_identity(&self) && set_groups(other.groups)) {
    if (assume(&other)) {
      fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
      errsv = errno;
    }
    if (!assume(&self) || !set_groups(self.groups))
      g_error("cannot be who this process is again"); /* ends it: all that follows would fail */
  }
  errno = errsv;
  return fd;
}

gboolean
qemu_image_open_below(const struct stat *owner, const char *path, int *fd, GError **error)
{
  gboolean is_absolute = g_path_is_absolute(path);
  if (owner->st_uid == geteuid()) {
    *fd = is_absolute ? open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC) : -1;
    return TRUE;
  }
  *fd = is_absolute ? open_as(owner->st_uid, path) : -1;
  if (*fd >= 0)
    return TRUE;
  const char *why = is_absolute ? g_strerror(errno) : "it is no file";
  cbt_set_error(error, CBT_ERROR_DENIED,
                "Give the images below to root, or make them readable for whom the topmost one belongs to.",
                "disk image %s, which an image names that belongs to user %u, is not read, for that user may "
                "not read it: %s",
                path, (guint) owner->st_uid, why);
  return FALSE;
}
