/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How threads reach the main loop: messages that run there, in the order they were sent.
 *
 * The main-loop thread owns the catalogue, the jobs' states and the sockets; a job's thread asks it with
 * main_queue_call() and tells it with main_queue_post(). Plain pthreads, so that race detectors can follow.
 */
#pragma once

#include <glib.h>

typedef struct MainQueue MainQueue;
typedef void (*MainFunc)(gpointer data);

/* Runs its messages in the default main context. */
MainQueue *main_queue_new(void);
/* Runs what is still queued, then frees. Main thread, when no other thread is left. */
void main_queue_free(MainQueue *queue);

/* Has FUNC run on the main thread, some time. It must not run the main loop itself. */
void main_queue_post(MainQueue *queue, MainFunc func, gpointer data);
/* Has FUNC run on the main thread and waits until it has. Not from the main thread. */
void main_queue_call(MainQueue *queue, MainFunc func, gpointer data);
