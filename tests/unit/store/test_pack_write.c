/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Packs that are written buffer by buffer, beside those who append and read. */
#include "full-disk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <store/pack-private.h>
#include <string.h>
#include <tests/support/store-fault-ops.h>
#include <tests/support/store-files.h>

#define N_RECORDS 150u /* of 50 KiB on average: two buffers */
#define PACK_SIZE (5u << 20)
#define N_THREADS 3u

typedef struct {
  char *folder;
  CbtUuid store;
  StorePackSet *set;
  pthread_mutex_t lock; /* as the store has it: one appends at a time */
  guint n;              /* appended; under lock, as the places */
  StoreLocation at[N_RECORDS];
} Fixture;

static int
setup(void **state)
{
  Fixture *fixture = g_new0(Fixture, 1);
  fixture->folder = store_test_folder_new();
  memset(fixture->store.bytes, 0x5a, sizeof fixture->store.bytes);
  pthread_mutex_init(&fixture->lock, NULL);
  *state = fixture;
  return 0;
}

static int
teardown(void **state)
{
  Fixture *fixture = *state;
  store_test_folder_free(fixture->folder);
  pthread_mutex_destroy(&fixture->lock);
  g_free(fixture);
  return 0;
}

static void
open_set(Fixture *fixture, const CbtFileOps *ops)
{
  fixture->set = store_pack_set_open(ops, fixture->folder, &fixture->store, PACK_SIZE, NULL);
}

static StoreRecordInfo
record_of(guint i, guint8 payload[STORE_CHUNK_LENGTH_MAX])
{
  StoreRecordInfo info = {.id = {{(guint8) (i + 1), 7}}, .type = STORE_CHUNK_BLOB};
  info.length = 40000 + i * 7919 % 25000;
  store_test_fill_random(payload, info.length, i + 1);
  return info;
}

/* The others find the record before it has its bytes. */
static gboolean
append_next(Fixture *fixture)
{
  g_autofree guint8 *payload = g_malloc(STORE_CHUNK_LENGTH_MAX);
  StorePackSlot slot;
  pthread_mutex_lock(&fixture->lock);
  StoreRecordInfo info = record_of(fixture->n, payload);
  gboolean ok =
      fixture->n < N_RECORDS && store_pack_reserve(fixture->set, &info, payload, info.length, &slot, NULL);
  if (ok)
    fixture->at[fixture->n++] = slot.location;
  pthread_mutex_unlock(&fixture->lock);
  if (ok)
    store_pack_fill(fixture->set, &slot);
  store_pack_write_behind(fixture->set);
  return ok;
}

static gboolean
is_readable(Fixture *fixture, guint i)
{
  g_autofree guint8 *expected = g_malloc(STORE_CHUNK_LENGTH_MAX);
  g_autofree guint8 *buffer = g_malloc(STORE_PACK_READ_SIZE);
  StoreRecordInfo wanted = record_of(i, expected), info;
  const guint8 *payload;
  gsize length;
  return store_pack_read(fixture->set, &fixture->at[i], &info, buffer, &payload, &length, NULL) &&
         store_chunk_id_equal(&info.id, &wanted.id) && length == wanted.length &&
         memcmp(payload, expected, length) == 0;
}

static gboolean
count_record(const StoreRecordInfo *info G_GNUC_UNUSED, const StoreLocation *location G_GNUC_UNUSED,
             gpointer n)
{
  ++*(guint *) n;
  return TRUE;
}

static void
check_all_are_there(Fixture *fixture, guint n)
{
  guint n_found = 0;
  guint64 n_damaged = 1;
  for (guint i = 0; i < n; i++)
    assert_true(is_readable(fixture, i));
  assert_true(store_pack_scan(fixture->set, NULL, count_record, &n_found, &n_damaged, NULL));
  assert_true(n_found >= n);
  assert_int_equal(n_damaged, 0);
}

/* ---- disks ---- */

static gboolean
is_direct(int fd)
{
  return (fcntl(fd, F_GETFL) & O_DIRECT) != 0;
}

static int
open_refusing(const CbtFileOps *ops, const char *path, int flags, mode_t mode)
{
  const CbtFileOps *inner = cbt_file_ops_default();
  errno = EINVAL;
  return flags & O_DIRECT ? -1 : inner->open(ops, path, flags, mode);
}

static ssize_t
write_refusing(const CbtFileOps *ops, int fd, const void *bytes, size_t length, off_t offset)
{
  const CbtFileOps *inner = cbt_file_ops_default();
  errno = EINVAL;
  return is_direct(fd) ? -1 : inner->pwrite(ops, fd, bytes, length, offset);
}

/* Two of three go well; of the third the first block does. */
static ssize_t
write_full_at_times(const CbtFileOps *ops, int fd, const void *bytes, size_t length, off_t offset)
{
  static gint n;
  const CbtFileOps *inner = cbt_file_ops_default();
  if (g_atomic_int_add(&n, 1) % 3 != 0)
    return inner->pwrite(ops, fd, bytes, length, offset);
  if (length > STORE_PACK_BLOCK && inner->pwrite(ops, fd, bytes, STORE_PACK_BLOCK, offset) < 0)
    return -1;
  errno = ENOSPC;
  return -1;
}

/* ---- beside each other ---- */

/* All that was appended before is seen by a scan. */
static gboolean
is_all_seen(Fixture *fixture, guint n)
{
  guint n_found = 0;
  while (!store_pack_write(fixture->set, NULL))
    ;
  return store_pack_scan(fixture->set, NULL, count_record, &n_found, NULL, NULL) && n_found >= n;
}

/* What fails is tried again: it goes well at last. */
static void *
append_and_read(void *data)
{
  Fixture *fixture = data;
  gsize n_bad = 0;
  guint n = 0;
  while (n < N_RECORDS) {
    append_next(fixture);
    pthread_mutex_lock(&fixture->lock);
    n = fixture->n;
    pthread_mutex_unlock(&fixture->lock);
    for (guint back = 1; n > 0 && back <= 4; back++) /* in either buffer, or in the file */
      n_bad += !is_readable(fixture, n - 1 - (n - 1) * (back - 1) / 4);
    n_bad += n % 70 == 0 && !is_all_seen(fixture, n);
    while (n % 50 == 0 && !store_pack_flush(fixture->set, NULL))
      ;
    while (n % 60 == 0 && !store_pack_seal(fixture->set, NULL))
      ;
  }
  return GSIZE_TO_POINTER(n_bad);
}

static void
run_threads(Fixture *fixture, const CbtFileOps *ops)
{
  pthread_t threads[N_THREADS];
  void *n_bad;
  open_set(fixture, ops);
  for (guint i = 0; i < N_THREADS; i++)
    assert_int_equal(pthread_create(&threads[i], NULL, append_and_read, fixture), 0);
  for (guint i = 0; i < N_THREADS; i++) {
    assert_int_equal(pthread_join(threads[i], &n_bad), 0);
    assert_null(n_bad);
  }
  assert_int_equal(fixture->n, N_RECORDS);
  assert_true(is_all_seen(fixture, N_RECORDS));
  check_all_are_there(fixture, N_RECORDS);
  store_pack_set_close(fixture->set);
  open_set(fixture, NULL);
  check_all_are_there(fixture, N_RECORDS);
  store_pack_set_close(fixture->set);
}

static void
test_what_threads_append_is_readable_while_it_is_written(void **state)
{
  run_threads(*state, NULL);
}

static void
test_the_same_where_direct_writes_are_refused(void **state)
{
  CbtFileOps ops = *cbt_file_ops_default();
  ops.open = open_refusing;
  run_threads(*state, &ops);
}

static void
test_the_same_where_only_the_write_says_so(void **state)
{
  CbtFileOps ops = *cbt_file_ops_default();
  ops.pwrite = write_refusing;
  run_threads(*state, &ops);
}

static void
test_the_same_on_a_disk_that_is_full_at_times(void **state)
{
  CbtFileOps ops = *cbt_file_ops_default();
  ops.pwrite = write_full_at_times;
  run_threads(*state, &ops);
}

/* ---- a full disk ---- */

/* Appends until a buffer more is full, and that is to be written. */
static void
fill_buffer(Fixture *fixture, guint *i)
{
  g_autofree guint8 *payload = g_malloc(STORE_CHUNK_LENGTH_MAX);
  StoreLocation at;
  while (!store_pack_is_behind(fixture->set)) {
    StoreRecordInfo info = record_of(++*i, payload);
    assert_true(store_pack_append(fixture->set, &info, payload, info.length, &at, NULL));
  }
}

/* Who is told that there is something to write does not hear it of the same again and again. */
static void
test_what_could_not_be_written_is_no_news_until_more_is_full(void **state)
{
  Fixture *fixture = *state;
  FullDisk disk;
  guint n = 0;
  full_disk_init(&disk);
  fixture->set = store_pack_set_open(&disk.table, fixture->folder, &fixture->store, 0, NULL);
  g_atomic_int_set(&disk.is_full, TRUE);
  for (guint i = 0; i < 2; i++) {
    fill_buffer(fixture, &n);
    store_pack_write_behind(fixture->set);
    assert_false(store_pack_is_behind(fixture->set));
  }
  g_atomic_int_set(&disk.is_full, FALSE);
  fill_buffer(fixture, &n);
  store_pack_write_behind(fixture->set);
  assert_true(store_pack_unwritten_bytes(fixture->set) < STORE_PACK_BUFFER_SIZE);
  store_pack_set_close(fixture->set);
}

/* ---- what waits until a record is filled ---- */

typedef struct {
  CbtFileOps table; /* first */
  StorePackSet *set;
  gboolean (*end)(StorePackSet *set, GError **error);
  gint is_filled, has_ended, was_filled; /* atomic; the last as of the first call that writes or removes */
} Ending;

static void
note_end(const CbtFileOps *ops)
{
  Ending *ending = (Ending *) ops;
  if (!g_atomic_int_get(&ending->has_ended))
    g_atomic_int_set(&ending->was_filled, g_atomic_int_get(&ending->is_filled));
  g_atomic_int_set(&ending->has_ended, TRUE);
}

static int
unlink_and_note(const CbtFileOps *ops, const char *path)
{
  note_end(ops);
  return cbt_file_ops_default()->unlink(ops, path);
}

static ssize_t
write_and_note(const CbtFileOps *ops, int fd, const void *bytes, size_t length, off_t offset)
{
  note_end(ops);
  return cbt_file_ops_default()->pwrite(ops, fd, bytes, length, offset);
}

static void *
end_thread(void *data)
{
  Ending *ending = data;
  return GINT_TO_POINTER(ending->end(ending->set, NULL));
}

static void
check_that_it_waits(Fixture *fixture, gboolean (*end)(StorePackSet *set, GError **error))
{
  Ending ending = {.table = *cbt_file_ops_default(), .end = end};
  g_autofree guint8 *payload = g_malloc(STORE_CHUNK_LENGTH_MAX);
  StoreRecordInfo info = record_of(0, payload);
  StorePackSlot slot;
  pthread_t thread;
  void *ok;
  ending.table.unlink = unlink_and_note;
  ending.table.pwrite = write_and_note;
  open_set(fixture, &ending.table);
  ending.set = fixture->set;
  assert_true(store_pack_reserve(fixture->set, &info, payload, info.length, &slot, NULL));
  assert_int_equal(pthread_create(&thread, NULL, end_thread, &ending), 0);
  for (guint i = 0; i < 50000 && !g_atomic_int_get(&ending.has_ended); i++)
    sched_yield(); /* who does not wait has time to be found out */
  g_atomic_int_set(&ending.is_filled, TRUE);
  store_pack_fill(fixture->set, &slot);
  assert_int_equal(pthread_join(thread, &ok), 0);
  assert_non_null(ok);
  assert_true(ending.has_ended && ending.was_filled);
  while (append_next(fixture))
    ;
  assert_true(store_pack_write(fixture->set, NULL));
  check_all_are_there(fixture, N_RECORDS);
  store_pack_set_close(fixture->set);
}

/* Its room would be the next pack's. */
static void
test_a_record_is_filled_before_it_is_given_up(void **state)
{
  check_that_it_waits(*state, store_pack_give_up);
}

static void
test_a_record_is_filled_before_it_is_written(void **state)
{
  check_that_it_waits(*state, store_pack_write);
}

static void
test_a_record_is_filled_before_its_pack_is_sealed(void **state)
{
  check_that_it_waits(*state, store_pack_seal);
}

/* ---- with calls that fail ---- */

/* How many records are durable at the end. A call is tried twice. */
static guint
append_with_faults(Fixture *fixture)
{
  guint durable = 0;
  for (guint i = 0; fixture->set && i < N_RECORDS; i++) {
    if (!append_next(fixture) && !append_next(fixture))
      break;
    if (i % 70 == 69 && (store_pack_flush(fixture->set, NULL) || store_pack_flush(fixture->set, NULL)))
      durable = fixture->n;
  }
  return durable;
}

static void
check_faults(Fixture *fixture, guint64 call, gboolean for_ever, gboolean *has_failed)
{
  StoreFaultOps *faults = store_fault_ops_new();
  store_fault_ops_arm(faults, call, for_ever, call % 2 ? ENOSPC : EIO);
  fixture->n = 0;
  open_set(fixture, store_fault_ops_table(faults));
  guint durable = append_with_faults(fixture);
  *has_failed = store_fault_ops_has_failed(faults);
  if (fixture->set && !for_ever)
    assert_int_equal(durable, N_RECORDS / 70 * 70);
  store_pack_set_close(fixture->set);
  store_fault_ops_power_cut(faults, NULL);
  open_set(fixture, NULL);
  assert_non_null(fixture->set);
  check_all_are_there(fixture, durable);
  store_pack_set_close(fixture->set);
  store_fault_ops_free(faults);
}

static void
test_a_call_that_fails_loses_nothing_flushed(void **state)
{
  Fixture *fixture = *state;
  for (guint for_ever = 0; for_ever < 2; for_ever++) {
    gboolean has_failed = TRUE;
    for (guint64 call = 1; has_failed; call++) {
      char *folder = fixture->folder;
      fixture->folder = store_test_folder_new();
      check_faults(fixture, call, for_ever, &has_failed);
      store_test_folder_free(fixture->folder);
      fixture->folder = folder;
    }
  }
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_what_threads_append_is_readable_while_it_is_written, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(test_the_same_where_direct_writes_are_refused, setup, teardown),
      cmocka_unit_test_setup_teardown(test_the_same_where_only_the_write_says_so, setup, teardown),
      cmocka_unit_test_setup_teardown(test_the_same_on_a_disk_that_is_full_at_times, setup, teardown),
      cmocka_unit_test_setup_teardown(test_what_could_not_be_written_is_no_news_until_more_is_full, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(test_a_record_is_filled_before_it_is_given_up, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_record_is_filled_before_it_is_written, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_record_is_filled_before_its_pack_is_sealed, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_call_that_fails_loses_nothing_flushed, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
