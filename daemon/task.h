/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A task: the part of an API request that may block (a disk's owner, an image, a long look through the
 * store), run in a thread of its own and answered from the main loop.
 */
#pragma once

#include <daemon/daemon.h>

typedef struct Task Task;

/* Runs in a thread. Returns the answer's body (NULL with *status 204), or NULL with ERROR. */
typedef JsonNode *(*TaskFunc)(Daemon *daemon, gpointer data, guint *status, GError **error);

Tasks *tasks_new(void);
/* Cancelled by tasks_stop(), for whatever takes long in a task (transfer none). Any thread. */
GCancellable *tasks_cancellable(const Tasks *tasks);
/* Cancels and waits for those under way, running the main loop meanwhile. */
void tasks_stop(Tasks *tasks);
/* After tasks_stop(). */
void tasks_free(Tasks *tasks);

/* Answers REQUEST with what FUNC returns; STATUS is that of success. DATA is freed with FREE_DATA, on the
 * main thread. Without a REQUEST (NULL) nobody is told what came of it but FREE_DATA, by what FUNC left in
 * DATA. */
void task_run(Daemon *daemon, ApiRequest *request, guint status, TaskFunc func, gpointer data,
              GDestroyNotify free_data);
