/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The functions by which libFuzzer calls a target, and a target libFuzzer. */
#pragma once

#include <glib.h>

/* Takes one input; whatever it is, the process must survive it. */
int LLVMFuzzerTestOneInput(const guint8 *data, gsize size);
/* Changes DATA in place; at most SIZE_MAX_BYTES long afterwards. Returns the length. */
gsize LLVMFuzzerCustomMutator(guint8 *data, gsize size, gsize size_max_bytes, unsigned seed);
/* What libFuzzer itself would change. */
gsize LLVMFuzzerMutate(guint8 *data, gsize size, gsize size_max_bytes);
