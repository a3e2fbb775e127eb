/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For LD_PRELOAD: as long as the file $FAIL_POINTS exists, no folder "points" can be synced, for want of space, and no
 * point file be removed, as on a file system that just became read-only.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int
fails(void)
{
  const char *file = getenv("FAIL_POINTS");
  return file && access(file, F_OK) == 0;
}

static int
ends_in(const char *text, const char *end)
{
  size_t length = strlen(text), n = strlen(end);
  return length >= n && strcmp(text + length - n, end) == 0;
}

int
fsync(int fd)
{
  int (*real)(int) = (int (*)(int)) dlsym(RTLD_NEXT, "fsync");
  char name[64], path[4096];
  snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(name, path, sizeof path - 1);
  path[n > 0 ? n : 0] = '\0';
  if (!ends_in(path, "/points") || !fails())
    return real(fd);
  errno = ENOSPC;
  return -1;
}

int
unlink(const char *path)
{
  int (*real)(const char *) = (int (*)(const char *)) dlsym(RTLD_NEXT, "unlink");
  if (!ends_in(path, ".point") || !fails())
    return real(path);
  errno = EROFS;
  return -1;
}
