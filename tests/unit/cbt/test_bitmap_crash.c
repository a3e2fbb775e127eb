/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bitmap files under failing calls and under kill -9: the old state or the new one, and no bit lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <tests/support/fault-ops.h>

#include "bitmap-fixture.h"

#define G FIXTURE_GRANULE

static const CbtUuid point_a = {.bytes = {0xa}};
static const CbtUuid point_b = {.bytes = {0xb}};

static const CbtFaultFlags fault_kinds[] = {
    CBT_FAULT_ONCE,
    CBT_FAULT_FOR_EVER,
    CBT_FAULT_TORN,
    CBT_FAULT_TORN | CBT_FAULT_FOR_EVER,
};

/* Granules that the scenarios record: before the freeze, during it, and after the call that failed. */
enum { BEFORE = 10, DURING = 20, AFTER = 30 };

typedef struct {
  CbtBitmapState from;
  CbtBitmapEvent event;
} Transition;

static const Transition all_transitions[] = {
    {CBT_BITMAP_ACTIVE, CBT_BITMAP_CREATE_SUCCESSOR},
    {CBT_BITMAP_ACTIVE, CBT_BITMAP_DISABLE},
    {CBT_BITMAP_ACTIVE, CBT_BITMAP_CLEAR},
    {CBT_BITMAP_ACTIVE, CBT_BITMAP_MARK_INCONSISTENT},
    {CBT_BITMAP_FROZEN, CBT_BITMAP_ABDICATE},
    {CBT_BITMAP_FROZEN, CBT_BITMAP_RECLAIM},
    {CBT_BITMAP_FROZEN, CBT_BITMAP_MARK_INCONSISTENT},
    {CBT_BITMAP_INCONSISTENT, CBT_BITMAP_CREATE_SUCCESSOR},
    {CBT_BITMAP_DISABLED, CBT_BITMAP_ENABLE},
};

static void
must_apply(CbtBitmapFile *file, CbtBitmapEvent event, const CbtUuid *pending)
{
  g_autoptr(GError) error = NULL;
  if (!cbt_bitmap_file_apply(file, event, pending, NULL, &error))
    fail_msg("%s", error->message);
}

static CbtBitmapFile *
must_open(const Fixture *f, const CbtFileOps *ops)
{
  g_autoptr(GError) error = NULL;
  CbtBitmapFile *file = cbt_bitmap_file_open(ops, f->path, &f->disk, &error);
  assert_no_error(error);
  return file;
}

/* A bitmap based on point A, brought into STATE, with BEFORE in the parent and, if frozen, DURING in the
 * successor. */
static CbtBitmapFile *
make(const Fixture *f, const CbtFileOps *ops, CbtBitmapState state)
{
  g_autoptr(GError) error = NULL;
  unlink(f->path);
  CbtBitmapFile *file = cbt_bitmap_file_create(ops, f->path, "daily", G, &f->disk, &error);
  assert_no_error(error);
  must_apply(file, CBT_BITMAP_CREATE_SUCCESSOR, &point_a);
  must_apply(file, CBT_BITMAP_ABDICATE, NULL);
  cbt_bitmap_file_record(file, BEFORE * G, 1);
  if (state == CBT_BITMAP_FROZEN)
    must_apply(file, CBT_BITMAP_CREATE_SUCCESSOR, &point_b);
  else if (state == CBT_BITMAP_DISABLED)
    must_apply(file, CBT_BITMAP_DISABLE, NULL);
  else if (state == CBT_BITMAP_INCONSISTENT)
    must_apply(file, CBT_BITMAP_MARK_INCONSISTENT, NULL);
  cbt_bitmap_file_record(file, DURING * G, 1);
  return file;
}

static gboolean
parent_has(const CbtBitmapFile *file, guint granule)
{
  return cbt_bitmap_get(cbt_bitmap_file_parent(file), granule * G);
}

static gboolean
has(const CbtBitmapFile *file, guint granule)
{
  const CbtBitmap *successor = cbt_bitmap_file_successor(file);
  return parent_has(file, granule) || (successor != NULL && cbt_bitmap_get(successor, granule * G));
}

/* Whatever the state: bits that it relies on are there. Without a base nothing relies on them. */
static void
check_bits(const CbtBitmapFile *file, const Transition *transition)
{
  CbtBitmapInfo info;
  cbt_bitmap_file_info(file, &info);
  if (info.state == CBT_BITMAP_DISABLED || info.state == CBT_BITMAP_INCONSISTENT)
    return;
  assert_true(transition->from == CBT_BITMAP_DISABLED || has(file, AFTER));
  if (cbt_uuid_equal(&info.base, &point_a))
    assert_true(parent_has(file, BEFORE));
  if (cbt_uuid_equal(&info.base, &point_a) || cbt_uuid_equal(&info.base, &point_b))
    assert_true(has(file, DURING));
  if (info.state == CBT_BITMAP_FROZEN && transition->from == CBT_BITMAP_INCONSISTENT)
    assert_true(parent_has(file, 99));
}

/* Lets call N of the transition fail. TRUE if it had so many calls. */
static gboolean
fail_transition(const Fixture *f, const Transition *transition, guint n, CbtFaultFlags flags)
{
  CbtFaultOps faults;
  cbt_fault_ops_init(&faults);
  CbtBitmapFile *file = make(f, &faults.ops, transition->from);
  CbtBitmapState wanted;
  assert_true(cbt_bitmap_next_state(transition->from, transition->event, FALSE, &wanted));
  guint64 generation = file->header.generation;
  g_autoptr(GError) error = NULL;

  cbt_fault_ops_arm(&faults, n, EIO, flags);
  gboolean ok = cbt_bitmap_file_apply(file, transition->event, &point_b, NULL, &error);
  gboolean failed = cbt_fault_ops_disarm(&faults);
  assert_int_equal(file->header.state, ok ? wanted : transition->from);
  assert_int_equal(file->header.generation, generation + (guint) ok);
  cbt_bitmap_file_record(file, AFTER * G, 1);
  cbt_bitmap_file_abandon(file);

  file = must_open(f, cbt_file_ops_default());
  if (ok)
    assert_int_equal(file->header.state, wanted);
  else if ((flags & CBT_FAULT_FOR_EVER) == 0)
    assert_int_equal(file->header.generation, generation);
  assert_true(file->header.state == wanted || file->header.state == transition->from);
  check_bits(file, transition);
  cbt_bitmap_file_abandon(file);
  return failed;
}

static void
test_failed_transition_leaves_old_or_new_state(void **state)
{
  const Fixture *f = *state;
  for (guint t = 0; t < G_N_ELEMENTS(all_transitions); t++)
    for (guint kind = 0; kind < G_N_ELEMENTS(fault_kinds); kind++) {
      guint n = 1;
      while (fail_transition(f, &all_transitions[t], n, fault_kinds[kind]))
        n++;
      assert_true(n > 1);
    }
}

static void
test_failed_transition_can_be_tried_again(void **state)
{
  const Fixture *f = *state;
  for (guint t = 0; t < G_N_ELEMENTS(all_transitions); t++) {
    gboolean failed = TRUE;
    for (guint n = 1; failed; n++) {
      CbtFaultOps faults;
      cbt_fault_ops_init(&faults);
      CbtBitmapFile *file = make(f, &faults.ops, all_transitions[t].from);
      cbt_fault_ops_arm(&faults, n, ENOSPC, CBT_FAULT_TORN);
      gboolean ok = cbt_bitmap_file_apply(file, all_transitions[t].event, &point_b, NULL, NULL);
      failed = cbt_fault_ops_disarm(&faults);
      cbt_bitmap_file_record(file, AFTER * G, 1);
      if (!ok)
        must_apply(file, all_transitions[t].event, &point_b);
      cbt_bitmap_file_abandon(file);
    }
  }
}

static void
test_failed_create_leaves_no_file_and_says_so(void **state)
{
  const Fixture *f = *state;
  for (guint kind = 0; kind < G_N_ELEMENTS(fault_kinds); kind++) {
    gboolean failed = TRUE;
    for (guint n = 1; failed; n++) {
      CbtFaultOps faults;
      g_autoptr(GError) error = NULL;
      unlink(f->path);
      cbt_fault_ops_init(&faults);
      cbt_fault_ops_arm(&faults, n, ENOSPC, fault_kinds[kind]);
      CbtBitmapFile *file = cbt_bitmap_file_create(&faults.ops, f->path, "daily", G, &f->disk, &error);
      failed = cbt_fault_ops_disarm(&faults);
      if (file == NULL)
        assert_code(&error, CBT_ERROR_NO_SPACE);
      if (file == NULL && (fault_kinds[kind] & CBT_FAULT_FOR_EVER) == 0)
        assert_int_equal(access(f->path, F_OK), -1);
      if (access(f->path, F_OK) == 0)
        cbt_bitmap_file_abandon(must_open(f, cbt_file_ops_default()));
      cbt_bitmap_file_abandon(file);
    }
  }
}

static void
test_failed_open_or_close_loses_no_bit(void **state)
{
  const Fixture *f = *state;
  for (guint kind = 0; kind < G_N_ELEMENTS(fault_kinds); kind++)
    for (guint closing = 0; closing < 2; closing++) {
      gboolean failed = TRUE;
      for (guint n = 1; failed; n++) {
        CbtFaultOps faults;
        cbt_fault_ops_init(&faults);
        CbtBitmapFile *file = make(f, &faults.ops, CBT_BITMAP_FROZEN);
        cbt_bitmap_file_record(file, AFTER * G, 1);
        if (!closing)
          cbt_bitmap_file_abandon(file);
        cbt_fault_ops_arm(&faults, n, EIO, fault_kinds[kind]);
        if (closing)
          (void) !cbt_bitmap_file_close(file, &f->disk, NULL);
        else
          cbt_bitmap_file_abandon(cbt_bitmap_file_open(&faults.ops, f->path, &f->disk, NULL));
        failed = cbt_fault_ops_disarm(&faults);
        file = must_open(f, cbt_file_ops_default());
        assert_int_equal(file->header.state, CBT_BITMAP_FROZEN);
        assert_true(parent_has(file, BEFORE) && has(file, DURING) && has(file, AFTER));
        cbt_bitmap_file_abandon(file);
      }
    }
}

static void
test_short_writes_are_continued(void **state)
{
  const Fixture *f = *state;
  CbtFaultOps faults;
  cbt_fault_ops_init(&faults);
  faults.longest_write = 100;
  cbt_bitmap_file_abandon(make(f, &faults.ops, CBT_BITMAP_FROZEN));
  CbtBitmapFile *file = must_open(f, cbt_file_ops_default());
  assert_true(parent_has(file, BEFORE) && has(file, DURING));
  cbt_bitmap_file_abandon(file);
}

enum { N_GRANULES = 160 };

/* What the child says it has done; in memory that outlives it. */
typedef struct {
  guint32 epoch;            /* number of the freeze begun last; goes up before the call */
  guint32 dropped;          /* granules of an earlier epoch may be gone; goes up before an abdicate */
  guint32 tags[N_GRANULES]; /* the epoch that a granule was recorded in last; after the call. 0: never */
} Ledger;

static void
say(guint32 *field, guint32 value)
{
  __atomic_store_n(field, value, __ATOMIC_SEQ_CST);
}

static void
record_some(CbtBitmapFile *file, Ledger *ledger, GRand *rand)
{
  for (guint i = 0; i < 20; i++) {
    guint granule = (guint) g_rand_int_range(rand, 0, N_GRANULES);
    cbt_bitmap_file_record(file, granule * G, 1);
    say(&ledger->tags[granule], ledger->epoch);
  }
}

/* The life of a recording process, without an end. */
static void G_GNUC_NORETURN
run_child(const Fixture *f, Ledger *ledger, guint32 seed)
{
  GRand *rand = g_rand_new_with_seed(seed);
  CbtBitmapFile *file = cbt_bitmap_file_open(cbt_file_ops_default(), f->path, &f->disk, NULL);
  while (file != NULL) {
    record_some(file, ledger, rand);
    say(&ledger->epoch, ledger->epoch + 1);
    if (!cbt_bitmap_file_apply(file, CBT_BITMAP_CREATE_SUCCESSOR, &point_a, NULL, NULL))
      break;
    record_some(file, ledger, rand);
    gboolean abdicate = g_rand_boolean(rand);
    if (abdicate)
      say(&ledger->dropped, ledger->epoch);
    if (!cbt_bitmap_file_apply(file, abdicate ? CBT_BITMAP_ABDICATE : CBT_BITMAP_RECLAIM, NULL, NULL, NULL))
      break;
    if (g_rand_int_range(rand, 0, 8) == 0) {
      if (!cbt_bitmap_file_close(file, &f->disk, NULL))
        break;
      file = cbt_bitmap_file_open(cbt_file_ops_default(), f->path, &f->disk, NULL);
    }
  }
  _exit(1);
}

static void
kill_child_after(const Fixture *f, Ledger *ledger, GRand *rand)
{
  guint32 seed = g_rand_int(rand);
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0)
    run_child(f, ledger, seed);
  g_usleep((gulong) g_rand_int_range(rand, 0, 15000));
  assert_int_equal(kill(pid, SIGKILL), 0);
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_true(WIFSIGNALED(status));
}

/* Settles a frozen bitmap as a daemon would, one way or the other, and looks for every granule. */
static void
check_after_kill(const Fixture *f, Ledger *ledger, gboolean abdicate)
{
  CbtBitmapFile *file = must_open(f, cbt_file_ops_default());
  assert_int_not_equal(file->header.state, CBT_BITMAP_INCONSISTENT);
  if (file->header.state == CBT_BITMAP_FROZEN) {
    must_apply(file, abdicate ? CBT_BITMAP_ABDICATE : CBT_BITMAP_RECLAIM, NULL);
    if (abdicate)
      ledger->dropped = ledger->epoch;
  }
  for (guint i = 0; i < N_GRANULES; i++)
    if (ledger->tags[i] != 0 && ledger->tags[i] >= ledger->dropped && !parent_has(file, i))
      fail_msg("granule %u of epoch %u is lost (now %u, dropped below %u)", i, ledger->tags[i], ledger->epoch,
               ledger->dropped);
  g_autoptr(GError) error = NULL;
  assert_true(cbt_bitmap_file_close(file, &f->disk, &error));
}

static void
test_killed_process_loses_no_bit(void **state)
{
  const Fixture *f = *state;
  g_autoptr(GError) error = NULL;
  GRand *rand = fixture_rand(__func__);
  Ledger *ledger = mmap(NULL, sizeof *ledger, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  assert_true(ledger != MAP_FAILED);
  ledger->epoch = 1;
  CbtBitmapFile *file = cbt_bitmap_file_create(cbt_file_ops_default(), f->path, "daily", G, &f->disk, &error);
  assert_no_error(error);
  assert_true(cbt_bitmap_file_close(file, &f->disk, &error));
  for (guint round = 0; round < 100; round++) {
    kill_child_after(f, ledger, rand);
    check_after_kill(f, ledger, round % 2);
  }
  print_message("%u freezes, %u settled by success\n", ledger->epoch, ledger->dropped);
  munmap(ledger, sizeof *ledger);
  g_rand_free(rand);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, fixture_setup, fixture_teardown)

int
main(void)
{
  /* Thousands of syncs: on a disk they take a minute and show nothing more. */
  if (access("/dev/shm", W_OK) == 0)
    g_setenv("TMPDIR", "/dev/shm", FALSE);
  const struct CMUnitTest tests[] = {
      TEST(test_failed_transition_leaves_old_or_new_state),
      TEST(test_failed_transition_can_be_tried_again),
      TEST(test_failed_create_leaves_no_file_and_says_so),
      TEST(test_failed_open_or_close_loses_no_bit),
      TEST(test_short_writes_are_continued),
      TEST(test_killed_process_loses_no_bit),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
