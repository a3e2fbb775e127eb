/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The file is made without a name, and gets it when QEMU has both nodes: so a process that dies leaves no
 * file that QEMU does not know of. Its name is durable before the guest writes to it.
 */
#include <cbt/qemu/overlay.h>

#include <cbt/qemu/json.h>
#include <cbt/qemu/leftovers.h>
#include <cbt/qemu/peer.h>
#include <cbt/qemu/scratch.h>
#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SUFFIX ".qcow2"

char *
qemu_overlay_path(const char *image, const char *name)
{
  return g_strdup_printf("%s.%s" SUFFIX, image, name);
}

gboolean
qemu_overlay_is_path(const char *path, const char *prefix)
{
  g_autofree char *name = path ? g_path_get_basename(path) : NULL;
  g_autofree char *infix = g_strdup_printf(".%s-", prefix);
  return name && path[0] == '/' && g_str_has_suffix(name, SUFFIX) && strstr(name, infix) != NULL;
}

gboolean
qemu_overlay_is_of(const char *path, const char *image, const char *prefix)
{
  g_autofree char *begin = g_strdup_printf("%s.%s-", image, prefix);
  return path[0] == '/' && g_str_has_prefix(path, begin) && !strchr(path + strlen(begin), '/') &&
         g_str_has_suffix(path, SUFFIX);
}

char *
qemu_overlay_id(const struct stat *status)
{
  return g_strdup_printf("%jx:%jx", (uintmax_t) status->st_dev, (uintmax_t) status->st_ino);
}

/* Making one */

/* Nothing is made as root where only QEMU says that its image is. */
static gboolean
check_image(Qmp *qmp, const QemuOverlay *self, GError **error)
{
  struct stat status;
  const char *why = !self->image || self->image[0] != '/'   ? "it is not known where its image is"
                    : lstat(self->image, &status) != 0      ? g_strerror(errno)
                    : !S_ISREG(status.st_mode)              ? "its image is no regular file"
                    : !qemu_peer_has_open(qmp, self->image) ? "QEMU is not seen to have that open"
                                                            : NULL;
  if (!why)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_UNSUPPORTED, "Back it up without an external snapshot.",
                "The disk %s (%s) cannot have an overlay beside its image: %s", self->node,
                self->image ? self->image : "?", why);
  return FALSE;
}

/* Whoever starts QEMU anew must be able to open it. That is told by the image, and not by the monitor's
 * socket, which another process may have made for QEMU. */
static void
copy_owner(const QemuOverlay *self, int fd)
{
  struct stat status;
  if (stat(self->image, &status) == 0 && (fchown(fd, status.st_uid, status.st_gid) != 0 ||
                                          fchmod(fd, status.st_mode & (S_IRWXU | S_IRWXG)) != 0))
    g_debug("%s: %s", self->path, g_strerror(errno));
}

static int
make_file(const QemuOverlay *self, GError **error)
{
  g_autofree char *folder = g_path_get_dirname(self->path);
  const QemuScratch scratch = {.folder = folder,
                               .size_bytes = self->size_bytes,
                               .is_qcow2 = TRUE,
                               .is_reserved = TRUE,
                               .backing = self->image,
                               .backing_format = self->format};
  int fd = qemu_scratch_open(&scratch, error);
  if (fd >= 0)
    copy_owner(self, fd);
  return fd;
}

static gboolean
sync_folder(const char *path, GError **error)
{
  g_autofree char *folder = g_path_get_dirname(path);
  CBT_AUTO_FD int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0 && fsync(fd) == 0)
    return TRUE;
  cbt_set_error_errno(error, errno, "Cannot make the name of %s durable", path);
  return FALSE;
}

static gboolean
name_file(int fd, const char *path, GError **error)
{
  g_autofree char *source = g_strdup_printf("/proc/self/fd/%d", fd);
  if (fsync(fd) == 0 && linkat(AT_FDCWD, source, AT_FDCWD, path, AT_SYMLINK_FOLLOW) == 0)
    return sync_folder(path, error);
  if (errno == ENOENT)
    cbt_set_error(error, CBT_ERROR_UNSUPPORTED, "Back it up without an external snapshot.",
                  "%s cannot be made: its file system has no files without names", path);
  else
    cbt_set_error_errno(error, errno, "Cannot make %s", path);
  return FALSE;
}

static gboolean
hand_over(const QemuSteps *steps, const QemuOverlay *self, int fd, const char *name, gint64 *fdset_id,
          GError **error)
{
  struct stat status;
  g_autoptr(JsonNode) answer = NULL;
  if (fstat(fd, &status) != 0) {
    cbt_set_error_errno(error, errno, "Cannot look at %s", self->path);
    return FALSE;
  }
  g_autofree char *id = qemu_overlay_id(&status);
  const QemuNote note = {.prefix = self->prefix,
                         .disk = self->index,
                         .node = self->node,
                         .socket_path = self->socket_path,
                         .overlay_path = self->path,
                         .overlay_id = id};
  g_autofree char *text = qemu_leftovers_note(&note);
  if (!qemu_step_with_fd(steps, "add-fd", name, qmp_args("opaque", qmp_str(text), NULL), fd, &answer, error))
    return FALSE;
  if (qemu_json_int(qemu_json_node_object(answer), "fdset-id", fdset_id))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "QEMU's answer to add-fd cannot be understood");
  return FALSE;
}

/* What the guest discards is noted by the overlay, and the commit needs that; its file keeps the room. */
gboolean
qemu_overlay_add(const QemuSteps *steps, const QemuOverlay *self, GError **error)
{
  gint64 fdset_id;
  g_autofree char *node = qemu_name(self->prefix, QEMU_NAME_OVERLAY, (int) self->index);
  g_autofree char *file = qemu_name(self->prefix, QEMU_NAME_OVERLAY_FILE, (int) self->index);
  if (!check_image(steps->qmp, self, error))
    return FALSE;
  CBT_AUTO_FD int fd = make_file(self, error);
  if (fd < 0 || !hand_over(steps, self, fd, file, &fdset_id, error))
    return FALSE;
  g_autofree char *name = g_strdup_printf("/dev/fdset/%" G_GINT64_FORMAT, fdset_id);
  return qemu_step(steps, "blockdev-add", file,
                   qmp_args("driver", qmp_str("file"), "node-name", qmp_str(file), "filename", qmp_str(name),
                            "discard", qmp_str("ignore"), NULL),
                   error) &&
         qemu_step(steps, "blockdev-add", node,
                   qmp_args("driver", qmp_str("qcow2"), "node-name", qmp_str(node), "file", qmp_str(file),
                            "backing", json_node_new(JSON_NODE_NULL), "discard", qmp_str("unmap"), NULL),
                   error) &&
         name_file(fd, self->path, error);
}

JsonNode *
qemu_overlay_action(const char *prefix, int index, const char *node)
{
  g_autofree char *overlay = qemu_name(prefix, QEMU_NAME_OVERLAY, index);
  return qmp_action("blockdev-snapshot", qmp_args("node", qmp_str(node), "overlay", qmp_str(overlay), NULL));
}

/* Those that are left */

GPtrArray *
qemu_overlay_strays(const char *image, const char *prefix)
{
  GPtrArray *strays = g_ptr_array_new_with_free_func(g_free);
  g_autofree char *folder = g_path_get_dirname(image);
  g_autofree char *base = g_path_get_basename(image);
  g_autofree char *begin = g_strdup_printf("%s.%s-", base, prefix);
  g_autoptr(GDir) names = g_dir_open(folder, 0, NULL);
  const char *name;
  while (names && (name = g_dir_read_name(names)))
    if (g_str_has_prefix(name, begin) && g_str_has_suffix(name, SUFFIX))
      g_ptr_array_add(strays, g_build_filename(folder, name, NULL));
  return strays;
}
