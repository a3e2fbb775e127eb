/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A reader on an image of known contents, and a receiver that checks what arrives. */
#pragma once
#include <cbt/reader.h>

#include <common/bytes.h>
#include <common/error.h>
#include <common/fd.h>
#include <common/file-ops.h>
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <tests/support/loop.h>

#include <cmocka.h>

#define KIB            G_GUINT64_CONSTANT(1024)
#define MIB            (KIB * 1024)
#define MAX_THREADS    3
#define SMALL          ((CbtReaderOptions){.block_size = 64 * 1024, .n_blocks = 4, .direct = TRUE})
#define SMALL_BUFFERED ((CbtReaderOptions){.block_size = 64 * 1024, .n_blocks = 4, .direct = FALSE})

/* --- images --- */

typedef struct {
  char *directory;
  char *path;
} Fixture;

static G_GNUC_UNUSED int
setup_in(void **state, const char *where)
{
  Fixture *fixture = g_new0(Fixture, 1);
  fixture->directory = g_build_filename(where, "cbt-reader-XXXXXX", NULL);
  fixture->path =
      g_mkdtemp(fixture->directory) ? g_build_filename(fixture->directory, "disk.raw", NULL) : NULL;
  *state = fixture;
  return fixture->path ? 0 : -1;
}

static G_GNUC_UNUSED int
setup(void **state)
{
  return setup_in(state, g_get_tmp_dir());
}

static G_GNUC_UNUSED int
setup_shm(void **state)
{
  return setup_in(state, "/dev/shm");
}

static G_GNUC_UNUSED int
teardown(void **state)
{
  Fixture *fixture = *state;
  g_unlink(fixture->path);
  g_rmdir(fixture->directory);
  g_free(fixture->path);
  g_free(fixture->directory);
  g_free(fixture);
  return 0;
}

static G_GNUC_UNUSED void
make_image(const char *path, guint64 size)
{
  CBT_AUTO_FD int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  assert_true(fd >= 0);
  g_autofree guint64 *words = g_malloc(size);
  for (guint64 i = 0; i < size / 8; i++)
    words[i] = i + 1;
  assert_true(cbt_pwrite_full(fd, words, size, 0));
  assert_int_equal(fsync(fd), 0);
}

static G_GNUC_UNUSED CbtSource *
open_source(const char *path)
{
  CbtSource *source = cbt_source_open_file(path, NULL);
  assert_non_null(source);
  return source;
}

static G_GNUC_UNUSED CbtReader *
new_reader(CbtSource *source, CbtReaderOptions options)
{
  g_autoptr(GError) error = NULL;
  CbtReader *reader = cbt_reader_new(source, &options, &error);
  assert_null(error);
  return reader;
}

/* --- what is to be read --- */

typedef struct {
  const CbtExtent *extents;
  guint n_extents;
  guint at;
  guint fail_at; /* next() fails there; 0: never */
} List;

static G_GNUC_UNUSED gboolean
list_next(List *list, CbtExtent *extent, GError **error)
{
  if (list->fail_at != 0 && list->at == list->fail_at) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "the list is broken");
    return FALSE;
  }
  if (list->at == list->n_extents)
    return FALSE;
  *extent = list->extents[list->at++];
  return TRUE;
}

/* --- who takes it --- */

typedef struct {
  List list;
  CbtReader *reader;
  int fd; /* of the image, to compare with: the source's if it has one */
  guint block_size;
  /* What to do at the block number `act_at` (counted in deliveries, from 1). */
  guint act_at;
  void (*act)(gpointer user_data);
  gpointer act_data;
  /* Threads that give buffers back; none: at once. */
  guint n_threads;
  pthread_t threads[MAX_THREADS];
  /* Protected by lock. */
  pthread_mutex_t lock;
  pthread_cond_t changed;
  GPtrArray *held;
  guint hold;      /* give back only while more than these are held */
  gboolean closed; /* no more will come: give back all */
  guint n_blocks;
  guint64 n_bytes;
  guint64 sequences; /* sum of sequence + 1: tells a gap or a repetition */
  guint n_bad;
} Collector;

/* Whether BLOCK has the image's bytes, and zeros up to the cluster's end. Any thread. */
static G_GNUC_UNUSED gboolean
block_is_right(const Collector *collector, const CbtReadBlock *block)
{
  guint64 end = block->offset + block->length;
  gsize room = block->length + (gsize) (cbt_round_up(end, CBT_CLUSTER_SIZE) - end);
  g_autofree guint8 *expected = g_malloc0(room);
  if (block->length == 0 ||
      cbt_round_down(block->offset, collector->block_size) != cbt_round_down(end - 1, collector->block_size))
    return FALSE;
  return (gsize) block->data % 4096 == 0 &&
         cbt_pread_full(collector->fd, expected, block->length, block->offset) == block->length &&
         memcmp(expected, block->data, room) == 0;
}

static G_GNUC_UNUSED void
note(Collector *collector, const CbtReadBlock *block, gboolean right)
{
  collector->n_blocks++;
  collector->n_bytes += block->length;
  collector->sequences += block->sequence + 1;
  collector->n_bad += !right;
}

static G_GNUC_UNUSED void *
give_back(void *user_data)
{
  Collector *collector = user_data;
  pthread_mutex_lock(&collector->lock);
  for (;;) {
    while (!collector->closed && collector->held->len <= collector->hold)
      pthread_cond_wait(&collector->changed, &collector->lock);
    if (collector->held->len == 0)
      break;
    CbtReadBlock *block = g_ptr_array_remove_index(collector->held, 0);
    pthread_mutex_unlock(&collector->lock);
    gboolean right = block_is_right(collector, block);
    CbtReadBlock copy = *block;
    cbt_reader_release(collector->reader, block);
    pthread_mutex_lock(&collector->lock);
    note(collector, &copy, right);
  }
  pthread_mutex_unlock(&collector->lock);
  return NULL;
}

static G_GNUC_UNUSED gboolean
collector_next(gpointer user_data, CbtExtent *extent, GError **error)
{
  Collector *collector = user_data;
  return list_next(&collector->list, extent, error);
}

static G_GNUC_UNUSED void
collector_take(gpointer user_data, CbtReadBlock *block)
{
  Collector *collector = user_data;
  gboolean right = collector->n_threads > 0 || block_is_right(collector, block);
  pthread_mutex_lock(&collector->lock);
  if (collector->n_threads > 0)
    g_ptr_array_add(collector->held, block);
  else
    note(collector, block, right);
  pthread_cond_signal(&collector->changed);
  pthread_mutex_unlock(&collector->lock);
  if (collector->act && --collector->act_at == 0)
    collector->act(collector->act_data);
  if (collector->n_threads == 0)
    cbt_reader_release(collector->reader, block);
}

static G_GNUC_UNUSED void
collector_close(Collector *collector)
{
  pthread_mutex_lock(&collector->lock);
  collector->closed = TRUE;
  pthread_cond_broadcast(&collector->changed);
  pthread_mutex_unlock(&collector->lock);
  for (guint i = 0; i < collector->n_threads; i++)
    pthread_join(collector->threads[i], NULL);
  g_ptr_array_free(collector->held, TRUE);
  pthread_mutex_destroy(&collector->lock);
  pthread_cond_destroy(&collector->changed);
}

/* Runs READER over EXTENTS into COLLECTOR, whose other fields the caller has set, and waits for its threads.
 */
static G_GNUC_UNUSED gboolean
collect(Collector *collector, CbtReader *reader, CbtSource *source, CbtReaderOptions options,
        const CbtExtent *extents, guint n_extents, GCancellable *cancellable, GError **error)
{
  collector->reader = reader;
  if (cbt_source_fd(source, FALSE) >= 0)
    collector->fd = cbt_source_fd(source, FALSE);
  collector->block_size = options.block_size;
  collector->list.extents = extents;
  collector->list.n_extents = n_extents;
  collector->held = g_ptr_array_new();
  pthread_mutex_init(&collector->lock, NULL);
  pthread_cond_init(&collector->changed, NULL);
  for (guint i = 0; i < collector->n_threads; i++)
    assert_int_equal(pthread_create(&collector->threads[i], NULL, give_back, collector), 0);
  gboolean ok = cbt_reader_run(reader, collector_next, collector_take, collector, cancellable, error);
  collector_close(collector);
  return ok;
}

/* Reads EXTENTS of the image at PATH and asserts that everything arrived, right and once. Returns the number
 * of reads. */
static G_GNUC_UNUSED guint64
read_all(const char *path, CbtReaderOptions options, guint n_threads, guint hold, const CbtExtent *extents,
         guint n_extents, guint n_blocks)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(CbtSource) source = open_source(path);
  g_autoptr(CbtReader) reader = new_reader(source, options);
  Collector collector = {.n_threads = n_threads, .hold = hold};
  gboolean ok = collect(&collector, reader, source, options, extents, n_extents, NULL, &error);
  assert_null(error);
  assert_true(ok);
  guint64 n_bytes = 0;
  for (guint i = 0; i < n_extents; i++)
    n_bytes += extents[i].length;
  assert_int_equal(collector.n_bad, 0);
  assert_int_equal(collector.n_bytes, n_bytes);
  assert_int_equal(collector.n_blocks, n_blocks);
  assert_int_equal(collector.sequences, (guint64) n_blocks * (n_blocks + 1) / 2);
  assert_int_equal(cbt_reader_bytes_read(reader), n_bytes);
  return cbt_reader_n_reads(reader);
}

/* --- reading right --- */

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

/* N extents of LENGTH bytes, one in each STRIDE bytes, from FIRST. (transfer full) */
static G_GNUC_UNUSED CbtExtent *
scatter(guint n, guint64 first, guint64 stride, guint64 length)
{
  CbtExtent *extents = g_new(CbtExtent, n);
  for (guint i = 0; i < n; i++)
    extents[i] = (CbtExtent){first + i * stride, length};
  return extents;
}
