/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A pipe whose other end is read by a thread: for what must work without a seek. */
#pragma once

#include <glib.h>

typedef struct TestDrain TestDrain;

/* The end to write to is *fd, the caller's to close before the drain ends. All bytes are kept; LIMIT: only so
 * many are read, then the pipe breaks. */
TestDrain *test_drain_new(int *fd, guint64 limit);
/* What came through (transfer full). */
GByteArray *test_drain_end(TestDrain *drain);
