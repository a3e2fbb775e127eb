/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A disk of a recovery point as a stream of raw bytes, zeros and all: for pipes and standard output. A file
 * or a block device gets holes instead: store/extract.h.
 */
#pragma once

#include <store/manifest.h>
#include <store/output.h>

/* Writes all bytes of MANIFEST's disk. Errors: CORRUPT (a damaged chunk, named with its extent), CANCELLED,
 * those of the output. */
gboolean store_raw_stream_write(Store *store, const StoreManifest *manifest, StoreOutput *output,
                                const StoreOutputOptions *options, GError **error) G_GNUC_WARN_UNUSED_RESULT;
