/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A Unix socket that somebody else is to accept connections on. */
#pragma once

#include <common/error.h>

/* The listening descriptor (transfer full) at PATH, for this user alone; a file that is there is replaced. -1 with ERROR:
 * INVALID if the path is too long. */
int qemu_listen(const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* A descriptor (transfer full) that is connected to whoever listens, or will accept, at PATH. */
int qemu_connect(const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;
