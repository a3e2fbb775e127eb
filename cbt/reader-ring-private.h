/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The engine of images that have a descriptor: an io_uring. For cbt/reader.c and the tests. */
#pragma once

#include <cbt/source.h>

/* Alignment of direct reads: offsets, lengths and memory. No device asks for more in practice. */
#define CBT_READER_ALIGNMENT 4096

/* For at most DEPTH reads in flight into ARENA (transfer none). UNSUPPORTED without io_uring. */
CbtReaderEngine *cbt_reader_ring_new(CbtSource *source, guint8 *arena, gsize arena_size, guint depth, gboolean direct,
                                     GError **error) G_GNUC_WARN_UNUSED_RESULT;
