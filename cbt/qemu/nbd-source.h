/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An NBD export as a source of a backup (cbt/source.h). What the export tells must stay as it is while the source is open:
 * it is one instant of a running disk, or an image at rest. So it is never "changed", and it has no descriptor: readers
 * get an engine that asks over several connections, many requests at a time, straight into their buffers.
 *
 * cbt_source_next_extent() calls a hole what is set in the bitmap and reads as zeros: it is known without reading. What is
 * not set is not known at all, so it is no hole; QEMU may refuse to read it.
 *
 * What a reader's run fails with, in bounded time: UNREACHABLE if the server goes away, or does not answer for
 * `timeout_ms`; IO with offset and errno for a read that it fails, as a snapshot that broke does; CANCELLED within 0.1 s.
 * The reader is of no use after that, the source is.
 *
 * The source is of one thread at a time, as each of its readers is.
 */
#pragma once

#include <cbt/source.h>
#include <gio/gio.h>

typedef struct {
  const char *uri;     /* "nbd+unix:///NAME?socket=PATH" */
  const char *bitmap;  /* dirty bitmap whose ranges are wanted, or NULL: all that is allocated */
  guint timeout_ms;    /* without any progress: UNREACHABLE; above 0 */
  guint n_connections; /* 0: as many as the server's multi-conn allows, up to 4. More than one only where it allows them */
} QemuNbdSourceOptions;

/* Connects and reads which clusters are wanted and which of them are zero: two bits of memory for each. CANCELLABLE
 * (nullable) is also for the connections that readers make later. Errors as qemu_nbd_map_read(); INVALID for an empty disk. */
CbtSource *qemu_nbd_source_open(const QemuNbdSourceOptions *options, GCancellable *cancellable,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* What the bitmap marks, rounded to clusters of 64 KiB (transfer none); NULL if none was asked for. */
const CbtBitmap *qemu_nbd_source_changes(CbtSource *source);
