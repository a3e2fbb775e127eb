/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/live-vm.h>

#include <common/error.h>
#include <common/name.h>
#include <string.h>

void
live_vm_disk_free(gpointer data)
{
  LiveVmDisk *disk = data;
  g_free(disk->name);
  g_free(disk->node);
  g_free(disk);
}

const char *
live_vm_path_of(const QemuDisk *disk)
{
  return disk->filename && *disk->filename ? disk->filename : disk->node;
}

gboolean
live_vm_is_unseen(const QemuDisk *disk)
{
  return !disk->image && disk->filename && g_path_is_absolute(disk->filename);
}

char *
live_vm_make_path(const CatalogueVm *vm, const char *name, const QemuDisk *disk)
{
  return live_vm_is_unseen(disk) ? g_strdup_printf("%s/%s", vm->name, name)
                                 : g_strdup(disk->image ? disk->image : live_vm_path_of(disk));
}

static gboolean
has_disk(const CatalogueVm *vm, const char *name)
{
  for (guint i = 0; i < vm->disks->len; i++)
    if (strcmp(((CatalogueDisk *) vm->disks->pdata[i])->name, name) == 0)
      return TRUE;
  return FALSE;
}

/* QEMU's name with what a name of ours cannot have made '_'; another one if the vm has that already. */
static char *
make_name(const CatalogueVm *vm, const char *node)
{
  g_autofree char *plain = g_strndup(node, CBT_NAME_MAX - 4);
  g_strcanon(plain, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._+-", '_');
  if (!g_ascii_isalnum(*plain))
    *plain = '_';
  char *name = g_strdup(plain);
  for (guint n = 2; has_disk(vm, name); n++) {
    g_free(name);
    name = g_strdup_printf("%s-%u", plain, n);
  }
  return name;
}

static CatalogueDisk *
add_disk(CatalogueVm *vm, const char *name, const QemuDisk *disk, guint64 granularity, GError **error)
{
  const char *node = qemu_disk_lasting_name(disk);
  g_autofree char *path = live_vm_make_path(vm, name, disk);
  if (node)
    return catalogue_vm_add_live_disk(vm, name, path, node, disk->format, disk->size_bytes, granularity);
  cbt_set_error(
      error, CBT_ERROR_INVALID,
      "Start QEMU with a name for it: -drive id=..., -device ...,id=..., serial=..., or node-name=...",
      "a disk of vm '%s' (%s) has no name by which it could be found again", vm->name, live_vm_path_of(disk));
  return NULL;
}

CatalogueDisk *
live_vm_take_disk(CatalogueVm *vm, const QemuDisk *disk, guint64 granularity, GError **error)
{
  const char *node = qemu_disk_lasting_name(disk);
  g_autofree char *name = make_name(vm, node ? node : "");
  return add_disk(vm, name, disk, granularity, error);
}

static gboolean
take_all(CatalogueVm *vm, const GPtrArray *disks, guint64 granularity, GError **error)
{
  vm->follows = TRUE;
  for (guint i = 0; i < disks->len; i++) {
    const QemuDisk *disk = disks->pdata[i];
    if (!disk->left_out && !live_vm_take_disk(vm, disk, granularity, error))
      return FALSE;
  }
  if (vm->disks->len > 0)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_NOT_FOUND, "Empty and read-only drives do not count.",
                "the QEMU of vm '%s' has no disk that could be backed up", vm->name);
  return FALSE;
}

static gboolean
take_named(CatalogueVm *vm, GPtrArray *disks, const GPtrArray *named, guint64 granularity, GError **error)
{
  for (guint i = 0; i < named->len; i++) {
    const LiveVmDisk *asked = named->pdata[i];
    const QemuDisk *disk = qemu_disks_find(disks, asked->node, error);
    if (!disk || !add_disk(vm, asked->name, disk, granularity, error))
      return FALSE;
  }
  return TRUE;
}

gboolean
live_vm_find_disks(Monitors *monitors, CatalogueVm *vm, const GPtrArray *named, guint64 granularity,
                   GError **error)
{
  Qmp *qmp = monitors_open(monitors, vm->qmp, NULL, error);
  if (!qmp)
    return FALSE;
  g_autoptr(GPtrArray) disks = qemu_disks_query(qmp, MONITOR_TIMEOUT_MS, error);
  if (disks)
    qemu_disks_see(disks, qmp);
  monitors_close(monitors, qmp);
  if (!disks)
    return FALSE;
  return named->len > 0 ? take_named(vm, disks, named, granularity, error)
                        : take_all(vm, disks, granularity, error);
}

typedef struct {
  Daemon *daemon;
  const char *qmp;
  GPtrArray *paths;
} Images;

static void
list_images(gpointer data)
{
  Images *images = data;
  g_autoptr(GError) error = NULL;
  g_autoptr(GPtrArray) vms = catalogue_list_vms(images->daemon->catalogue, &error);
  for (guint i = 0; vms && i < vms->len; i++) {
    const CatalogueVm *vm = vms->pdata[i];
    for (guint k = 0; g_strcmp0(vm->qmp, images->qmp) == 0 && k < vm->disks->len; k++)
      g_ptr_array_add(images->paths, g_strdup(((CatalogueDisk *) vm->disks->pdata[k])->path));
  }
  if (error)
    g_warning("cannot list the vms: %s", error->message);
}

GPtrArray *
live_vm_images(Daemon *daemon, const char *qmp)
{
  Images images = {daemon, qmp, g_ptr_array_new_with_free_func(g_free)};
  main_queue_call(daemon->queue, list_images, &images);
  return images.paths;
}
