/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The limits that a backup and a restore of FILE are held against: bench_limit read|compress FILE [THREADS].
 *
 *   read      the data of FILE (no holes), direct, a MiB a read, 8 threads
 *   compress  the same data in pieces of 64 KiB through zstd -1, 2 threads; pieces of zeros are left out.
 * Only the time in zstd counts, that of the thread with the most of it; reading goes on in between.
 *
 * Prints seconds and bytes; for compress the bytes that came out as well.
 */
#include <common/bytes.h>
#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#define STEP  (G_GUINT64_CONSTANT(1) << 20)
#define PIECE 65536u

typedef struct {
  int fd; /* constant, as compress */
  gboolean compress;
  pthread_mutex_t lock;
  guint64 position; /* of the next read; under lock */
  atomic_ullong bytes_in, bytes_out;
} Limit;

typedef struct {
  Limit *limit;
  pthread_t id;
  guint8 *data, *compressed;
  ZSTD_CCtx *compressor;
  gint64 busy_us; /* in zstd */
} Thread;

/* The next step that has data, cut at steps of the file. FALSE at its end. */
static gboolean
take_step(Limit *limit, guint64 *offset)
{
  pthread_mutex_lock(&limit->lock);
  off_t data = lseek(limit->fd, (off_t) limit->position, SEEK_DATA);
  if (data >= 0) {
    *offset = cbt_round_down((guint64) data, STEP);
    limit->position = *offset + STEP;
  }
  pthread_mutex_unlock(&limit->lock);
  return data >= 0;
}

static void
compress_step(Thread *thread, gsize length)
{
  gint64 start = g_get_monotonic_time();
  for (gsize at = 0; at < length; at += PIECE) {
    gsize n = MIN(PIECE, length - at);
    if (cbt_is_zero(thread->data + at, n))
      continue;
    gsize out = ZSTD_compressCCtx(thread->compressor, thread->compressed, ZSTD_compressBound(PIECE),
                                  thread->data + at, n, 1);
    atomic_fetch_add(&thread->limit->bytes_out, ZSTD_isError(out) ? n : out);
  }
  thread->busy_us += g_get_monotonic_time() - start;
}

static void *
run_thread(void *data)
{
  Thread *thread = data;
  guint64 offset;
  while (take_step(thread->limit, &offset)) {
    gssize n = pread(thread->limit->fd, thread->data, STEP, (off_t) offset);
    if (n <= 0)
      g_error("cannot read at %" G_GUINT64_FORMAT ": %s", offset, n < 0 ? g_strerror(errno) : "the end");
    atomic_fetch_add(&thread->limit->bytes_in, (guint64) n);
    if (thread->limit->compress)
      compress_step(thread, (gsize) n);
  }
  return NULL;
}

static double
run_threads(Limit *limit, guint n_threads)
{
  g_autofree Thread *threads = g_new0(Thread, n_threads);
  gint64 start = g_get_monotonic_time(), busiest_us = 0;
  for (guint i = 0; i < n_threads; i++) {
    threads[i] = (Thread){.limit = limit,
                          .data = g_aligned_alloc(1, STEP, 4096),
                          .compressed = g_malloc(ZSTD_compressBound(PIECE)),
                          .compressor = ZSTD_createCCtx()};
    if (pthread_create(&threads[i].id, NULL, run_thread, &threads[i]) != 0)
      g_error("cannot start a thread");
  }
  for (guint i = 0; i < n_threads; i++) {
    pthread_join(threads[i].id, NULL);
    busiest_us = MAX(busiest_us, threads[i].busy_us);
    ZSTD_freeCCtx(threads[i].compressor);
    g_aligned_free(threads[i].data);
    g_free(threads[i].compressed);
  }
  return (double) (limit->compress ? busiest_us : g_get_monotonic_time() - start) / 1e6;
}

int
main(int argc, char **argv)
{
  gboolean compress = argc > 1 && strcmp(argv[1], "compress") == 0;
  if (argc < 3 || (!compress && strcmp(argv[1], "read") != 0)) {
    fprintf(stderr, "usage: bench_limit read|compress FILE [THREADS]\n");
    return 2;
  }
  CBT_AUTO_FD int fd = open(argv[2], O_RDONLY | O_CLOEXEC | O_DIRECT);
  if (fd < 0)
    fd = open(argv[2], O_RDONLY | O_CLOEXEC); /* a file system without direct reads */
  if (fd < 0)
    g_error("cannot open %s: %s", argv[2], g_strerror(errno));
  Limit limit = {.fd = fd, .compress = compress, .lock = PTHREAD_MUTEX_INITIALIZER};
  guint n_threads = argc > 3 ? (guint) g_ascii_strtoull(argv[3], NULL, 10) : compress ? 2 : 8;
  double seconds = run_threads(&limit, MAX(1, n_threads));
  printf("%.3f %llu %llu\n", seconds, (unsigned long long) limit.bytes_in,
         (unsigned long long) limit.bytes_out);
  return 0;
}
