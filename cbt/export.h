/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A tracked export: one disk image, read and written by a guest, with every change noted in the disk's bitmaps before
 * it is made. The nbdkit plugin is a thin shell around this; so are the tests.
 *
 * Lifecycle: open, serve the control socket (a thread of its own), any number of I/O calls, close.
 * Threads: I/O calls from any thread at once.
 */
#pragma once

#include <cbt/control.h>

typedef struct CbtExport CbtExport;

#define CBT_EXPORT_BUSY_HINT                                                                                           \
  "End that use of the image first: all writes have to go through the export, or they are not tracked."

/* Opens IMAGE read-write and the bitmaps of BITMAP_DIRECTORY; WITNESS_DIRECTORY as for cbt_tracker_open(). Errors as
 * cbt_tracker_open() and cbt_image_open(); INVALID for a size that is no multiple of 512. */
CbtExport *cbt_export_open(const char *image, const char *bitmap_directory, const char *witness_directory,
                           const CbtUuid *disk_id, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Listens on SOCKET_PATH (a stale one is replaced; mode 0600) and answers cbt/control.h requests. */
gboolean cbt_export_serve_control(CbtExport *export, const char *socket_path, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
/* Stops the control thread, closes the bitmaps clean, frees. No I/O call may be under way. */
void cbt_export_close(CbtExport *export);

guint64 cbt_export_size(const CbtExport *export);

/* Each returns 0, or an errno value. Ranges are checked by the caller. FUA: durable before the call returns. */
int cbt_export_read(CbtExport *export, void *buffer, guint32 length, guint64 offset);
int cbt_export_write(CbtExport *export, const void *buffer, guint32 length, guint64 offset, gboolean fua);
/* MAY_TRIM lets the range become a hole. EOPNOTSUPP if the image cannot do it fast: the caller writes zeros. */
int cbt_export_zero(CbtExport *export, guint32 length, guint64 offset, gboolean may_trim, gboolean fua);
int cbt_export_trim(CbtExport *export, guint32 length, guint64 offset, gboolean fua);
int cbt_export_flush(CbtExport *export);
/* The allocation at OFFSET: length of the run (at most LENGTH) and whether it is a hole. */
int cbt_export_extent(CbtExport *export, guint64 offset, guint64 length, guint64 *run_length, gboolean *hole);
