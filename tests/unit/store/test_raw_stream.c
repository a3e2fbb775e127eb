/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "disk-model.h"

#include <signal.h>
#include <store/raw-stream.h>
#include <tests/support/drain.h>

static void
check_bytes(const GByteArray *bytes, const Disk *disk)
{
  assert_int_equal(bytes->len, disk->manifest.size);
  for (guint64 i = 0; i < disk->n; i++) {
    guint8 expected[CBT_CLUSTER_SIZE];
    cell_bytes(&disk->cells[i], expected);
    assert_memory_equal(bytes->data + i * CLUSTER, expected, cell_length(disk->manifest.size, i));
  }
}

static void
count_progress(gpointer user_data, guint64 bytes)
{
  *(guint64 *) user_data += bytes;
}

static void
test_pipe_gets_every_byte_of_the_disk(void **state)
{
  Model *model = *state;
  const guint64 sizes[] = {0, 1, 512, CLUSTER, 32 * CLUSTER, 32 * CLUSTER + 1, 700 * CLUSTER - 777};
  for (guint i = 0; i < G_N_ELEMENTS(sizes); i++) {
    g_autoptr(Disk) disk = disk_next(model, NULL, sizes[i], 15);
    for (guint n_threads = 0; n_threads < 4; n_threads++) {
      int fd;
      guint64 progress = 0;
      StoreOutputOptions options = {
          .n_threads = n_threads, .progress = count_progress, .user_data = &progress};
      TestDrain *drain = test_drain_new(&fd, G_MAXUINT64);
      StoreOutput output = {.fd = fd};
      assert_true(store_raw_stream_write(model->store, &disk->manifest, &output, &options, NULL));
      close(fd);
      g_autoptr(GByteArray) bytes = test_drain_end(drain);
      check_bytes(bytes, disk);
      assert_int_equal(progress, sizes[i]);
    }
  }
}

static void
test_broken_pipe_and_cancel_end_the_stream(void **state)
{
  Model *model = *state;
  int fd;
  g_autoptr(Disk) disk = disk_next(model, NULL, 300 * CLUSTER, 3);
  g_autoptr(GError) error = NULL;
  g_autoptr(GCancellable) cancellable = g_cancellable_new();
  StoreOutputOptions options = {.n_threads = 3, .cancellable = cancellable};
  TestDrain *drain = test_drain_new(&fd, 70 * CLUSTER);
  StoreOutput output = {.fd = fd, .name = "the pipe"};
  assert_false(store_raw_stream_write(model->store, &disk->manifest, &output, &options, &error));
  check_error(&error, CBT_ERROR_UNREACHABLE, "cannot write the pipe");
  close(fd);
  g_byte_array_unref(test_drain_end(drain));
  g_cancellable_cancel(cancellable);
  assert_false(store_raw_stream_write(model->store, &disk->manifest, &output, &options, &error));
  check_error(&error, CBT_ERROR_CANCELLED, "cancelled");
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(test_pipe_gets_every_byte_of_the_disk),
      TEST(test_broken_pipe_and_cancel_end_the_stream),
  };
  signal(SIGPIPE, SIG_IGN);
  return cmocka_run_group_tests(tests, NULL, NULL);
}
