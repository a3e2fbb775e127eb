/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Images at rest: of a guest that is off, with QEMU's own tools. PATH is absolute; FORMAT is "qcow2" or "raw" and never
 * guessed, for what a guest wrote into a raw image could look like anything. Backing files are found through the image.
 *
 * An image that a program writes, or one below it that is written, is refused: BUSY, with who it is where that can be found
 * out. QEMU's tools see that by its locks, except for raw images; so we look at the locks ourselves (cbt/image-use.h).
 * What an image names below it is read only if the image's owner may (cbt/qemu/image-trust.h): DENIED.
 *
 * While a qcow2 image is served or changed, no QEMU can start on it; a raw one it can: ask
 * qemu_offline_check_changed() at the end.
 *
 * Common errors: NOT_FOUND, DENIED, INVALID for what is not of FORMAT; UNSUPPORTED without the tools; UNREACHABLE when they
 * do not come to an end; CANCELLED. Any thread; each call blocks.
 */
#pragma once

#include <cbt/qemu/disks.h>

/* A server of one image, read-only. It ends with this process, however that ends. */
typedef struct QemuOffline QemuOffline;

/* Starts it; BITMAP (nullable) is offered as a dirty bitmap: NOT_FOUND, or INCONSISTENT, as it is. The first one of that
 * name is taken, from PATH down the chain: whether it says all that changed is the caller's to know. Its socket is in
 * RUNTIME_DIR, which is ours alone; sockets of dead processes are removed there. */
QemuOffline *qemu_offline_serve(const char *path, const char *format, const char *bitmap, const char *runtime_dir,
                                GCancellable *cancellable, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* As above, of a qcow2 image that QEMU may have open, without its locks: for what of it cannot change meanwhile. Its bytes and
 * its layout may be read torn where it is written. qemu_offline_check_changed() does not apply. */
QemuOffline *qemu_offline_serve_shared(const char *path, const char *runtime_dir, GCancellable *cancellable,
                                       GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* For qemu_nbd_source_open(). (transfer none) */
const char *qemu_offline_uri(const QemuOffline *offline);
/* Whether somebody wrote to an image of the chain, or replaced it, since it is served; sets *changed. */
gboolean qemu_offline_check_changed(const QemuOffline *offline, gboolean *changed,
                                    GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Ends the server, whoever is connected, and frees OFFLINE, which may be NULL. */
void qemu_offline_stop(QemuOffline *offline);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QemuOffline, qemu_offline_stop)

/* The QemuBitmap of all images of the chain, the topmost image first, as GPtrArray (transfer full); their `depth` says which
 * image has it. How much of them is dirty is not told. Sets *size_bytes to the size of the disk. */
GPtrArray *qemu_offline_bitmaps(const char *path, const char *format, guint64 *size_bytes,
                                GError **error) G_GNUC_WARN_UNUSED_RESULT;

/*
 * Changes BITMAP of the image itself: OPTIONS (NULL at its end) are those of one run of qemu-img bitmap, carried out
 * in their order: "--add", "-g", "65536", "--merge", "other", "--enable", "--disable", "--clear", "--remove". Not while
 * the image is served. When one of them fails, those before it were done. EXISTS; NOT_FOUND; INCONSISTENT: such a
 * bitmap can only be removed; UNSUPPORTED for raw images, which hold none. A change that has begun is not given up when
 * this process dies.
 */
gboolean qemu_offline_bitmap_change(const char *path, const char *format, const char *bitmap, const char *const *options,
                                    GError **error) G_GNUC_WARN_UNUSED_RESULT;
