/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reads a whole archive with one thread and hands its extents to several others. */
#pragma once

#include <store/vma-reader.h>

/* What is done with the extents. Each thread has a state of its own; extents come in any order. */
typedef struct {
  gpointer (*thread_new)(gpointer user_data); /* (nullable) then the state is user_data */
  void (*thread_free)(gpointer thread);       /* (nullable) */
  gboolean (*take)(gpointer thread, const StoreVmaExtent *extent, GError **error);
  gpointer user_data;
} StoreVmaTaker;

/* Reads the rest of READER's archive. All is checked as in a verify, the clusters that are missing at the end
 * too. The reader's errors, or what TAKER set. */
gboolean store_vma_pump(StoreVmaReader *reader, const StoreVmaTaker *taker, guint n_threads,
                        GError **error) G_GNUC_WARN_UNUSED_RESULT;
