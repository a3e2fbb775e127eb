/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a start finds of the daemon before it, and puts in order. */
#pragma once

#include <daemon/daemon.h>

/*
 * Closes jobs that died as failed; brings point files and catalogue to the same set; takes over exports that
 * still run and starts those that do not; settles bitmaps that were left frozen. Troubles with single objects
 * are logged, and do not keep the daemon from starting. Main thread, before the server; runs a thread and the
 * main queue's messages.
 */
gboolean recover(Daemon *daemon, GError **error) G_GNUC_WARN_UNUSED_RESULT;
