/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The text of an archive's checksums (ARCHIVE.xxh3): a first line, for the header and then for each extent
 * its length and its XXH3-128, and a last line with their number. It is compared line by line while the
 * archive is read, so that its length costs no memory.
 *
 * Threads: one at a time.
 */
#pragma once

#include <glib.h>

#define STORE_VMA_SUMS_SUFFIX     ".xxh3"
#define STORE_VMA_SUMS_FIRST_LINE "# cbt-backup: XXH3-128 of the header and each extent of a VMA archive\n"
#define STORE_VMA_SUMS_LAST_LINE  "# pieces: "
#define STORE_VMA_SUMS_LINE_SIZE  96 /* for the longest, with its NUL */

/* The line for a piece, into LINE, which it returns. */
const char *store_vma_sums_format(const guint8 *data, gsize length, char line[STORE_VMA_SUMS_LINE_SIZE]);

typedef struct StoreVmaSums StoreVmaSums;

/* Reads from FD (transfer full), a regular file. CORRUPT if it holds no checksums, or was cut off. */
StoreVmaSums *store_vma_sums_new(int fd, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Those that lie beside the archive at PATH; NULL without ERROR if there are none. */
StoreVmaSums *store_vma_sums_open(const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void store_vma_sums_free(StoreVmaSums *sums);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StoreVmaSums, store_vma_sums_free)

/* The next piece is DATA, which lies at OFFSET of the archive. CORRUPT, IO. */
gboolean store_vma_sums_check(StoreVmaSums *sums, const guint8 *data, gsize length, guint64 offset,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* At the end of the archive: no checksum may be left over. CORRUPT, IO. */
gboolean store_vma_sums_check_end(StoreVmaSums *sums, GError **error) G_GNUC_WARN_UNUSED_RESULT;
