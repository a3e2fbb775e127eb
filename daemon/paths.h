/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which paths of a request the daemon opens. It can open all of them, and those who may talk to it need not
 * be able to: so root, and the daemon's own user, may name any path, and others only what is below one of the
 * `allowed-paths` of the configuration.
 *
 * There is nothing to win by changing a path after it was looked at: all folders from the allowed one on must
 * be such that nobody but root and the daemon's user can change what is in them, and what is opened is the
 * real path, without links and without `..`.
 */
#pragma once

#include <daemon/config.h>

/* The path to open for PATH (transfer full): PATH itself if TRUSTED, else its real one, of which the last
 * parts need not be there yet. INVALID if it is relative; DENIED. */
char *paths_take(const DaemonConfig *config, gboolean trusted, const char *path,
                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
