/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A change goes: through the gate, bits set, old bytes preserved if a session wants them, then the image. It
 * has set its bits even if it then fails half-way. Reads and flushes touch neither gate nor bits.
 */
#include <cbt/export-private.h>

#include <common/error.h>
#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>

static gboolean
check_size(const char *image, guint64 size, GError **error)
{
  if (size > 0 && size % 512 == 0)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, "Disks are whole sectors of 512 bytes.",
                "%s has %" G_GUINT64_FORMAT " bytes, which is no multiple of 512", image, size);
  return FALSE;
}

CbtExport *
cbt_export_open(const char *image, const char *bitmap_directory, const CbtUuid *disk_id, GError **error)
{
  CBT_AUTO_FD int fd = open(image, O_RDWR | O_CLOEXEC | O_NONBLOCK);
  CbtDiskIdentity identity;
  if (fd < 0) {
    cbt_set_error_errno(error, errno, "cannot open %s", image);
    return NULL;
  }
  if (!cbt_disk_identity_from_fd(fd, disk_id, &identity, error) || !check_size(image, identity.size, error))
    return NULL;
  CbtTracker *tracker = cbt_tracker_open(cbt_file_ops_default(), bitmap_directory, fd, disk_id, error);
  if (!tracker)
    return NULL;
  CbtExport *export = g_new0(CbtExport, 1);
  export->image_fd = cbt_steal_fd(&fd);
  export->size = identity.size;
  export->tracker = tracker;
  export->gate = cbt_gate_new();
  return export;
}

void
cbt_export_close(CbtExport *export)
{
  g_autoptr(GError) error = NULL;
  if (export->control)
    cbt_export_control_stop(export->control);
  g_clear_pointer(&export->session, cbt_session_free);
  cbt_gate_free(export->gate);
  if (fdatasync(export->image_fd) != 0 || !cbt_tracker_close(export->tracker, &error))
    g_printerr("cannot close the bitmaps: %s\n", error ? error->message : g_strerror(errno));
  cbt_clear_fd(&export->image_fd);
  g_free(export);
}

guint64
cbt_export_size(const CbtExport *export)
{
  return export->size;
}

/* ---- changes
 * -------------------------------------------------------------------------------------------------- */

static void
begin_change(CbtExport *export, guint64 offset, guint64 length)
{
  cbt_gate_enter(export->gate);
  cbt_tracker_record(export->tracker, offset, length);
  if (export->session)
    cbt_session_preserve(export->session, export->image_fd, offset, length);
}

/* ERRSV is what the change came to. */
static int
end_change(CbtExport *export, int errsv, gboolean fua)
{
  if (errsv == 0 && fua && fdatasync(export->image_fd) != 0)
    errsv = errno;
  cbt_gate_leave(export->gate);
  return errsv;
}

int
cbt_export_write(CbtExport *export, const void *buffer, guint32 length, guint64 offset, gboolean fua)
{
  begin_change(export, offset, length);
  int errsv = cbt_pwrite_full(export->image_fd, buffer, length, offset) ? 0 : errno;
  return end_change(export, errsv, fua);
}

static int
punch_hole(CbtExport *export, guint32 length, guint64 offset)
{
  int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  return fallocate(export->image_fd, mode, (off_t) offset, length) == 0 ? 0 : errno;
}

static gboolean
is_unsupported(int errsv)
{
  return errsv == EOPNOTSUPP || errsv == ENOSYS || errsv == ENODEV || errsv == ENOTTY;
}

int
cbt_export_zero(CbtExport *export, guint32 length, guint64 offset, gboolean may_trim, gboolean fua)
{
  int errsv = EOPNOTSUPP;
  begin_change(export, offset, length);
  if (may_trim)
    errsv = punch_hole(export, length, offset);
  if (is_unsupported(errsv))
    errsv =
        fallocate(export->image_fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, (off_t) offset, length) == 0
            ? 0
            : errno;
  return end_change(export, is_unsupported(errsv) ? EOPNOTSUPP : errsv, fua);
}

int
cbt_export_trim(CbtExport *export, guint32 length, guint64 offset, gboolean fua)
{
  begin_change(export, offset, length);
  int errsv = punch_hole(export, length, offset);
  /* A trim is a hint: where the image cannot do it, leaving the data is right. */
  return end_change(export, is_unsupported(errsv) ? 0 : errsv, fua);
}

/* ---- the rest
 * ------------------------------------------------------------------------------------------------- */

int
cbt_export_read(CbtExport *export, void *buffer, guint32 length, guint64 offset)
{
  gssize n = cbt_pread_full(export->image_fd, buffer, length, offset);
  if (n < 0)
    return errno;
  return (guint32) n == length ? 0 : EIO;
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
  if (data < 0 && errno != ENXIO && errno != EINVAL && errno != EOPNOTSUPP)
    return errno;
  gboolean unknown = data < 0 && errno != ENXIO;
  *hole = !unknown && (data < 0 || (guint64) data > offset);
  guint64 run_end = *hole && data >= 0 ? (guint64) data : end;
  if (!*hole && !unknown) {
    off_t next = lseek(export->image_fd, (off_t) offset, SEEK_HOLE);
    if (next > (off_t) offset)
      run_end = (guint64) next;
  }
  *run_length = MIN(run_end, end) - offset;
  return 0;
}
