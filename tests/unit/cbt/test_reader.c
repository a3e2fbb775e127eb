/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The reader against real files, and against sources made to fail.
 *
 * Each image holds words that are made of their own offset, so that data from a wrong place is told from data
 * that is wrong. A collector takes the blocks and checks each one against pread of the image, on the spot or
 * from threads of its own that hold them back for a while.
 */
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

static int
setup_in(void **state, const char *where)
{
  Fixture *fixture = g_new0(Fixture, 1);
  fixture->directory = g_build_filename(where, "cbt-reader-XXXXXX", NULL);
  fixture->path =
      g_mkdtemp(fixture->directory) ? g_build_filename(fixture->directory, "disk.raw", NULL) : NULL;
  *state = fixture;
  return fixture->path ? 0 : -1;
}

static int
setup(void **state)
{
  return setup_in(state, g_get_tmp_dir());
}

static int
setup_shm(void **state)
{
  return setup_in(state, "/dev/shm");
}

static int
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

static void
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

static CbtSource *
open_source(const char *path)
{
  CbtSource *source = cbt_source_open_file(path, NULL);
  assert_non_null(source);
  return source;
}

static CbtReader *
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

static gboolean
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
  int fd; /* of the image, to compare with */
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
static gboolean
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

static void
note(Collector *collector, const CbtReadBlock *block, gboolean right)
{
  collector->n_blocks++;
  collector->n_bytes += block->length;
  collector->sequences += block->sequence + 1;
  collector->n_bad += !right;
}

static void *
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

static gboolean
collector_next(gpointer user_data, CbtExtent *extent, GError **error)
{
  Collector *collector = user_data;
  return list_next(&collector->list, extent, error);
}

static void
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

static void
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
static gboolean
collect(Collector *collector, CbtReader *reader, CbtSource *source, CbtReaderOptions options,
        const CbtExtent *extents, guint n_extents, GCancellable *cancellable, GError **error)
{
  collector->reader = reader;
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
static guint64
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

static void
test_no_extents_read_nothing(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, MIB);
  assert_int_equal(read_all(fixture->path, SMALL, 0, 0, NULL, 0, 0), 0);
  const CbtExtent empty = {MIB, 0};
  assert_int_equal(read_all(fixture->path, SMALL, 0, 0, &empty, 1, 0), 0);
}

static void
test_whole_image_arrives(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 8 * MIB);
  const CbtExtent whole = {0, 8 * MIB};
  assert_int_equal(read_all(fixture->path, SMALL, 0, 0, &whole, 1, 128), 128);
  assert_int_equal(read_all(fixture->path, SMALL_BUFFERED, 0, 0, &whole, 1, 128), 128);
  assert_int_equal(read_all(fixture->path, CBT_READER_OPTIONS_DEFAULT, 0, 0, &whole, 1,
                            (guint) (8 * MIB / CBT_READER_OPTIONS_DEFAULT.block_size)),
                   8 * MIB / CBT_READER_OPTIONS_DEFAULT.block_size);
}

static void
test_odd_ends_are_read_and_zeroed_behind(void **state)
{
  Fixture *fixture = *state;
  static const guint64 sizes[] = {512,        4096,           4096 + 512,   64 * KIB - 512,
                                  64 * KIB,   64 * KIB + 512, 65 * KIB,     MIB + 4096 + 1024,
                                  MIB - 4096, MIB + 60 * KIB, 3 * MIB + 512};
  for (guint i = 0; i < G_N_ELEMENTS(sizes); i++) {
    make_image(fixture->path, sizes[i]);
    const CbtExtent whole = {0, sizes[i]};
    guint n_blocks = (guint) cbt_div_up(sizes[i], 64 * KIB);
    read_all(fixture->path, SMALL, 0, 0, &whole, 1, n_blocks);
    read_all(fixture->path, SMALL_BUFFERED, 0, 0, &whole, 1, n_blocks);
    read_all(fixture->path, (CbtReaderOptions){1024 * 1024, 2, TRUE}, 0, 0, &whole, 1,
             (guint) cbt_div_up(sizes[i], MIB));
  }
}

/* N extents of LENGTH bytes, one in each STRIDE bytes, from FIRST. (transfer full) */
static CbtExtent *
scatter(guint n, guint64 first, guint64 stride, guint64 length)
{
  CbtExtent *extents = g_new(CbtExtent, n);
  for (guint i = 0; i < n; i++)
    extents[i] = (CbtExtent){first + i * stride, length};
  return extents;
}

static void
test_scattered_clusters_arrive(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 64 * MIB);
  g_autofree CbtExtent *extents = scatter(512, 64 * KIB, 128 * KIB, 64 * KIB);
  read_all(fixture->path, SMALL, 0, 0, extents, 512, 512);
  read_all(fixture->path, (CbtReaderOptions){1024 * 1024, 16, TRUE}, 2, 8, extents, 512, 512);
}

static void
test_small_granules_arrive(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 4 * MIB);
  g_autofree CbtExtent *extents = scatter(512, 4096, 8192, 4096);
  assert_int_equal(read_all(fixture->path, SMALL, 0, 0, extents, 512, 512), 512);
  /* What no direct read can be made of is read all the same. */
  const CbtExtent odd[] = {{512, 1024}, {8192 + 512, 512}, {64 * KIB - 512, 1024}, {4 * MIB - 512, 512}};
  read_all(fixture->path, SMALL, 0, 0, odd, 4, 5);
}

static void
test_neighbours_are_joined(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 4 * MIB);
  g_autofree CbtExtent *clusters = scatter(64, 0, 64 * KIB, 64 * KIB);
  const CbtReaderOptions options = {512 * 1024, 4, TRUE};
  assert_int_equal(read_all(fixture->path, options, 0, 0, clusters, 64, 8), 8);
  /* Neighbours that begin in the middle of a block: 32 + 512 - 32 KiB, and the rest. */
  g_autofree CbtExtent *granules = scatter(128, 480 * KIB, 4 * KIB, 4 * KIB);
  assert_int_equal(read_all(fixture->path, options, 0, 0, granules, 128, 2), 2);
  /* A hole of 4 KiB parts them; an empty extent does not. */
  const CbtExtent parted[] = {{0, 4096}, {8192, 4096}, {12288, 0}, {12288, 4096}};
  assert_int_equal(read_all(fixture->path, options, 0, 0, parted, 4, 2), 2);
}

static void
test_random_extents_arrive(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 16 * MIB + 512);
  guint32 seed = g_random_int();
  print_message("seed %u\n", seed);
  g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
  for (guint round = 0; round < 8; round++) {
    g_autoptr(GArray) extents = g_array_new(FALSE, FALSE, sizeof(CbtExtent));
    guint n_blocks = 0;
    guint64 block_size = (64 * KIB) << g_rand_int_range(rand, 0, 4), end = G_MAXUINT64;
    for (guint64 at = 0; at < 16 * MIB + 512;) {
      CbtExtent extent = {at + 4096 * (guint64) g_rand_int_range(rand, 0, 20),
                          4096 * (guint64) g_rand_int_range(rand, 1, 200)};
      if (extent.offset >= 16 * MIB + 512)
        break;
      extent.length = MIN(extent.length, 16 * MIB + 512 - extent.offset);
      g_array_append_val(extents, extent);
      at = extent.offset + extent.length;
      n_blocks += (guint) ((at - 1) / block_size - extent.offset / block_size + 1);
      n_blocks -= extent.offset == end && extent.offset % block_size != 0; /* goes on in the same block */
      end = at;
    }
    read_all(fixture->path, (CbtReaderOptions){(guint32) block_size, 1 + round, TRUE}, round % 4, round / 2,
             (const CbtExtent *) (gpointer) extents->data, extents->len, n_blocks);
  }
}

static void
test_buffers_given_back_late_are_waited_for(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 8 * MIB);
  const CbtExtent whole = {0, 8 * MIB};
  /* Three of four buffers are always held; in the second run the threads fight over one. */
  read_all(fixture->path, SMALL, 1, 3, &whole, 1, 128);
  read_all(fixture->path, (CbtReaderOptions){64 * 1024, 1, TRUE}, 3, 0, &whole, 1, 128);
}

static void
test_shared_memory_image_arrives(void **state)
{
  Fixture *fixture = *state; /* on tmpfs, which in older kernels has no O_DIRECT */
  make_image(fixture->path, 2 * MIB + 512);
  const CbtExtent whole = {0, 2 * MIB + 512};
  read_all(fixture->path, SMALL, 2, 1, &whole, 1, 33);
}

static void
test_block_device_with_an_odd_end_arrives(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 2 * MIB + 512);
  char *device = test_loop_attach(fixture->path);
  if (!device)
    skip();
  const CbtExtent whole = {0, 2 * MIB + 512};
  read_all(device, SMALL, 0, 0, &whole, 1, 33);
  test_loop_detach(device);
}

/* --- sources made to fail --- */

typedef struct {
  CbtSource base;
  int fds[2]; /* [direct] */
} FakeSource;

static int
fake_get_fd(CbtSource *source, gboolean direct)
{
  return ((FakeSource *) source)->fds[direct];
}

static const CbtSourceClass fake_class = {.type = "fake", .get_fd = fake_get_fd};

static void
test_refused_direct_reads_go_through_the_cache(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, MIB);
  CBT_AUTO_FD int fd = open(fixture->path, O_RDONLY | O_CLOEXEC);
  /* A read of a namespace's file is EINVAL, as a direct one of a picky file system is. */
  CBT_AUTO_FD int picky = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
  FakeSource source = {.base = {&fake_class, MIB}, .fds = {fd, picky}};
  g_autoptr(CbtReader) reader = new_reader(&source.base, SMALL);
  const CbtExtent whole = {0, MIB};
  Collector collector = {0};
  assert_true(collect(&collector, reader, &source.base, SMALL, &whole, 1, NULL, NULL));
  assert_int_equal(collector.n_blocks, 16);
  assert_int_equal(collector.n_bad, 0);
  assert_int_equal(cbt_reader_n_reads(reader), 20); /* only the four that were in flight were tried in vain */
}

static void
assert_run_fails(CbtSource *source, const CbtExtent *extent, CbtErrorCode code, const char *what)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(CbtReader) reader = new_reader(source, SMALL);
  Collector collector = {0};
  assert_false(collect(&collector, reader, source, SMALL, extent, 1, NULL, &error));
  assert_non_null(error);
  assert_int_equal(cbt_error_code(error), code);
  assert_non_null(strstr(error->message, what));
  assert_int_equal(collector.n_bad, 0);
}

static void
test_read_error_names_the_offset(void **state G_GNUC_UNUSED)
{
  CBT_AUTO_FD int fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC); /* EIO where nothing is mapped: at 0 */
  FakeSource source = {.base = {&fake_class, MIB}, .fds = {fd, -1}};
  const CbtExtent first = {4096, 4096};
  assert_run_fails(&source.base, &first, CBT_ERROR_IO, "at offset 4096: Input/output error");
}

static void
test_source_without_descriptor_is_unsupported(void **state G_GNUC_UNUSED)
{
  g_autoptr(GError) error = NULL;
  FakeSource source = {.base = {&fake_class, MIB}, .fds = {-1, -1}};
  CbtReaderOptions options = SMALL;
  assert_null(cbt_reader_new(&source.base, &options, &error));
  assert_int_equal(cbt_error_code(error), CBT_ERROR_UNSUPPORTED);
}

static void
test_image_cut_before_the_run_fails(void **state)
{
  Fixture *fixture = *state;
  static const guint64 ends[] = {0, MIB, MIB + 512, MIB + 1000, MIB + 4096};
  for (guint i = 0; i < G_N_ELEMENTS(ends); i++) {
    make_image(fixture->path, 2 * MIB);
    g_autoptr(CbtSource) source = open_source(fixture->path);
    assert_int_equal(truncate(fixture->path, (off_t) ends[i]), 0);
    const CbtExtent last = {cbt_round_down(ends[i], 64 * KIB), 64 * KIB};
    g_autofree char *what = g_strdup_printf("ended early at offset %" G_GUINT64_FORMAT, ends[i]);
    assert_run_fails(source, &last, CBT_ERROR_IO, what);
  }
}

static void
cut_image(gpointer user_data)
{
  const Fixture *fixture = user_data;
  assert_int_equal(truncate(fixture->path, (off_t) (4 * MIB)), 0);
}

static void
test_image_cut_in_the_middle_fails(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 8 * MIB);
  g_autoptr(GError) error = NULL;
  g_autoptr(CbtSource) source = open_source(fixture->path);
  g_autoptr(CbtReader) reader = new_reader(source, SMALL);
  Collector collector = {.act_at = 8, .act = cut_image, .act_data = fixture};
  const CbtExtent whole = {0, 8 * MIB};
  assert_false(collect(&collector, reader, source, SMALL, &whole, 1, NULL, &error));
  assert_int_equal(cbt_error_code(error), CBT_ERROR_IO);
  assert_non_null(strstr(error->message, "ended early at offset 4194304"));
  assert_in_range(collector.n_blocks, 8, 64 + 4);
  assert_int_equal(collector.n_bad, 0);
}

static void
test_device_error_in_the_middle_fails(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 8 * MIB);
  char *device = test_loop_attach(fixture->path);
  if (!device)
    skip();
  {
    /* The device keeps its size, and cannot read what its file has no more. */
    g_autoptr(CbtSource) source = open_source(device);
    cut_image(fixture);
    const CbtExtent whole = {0, 8 * MIB};
    assert_run_fails(source, &whole, CBT_ERROR_IO, "cannot read the disk image at offset 4");
  }
  test_loop_detach(device);
}

/* --- runs that end otherwise --- */

static void
test_error_of_next_ends_the_run(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 8 * MIB);
  g_autoptr(GError) error = NULL;
  g_autoptr(CbtSource) source = open_source(fixture->path);
  g_autoptr(CbtReader) reader = new_reader(source, SMALL);
  g_autofree CbtExtent *extents = scatter(32, 0, 128 * KIB, 64 * KIB);
  Collector collector = {.list = {.fail_at = 20}};
  assert_false(collect(&collector, reader, source, SMALL, extents, 32, NULL, &error));
  assert_int_equal(cbt_error_code(error), CBT_ERROR_CORRUPT);
  assert_string_equal(error->message, "the list is broken");
  assert_int_equal(collector.n_bad, 0);

  /* The reader is as good as new. */
  Collector again = {0};
  assert_true(collect(&again, reader, source, SMALL, extents, 32, NULL, NULL));
  assert_int_equal(again.n_blocks, 32);
  assert_int_equal(again.n_bad, 0);
  assert_int_equal(again.sequences, 32 * 33 / 2);
}

static void
test_bad_extents_are_refused(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, MIB);
  g_autoptr(CbtSource) source = open_source(fixture->path);
  static const CbtExtent lists[][2] = {
      {{64 * KIB, 64 * KIB}, {0, 64 * KIB}},        /* goes back */
      {{0, 64 * KIB}, {60 * KIB, 64 * KIB}},        /* overlaps */
      {{0, 64 * KIB}, {MIB - 4096, 8192}},          /* past the end */
      {{0, 64 * KIB}, {128 * KIB, G_MAXUINT64 - 4}} /* overflows */
  };
  for (guint i = 0; i < G_N_ELEMENTS(lists); i++) {
    g_autoptr(GError) error = NULL;
    g_autoptr(CbtReader) reader = new_reader(source, SMALL);
    Collector collector = {0};
    assert_false(collect(&collector, reader, source, SMALL, lists[i], 2, NULL, &error));
    assert_int_equal(cbt_error_code(error), CBT_ERROR_INVALID);
  }
}

static void
cancel(gpointer cancellable)
{
  g_cancellable_cancel(cancellable);
}

static void
test_cancel_in_the_middle_ends_the_run(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 8 * MIB);
  g_autoptr(GError) error = NULL;
  g_autoptr(GCancellable) cancellable = g_cancellable_new();
  g_autoptr(CbtSource) source = open_source(fixture->path);
  g_autoptr(CbtReader) reader = new_reader(source, SMALL);
  Collector collector = {.act_at = 5, .act = cancel, .act_data = cancellable, .n_threads = 1};
  const CbtExtent whole = {0, 8 * MIB};
  assert_false(collect(&collector, reader, source, SMALL, &whole, 1, cancellable, &error));
  assert_int_equal(cbt_error_code(error), CBT_ERROR_CANCELLED);
  assert_in_range(collector.n_blocks, 5, 5 + 4);
  assert_int_equal(collector.n_bad, 0);
}

static void
test_cancel_ends_the_wait_for_buffers(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, 8 * MIB);
  g_autoptr(GError) error = NULL;
  g_autoptr(GCancellable) cancellable = g_cancellable_new();
  g_autoptr(CbtSource) source = open_source(fixture->path);
  g_autoptr(CbtReader) reader = new_reader(source, SMALL);
  /* All four buffers are held until the run is over. */
  Collector collector = {.act_at = 4, .act = cancel, .act_data = cancellable, .n_threads = 1, .hold = 4};
  const CbtExtent whole = {0, 8 * MIB};
  assert_false(collect(&collector, reader, source, SMALL, &whole, 1, cancellable, &error));
  assert_int_equal(cbt_error_code(error), CBT_ERROR_CANCELLED);
  assert_int_equal(collector.n_blocks, 4);
}

static void
test_cancelled_before_reads_nothing(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, MIB);
  g_autoptr(GCancellable) cancellable = g_cancellable_new();
  g_cancellable_cancel(cancellable);
  g_autoptr(CbtSource) source = open_source(fixture->path);
  g_autoptr(CbtReader) reader = new_reader(source, SMALL);
  Collector collector = {0};
  const CbtExtent whole = {0, MIB};
  assert_false(collect(&collector, reader, source, SMALL, &whole, 1, cancellable, NULL));
  assert_int_equal(cbt_reader_n_reads(reader), 0);
}

static void
test_bad_options_are_refused(void **state)
{
  Fixture *fixture = *state;
  make_image(fixture->path, MIB);
  g_autoptr(CbtSource) source = open_source(fixture->path);
  static const CbtReaderOptions bad[] = {{32 * 1024, 4, TRUE},
                                         {96 * 1024, 4, TRUE},
                                         {8 << 20, 4, TRUE},
                                         {64 * 1024, 0, TRUE},
                                         {4 << 20, 257, TRUE}};
  for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
    g_autoptr(GError) error = NULL;
    assert_null(cbt_reader_new(source, &bad[i], &error));
    assert_int_equal(cbt_error_code(error), CBT_ERROR_INVALID);
  }
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int
main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(test_no_extents_read_nothing),
      TEST(test_whole_image_arrives),
      TEST(test_odd_ends_are_read_and_zeroed_behind),
      TEST(test_scattered_clusters_arrive),
      TEST(test_small_granules_arrive),
      TEST(test_neighbours_are_joined),
      TEST(test_random_extents_arrive),
      TEST(test_buffers_given_back_late_are_waited_for),
      cmocka_unit_test_setup_teardown(test_shared_memory_image_arrives, setup_shm, teardown),
      TEST(test_block_device_with_an_odd_end_arrives),
      TEST(test_refused_direct_reads_go_through_the_cache),
      TEST(test_read_error_names_the_offset),
      TEST(test_source_without_descriptor_is_unsupported),
      TEST(test_image_cut_before_the_run_fails),
      TEST(test_image_cut_in_the_middle_fails),
      TEST(test_device_error_in_the_middle_fails),
      TEST(test_error_of_next_ends_the_run),
      TEST(test_bad_extents_are_refused),
      TEST(test_cancel_in_the_middle_ends_the_run),
      TEST(test_cancel_ends_the_wait_for_buffers),
      TEST(test_cancelled_before_reads_nothing),
      TEST(test_bad_options_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
