/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Makes the numbered pieces of a stream by several threads, and writes them in turn: 0, 1, 2, ... Each thread
 * holds one piece at a time, so memory does not grow with the stream, and the bytes do not depend on the
 * number of threads.
 */
#pragma once

#include <gio/gio.h>

#define STORE_ORDERED_THREADS_MAX 16u

typedef struct {
  /* A thread's own state; NULL with ERROR on failure. */
  gpointer (*thread_new)(gpointer user_data, GError **error);
  void (*thread_free)(gpointer thread);
  /* Makes piece NUMBER in THREAD's buffers, beside the other threads. */
  gboolean (*make)(gpointer thread, guint64 number, GError **error);
  /* Writes it: one thread at a time, in the order of the numbers. May wait, as for a rate limit. */
  gboolean (*write)(gpointer thread, guint64 number, GError **error);
} StoreOrderedFuncs;

/*
 * Makes and writes pieces [0, N_PIECES). N_THREADS 0: one a processor; at most STORE_ORDERED_THREADS_MAX. The
 * first failure stops all: CANCELLED (CANCELLABLE may be NULL), or what a function set.
 */
gboolean store_ordered_write(const StoreOrderedFuncs *funcs, gpointer user_data, guint64 n_pieces,
                             guint n_threads, GCancellable *cancellable,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
