/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a policy's run sets going when backup and prune are done. Main thread; they do not wait for what they begin. */
#pragma once

#include <daemon/daemon.h>

/* Verifies SHARE percent (1 to 100) of VM's points, those that were not for the longest time. */
void policy_verify(Daemon *daemon, const char *vm, guint share);
/* Gives back the space of points that were pruned of VM. */
void policy_collect_garbage(Daemon *daemon, const char *vm);
