/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For LD_PRELOAD: the clock of the wall is shifted by the seconds that the file $SHIFT_CLOCK holds (a signed
 * integer of 8 bytes, host order). Other clocks are left alone, and so are the programs that this one starts.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

typedef int (*GetTime)(clockid_t, struct timespec *);

static const volatile int64_t *shift;
static GetTime get_time;

__attribute__((constructor)) static void
map_shift(void)
{
  const char *path = getenv("SHIFT_CLOCK");
  int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  void *mapped = fd >= 0 ? mmap(NULL, sizeof *shift, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
  if (mapped == MAP_FAILED)
    abort();
  close(fd);
  get_time = (GetTime) dlsym(RTLD_NEXT, "clock_gettime");
  shift = mapped;
  unsetenv("LD_PRELOAD");
}

int
clock_gettime(clockid_t clock, struct timespec *now)
{
  GetTime real = get_time ? get_time : (GetTime) dlsym(RTLD_NEXT, "clock_gettime");
  int result = real(clock, now);
  if (result == 0 && shift && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
    now->tv_sec += *shift;
  return result;
}

int
gettimeofday(struct timeval *restrict now, void *restrict zone)
{
  struct timespec time;
  (void) zone;
  clock_gettime(CLOCK_REALTIME, &time);
  *now = (struct timeval){time.tv_sec, time.tv_nsec / 1000};
  return 0;
}

time_t
time(time_t *now)
{
  struct timespec time;
  clock_gettime(CLOCK_REALTIME, &time);
  if (now)
    *now = time.tv_sec;
  return time.tv_sec;
}
