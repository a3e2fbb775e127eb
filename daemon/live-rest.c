/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/live-rest.h>

#include <cbt/qemu/offline.h>
#include <common/error.h>
#include <common/fd.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

gboolean
live_is_off(const char *qmp)
{
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(qmp) >= sizeof address.sun_path)
    return FALSE;
  memcpy(address.sun_path, qmp, strlen(qmp) + 1);
  CBT_AUTO_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  return fd >= 0 && connect(fd, (const struct sockaddr *) &address, sizeof address) != 0 &&
         (errno == ENOENT || errno == ECONNREFUSED);
}

QemuDisk *
live_rest_look(const CatalogueDisk *disk, GError **error)
{
  guint64 size;
  if (!g_path_is_absolute(disk->path)) {
    cbt_set_error(error, CBT_ERROR_STATE, "Back it up while its guest runs.",
                  "the guest is off, and disk '%s' (%s) is no image that its QEMU was seen to have open here",
                  disk->name, disk->path);
    return NULL;
  }
  g_autoptr(GPtrArray) bitmaps = qemu_offline_bitmaps(disk->path, disk->format, &size, error);
  if (!bitmaps)
    return NULL;
  /* Those of images below have not seen what was written to this one. */
  for (guint i = bitmaps->len; i-- > 0;)
    if (((QemuBitmap *) bitmaps->pdata[i])->depth > 0)
      g_ptr_array_remove_index(bitmaps, i);
  return qemu_disk_at_rest(disk->node, disk->path, disk->format, size, g_steal_pointer(&bitmaps));
}

static gboolean
run_step(const CatalogueDisk *disk, const QemuBitmapStep *step, GError **error)
{
  g_autofree char *granularity = g_strdup_printf("%" G_GUINT64_FORMAT, step->granularity);
  const char *options[6] = {NULL};
  switch (step->op) {
  case QEMU_BITMAP_ADD:
    options[0] = "--add";
    options[1] = "-g";
    options[2] = granularity;
    options[3] = step->disabled ? "--disable" : NULL;
    break;
  case QEMU_BITMAP_MERGE:
    options[0] = "--merge";
    options[1] = step->source;
    break;
  case QEMU_BITMAP_ENABLE:
    options[0] = "--enable";
    break;
  case QEMU_BITMAP_DISABLE:
    options[0] = "--disable";
    break;
  case QEMU_BITMAP_REMOVE:
    options[0] = "--remove";
    break;
  }
  return qemu_offline_bitmap_change(disk->path, disk->format, step->name, options, error);
}

gboolean
live_rest_run(const CatalogueDisk *disk, const GPtrArray *steps, GError **error)
{
  for (guint i = 0; i < steps->len; i++)
    if (!run_step(disk, steps->pdata[i], error))
      return FALSE;
  return TRUE;
}
