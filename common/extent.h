/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A range of bytes of a disk, half-open: [offset, offset + length). */
#pragma once

#include <glib.h>

typedef struct {
  guint64 offset; /* bytes */
  guint64 length; /* bytes */
} CbtExtent;

/* The unit of tracking, of storing and of VMA archives. */
#define CBT_CLUSTER_SIZE G_GUINT64_CONSTANT(65536)

/* What cbt/ and store/ both hand extents to. Return FALSE to stop the walk. */
typedef gboolean (*CbtExtentFunc)(const CbtExtent *extent, gpointer user_data);
