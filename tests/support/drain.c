/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <tests/support/drain.h>

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

struct TestDrain {
  pthread_t thread;
  int fd;
  guint64 limit;
  GByteArray *bytes;
};

static void *
drain_thread(void *data)
{
  TestDrain *drain = data;
  guint8 buffer[65536];
  ssize_t n;
  while (drain->bytes->len < drain->limit && (n = read(drain->fd, buffer, sizeof buffer)) > 0)
    g_byte_array_append(drain->bytes, buffer, (guint) n);
  close(drain->fd);
  return NULL;
}

TestDrain *
test_drain_new(int *fd, guint64 limit)
{
  int ends[2];
  TestDrain *drain = g_new0(TestDrain, 1);
  g_assert(pipe2(ends, O_CLOEXEC) == 0);
  drain->fd = ends[0];
  drain->limit = limit;
  drain->bytes = g_byte_array_new();
  *fd = ends[1];
  g_assert(pthread_create(&drain->thread, NULL, drain_thread, drain) == 0);
  return drain;
}

GByteArray *
test_drain_end(TestDrain *drain)
{
  GByteArray *bytes = drain->bytes;
  pthread_join(drain->thread, NULL);
  g_free(drain);
  return bytes;
}
