/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the tests of the store do to files, and golden files in hexadecimal. */
#pragma once

#include <glib.h>

/* A new folder under the temporary directory (transfer full), and its removal with all in it. */
char *store_test_folder_new(void);
void store_test_folder_free(char *folder);

guint64 store_test_file_size(const char *path);
void store_test_truncate(const char *path, guint64 length);
void store_test_flip(const char *path, guint64 offset, guint8 bits);
void store_test_write(const char *path, gconstpointer data, gsize length);

/* LENGTH bytes of pseudo-random DATA, or of text-like bytes that compress; the same for the same SEED. */
void store_test_fill_random(guint8 *data, gsize length, guint32 seed);
void store_test_fill_text(guint8 *data, gsize length, guint32 seed);

/*
 * Asserts that DATA is what tests/golden/NAME.hex says, and that docs/formats/DOCUMENT shows that text. With
 * CBT_UPDATE_GOLDEN in the environment it writes the golden file first: for a new format version.
 */
void store_test_golden(const char *name, const char *document, gconstpointer data, gsize length);
