/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Each change goes the same way: regions open, into the gate, bits set, old bytes preserved if a backup wants
 * them, the image changed, out of the gate. So a change that fails half-way has its bits all the same, and
 * one that a crash cuts off, too.
 *
 * The first change in a region waits for the region log (cbt/region-log.h). It waits outside the gate, so
 * that a hold does not wait for it; but a trim, which comes under a hold, may close the region before the
 * gate is passed. So it is looked at inside, and if it is closed the change goes out and begins again.
 *
 * A flush (FUA) comes after the gate is left: the bytes are in the page cache by then, where every reader
 * sees them, and a slow device does not make a drain slow. The I/O goes through the page cache; the reader's
 * direct reads are kept coherent with it by the kernel.
 *
 * A session is looked up inside the gate: it is put up and taken away while the gate is drained, or taken
 * away at any time and freed after a later drain.
 */
#include <cbt/export-private.h>

#include <cbt/image-use.h>
#include <common/error.h>
#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdatomic.h>
#include <sys/stat.h>

#define SECTOR_SIZE 512

static gboolean
examine_image(CbtExport *export, const char *image, const CbtUuid *disk_id, GError **error)
{
  CbtDiskIdentity identity;
  struct stat st;
  if (!cbt_disk_identity_from_fd(export->image_fd, disk_id, &identity, error)) {
    g_prefix_error(error, "%s: ", image);
    return FALSE;
  }
  if (identity.size == 0 || identity.size % SECTOR_SIZE != 0 || identity.size > CBT_DISK_SIZE_MAX) {
    cbt_set_error(error, CBT_ERROR_INVALID, "The size of a raw image is a multiple of 512 bytes.",
                  "%s: %" G_GUINT64_FORMAT " bytes is no size of a disk", image, identity.size);
    return FALSE;
  }
  export->size = identity.size;
  export->is_block = fstat(export->image_fd, &st) == 0 && S_ISBLK(st.st_mode);
  return TRUE;
}

static void
export_free(CbtExport *export)
{
  cbt_gate_free(export->gate);
  cbt_clear_fd(&export->image_fd);
  g_free(export);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(CbtExport, export_free)

CbtExport *
cbt_export_open(const char *image, const char *bitmap_directory, const char *witness_directory,
                const CbtUuid *disk_id, GError **error)
{
  g_autoptr(CbtExport) export = g_new0(CbtExport, 1);
  export->gate = cbt_gate_new();
  atomic_init(&export->session, NULL);
  export->image_fd = cbt_image_open(image, CBT_IMAGE_EXPORT, CBT_EXPORT_BUSY_HINT, error);
  if (export->image_fd < 0 || !examine_image(export, image, disk_id, error))
    return NULL;
  export->tracker = cbt_tracker_open(cbt_file_ops_default(), bitmap_directory, witness_directory,
                                     export->image_fd, disk_id, error);
  return export->tracker != NULL ? g_steal_pointer(&export) : NULL;
}

gboolean
cbt_export_serve_control(CbtExport *export, const char *socket_path, GError **error)
{
  g_assert(export->control == NULL);
  export->control = cbt_control_server_start(export, socket_path, error);
  return export->control != NULL;
}

void
cbt_export_close(CbtExport *export)
{
  g_autoptr(GError) error = NULL;
  if (export == NULL)
    return;
  if (export->control != NULL)
    cbt_control_server_stop(export->control);
  if (!cbt_tracker_close(export->tracker, &error))
    g_message("the bitmaps did not close clean: %s", error->message);
  export_free(export);
}

guint64
cbt_export_size(const CbtExport *export)
{
  return export->size;
}

/* --- changes --- */

static void
begin_change(CbtExport *export, guint64 offset, guint64 length)
{
  cbt_gate_enter(export->gate);
  while (G_UNLIKELY(!cbt_tracker_is_range_open(export->tracker, offset, length))) {
    cbt_gate_leave(export->gate);
    cbt_tracker_open_range(export->tracker, offset, length);
    cbt_gate_enter(export->gate);
  }
  cbt_tracker_record(export->tracker, offset, length);
  CbtSession *session = atomic_load(&export->session);
  if (session != NULL)
    cbt_session_preserve(session, export->image_fd, offset, length);
}

/* RESULT is the errno value of the change. */
static int
end_change(CbtExport *export, int result, gboolean fua)
{
  cbt_gate_leave(export->gate);
  return result == 0 && fua ? cbt_export_flush(export) : result;
}

int
cbt_export_read(CbtExport *export, void *buffer, guint32 length, guint64 offset)
{
  gssize n = cbt_pread_full(export->image_fd, buffer, length, offset);
  if (n < 0)
    return errno;
  return (guint64) n == length ? 0 : EIO;
}

int
cbt_export_write(CbtExport *export, const void *buffer, guint32 length, guint64 offset, gboolean fua)
{
  begin_change(export, offset, length);
  int result = cbt_pwrite_full(export->image_fd, buffer, length, offset) ? 0 : errno;
  return end_change(export, result, fua);
}

/* What file systems and devices say of a mode or an alignment that they cannot do is told as EOPNOTSUPP. */
static int
allocate(const CbtExport *export, int mode, guint64 offset, guint64 length)
{
  int result;
  do
    result = fallocate(export->image_fd, mode, (off_t) offset, (off_t) length) == 0 ? 0 : errno;
  while (result == EINTR);
  if (result == ENOSYS || result == ENODEV || (result == EINVAL && export->is_block))
    return EOPNOTSUPP;
  return result;
}

static int
punch(const CbtExport *export, guint64 offset, guint64 length)
{
  return allocate(export, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
}

int
cbt_export_zero(CbtExport *export, guint32 length, guint64 offset, gboolean may_trim, gboolean fua)
{
  if (length == 0)
    return 0;
  begin_change(export, offset, length);
  int result = may_trim ? punch(export, offset, length) : EOPNOTSUPP;
  if (result == EOPNOTSUPP)
    result = allocate(export, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length);
  return end_change(export, result, fua);
}

int
cbt_export_trim(CbtExport *export, guint32 length, guint64 offset, gboolean fua)
{
  if (length == 0)
    return 0;
  begin_change(export, offset, length);
  int result = punch(export, offset, length);
  /* A trim is advice: an image that cannot give space back has followed it. */
  return end_change(export, result == EOPNOTSUPP ? 0 : result, fua);
}

int
cbt_export_flush(CbtExport *export)
{
  return fdatasync(export->image_fd) == 0 ? 0 : errno;
}

int
cbt_export_extent(CbtExport *export, guint64 offset, guint64 length, guint64 *run_length, gboolean *hole)
{
  guint64 end = offset + length;
  off_t data = lseek(export->image_fd, (off_t) offset, SEEK_DATA);
  *hole = FALSE;
  *run_length = length;
  if (data < 0 && errno != ENXIO)
    return 0; /* it cannot tell: all data */
  if (data < 0 || (guint64) data > offset) {
    *hole = TRUE;
    *run_length = data < 0 ? length : MIN((guint64) data, end) - offset;
    return 0;
  }
  off_t next = lseek(export->image_fd, (off_t) offset, SEEK_HOLE);
  if (next > data)
    *run_length = MIN((guint64) next, end) - offset;
  return 0;
}
