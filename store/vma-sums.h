/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The text of an archive's checksums (ARCHIVE.xxh3): a first line, for the header and then for each extent
 * its length and its XXH3-128, and a last line with their number.
 */
#pragma once

#include <glib.h>

#define STORE_VMA_SUMS_SUFFIX     ".xxh3"
#define STORE_VMA_SUMS_FIRST_LINE "# cbt-backup: XXH3-128 of the header and each extent of a VMA archive\n"
#define STORE_VMA_SUMS_LAST_LINE  "# pieces: "
#define STORE_VMA_SUMS_LINE_SIZE  64

/* The line for a piece, into LINE, which it returns. */
const char *store_vma_sums_format(const guint8 *data, gsize length, char line[STORE_VMA_SUMS_LINE_SIZE]);
