/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bitmaps of ours among those of a QEMU, which is a list here: the steps are carried out on it one by one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <cbt/qemu/bitmaps.h>
#include <common/error.h>
#include <string.h>

#define PREFIX "cbt-01234567"

static void
bitmap_free(gpointer data)
{
  QemuBitmap *bitmap = data;
  g_free(bitmap->name);
  g_free(bitmap);
}

static int
setup(void **state)
{
  QemuDisk *disk = g_new0(QemuDisk, 1);
  disk->size_bytes = 1 << 20;
  disk->bitmaps = g_ptr_array_new_with_free_func(bitmap_free);
  *state = disk;
  return 0;
}

static int
teardown(void **state)
{
  QemuDisk *disk = *state;
  g_ptr_array_unref(disk->bitmaps);
  g_free(disk);
  return 0;
}

/* ---- a QEMU ---- */

static QemuBitmap *
find(const QemuDisk *disk, const char *name)
{
  for (guint i = 0; i < disk->bitmaps->len; i++)
    if (strcmp(((QemuBitmap *) disk->bitmaps->pdata[i])->name, name) == 0)
      return disk->bitmaps->pdata[i];
  return NULL;
}

static QemuBitmap *
have(QemuDisk *disk, const char *name, gboolean recording)
{
  QemuBitmap *bitmap = g_new0(QemuBitmap, 1);
  assert_null(find(disk, name));
  bitmap->name = g_strdup(name);
  bitmap->granularity = 65536;
  bitmap->is_recording = recording;
  g_ptr_array_add(disk->bitmaps, bitmap);
  return bitmap;
}

/* A write of the guest: what records, counts. */
static void
write_some(QemuDisk *disk, guint64 bytes)
{
  for (guint i = 0; i < disk->bitmaps->len; i++) {
    QemuBitmap *bitmap = disk->bitmaps->pdata[i];
    if (bitmap->is_recording)
      bitmap->count += bytes;
  }
}

static void
carry_out(QemuDisk *disk, const QemuBitmapStep *step)
{
  QemuBitmap *bitmap = find(disk, step->name);
  if (step->op == QEMU_BITMAP_ADD) {
    have(disk, step->name, !step->disabled)->granularity = step->granularity;
    return;
  }
  assert_non_null(bitmap);
  if (step->op == QEMU_BITMAP_REMOVE) {
    g_ptr_array_remove(disk->bitmaps, bitmap);
    return;
  }
  assert_false(bitmap->is_inconsistent); /* QEMU lets it only be removed */
  if (step->op == QEMU_BITMAP_MERGE) {
    const QemuBitmap *source = find(disk, step->source);
    assert_non_null(source);
    assert_false(source->is_inconsistent);
    bitmap->count += source->count;
  } else
    bitmap->is_recording = step->op == QEMU_BITMAP_ENABLE;
}

static gboolean
ask(QemuDisk *disk, const CbtControlRequest *request, GError **error)
{
  g_autoptr(GPtrArray) steps = qemu_bitmaps_plan(disk, PREFIX, request, error);
  for (guint i = 0; steps && i < steps->len; i++)
    carry_out(disk, steps->pdata[i]);
  return steps != NULL;
}

static gboolean
apply(QemuDisk *disk, const char *name, CbtBitmapEvent event, const CbtUuid *pending, GError **error)
{
  CbtControlRequest request;
  cbt_control_request_init(&request, CBT_CONTROL_APPLY, name);
  request.event = event;
  if (pending)
    request.pending = *pending;
  return ask(disk, &request, error);
}

static void
add(QemuDisk *disk, const char *name)
{
  CbtControlRequest request;
  cbt_control_request_init(&request, CBT_CONTROL_ADD, name);
  request.granularity = 65536;
  assert_true(ask(disk, &request, NULL));
}

static CbtBitmapInfo
info_of(const QemuDisk *disk, const char *name)
{
  CbtBitmapInfo infos[CBT_TRACKER_MAX_BITMAPS];
  guint n = qemu_bitmaps_list(disk, PREFIX, infos);
  for (guint i = 0; i < n; i++)
    if (strcmp(infos[i].name, name) == 0)
      return infos[i];
  fail_msg("no bitmap %s", name);
  return infos[0];
}

static void
check_error(GError **error, CbtErrorCode code, const char *part)
{
  assert_non_null(*error);
  if ((*error)->code != (int) code || !strstr((*error)->message, part))
    fail_msg("expected %s with '%s', got: %s", cbt_error_code_name((int) code), part, (*error)->message);
  g_clear_error(error);
}

/* ---- claims ---- */

static void
test_a_backup_moves_the_base_on_and_counts_what_came_after(void **state)
{
  QemuDisk *disk = *state;
  const CbtUuid first = cbt_uuid_generate(), second = cbt_uuid_generate();
  add(disk, "default");
  assert_true(apply(disk, "default", CBT_BITMAP_CREATE_SUCCESSOR, &first, NULL));
  assert_true(apply(disk, "default", CBT_BITMAP_ABDICATE, NULL, NULL));
  write_some(disk, 10);
  CbtBitmapInfo info = info_of(disk, "default");
  assert_true(cbt_uuid_equal(&info.base, &first));
  assert_int_equal(info.state, CBT_BITMAP_ACTIVE);
  assert_int_equal(info.count, 10);
  assert_string_equal(info.reason, "");

  assert_true(apply(disk, "default", CBT_BITMAP_CREATE_SUCCESSOR, &second, NULL));
  write_some(disk, 5);
  info = info_of(disk, "default");
  assert_int_equal(info.state, CBT_BITMAP_FROZEN);
  assert_true(cbt_uuid_equal(&info.base, &first));
  assert_true(cbt_uuid_equal(&info.pending, &second));
  assert_int_equal(info.count, 10);
  assert_int_equal(info.successor_count, 5);
  g_autofree char *parent = qemu_bitmap_name(PREFIX, "default", &first);
  g_autofree char *recorder = qemu_bitmap_name(PREFIX, "default", &second);
  assert_string_equal(qemu_bitmaps_parent(disk, PREFIX, "default"), parent);
  assert_string_equal(qemu_bitmaps_recorder(disk, PREFIX, "default"), recorder);
}

static void
test_reclaim_loses_nothing(void **state)
{
  QemuDisk *disk = *state;
  const CbtUuid first = cbt_uuid_generate(), second = cbt_uuid_generate();
  g_autofree char *name = qemu_bitmap_name(PREFIX, "default", &first);
  have(disk, name, TRUE);
  write_some(disk, 10);
  assert_true(apply(disk, "default", CBT_BITMAP_CREATE_SUCCESSOR, &second, NULL));
  write_some(disk, 5);
  assert_true(apply(disk, "default", CBT_BITMAP_RECLAIM, NULL, NULL));
  CbtBitmapInfo info = info_of(disk, "default");
  assert_int_equal(info.state, CBT_BITMAP_ACTIVE);
  assert_true(cbt_uuid_equal(&info.base, &first));
  assert_int_equal(info.count, 15);
  assert_int_equal(disk->bitmaps->len, 1);
}

static void
test_others_bitmaps_are_left_alone(void **state)
{
  QemuDisk *disk = *state;
  const CbtUuid base = cbt_uuid_generate();
  g_autofree char *other_store = qemu_bitmap_name("cbt-76543210", "default", &base);
  const char *const others[] = {"libvirt-1",
                                "cbt-01234567",
                                "cbt-01234567-",
                                "cbt-01234567-default",
                                other_store,
                                "cbt-01234567-default-none-123",
                                "cbt-01234567--none-12345678",
                                "cbt-01234567-../x-none-12345678"};
  for (guint i = 0; i < G_N_ELEMENTS(others); i++)
    have(disk, others[i], TRUE);
  CbtBitmapInfo infos[CBT_TRACKER_MAX_BITMAPS];
  assert_int_equal(qemu_bitmaps_list(disk, PREFIX, infos), 0);
  add(disk, "default");
  assert_true(apply(disk, "default", CBT_BITMAP_CLEAR, NULL, NULL));
  assert_true(apply(disk, "default", CBT_BITMAP_MARK_INCONSISTENT, NULL, NULL));
  for (guint i = 0; i < G_N_ELEMENTS(others); i++)
    assert_non_null(find(disk, others[i]));
}

static void
test_names_with_dashes_come_apart_rightly(void **state)
{
  QemuDisk *disk = *state;
  const char *const names[] = {"a", "to-tape", "none-12345678", "a-11111111-2222-4333-8444-555555555555"};
  for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
    const CbtUuid base = cbt_uuid_generate();
    add(disk, names[i]);
    assert_true(apply(disk, names[i], CBT_BITMAP_CREATE_SUCCESSOR, &base, NULL));
    assert_true(apply(disk, names[i], CBT_BITMAP_ABDICATE, NULL, NULL));
    CbtBitmapInfo info = info_of(disk, names[i]);
    assert_true(cbt_uuid_equal(&info.base, &base));
  }
}

static void
test_a_freeze_by_hand_has_nothing_pending_and_no_base_after(void **state)
{
  QemuDisk *disk = *state;
  add(disk, "vendor");
  assert_true(apply(disk, "vendor", CBT_BITMAP_CREATE_SUCCESSOR, NULL, NULL));
  CbtBitmapInfo info = info_of(disk, "vendor");
  assert_int_equal(info.state, CBT_BITMAP_FROZEN);
  assert_true(cbt_uuid_is_nil(&info.pending));
  assert_true(apply(disk, "vendor", CBT_BITMAP_ABDICATE, NULL, NULL));
  info = info_of(disk, "vendor");
  assert_true(cbt_uuid_is_nil(&info.base));
  assert_string_not_equal(info.reason, "");
}

static void
test_what_is_not_recorded_has_no_base_any_more(void **state)
{
  QemuDisk *disk = *state;
  const CbtUuid base = cbt_uuid_generate();
  g_autofree char *name = qemu_bitmap_name(PREFIX, "default", &base);
  have(disk, name, TRUE);
  write_some(disk, 7);
  assert_true(apply(disk, "default", CBT_BITMAP_DISABLE, NULL, NULL));
  write_some(disk, 100);
  CbtBitmapInfo info = info_of(disk, "default");
  assert_int_equal(info.state, CBT_BITMAP_DISABLED);
  assert_int_equal(info.count, 7);
  assert_true(cbt_uuid_is_nil(&info.base));
  assert_true(apply(disk, "default", CBT_BITMAP_ENABLE, NULL, NULL));
  info = info_of(disk, "default");
  assert_true(cbt_uuid_is_nil(&info.base));
}

static void
test_after_an_unclean_end_of_qemu_nothing_is_believed(void **state)
{
  QemuDisk *disk = *state;
  const CbtUuid base = cbt_uuid_generate(), next = cbt_uuid_generate();
  g_autofree char *name = qemu_bitmap_name(PREFIX, "default", &base);
  QemuBitmap *lost = have(disk, name, FALSE);
  lost->is_inconsistent = TRUE;
  CbtBitmapInfo info = info_of(disk, "default");
  assert_int_equal(info.state, CBT_BITMAP_INCONSISTENT);
  assert_true(cbt_uuid_is_nil(&info.base));
  assert_null(qemu_bitmaps_parent(disk, PREFIX, "default"));

  assert_true(apply(disk, "default", CBT_BITMAP_CREATE_SUCCESSOR, &next, NULL));
  info = info_of(disk, "default");
  assert_int_equal(info.state, CBT_BITMAP_FROZEN);
  assert_true(cbt_uuid_is_nil(&info.base));
  assert_true(cbt_uuid_equal(&info.pending, &next));
  assert_true(apply(disk, "default", CBT_BITMAP_RECLAIM, NULL, NULL));
  info = info_of(disk, "default");
  assert_true(cbt_uuid_is_nil(&info.base));
  assert_int_equal(disk->bitmaps->len, 1);

  QemuBitmap *left = disk->bitmaps->pdata[0];
  left->is_inconsistent = TRUE, left->is_recording = FALSE;
  assert_true(apply(disk, "default", CBT_BITMAP_CREATE_SUCCESSOR, &next, NULL));
  assert_true(apply(disk, "default", CBT_BITMAP_ABDICATE, NULL, NULL));
  info = info_of(disk, "default");
  assert_true(cbt_uuid_equal(&info.base, &next));
}

static void
test_a_parent_whose_successor_was_taken_away_is_not_believed(void **state)
{
  QemuDisk *disk = *state;
  const CbtUuid base = cbt_uuid_generate(), next = cbt_uuid_generate();
  g_autofree char *name = qemu_bitmap_name(PREFIX, "default", &base);
  g_autofree char *recorder = qemu_bitmap_name(PREFIX, "default", &next);
  g_autoptr(GError) error = NULL;
  have(disk, name, TRUE);
  assert_true(apply(disk, "default", CBT_BITMAP_CREATE_SUCCESSOR, &next, NULL));
  g_ptr_array_remove(disk->bitmaps, find(disk, recorder));
  CbtBitmapInfo info = info_of(disk, "default");
  assert_int_equal(info.state, CBT_BITMAP_INCONSISTENT);
  assert_true(cbt_uuid_is_nil(&info.base));
  assert_false(apply(disk, "default", CBT_BITMAP_ENABLE, NULL, &error));
  check_error(&error, CBT_ERROR_STATE, "enable");
  assert_true(apply(disk, "default", CBT_BITMAP_CREATE_SUCCESSOR, &next, NULL));
  assert_true(apply(disk, "default", CBT_BITMAP_RECLAIM, NULL, NULL));
  info = info_of(disk, "default");
  assert_true(cbt_uuid_is_nil(&info.base));
  assert_int_equal(info.state, CBT_BITMAP_ACTIVE);
}

static void
test_a_pair_of_which_both_or_none_record_is_inconsistent(void **state)
{
  QemuDisk *disk = *state;
  const CbtUuid a = cbt_uuid_generate(), b = cbt_uuid_generate(), c = cbt_uuid_generate();
  g_autofree char *name_a = qemu_bitmap_name(PREFIX, "default", &a);
  g_autofree char *name_b = qemu_bitmap_name(PREFIX, "default", &b);
  for (guint recording = 0; recording <= 1; recording++) {
    have(disk, name_a, recording != 0);
    have(disk, name_b, recording != 0);
    CbtBitmapInfo info = info_of(disk, "default");
    assert_int_equal(info.state, CBT_BITMAP_INCONSISTENT);
    assert_true(cbt_uuid_is_nil(&info.base));
    assert_true(apply(disk, "default", CBT_BITMAP_MARK_INCONSISTENT, NULL, NULL));
    assert_int_equal(disk->bitmaps->len, 1);
    assert_true(apply(disk, "default", CBT_BITMAP_CREATE_SUCCESSOR, &c, NULL));
    assert_true(apply(disk, "default", CBT_BITMAP_ABDICATE, NULL, NULL));
    info = info_of(disk, "default");
    assert_true(cbt_uuid_equal(&info.base, &c));
    g_ptr_array_set_size(disk->bitmaps, 0);
  }
}

static void
test_refusals_name_the_bitmap(void **state)
{
  QemuDisk *disk = *state;
  g_autoptr(GError) error = NULL;
  CbtControlRequest request;
  assert_false(apply(disk, "default", CBT_BITMAP_CLEAR, NULL, &error));
  check_error(&error, CBT_ERROR_NOT_FOUND, "default");
  add(disk, "default");
  cbt_control_request_init(&request, CBT_CONTROL_ADD, "default");
  request.granularity = 65536;
  assert_false(ask(disk, &request, &error));
  check_error(&error, CBT_ERROR_EXISTS, "default");
  assert_false(apply(disk, "default", CBT_BITMAP_ABDICATE, NULL, &error));
  check_error(&error, CBT_ERROR_STATE, "abdicate");
  assert_true(apply(disk, "default", CBT_BITMAP_CREATE_SUCCESSOR, NULL, NULL));
  cbt_control_request_init(&request, CBT_CONTROL_REMOVE, "default");
  assert_false(ask(disk, &request, &error));
  check_error(&error, CBT_ERROR_STATE, "frozen");
  cbt_control_request_init(&request, CBT_CONTROL_MERGE, "default");
  g_strlcpy(request.source, "other", sizeof request.source);
  assert_false(ask(disk, &request, &error));
  check_error(&error, CBT_ERROR_NOT_FOUND, "other");
  cbt_control_request_init(&request, CBT_CONTROL_HOLD, "default");
  assert_false(ask(disk, &request, &error));
  check_error(&error, CBT_ERROR_UNSUPPORTED, "");
}

static void
test_merge_goes_where_writes_go_and_takes_all_of_the_source(void **state)
{
  QemuDisk *disk = *state;
  CbtControlRequest request;
  add(disk, "a");
  add(disk, "b");
  write_some(disk, 1);
  assert_true(apply(disk, "b", CBT_BITMAP_CREATE_SUCCESSOR, NULL, NULL));
  write_some(disk, 10); /* a: 11; b: 1 and 10 */
  assert_true(apply(disk, "a", CBT_BITMAP_CREATE_SUCCESSOR, NULL, NULL));
  cbt_control_request_init(&request, CBT_CONTROL_MERGE, "a");
  g_strlcpy(request.source, "b", sizeof request.source);
  assert_true(ask(disk, &request, NULL));
  CbtBitmapInfo info = info_of(disk, "a");
  assert_int_equal(info.count, 11);
  assert_int_equal(info.successor_count, 11);
}

/* Any sequence of events: the state is what the one transition function says, and no bitmap is left over. */
static void
test_states_follow_the_one_transition_function(void **state)
{
  QemuDisk *disk = *state;
  g_autoptr(GRand) rand = g_rand_new_with_seed(20261121);
  add(disk, "default");
  for (guint i = 0; i < 20000; i++) {
    CbtBitmapInfo before = info_of(disk, "default");
    CbtBitmapEvent event = (CbtBitmapEvent) g_rand_int_range(rand, 0, CBT_N_BITMAP_EVENTS);
    const CbtUuid pending = cbt_uuid_generate();
    CbtBitmapState next;
    gboolean allowed = cbt_bitmap_next_state(before.state, event, FALSE, &next);
    write_some(disk, 1);
    assert_int_equal(apply(disk, "default", event, &pending, NULL), allowed);
    CbtBitmapInfo after = info_of(disk, "default");
    /* There is no way to mark a bitmap in QEMU: a new one without a base says the same. */
    if (allowed && event == CBT_BITMAP_MARK_INCONSISTENT) {
      assert_int_equal(after.state, CBT_BITMAP_ACTIVE);
      assert_true(cbt_uuid_is_nil(&after.base));
    } else
      assert_int_equal(after.state, allowed ? next : before.state);
    assert_int_equal(disk->bitmaps->len, after.state == CBT_BITMAP_FROZEN ? 2 : 1);
  }
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_a_backup_moves_the_base_on_and_counts_what_came_after, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(test_reclaim_loses_nothing, setup, teardown),
      cmocka_unit_test_setup_teardown(test_others_bitmaps_are_left_alone, setup, teardown),
      cmocka_unit_test_setup_teardown(test_names_with_dashes_come_apart_rightly, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_freeze_by_hand_has_nothing_pending_and_no_base_after, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(test_what_is_not_recorded_has_no_base_any_more, setup, teardown),
      cmocka_unit_test_setup_teardown(test_after_an_unclean_end_of_qemu_nothing_is_believed, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_parent_whose_successor_was_taken_away_is_not_believed, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(test_a_pair_of_which_both_or_none_record_is_inconsistent, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(test_refusals_name_the_bitmap, setup, teardown),
      cmocka_unit_test_setup_teardown(test_merge_goes_where_writes_go_and_takes_all_of_the_source, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(test_states_follow_the_one_transition_function, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
