/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For LD_PRELOAD: statvfs() hangs as long as the file $HANG_STATVFS exists, as on a file system whose server is gone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <unistd.h>

int
statvfs(const char *restrict path, struct statvfs *restrict vfs)
{
  int (*real)(const char *, struct statvfs *) = (int (*)(const char *, struct statvfs *)) dlsym(RTLD_NEXT, "statvfs");
  const char *file = getenv("HANG_STATVFS");
  while (file && access(file, F_OK) == 0)
    usleep(10000);
  return real(path, vfs);
}
