/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* On what qemu-ga 7.2 answered in real guests (tests/golden/qemu/qga-*): one with a logical volume over two
 * disks, a partition, and a LUKS volume on another partition; one with disks behind PCI bridges; one with
 * SCSI, IDE and virtio. The answers that no guest here gives are written out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cbt/qemu/json.h>
#include <cbt/qemu/quiesce-map.h>
#include <string.h>

typedef struct {
  const char *name, *serial, *bus;
  guint slot, function;
} Disk;

static GPtrArray *
make_disks(const Disk *disks, guint n)
{
  GPtrArray *array = g_ptr_array_new_with_free_func(g_free);
  for (guint i = 0; i < n; i++) {
    QemuDisk *disk = g_new0(QemuDisk, 1);
    disk->node = (char *) disks[i].name;
    disk->serial = (char *) disks[i].serial;
    disk->has_pci = disks[i].bus != NULL;
    disk->pci_bus = (char *) disks[i].bus;
    disk->pci_slot = disks[i].slot;
    disk->pci_function = disks[i].function;
    g_ptr_array_add(array, disk);
  }
  return array;
}

/* The plan for DISKS of the guest in ANSWERS: {"guest-get-fsinfo": ..., "guest-get-disks": ...}. */
static QemuQuiescePlan *
plan_of(JsonNode *answers, const Disk *disks, guint n)
{
  JsonObject *object = json_node_get_object(answers);
  g_autoptr(GError) error = NULL;
  JsonNode *list = json_object_get_member(object, "guest-get-disks");
  g_autoptr(GPtrArray) filesystems =
      qga_parse_fsinfo(json_object_get_member(object, "guest-get-fsinfo"), &error);
  g_autoptr(GPtrArray) guest_disks = list ? qga_parse_disks(list, &error) : NULL;
  g_autoptr(GPtrArray) host_disks = disks ? make_disks(disks, n) : NULL;
  assert_string_equal(error ? error->message : "", "");
  return qemu_quiesce_plan_new(filesystems, guest_disks, host_disks);
}

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

static void
expect(QemuQuiescePlan *plan, const char *mountpoints, gboolean is_all, guint n_min)
{
  g_autofree char *joined = g_strjoinv(" ", plan->mountpoints);
  assert_string_equal(joined, mountpoints);
  assert_int_equal(plan->is_all, is_all);
  assert_int_equal(plan->n_min, n_min);
}

static void
expect_recorded(const char *name, const Disk *disks, guint n, const char *mountpoints, gboolean is_all,
                const char *note)
{
  g_autoptr(JsonNode) answers = load(name);
  g_autoptr(QemuQuiescePlan) plan = plan_of(answers, disks, n);
  guint n_mounted = g_strv_length(plan->mountpoints);
  expect(plan, mountpoints, is_all, n_mounted);
  assert_int_equal(plan->n_max, n_mounted);
  if (note && (!plan->note || !strstr(plan->note, note)))
    fail_msg("'%s' does not say '%s'", plan->note ? plan->note : "nothing", note);
  if (!note)
    assert_null(plan->note);
}

static void
expect_written(const char *text, const Disk *disks, guint n, const char *mountpoints, gboolean is_all,
               guint n_min)
{
  g_autoptr(JsonNode) answers = json_from_string(text, NULL);
  assert_non_null(answers);
  g_autoptr(QemuQuiescePlan) plan = plan_of(answers, disks, n);
  expect(plan, mountpoints, is_all, n_min);
}

#define LVM  "qga-lvm-7.2.json"
#define Q35  "qga-q35-7.2.json"
#define SCSI "qga-scsi-7.2.json"

static void
test_volume_over_two_disks_counts_if_one_of_them_is_backed_up(void **state)
{
  static const Disk a = {"a", "cbt-a", "pci.0", 3, 0}, b = {"b", "cbt-b", NULL, 0, 0};
  (void) state;
  expect_recorded(LVM, &a, 1, "/mnt/lv", FALSE, NULL);
  expect_recorded(LVM, &b, 1, "/mnt/lv", FALSE, NULL);
}

static void
test_partition_and_luks_volume_lead_to_their_disk(void **state)
{
  static const Disk by_both = {"p", "cbt-p", "pci.0", 5, 0}, by_serial = {"p", "cbt-p", NULL, 0, 0};
  static const Disk by_pci = {"p", NULL, "pci.0", 5, 0};
  (void) state;
  expect_recorded(LVM, &by_both, 1, "/mnt/luks /mnt/p1", FALSE, NULL);
  expect_recorded(LVM, &by_serial, 1, "/mnt/luks /mnt/p1", FALSE, NULL);
  expect_recorded(LVM, &by_pci, 1, "/mnt/luks /mnt/p1", FALSE, NULL);
}

static void
test_disk_without_serial_is_found_by_its_slot(void **state)
{
  static const Disk disks[] = {{"s", NULL, "pci.0", 6, 0}, {"a", "cbt-a", "pci.0", 3, 0}};
  (void) state;
  expect_recorded(LVM, disks, 1, "/mnt/vdd", FALSE, NULL);
  expect_recorded(LVM, disks, 2, "/mnt/lv /mnt/vdd", FALSE, NULL);
}

static void
test_command_without_list_is_for_all_file_systems(void **state)
{
  static const Disk disks[] = {{"s", NULL, "pci.0", 6, 0},
                               {"a", "cbt-a", "pci.0", 3, 0},
                               {"p", "cbt-p", "pci.0", 5, 0},
                               {"b", "cbt-b", "pci.0", 4, 0}};
  (void) state;
  expect_recorded(LVM, disks, 4, "/mnt/luks /mnt/p1 /mnt/lv /mnt/vdd", TRUE, NULL);
  expect_recorded(LVM, NULL, 0, "/mnt/luks /mnt/p1 /mnt/lv /mnt/vdd", TRUE, NULL);
}

static void
test_disk_that_is_not_found_freezes_all(void **state)
{
  static const Disk unknown = {"x", "cbt-x", NULL, 0, 0}, other_slot = {"y", NULL, "pci.0", 9, 0};
  static const Disk twice[] = {{"a", "cbt-a", "pci.0", 3, 0}, {"b", "cbt-a", NULL, 0, 0}};
  (void) state;
  expect_recorded(LVM, &unknown, 1, "/mnt/luks /mnt/p1 /mnt/lv /mnt/vdd", TRUE, "the disk x is not found");
  expect_recorded(LVM, &other_slot, 1, "/mnt/luks /mnt/p1 /mnt/lv /mnt/vdd", TRUE, "the disk y is not found");
  expect_recorded(LVM, twice, 2, "/mnt/luks /mnt/p1 /mnt/lv /mnt/vdd", TRUE, "the disk b");
}

static void
test_bus_numbers_behind_bridges_are_not_believed(void **state)
{
  static const Disk bridged = {"a", NULL, "rp1", 0, 0}, direct = {"c", NULL, "pcie.0", 0x10, 0};
  (void) state;
  expect_recorded(Q35, &direct, 1, "/mnt/vda", FALSE, NULL);
  expect_recorded(Q35, &bridged, 1, "/mnt/vdc /mnt/vdb /mnt/vda", TRUE, "the disk a is not found");
}

static void
test_disks_of_one_controller_are_told_apart_by_serial_alone(void **state)
{
  static const Disk with = {"a", "cbt-a", "pci.0", 0x10, 0}, without = {"b", NULL, "pci.0", 0x10, 0};
  static const Disk alone = {"c", NULL, "pci.0", 0x11, 0}, ide = {"d", "cbt-d", "pci.0", 1, 1};
  (void) state;
  expect_recorded(SCSI, &with, 1, "/mnt/sda", FALSE, NULL);
  expect_recorded(SCSI, &without, 1, "/mnt/sdd /mnt/sdc /mnt/sdb /mnt/sda /mnt/vda", TRUE, "the disk b");
  expect_recorded(SCSI, &alone, 1, "/mnt/sdc", FALSE, NULL);
  expect_recorded(SCSI, &ide, 1, "/mnt/sdd", FALSE, NULL);
}

#define PCI(slot)     "\"pci-controller\":{\"domain\":0,\"bus\":0,\"slot\":" slot ",\"function\":0}"
#define ADDRESS(rest) "{\"bus-type\":\"scsi\",\"bus\":0,\"target\":0,\"unit\":0," rest "}"
#define FS(name, mount, type, disks)                                                                         \
  "{\"name\":\"" name "\",\"mountpoint\":\"" mount "\",\"type\":\"" type "\",\"disk\":[" disks "]}"

static void
test_serial_as_udev_writes_it_is_the_serial(void **state)
{
  static const char answers[] = "{\"guest-get-fsinfo\":[" FS(
      "sda1", "/", "ext4",
      ADDRESS("\"serial\":\"0QEMU_QEMU_HARDDISK_my_serial\"," PCI(
          "3"))) "," FS("sdb1", "/b", "ext4",
                        ADDRESS("\"serial\":\"0QEMU_QEMU_HARDDISK_other\"," PCI("3"))) "]}";
  static const Disk disk = {"a", "my serial", "pci.0", 3, 0}, cut = {"a", "erial", "pci.0", 3, 0};
  (void) state;
  expect_written(answers, &disk, 1, "/", FALSE, 1);
  expect_written(answers, &cut, 1, "/ /b", TRUE, 2);
}

static void
test_guest_disks_of_one_serial_are_told_apart_by_slot(void **state)
{
  static const char answers[] =
      "{\"guest-get-fsinfo\":[" FS("sda1", "/", "ext4", ADDRESS("\"dev\":\"/dev/sda1\"," PCI("3"))) "," FS(
          "sdb1", "/b", "ext4",
          ADDRESS("\"dev\":\"/dev/sdb1\"," PCI(
              "4"))) "],\"guest-get-disks\":["
                     "{\"name\":\"/dev/sda1\",\"partition\":true,\"dependencies\":[\"/dev/sda\"]},"
                     "{\"name\":\"/dev/sdb1\",\"partition\":true,\"dependencies\":[\"/dev/sdb\"]},"
                     "{\"name\":\"/dev/sda\",\"partition\":false,\"address\":" ADDRESS(
                         "\"serial\":\"same\"," PCI(
                             "3")) "},"
                                   "{\"name\":\"/dev/sdb\",\"partition\":false,\"address\":" ADDRESS(
                                       "\"serial\":\"same\"," PCI("4")) "}]}";
  static const Disk disk = {"b", "same", "pci.0", 4, 0}, nowhere = {"b", "same", NULL, 0, 0};
  (void) state;
  expect_written(answers, &disk, 1, "/b", FALSE, 1);
  expect_written(answers, &nowhere, 1, "/ /b", TRUE, 2);
}

static void
test_what_is_on_the_network_or_in_memory_is_left_alone_and_a_file_is_not(void **state)
{
  static const char answers[] =
      "{\"guest-get-fsinfo\":[" FS("vda", "/", "ext4", "{\"bus-type\":\"virtio\",\"serial\":\"a\"}") "," FS(
          "share", "/net", "cifs", "") "," FS("ram0", "/ram", "ext4", "") "," FS("loop0", "/file", "ext4",
                                                                                 "") "]}";
  static const Disk disk = {"a", "a", NULL, 0, 0};
  (void) state;
  expect_written(answers, &disk, 1, "/ /file", FALSE, 2);
}

static void
test_kinds_that_cannot_be_frozen_are_not_counted_but_told(void **state)
{
  static const char answers[] = "{\"guest-get-fsinfo\":[" FS("vda1", "/boot/efi", "vfat", "") "," FS(
      "vda2", "/", "ext4", "") "," FS("vda2", "/again", "ext4", "") "," FS("sr0", "/cd", "iso9660", "") "]}";
  (void) state;
  g_autoptr(JsonNode) node = json_from_string(answers, NULL);
  g_autoptr(QemuQuiescePlan) plan = plan_of(node, NULL, 0);
  expect(plan, "/boot/efi / /again /cd", TRUE, 1);
  assert_int_equal(plan->n_max, 3);
  assert_string_equal(plan->unfrozen, "/boot/efi (vfat)");
}

static void
test_volumes_of_windows_are_counted_by_vss(void **state)
{
  static const char answers[] =
      "{\"guest-get-fsinfo\":[" FS("\\\\\\\\?\\\\Volume{1}\\\\", "C:\\\\", "NTFS", "") "," FS(
          "\\\\\\\\?\\\\Volume{2}\\\\", "System Reserved", "NTFS", "") "]}";
  (void) state;
  g_autoptr(JsonNode) node = json_from_string(answers, NULL);
  g_autoptr(QemuQuiescePlan) plan = plan_of(node, NULL, 0);
  assert_int_equal(plan->n_min, 1);
  assert_int_equal(plan->n_max, G_MAXUINT);
  assert_null(plan->unfrozen);
}

static void
test_guest_that_goes_in_circles_is_borne(void **state)
{
  static const char circle[] = "{\"guest-get-fsinfo\":[" FS("dm-0", "/", "ext4", "") "," FS(
      "vda", "/a", "ext4",
      "{\"bus-type\":\"virtio\",\"serial\":\"a\"}") "],\"guest-get-disks\":["
                                                    "{\"name\":\"/dev/dm-0\",\"dependencies\":[\"/dev/"
                                                    "dm-1\"]},"
                                                    "{\"name\":\"/dev/dm-1\",\"dependencies\":[\"/dev/"
                                                    "dm-0\",\"/dev/dm-1\",\"/dev/none\"]}]}";
  static const Disk disk = {"a", "a", NULL, 0, 0};
  (void) state;
  expect_written(circle, &disk, 1, "/ /a", TRUE, 2);
  expect_written("{\"guest-get-fsinfo\":[]}", &disk, 1, "", TRUE, 0);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_volume_over_two_disks_counts_if_one_of_them_is_backed_up),
      cmocka_unit_test(test_partition_and_luks_volume_lead_to_their_disk),
      cmocka_unit_test(test_disk_without_serial_is_found_by_its_slot),
      cmocka_unit_test(test_command_without_list_is_for_all_file_systems),
      cmocka_unit_test(test_disk_that_is_not_found_freezes_all),
      cmocka_unit_test(test_bus_numbers_behind_bridges_are_not_believed),
      cmocka_unit_test(test_disks_of_one_controller_are_told_apart_by_serial_alone),
      cmocka_unit_test(test_serial_as_udev_writes_it_is_the_serial),
      cmocka_unit_test(test_guest_disks_of_one_serial_are_told_apart_by_slot),
      cmocka_unit_test(test_what_is_on_the_network_or_in_memory_is_left_alone_and_a_file_is_not),
      cmocka_unit_test(test_kinds_that_cannot_be_frozen_are_not_counted_but_told),
      cmocka_unit_test(test_volumes_of_windows_are_counted_by_vss),
      cmocka_unit_test(test_guest_that_goes_in_circles_is_borne),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
