/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For LD_PRELOAD: open() of $HANG_OPEN hangs as long as the file $HANG_OPEN.hang exists, as on a file system
 * whose server is gone; $HANG_OPEN.hangs says that one does. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void
wait_for(const char *path)
{
  char hang[4096], hangs[4096];
  snprintf(hang, sizeof hang, "%s.hang", path);
  snprintf(hangs, sizeof hangs, "%s.hangs", path);
  while (access(hang, F_OK) == 0) {
    close(creat(hangs, 0600));
    usleep(10000);
  }
}

int
open(const char *path, int flags, ...)
{
  int (*real)(const char *, int, ...) = (int (*)(const char *, int, ...)) dlsym(RTLD_NEXT, "open");
  const char *hanging = getenv("HANG_OPEN");
  va_list arguments;
  va_start(arguments, flags);
  mode_t mode = (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  if (hanging && strcmp(path, hanging) == 0)
    wait_for(path);
  return real(path, flags, mode);
}
