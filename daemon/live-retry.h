/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a backup could not take out of the QEMU of a live vm, since that hung: tried again until it works. Its guest may
 * stand still because of us, or write to an overlay. The journal says which vms there are; jobs of such a vm wait while it
 * is tried, which ends as soon as one comes.
 *
 * Threads: main. It is tried in a task.
 */
#pragma once

#include <daemon/daemon.h>

LiveRetry *live_retry_new(Daemon *daemon);
/* After the start, which has tried once itself. */
void live_retry_start(LiveRetry *retry);
/* Begins no more. What is under way ends with the engine's stop. */
void live_retry_stop(LiveRetry *retry);
void live_retry_free(LiveRetry *retry);
