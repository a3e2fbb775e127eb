/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes a disk of a recovery point as a qcow2 image (store/qcow2-format.h): all of it, or as an overlay what
 * differs from another point, which its backing file holds. The image is planned from the manifests alone, so
 * it is written from beginning to end without a seek, its length is known before, and the same disk gives the
 * same bytes.
 *
 * In an image without a backing file zeros are not allocated. In an overlay what is equal is not allocated,
 * and what became zeros is a zero cluster. A disk larger than its backing file reads zeros behind the end of
 * that.
 *
 * Memory: 40 bytes for each 512 MiB of the disk in which the image has something, and buffers of 4 MiB a
 * thread. Threads: one at a time.
 */
#pragma once

#include <store/manifest.h>
#include <store/output.h>

typedef struct StoreQcow2 StoreQcow2;

/* What an overlay stands on; kept until the image is freed (transfer none). */
typedef struct {
  const StoreManifest *manifest; /* what FILE holds; of any size */
  const char *file;              /* as it is to be named: 1 to 1023 bytes */
  const char *format;            /* "qcow2" or "raw" */
} StoreQcow2Backing;

/*
 * Plans the image of MANIFEST's disk; BACKING NULL: without a backing file. A size that is no multiple of 512
 * is rounded up, with zeros. Errors: INVALID (a name that is too long), CORRUPT (a damaged manifest),
 * CANCELLED.
 */
StoreQcow2 *store_qcow2_new(Store *store, const StoreManifest *manifest, const StoreQcow2Backing *backing,
                            GCancellable *cancellable, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void store_qcow2_free(StoreQcow2 *image);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreQcow2, store_qcow2_free)

/* Bytes of the whole file. */
guint64 store_qcow2_length(const StoreQcow2 *image);

/* Writes the file. Errors: CORRUPT (a damaged chunk, named with its extent), CANCELLED, those of the output.
 */
gboolean store_qcow2_write(StoreQcow2 *image, StoreOutput *output, const StoreOutputOptions *options,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
