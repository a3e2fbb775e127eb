/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * nbdkit-cbt-plugin: serves one disk image read-write and notes every change in the disk's bitmaps.
 *
 * A thin shell around CbtExport. Image and bitmaps are opened before nbdkit goes to the background, so that a
 * mistake is seen by whoever started it; the control thread starts after the fork, which it would not
 * survive.
 */
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <cbt/export.h>
#include <common/error.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

#define PREFERRED_BLOCK_SIZE ((uint32_t) CBT_CLUSTER_SIZE)
#define MAX_BLOCK_SIZE       (32u << 20)

/* nbdkit calls a plugin without a handle of its own: this is the plugin's instance. */
static struct {
  char *image;
  char *bitmaps;
  char *control;
  char *witness;
  CbtUuid disk_id;
  gboolean has_disk_id;
  CbtExport *export;
} self;

static void
report(const GError *error)
{
  g_autofree char *message = cbt_error_message(error);
  g_autofree char *hint = cbt_error_hint(error);
  nbdkit_error("%s%s%s", message, hint != NULL ? ". " : "", hint != NULL ? hint : "");
}

static int
set_path(char **field, const char *value)
{
  free(*field);
  *field = nbdkit_absolute_path(value);
  return *field != NULL ? 0 : -1;
}

static int
plugin_config(const char *key, const char *value)
{
  if (strcmp(key, "image") == 0)
    return set_path(&self.image, value);
  if (strcmp(key, "bitmaps") == 0)
    return set_path(&self.bitmaps, value);
  if (strcmp(key, "control") == 0)
    return set_path(&self.control, value);
  if (strcmp(key, "witness") == 0)
    return set_path(&self.witness, value);
  if (strcmp(key, "disk-id") != 0) {
    nbdkit_error("unknown parameter '%s'", key);
    return -1;
  }
  self.has_disk_id = cbt_uuid_parse(value, &self.disk_id) && !cbt_uuid_is_nil(&self.disk_id);
  if (!self.has_disk_id)
    nbdkit_error("disk-id=%s is no UUID", value);
  return self.has_disk_id ? 0 : -1;
}

static int
plugin_config_complete(void)
{
  if (self.image != NULL && self.bitmaps != NULL && self.has_disk_id)
    return 0;
  nbdkit_error("the parameters image=PATH, bitmaps=DIRECTORY and disk-id=UUID are needed");
  return -1;
}

static int
plugin_get_ready(void)
{
  g_autoptr(GError) error = NULL;
  self.export = cbt_export_open(self.image, self.bitmaps, self.witness, &self.disk_id, &error);
  if (self.export != NULL)
    return 0;
  report(error);
  return -1;
}

static int
plugin_after_fork(void)
{
  g_autoptr(GError) error = NULL;
  if (self.control == NULL || cbt_export_serve_control(self.export, self.control, &error))
    return 0;
  report(error);
  return -1;
}

/* The connections are over. */
static void
plugin_cleanup(void)
{
  g_clear_pointer(&self.export, cbt_export_close);
}

static void
plugin_unload(void)
{
  plugin_cleanup();
  free(self.image);
  free(self.bitmaps);
  free(self.control);
  free(self.witness);
  memset(&self, 0, sizeof self);
}

static void *
plugin_open(int readonly G_GNUC_UNUSED)
{
  return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t
plugin_get_size(void *handle G_GNUC_UNUSED)
{
  return (int64_t) cbt_export_size(self.export);
}

static int
plugin_yes(void *handle G_GNUC_UNUSED)
{
  return 1;
}

static int
plugin_can_fua(void *handle G_GNUC_UNUSED)
{
  return NBDKIT_FUA_NATIVE;
}

static int
plugin_block_size(void *handle G_GNUC_UNUSED, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum)
{
  *minimum = 1;
  *preferred = PREFERRED_BLOCK_SIZE;
  *maximum = MAX_BLOCK_SIZE;
  return 0;
}

/* RESULT is 0 or an errno value. EOPNOTSUPP is no failure: nbdkit finds another way. */
static int
finish(const char *operation, uint64_t offset, int result)
{
  if (result == 0)
    return 0;
  if (result != EOPNOTSUPP)
    nbdkit_error("%s: cannot %s at %" G_GUINT64_FORMAT ": %s", self.image, operation, (guint64) offset,
                 g_strerror(result));
  nbdkit_set_error(result);
  return -1;
}

static int
plugin_pread(void *handle G_GNUC_UNUSED, void *buffer, uint32_t count, uint64_t offset,
             uint32_t flags G_GNUC_UNUSED)
{
  return finish("read", offset, cbt_export_read(self.export, buffer, count, offset));
}

static int
plugin_pwrite(void *handle G_GNUC_UNUSED, const void *buffer, uint32_t count, uint64_t offset, uint32_t flags)
{
  gboolean fua = (flags & NBDKIT_FLAG_FUA) != 0;
  return finish("write", offset, cbt_export_write(self.export, buffer, count, offset, fua));
}

static int
plugin_zero(void *handle G_GNUC_UNUSED, uint32_t count, uint64_t offset, uint32_t flags)
{
  gboolean may_trim = (flags & NBDKIT_FLAG_MAY_TRIM) != 0;
  gboolean fua = (flags & NBDKIT_FLAG_FUA) != 0;
  return finish("write zeros", offset, cbt_export_zero(self.export, count, offset, may_trim, fua));
}

static int
plugin_trim(void *handle G_GNUC_UNUSED, uint32_t count, uint64_t offset, uint32_t flags)
{
  gboolean fua = (flags & NBDKIT_FLAG_FUA) != 0;
  return finish("trim", offset, cbt_export_trim(self.export, count, offset, fua));
}

static int
plugin_flush(void *handle G_GNUC_UNUSED, uint32_t flags G_GNUC_UNUSED)
{
  return finish("flush", 0, cbt_export_flush(self.export));
}

static int
plugin_extents(void *handle G_GNUC_UNUSED, uint32_t count, uint64_t offset, uint32_t flags,
               struct nbdkit_extents *extents)
{
  uint64_t end = offset + count;
  while (offset < end) {
    guint64 length = 0;
    gboolean hole = FALSE;
    int result = cbt_export_extent(self.export, offset, end - offset, &length, &hole);
    if (result != 0)
      return finish("examine the extents", offset, result);
    if (nbdkit_add_extent(extents, offset, length, hole ? NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO : 0) != 0)
      return -1;
    if (flags & NBDKIT_FLAG_REQ_ONE)
      return 0;
    offset += length;
  }
  return 0;
}

/* clang-format off */
static struct nbdkit_plugin plugin = {
  .name               = "cbt",
  .longname           = "changed-block-tracking disk",
  .version            = CBT_VERSION,
  .description        = "serves a disk image and tracks its changes in persistent dirty bitmaps",
  .config             = plugin_config,
  .config_complete    = plugin_config_complete,
  .config_help        = "image=PATH       (required) The raw disk image or block device.\n"
                        "bitmaps=DIR      (required) The folder of the disk's bitmaps; made when missing.\n"
                        "disk-id=UUID     (required) The id that the disk was registered with.\n"
                        "control=SOCKET   The Unix socket on which the backup daemon asks.\n"
                        "witness=DIR      Where to note which bitmaps are in use, outside of their folder and gone\n"
                        "                 with the next boot, so that an older copy of them is told from them.",
  .magic_config_key   = "image",
  .get_ready          = plugin_get_ready,
  .after_fork         = plugin_after_fork,
  .cleanup            = plugin_cleanup,
  .unload             = plugin_unload,
  .open               = plugin_open,
  .get_size           = plugin_get_size,
  .block_size         = plugin_block_size,
  .can_write          = plugin_yes,
  .can_flush          = plugin_yes,
  .can_trim           = plugin_yes,
  .can_zero           = plugin_yes,
  .can_fast_zero      = plugin_yes,
  .can_extents        = plugin_yes,
  .can_multi_conn     = plugin_yes,
  .can_fua            = plugin_can_fua,
  .pread              = plugin_pread,
  .pwrite             = plugin_pwrite,
  .zero               = plugin_zero,
  .trim               = plugin_trim,
  .flush              = plugin_flush,
  .extents            = plugin_extents,
  /* Extents, writes and the rest are positional: any thread, any time. Errors come by nbdkit_set_error(). */
};
/* clang-format on */

struct nbdkit_plugin *plugin_init(void);
NBDKIT_REGISTER_PLUGIN(plugin)
