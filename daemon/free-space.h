/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How much room a file system has, asked in a way that a file system that hangs holds up nobody.
 *
 * Lifecycle: new, get, free; a question that is never answered outlives it. Any thread.
 */
#pragma once

#include <glib.h>

typedef struct FreeSpace FreeSpace;

/* Of the file system of FOLDER. */
FreeSpace *free_space_new(const char *folder);
void free_space_free(FreeSpace *space);

/* The newest answer in *bytes, and whether there ever was one in *is_known. Waits at most TIMEOUT_MS for a
 * new one; FALSE if it did not come. */
gboolean free_space_get(FreeSpace *space, guint timeout_ms, guint64 *bytes, gboolean *is_known);
/* Bytes of the whole file system as of the newest answer; 0 if there was none. */
guint64 free_space_total(FreeSpace *space);
