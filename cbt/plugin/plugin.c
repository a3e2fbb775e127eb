/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* nbdkit-cbt-plugin: a thin shell around CbtExport. One process serves one disk; all connections share the
 * export. */
#define NBDKIT_API_VERSION 2
#define THREAD_MODEL       NBDKIT_THREAD_MODEL_PARALLEL
#include <nbdkit-plugin.h>

#include <cbt/export.h>
#include <common/error.h>
#include <errno.h>
#include <string.h>

/* nbdkit's callbacks have no other place for what the configuration made. */
static struct {
  char *image;
  char *bitmaps;
  char *control;
  CbtUuid disk_id;
  CbtExport *export;
} plugin;

static void
cbt_unload(void)
{
  if (plugin.export)
    cbt_export_close(plugin.export);
  g_free(plugin.image);
  g_free(plugin.bitmaps);
  g_free(plugin.control);
}

static int
set_path(char **field, const char *value)
{
  g_free(*field);
  *field = g_canonicalize_filename(value, NULL);
  return 0;
}

static int
cbt_config(const char *key, const char *value)
{
  if (strcmp(key, "image") == 0)
    return set_path(&plugin.image, value);
  if (strcmp(key, "bitmaps") == 0)
    return set_path(&plugin.bitmaps, value);
  if (strcmp(key, "control") == 0)
    return set_path(&plugin.control, value);
  if (strcmp(key, "disk-id") == 0) {
    if (cbt_uuid_parse(value, &plugin.disk_id))
      return 0;
    nbdkit_error("disk-id=%s is not a UUID", value);
    return -1;
  }
  nbdkit_error("unknown parameter '%s'", key);
  return -1;
}

static int
cbt_config_complete(void)
{
  if (plugin.image && plugin.bitmaps && plugin.control && !cbt_uuid_is_nil(&plugin.disk_id))
    return 0;
  nbdkit_error("image, bitmaps, control and disk-id must all be given");
  return -1;
}

#define cbt_config_help                                                                                      \
  "image=FILE|DEVICE  (required) The raw image to serve.\n"                                                  \
  "bitmaps=DIR        (required) Folder of the disk's bitmap files.\n"                                       \
  "control=SOCKET     (required) Unix socket for cbt-backupd.\n"                                             \
  "disk-id=UUID       (required) The id that the disk was registered with."

static int
report(GError *error)
{
  g_autofree char *message = cbt_error_message(error);
  nbdkit_error("%s", message);
  g_error_free(error);
  return -1;
}

static int
cbt_get_ready(void)
{
  GError *error = NULL;
  plugin.export = cbt_export_open(plugin.image, plugin.bitmaps, &plugin.disk_id, &error);
  return plugin.export ? 0 : report(error);
}

/* A thread of ours must not be made before nbdkit has forked. */
static int
cbt_after_fork(void)
{
  GError *error = NULL;
  return cbt_export_serve_control(plugin.export, plugin.control, &error) ? 0 : report(error);
}

static void *
cbt_open(int readonly)
{
  (void) readonly;
  return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t
cbt_get_size(void *handle)
{
  (void) handle;
  return (int64_t) cbt_export_size(plugin.export);
}

static int
yes(void *handle)
{
  (void) handle;
  return 1;
}

static int
cbt_can_fua(void *handle)
{
  (void) handle;
  return NBDKIT_FUA_NATIVE;
}

static int
cbt_can_cache(void *handle)
{
  (void) handle;
  return NBDKIT_CACHE_EMULATE;
}

static int
cbt_block_size(void *handle, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum)
{
  (void) handle;
  *minimum = 1;
  *preferred = 4096;
  *maximum = 32 * 1024 * 1024;
  return 0;
}

static int
answer(int errsv, const char *what, uint64_t offset)
{
  if (errsv == 0)
    return 0;
  if (errsv != EOPNOTSUPP)
    nbdkit_error("%s at offset %" G_GUINT64_FORMAT ": %s", what, (guint64) offset, g_strerror(errsv));
  nbdkit_set_error(errsv);
  return -1;
}

static int
cbt_pread(void *handle, void *buffer, uint32_t count, uint64_t offset, uint32_t flags)
{
  (void) handle;
  (void) flags;
  return answer(cbt_export_read(plugin.export, buffer, count, offset), "read", offset);
}

static int
cbt_pwrite(void *handle, const void *buffer, uint32_t count, uint64_t offset, uint32_t flags)
{
  (void) handle;
  gboolean fua = (flags & NBDKIT_FLAG_FUA) != 0;
  return answer(cbt_export_write(plugin.export, buffer, count, offset, fua), "write", offset);
}

static int
cbt_flush(void *handle, uint32_t flags)
{
  (void) handle;
  (void) flags;
  return answer(cbt_export_flush(plugin.export), "flush", 0);
}

static int
cbt_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  (void) handle;
  gboolean fua = (flags & NBDKIT_FLAG_FUA) != 0;
  return answer(cbt_export_trim(plugin.export, count, offset, fua), "trim", offset);
}

static int
cbt_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  (void) handle;
  gboolean fua = (flags & NBDKIT_FLAG_FUA) != 0;
  gboolean may_trim = (flags & NBDKIT_FLAG_MAY_TRIM) != 0;
  return answer(cbt_export_zero(plugin.export, count, offset, may_trim, fua), "zero", offset);
}

static int
cbt_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags, struct nbdkit_extents *extents)
{
  uint64_t end = offset + count;
  (void) handle;
  while (offset < end) {
    guint64 length;
    gboolean hole;
    int errsv = cbt_export_extent(plugin.export, offset, end - offset, &length, &hole);
    if (errsv != 0)
      return answer(errsv, "extents", offset);
    if (nbdkit_add_extent(extents, offset, length, hole ? NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO : 0) == -1)
      return -1;
    if (flags & NBDKIT_FLAG_REQ_ONE)
      break;
    offset += length;
  }
  return 0;
}

static struct nbdkit_plugin nbdkit_cbt = {
    .name = "cbt",
    .longname = "tracked disk export of cbt-backup",
    .version = CBT_VERSION,
    .description = "Serves a raw image read-write and notes every change in persistent dirty bitmaps.",
    .unload = cbt_unload,
    .config = cbt_config,
    .config_complete = cbt_config_complete,
    .config_help = cbt_config_help,
    .get_ready = cbt_get_ready,
    .after_fork = cbt_after_fork,
    .open = cbt_open,
    .get_size = cbt_get_size,
    .block_size = cbt_block_size,
    .can_write = yes,
    .can_flush = yes,
    .can_trim = yes,
    .can_zero = yes,
    .can_fast_zero = yes,
    .can_extents = yes,
    .can_multi_conn = yes,
    .can_fua = cbt_can_fua,
    .can_cache = cbt_can_cache,
    .pread = cbt_pread,
    .pwrite = cbt_pwrite,
    .flush = cbt_flush,
    .trim = cbt_trim,
    .zero = cbt_zero,
    .extents = cbt_extents,
    .errno_is_preserved = 1,
};

NBDKIT_REGISTER_PLUGIN(nbdkit_cbt)
