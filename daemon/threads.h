/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Threads that wait for something to do. To make one takes the lock of the process's memory map, and a thread
 * of a job may hold that while it gives way to others; the main thread, which gives way to nobody, is not to
 * wait for it each time. As many are kept as were ever busy at once.
 *
 * What is run must leave its thread as it was: priority, name, signals.
 *
 * Threads: main only.
 */
#pragma once

#include <glib.h>

typedef struct Threads Threads;
typedef void (*ThreadsFunc)(gpointer data);

Threads *threads_new(void);
/* Waits for all that runs. */
void threads_free(Threads *threads);
/* Has a thread run FUNC, a new one if all are busy. Returns 0, or an errno if there can be no more. */
int threads_run(Threads *threads, ThreadsFunc func, gpointer data) G_GNUC_WARN_UNUSED_RESULT;
