/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reads from an NBD export what of a disk is to be backed up: where a dirty bitmap is set, and what of that is zero and
 * need not be read. With many requests in flight, over two connections, one a context: what is allocated is asked only
 * where the bitmap is set, for QEMU's snapshot-access refuses to tell it of any other range.
 *
 * Contexts: "base:allocation" (the NBD protocol), "qemu:dirty-bitmap:NAME" (QEMU's docs/interop/nbd.txt).
 */
#pragma once

#include <common/error.h>
#include <common/extent.h>
#include <gio/gio.h>

typedef enum {
  QEMU_RANGE_CLEAN, /* the bitmap is not set: as it was */
  QEMU_RANGE_ZERO,  /* is set, and reads as zeros: discarded, or never written */
  QEMU_RANGE_DATA,  /* is set, and must be read */
} QemuRangeKind;

/* What the bitmap marks is rounded to clusters of 64 KiB, what is zero is not. Ranges come in ascending order, cover the
 * whole disk, and neighbours differ in kind. Return FALSE to stop. */
typedef gboolean (*QemuRangeFunc)(const CbtExtent *range, QemuRangeKind kind, gpointer user_data);

typedef struct {
  const char *uri;    /* of the export: "nbd+unix:///NAME?socket=PATH" */
  const char *bitmap; /* its name, or NULL: all is taken as set */
  guint timeout_ms;   /* without any progress */
  guint64 window_bytes; /* of one request, a multiple of 64 KiB up to 2 GiB; 0: 1 GiB */
  guint n_in_flight;    /* 0: 16 */
} QemuNbdMapRequest;

/*
 * Calls FUNC for each range; *size_bytes is the disk's size. The bitmap is read whole before the first call, into
 * a bit for each cluster. NOT_FOUND if the export has no such bitmap: never taken for a clean one.
 * UNREACHABLE if there is no such export, or it makes no progress; IO, CORRUPT for what it answers; INVALID for a disk
 * above CBT_DISK_SIZE_MAX; CANCELLED, also when FUNC stopped.
 */
gboolean qemu_nbd_map_read(const QemuNbdMapRequest *request, QemuRangeFunc func, gpointer user_data,
                           guint64 *size_bytes, GCancellable *cancellable, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* A range whose topmost layer with anything there is the DEPTHth image of the chain, 1 being the top one; 0: no image has
 * any. What is known to be zero in an image counts as there. Return FALSE to stop. */
typedef gboolean (*QemuDepthFunc)(const CbtExtent *range, guint depth, gpointer user_data);
/* Calls FUNC for each range of an export that was told to expose the allocation depth, in ascending order; REQUEST's bitmap
 * is not used. UNSUPPORTED if it was not; else errors as above. */
gboolean qemu_nbd_map_read_depth(const QemuNbdMapRequest *request, QemuDepthFunc func, gpointer user_data,
                                 guint64 *size_bytes, GCancellable *cancellable, GError **error) G_GNUC_WARN_UNUSED_RESULT;
