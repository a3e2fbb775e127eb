/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whether a bitmap of QEMU's can be believed: the layout of the image is compared with what the bitmap's base held.
 *
 * Threads: any but the main one.
 */
#pragma once

#include <cbt/bitmap.h>
#include <daemon/daemon.h>

/* The clusters of DISK that have no data now (transfer full), by its image. SOCKETS is a folder of ours. Errors where the
 * image cannot be seen from here. */
CbtBitmap *live_trust_read_zeros(const CatalogueDisk *disk, const char *sockets, GCancellable *stop,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* For that case: whether INSTANCE (nullable), the process that has DISK, had it at the latest backup on BITMAP already. */
gboolean live_trust_is_same(Daemon *daemon, const CatalogueDisk *disk, const char *bitmap, const char *instance,
                            gboolean *is_same, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/*
 * *lie (transfer full) becomes why BITMAP, which says that CHANGES are all that changed since BASE, is wrong; NULL if nothing
 * speaks against it. ZEROS must have been read before CHANGES: what became zeros between is in them then.
 */
gboolean live_trust_check(Daemon *daemon, const StoreManifest *base, const char *bitmap, const CbtBitmap *zeros,
                          const CbtBitmap *changes, char **lie, GError **error) G_GNUC_WARN_UNUSED_RESULT;
