/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is written to the catalogue survives the daemon at once, and a loss of power when it is synced, for
 * which the main thread does not wait. Who tells somebody that something is done, or does the next step that
 * builds on it, waits for the sync first, in a thread; all else, how a job ended among it, is synced within
 * half a second, and a sync that failed is tried again.
 *
 * Lifecycle: new; stop before the tasks are stopped; free.
 */
#pragma once

#include <daemon/daemon.h>
#include <daemon/main-queue.h>

Durable *durable_new(Daemon *daemon);
void durable_stop(Durable *durable);
void durable_free(Durable *durable);

/* Has FUNC write to the catalogue on the main thread, and waits until that is durable; a sync that fails is
 * in the log. Not from the main thread. */
void durable_call(Daemon *daemon, MainFunc func, gpointer data);
/* Answers REQUEST with BODY (transfer full) as soon as what was written is durable, with an error if it
 * cannot be. Main thread. */
void durable_reply(Daemon *daemon, ApiRequest *request, guint status, JsonNode *body);
