/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a point is called, and how a request crosses to cbt-quiesce; the rest is in
 * tests/integration/test_quiesce.sh. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cbt/qemu/quiesce-private.h>
#include <string.h>

/* A freeze of two file systems that went as it should. */
#define GOOD(level)                                                                                          \
  {                                                                                                          \
    .asked = level, .has_filesystems = TRUE, .begin_us = 1000, .end_us = 6000, .n_frozen = 2, .n_thawed = 2  \
  }

static void
expect(const QemuQuiesceFacts *facts, QemuQuiesceLevel level, const char *why)
{
  g_auto(QemuQuiesceResult) result = {0};
  qemu_quiesce_facts_judge(facts, &result);
  assert_int_equal(result.level, level);
  if (why && (!result.why || !strstr(result.why, why)))
    fail_msg("'%s' does not say '%s'", result.why ? result.why : "nothing", why);
  if (!why)
    assert_null(result.why);
}

static void
test_level_is_what_was_asked_when_all_went_well(void **state)
{
  QemuQuiesceFacts fs = GOOD(QEMU_QUIESCE_FS), app = GOOD(QEMU_QUIESCE_APP);
  (void) state;
  app.is_app_ready = TRUE;
  expect(&fs, QEMU_QUIESCE_FS, NULL);
  expect(&app, QEMU_QUIESCE_APP, NULL);
}

static void
test_scripts_that_are_not_ready_leave_the_file_systems(void **state)
{
  QemuQuiesceFacts facts = GOOD(QEMU_QUIESCE_APP);
  (void) state;
  facts.app_why = (char *) "the lock was not granted";
  expect(&facts, QEMU_QUIESCE_FS, "the lock was not granted");
}

static void
test_counts_that_differ_leave_nothing(void **state)
{
  QemuQuiesceFacts less = GOOD(QEMU_QUIESCE_FS), more = GOOD(QEMU_QUIESCE_APP);
  (void) state;
  less.n_thawed = 1;
  more.n_thawed = 3;
  more.is_app_ready = TRUE;
  expect(&less, QEMU_QUIESCE_NONE, "2 file systems were frozen, but 1 thawed");
  expect(&more, QEMU_QUIESCE_NONE, "2 file systems were frozen, but 3 thawed");
}

static void
test_first_reason_stays(void **state)
{
  g_auto(QemuQuiesceResult) result = {0};
  QemuQuiesceFacts facts = GOOD(QEMU_QUIESCE_FS);
  (void) state;
  qemu_quiesce_facts_break(&facts, "the %s one", "first");
  qemu_quiesce_facts_break(&facts, "the second one");
  facts.is_left_frozen = TRUE;
  expect(&facts, QEMU_QUIESCE_NONE, "the first one; the guest may still be frozen");
  qemu_quiesce_facts_judge(&facts, &result);
  assert_true(result.is_left_frozen);
  assert_int_equal(result.frozen_ms, 5);
  qemu_quiesce_facts_clear(&facts);
}

static void
test_guest_without_file_systems_may_have_applications(void **state)
{
  QemuQuiesceFacts facts = {.asked = QEMU_QUIESCE_APP};
  (void) state;
  expect(&facts, QEMU_QUIESCE_NONE, "no mounted file system");
  facts.is_app_ready = TRUE;
  expect(&facts, QEMU_QUIESCE_APP, NULL);
}

static void
test_what_cannot_be_frozen_is_named_beside_the_level(void **state)
{
  QemuQuiesceFacts facts = GOOD(QEMU_QUIESCE_FS);
  (void) state;
  facts.unfrozen = (char *) "/boot/efi (vfat)";
  expect(&facts, QEMU_QUIESCE_FS, "/boot/efi (vfat)");
}

static void
test_guest_that_was_not_frozen_is_nothing(void **state)
{
  QemuQuiesceFacts facts = {.asked = QEMU_QUIESCE_FS, .has_filesystems = TRUE};
  (void) state;
  expect(&facts, QEMU_QUIESCE_NONE, "was not frozen");
}

static void
test_request_comes_through_with_its_defaults(void **state)
{
  QemuDisk disk = {.drive = (char *) "d0",
                   .serial = (char *) "s",
                   .has_pci = TRUE,
                   .pci_bus = (char *) "pci.0",
                   .pci_slot = 5,
                   .pci_function = 1};
  g_autoptr(GPtrArray) disks = g_ptr_array_new();
  g_autoptr(GError) error = NULL;
  g_auto(QemuQuiesceRequest) sent = {0}, heard = {0};
  (void) state;
  g_ptr_array_add(disks, &disk);
  QemuQuiesceOptions options = {
      .socket = "/a \"socket\"", .disks = disks, .level = QEMU_QUIESCE_APP, .pre_script = "/p"};
  assert_true(qemu_quiesce_request_init(&sent, &options, &error));
  g_autoptr(JsonObject) object = qemu_quiesce_request_encode(&sent);
  assert_true(qemu_quiesce_request_decode(&heard, object, &error));
  assert_string_equal(heard.socket, options.socket);
  assert_int_equal(heard.level, QEMU_QUIESCE_APP);
  assert_int_equal(heard.budget_ms, 5000);
  assert_string_equal(heard.pre_script, "/p");
  assert_string_equal(heard.post_script, "/etc/cbt-backup/post-thaw");
  const QemuDisk *copy = heard.disks->pdata[0];
  assert_string_equal(qemu_disk_lasting_name(copy), "d0");
  assert_string_equal(copy->serial, "s");
  assert_string_equal(copy->pci_bus, "pci.0");
  assert_true(copy->has_pci && copy->pci_slot == 5 && copy->pci_function == 1);
}

static void
expect_invalid(const QemuQuiesceOptions *options, const char *fragment)
{
  g_autoptr(GError) error = NULL;
  g_auto(QemuQuiesceRequest) request = {0};
  assert_false(qemu_quiesce_request_init(&request, options, &error));
  assert_int_equal(cbt_error_code(error), CBT_ERROR_INVALID);
  assert_non_null(strstr(error->message, fragment));
}

static void
test_requests_that_cannot_be_are_refused(void **state)
{
  g_autoptr(GPtrArray) disks = g_ptr_array_new();
  QemuQuiesceOptions long_budget = {.socket = "/s", .level = QEMU_QUIESCE_FS, .budget_ms = 9001};
  QemuQuiesceOptions no_level = {.socket = "/s"};
  QemuQuiesceOptions no_disks = {.socket = "/s", .level = QEMU_QUIESCE_FS, .disks = disks};
  g_autoptr(JsonObject) empty = json_object_new();
  g_autoptr(GError) error = NULL;
  g_auto(QemuQuiesceRequest) request = {0};
  (void) state;
  expect_invalid(&long_budget, "9000 ms at most, not 9001");
  expect_invalid(&no_level, "fs or app");
  expect_invalid(&no_disks, "no disks");
  json_object_set_string_member(empty, "level", "fs");
  assert_false(qemu_quiesce_request_decode(&request, empty, &error));
  assert_non_null(strstr(error->message, "socket is missing"));
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_level_is_what_was_asked_when_all_went_well),
      cmocka_unit_test(test_scripts_that_are_not_ready_leave_the_file_systems),
      cmocka_unit_test(test_counts_that_differ_leave_nothing),
      cmocka_unit_test(test_first_reason_stays),
      cmocka_unit_test(test_guest_without_file_systems_may_have_applications),
      cmocka_unit_test(test_what_cannot_be_frozen_is_named_beside_the_level),
      cmocka_unit_test(test_guest_that_was_not_frozen_is_nothing),
      cmocka_unit_test(test_request_comes_through_with_its_defaults),
      cmocka_unit_test(test_requests_that_cannot_be_are_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
