/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* File descriptors that close themselves. I/O that does not stop half-way is in common/file-ops.h. */
#pragma once

#include <glib.h>
#include <unistd.h>

static inline void
cbt_clear_fd(int *fd)
{
  if (*fd >= 0)
    close(*fd);
  *fd = -1;
}

static inline int
cbt_steal_fd(int *fd)
{
  int stolen = *fd;
  *fd = -1;
  return stolen;
}

/* CBT_AUTO_FD int fd = open(...); is closed when it leaves its scope. Set to -1 or steal it to keep it. */
#define CBT_AUTO_FD __attribute__((cleanup(cbt_clear_fd)))
