/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* On what QEMU 7.2 answered (tests/golden/qemu); the real one is met in tests/integration/test_qemu_disks.sh.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cbt/qemu/disks.h>
#include <cbt/qemu/json.h>
#include <string.h>

static JsonNode *
load(const char *name)
{
  g_autofree char *path = g_build_filename(CBT_GOLDEN_DIR, "qemu", name, NULL);
  g_autofree char *text = NULL;
  assert_true(g_file_get_contents(path, &text, NULL, NULL));
  JsonNode *node = json_from_string(text, NULL);
  assert_non_null(node);
  return node;
}

typedef struct {
  JsonNode *answers;
  const char *fails_at; /* a question, or NULL */
  CbtErrorCode code;
} Recorded;

static gboolean
ask(const char *path, const char *property, JsonNode **answer, gpointer user_data, GError **error)
{
  Recorded *recorded = user_data;
  g_autofree char *question =
      property ? g_strdup_printf("qom-get %s %s", path, property) : g_strdup_printf("qom-list %s", path);
  JsonNode *node = json_object_get_member(json_node_get_object(recorded->answers), question);
  if (!node || g_strcmp0(question, recorded->fails_at) == 0) {
    cbt_set_error(error, recorded->code, NULL, "refused %s", question);
    return FALSE;
  }
  *answer = json_node_copy(node);
  return TRUE;
}

static GPtrArray *
recorded_disks(void)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(JsonNode) answer = load("query-block-7.2.json"), answers = load("qom-7.2.json");
  Recorded recorded = {.answers = answers};
  GPtrArray *disks = qemu_disks_parse(answer, &error);
  assert_non_null(disks);
  if (!qemu_disks_fill(disks, ask, &recorded, &error))
    fail_msg("%s", error->message);
  return disks;
}

static QemuDisk *
find(GPtrArray *disks, const char *name)
{
  g_autoptr(GError) error = NULL;
  QemuDisk *disk = qemu_disks_find(disks, name, &error);
  assert_string_equal(error ? error->message : "", "");
  return disk;
}

static void
expect_not_found(GPtrArray *disks, const char *name, CbtErrorCode code, const char *fragment)
{
  g_autoptr(GError) error = NULL;
  assert_null(qemu_disks_find(disks, name, &error));
  assert_int_equal(cbt_error_code(error), code);
  assert_non_null(strstr(error->message, fragment));
}

static void
test_every_kind_of_disk_is_told_as_it_is(void **state)
{
  (void) state;
  g_autoptr(GPtrArray) disks = recorded_disks();
  assert_int_equal(disks->len, 8);
  QemuDisk *virtio = find(disks, "drive0");
  assert_string_equal(virtio->node, "#block394");
  assert_string_equal(virtio->format, "qcow2");
  assert_string_equal(virtio->filename, "over.qcow2");
  assert_string_equal(virtio->device_path, "/machine/peripheral/vd0");
  assert_string_equal(virtio->iothread, "io0");
  assert_int_equal(virtio->size_bytes, 16 << 20);
  assert_int_equal(virtio->backing_depth, 1);
  assert_true(virtio->has_pci && virtio->pci_slot == 0x10 && virtio->pci_function == 0);
  assert_string_equal(virtio->pci_bus, "pci.0");
  QemuDisk *anonymous = find(disks, "disk1");
  assert_null(anonymous->drive);
  assert_null(anonymous->iothread);
  assert_null(anonymous->serial);
  assert_string_equal(anonymous->device_path, "/machine/peripheral-anon/device[0]");
  assert_string_equal(find(disks, "virtio0")->format, "raw");
}

static void
test_disks_behind_a_controller_have_its_iothread_and_address(void **state)
{
  (void) state;
  g_autoptr(GPtrArray) disks = recorded_disks();
  QemuDisk *threaded = find(disks, "sd2"), *plain = find(disks, "disk3"), *ide = find(disks, "hd4");
  assert_string_equal(threaded->iothread, "io1");
  assert_string_equal(threaded->serial, "s-sd2");
  assert_int_equal(threaded->pci_slot, 2);
  assert_int_equal(threaded->lun, 0);
  assert_null(plain->iothread);
  assert_true(plain->has_pci);
  assert_null(ide->iothread);
  assert_true(ide->has_pci && ide->pci_slot == 1 && ide->pci_function == 1);
  assert_int_equal(ide->scsi_id, -1);
}

static void
test_read_only_and_empty_drives_are_left_out_with_the_reason(void **state)
{
  (void) state;
  g_autoptr(GPtrArray) disks = recorded_disks();
  guint n_left_out = 0;
  for (guint i = 0; i < disks->len; i++)
    n_left_out += ((QemuDisk *) disks->pdata[i])->left_out != NULL;
  assert_int_equal(n_left_out, 2);
  expect_not_found(disks, "ro0", CBT_ERROR_STATE, "read-only");
  expect_not_found(disks, "ide1-cd0", CBT_ERROR_STATE, "empty");
}

static void
test_names_that_are_missing_or_mean_several_are_refused(void **state)
{
  (void) state;
  g_autoptr(GPtrArray) disks = recorded_disks();
  QemuDisk *other = find(disks, "disk3");
  expect_not_found(disks, "unused", CBT_ERROR_NOT_FOUND, "unused");
  expect_not_found(disks, "", CBT_ERROR_NOT_FOUND, "no disk");
  assert_ptr_equal(find(disks, "s-sd2"), find(disks, "drive2"));
  other->serial = g_strdup("s-sd2");
  expect_not_found(disks, "s-sd2", CBT_ERROR_INVALID, "Several");
}

static void
test_lasting_name_is_never_one_that_qemu_made_up(void **state)
{
  (void) state;
  g_autoptr(GPtrArray) disks = recorded_disks();
  QemuDisk *disk = find(disks, "drive0");
  assert_string_equal(qemu_disk_lasting_name(find(disks, "disk1")), "disk1");
  assert_string_equal(qemu_disk_lasting_name(disk), "drive0");
  g_clear_pointer(&disk->drive, g_free);
  assert_string_equal(qemu_disk_lasting_name(disk), "s-vd0");
  g_clear_pointer(&disk->serial, g_free);
  assert_null(qemu_disk_lasting_name(disk)); /* its qdev is a path */
}

static void
test_bitmaps_of_the_node_are_known(void **state)
{
  (void) state;
  g_autoptr(GPtrArray) disks = recorded_disks();
  const QemuDisk *disk = find(disks, "disk1");
  const QemuBitmap *bitmap = qemu_disk_bitmap(disk, "cbt-1"), *disabled = qemu_disk_bitmap(disk, "tmp");
  assert_true(bitmap->is_recording && bitmap->is_persistent && !bitmap->is_busy && !bitmap->is_inconsistent);
  assert_int_equal(bitmap->granularity, 65536);
  assert_false(disabled->is_recording || disabled->is_persistent);
  assert_null(qemu_disk_bitmap(disk, "cbt-2"));
}

/* Not to know whether there is an iothread must never look as if there were none. */
static void
test_device_that_cannot_be_asked_is_an_error(void **state)
{
  static const char *const questions[] = {
      "qom-list /machine/peripheral/vd0",           "qom-get /machine/peripheral/vd0 iothread",
      "qom-get /machine/peripheral/sd2 parent_bus", "qom-list /machine/peripheral/scsi0",
      "qom-get /machine/peripheral/scsi0 iothread", "qom-get /machine/peripheral/vd0 serial"};
  (void) state;
  for (guint i = 0; i < G_N_ELEMENTS(questions); i++) {
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) answer = load("query-block-7.2.json"), answers = load("qom-7.2.json");
    Recorded recorded = {.answers = answers, .fails_at = questions[i], .code = CBT_ERROR_NOT_FOUND};
    g_autoptr(GPtrArray) disks = qemu_disks_parse(answer, NULL);
    assert_false(qemu_disks_fill(disks, ask, &recorded, &error));
    assert_int_equal(cbt_error_code(error), CBT_ERROR_NOT_FOUND);
  }
}

static void
test_iothreads_by_queue_count(void **state)
{
  static const char query[] =
      "[{\"device\": \"\", \"qdev\": \"v\", \"inserted\": {\"node-name\": \"n\", \"drv\": \"raw\", "
      "\"ro\": false, \"image\": {\"virtual-size\": 512}}}]";
  static const char qom[] =
      "{\"qom-list /machine/peripheral/v\": [{\"name\": \"iothread\"}, {\"name\": "
      "\"iothread-vq-mapping\"}], \"qom-get /machine/peripheral/v iothread\": \"\", \"qom-get "
      "/machine/peripheral/v iothread-vq-mapping\": [{\"iothread\": \"io7\"}, {\"iothread\": \"io8\"}]}";
  (void) state;
  g_autoptr(JsonNode) answer = json_from_string(query, NULL), answers = json_from_string(qom, NULL);
  Recorded recorded = {.answers = answers};
  g_autoptr(GPtrArray) disks = qemu_disks_parse(answer, NULL);
  assert_true(qemu_disks_fill(disks, ask, &recorded, NULL));
  assert_string_equal(find(disks, "n")->iothread, "io7");
}

static void
test_answers_of_other_shapes_are_corrupt(void **state)
{
  static const char *const bad[] = {
      "{}",
      "7",
      "null",
      "[7]",
      "[null]",
      "[{\"inserted\": {}}]",
      "[{\"inserted\": {\"node-name\": \"n\"}}]",
      "[{\"inserted\": {\"node-name\": \"n\", \"image\": {\"virtual-size\": -1}}}]",
      "[{\"inserted\": {\"node-name\": 4, \"image\": {\"virtual-size\": 1}}}]"};
  (void) state;
  for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) node = json_from_string(bad[i], NULL);
    assert_null(qemu_disks_parse(node, &error));
    assert_int_equal(cbt_error_code(error), CBT_ERROR_CORRUPT);
  }
}

#define BEHIND(filter)                                                                                       \
  "[{\"device\": \"root\", \"qdev\": \"vd0\", \"inserted\": {\"node-name\": \"" filter                       \
  "\", \"drv\": \"copy-before-write\", \"image\": {\"virtual-size\": 65536}}}]"

/* FILE: which node is opened on which descriptors; DISK: which one these are noted for. */
static GPtrArray *
seen_through(const char *filter_text, const char *file, int disk)
{
  g_autofree char *nodes_text = g_strdup_printf(
      "[{\"node-name\": \"#block1\", \"drv\": \"qcow2\", \"image\": {\"virtual-size\": 65536}, "
      "\"dirty-bitmaps\": [{\"name\": \"b\"}]}, {\"node-name\": \"%s\", \"file\": "
      "\"/dev/fdset/4\"}]",
      file);
  g_autofree char *fdsets_text = g_strdup_printf(
      "[{\"fdset-id\": 4, \"fds\": [{\"fd\": 9, \"opaque\": \"{\\\"cbt-prefix\\\": \\\"cbt-a\\\", "
      "\\\"disk\\\": %d, \\\"node\\\": \\\"#block1\\\"}\"}]}]",
      disk);
  g_autoptr(JsonNode) answer = json_from_string(filter_text, NULL),
                      nodes = json_from_string(nodes_text, NULL);
  g_autoptr(JsonNode) fdsets = json_from_string(fdsets_text, NULL);
  assert_non_null(fdsets);
  g_autoptr(JsonNode) shown = qemu_disks_see_through(answer, nodes, fdsets);
  GPtrArray *disks = qemu_disks_parse(shown, NULL);
  assert_non_null(disks);
  assert_int_equal(disks->len, 1);
  return disks;
}

static void
test_disk_behind_the_filter_of_a_backup_is_told_as_if_it_were_not_there(void **state)
{
  (void) state;
  static const char *const ours[] = {BEHIND("cbt-a-cbw0"), BEHIND("cbt-a-flt0")};
  for (guint i = 0; i < G_N_ELEMENTS(ours); i++) {
    g_autoptr(GPtrArray) disks = seen_through(ours[i], "cbt-a-file0", 0);
    const QemuDisk *disk = disks->pdata[0];
    assert_string_equal(disk->node, "#block1");
    assert_string_equal(disk->format, "qcow2");
    assert_true(g_str_has_prefix(disk->filter, "cbt-a-"));
    assert_string_equal(disk->qdev, "vd0");
    assert_null(disk->left_out);
    assert_non_null(qemu_disk_bitmap(disk, "b"));
  }
}

static void
test_disk_behind_another_filter_is_left_out(void **state)
{
  (void) state;
  static const struct {
    const char *answer, *file;
    int disk;
  } cases[] = {
      {BEHIND("cbt-b-cbw0"), "cbt-a-file0", 0}, /* nobody noted it */
      {BEHIND("cbt-a-cbw1"), "cbt-a-file0", 0}, {BEHIND("cbt-a-cbw0"), "cbt-b-file0", 0},
      {BEHIND("vendor"), "cbt-a-file0", 0},     {BEHIND("cbt-a-snap0"), "cbt-a-file0", 0},
  };
  for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
    g_autoptr(GPtrArray) disks = seen_through(cases[i].answer, cases[i].file, cases[i].disk);
    const QemuDisk *disk = disks->pdata[0];
    assert_null(disk->filter);
    assert_non_null(strstr(disk->left_out, "another program's backup"));
  }
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_kind_of_disk_is_told_as_it_is),
      cmocka_unit_test(test_disks_behind_a_controller_have_its_iothread_and_address),
      cmocka_unit_test(test_read_only_and_empty_drives_are_left_out_with_the_reason),
      cmocka_unit_test(test_names_that_are_missing_or_mean_several_are_refused),
      cmocka_unit_test(test_lasting_name_is_never_one_that_qemu_made_up),
      cmocka_unit_test(test_bitmaps_of_the_node_are_known),
      cmocka_unit_test(test_device_that_cannot_be_asked_is_an_error),
      cmocka_unit_test(test_iothreads_by_queue_count),
      cmocka_unit_test(test_answers_of_other_shapes_are_corrupt),
      cmocka_unit_test(test_disk_behind_the_filter_of_a_backup_is_told_as_if_it_were_not_there),
      cmocka_unit_test(test_disk_behind_another_filter_is_left_out),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
