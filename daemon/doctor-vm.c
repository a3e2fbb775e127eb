/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/doctor-private.h>

#include <cbt/image-use.h>
#include <cbt/qemu/qga.h>
#include <common/fd.h>
#include <daemon/disks.h>
#include <daemon/live-rest.h>
#include <daemon/monitors.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define QGA_TIMEOUT_MS 3000u

typedef struct {
  const Doctor *doctor;
  const DoctorVm *vm;
  const CatalogueDisk *disk;
  GPtrArray *checks;
  char *subject; /* "VM/DISK" */
} Look;

/* ---- an image ---- */

static void
check_use(const Look *look, int fd)
{
  g_autoptr(GError) error = NULL;
  if (look->vm->exported || look->vm->in_use) /* by ourselves */
    return;
  if (cbt_image_check_use(fd, look->disk->path, CBT_IMAGE_EXPORT, NULL, &error)) {
    cbt_checks_add(look->checks, CBT_CHECK_OK, look->subject, NULL, "nobody else writes the image");
    return;
  }
  g_autofree char *message = cbt_error_message(error);
  cbt_checks_add(look->checks, CBT_CHECK_FAIL, look->subject,
                 "Changes by others are not tracked. End that use, or start the guest on the export: "
                 "cbt-backup export start",
                 "%s", message);
}

static void
check_direct(const Look *look)
{
  CBT_AUTO_FD int fd = open(look->disk->path, O_RDONLY | O_DIRECT | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0)
    cbt_checks_add(look->checks, CBT_CHECK_WARN, look->subject,
                   "It is read through the page cache: more memory and processor, no wrong data.",
                   "direct I/O (O_DIRECT) is not to be had where the image is");
}

static void
check_image(const Look *look)
{
  CBT_AUTO_FD int fd = open(look->disk->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (fd < 0) {
    cbt_checks_add(look->checks, CBT_CHECK_FAIL, look->subject,
                   "Backups of it fail. Is it moved, or not for the daemon's user to read?", "%s: %s",
                   look->disk->path, g_strerror(errno));
    return;
  }
  if (access(look->disk->path, W_OK) != 0)
    cbt_checks_add(look->checks, CBT_CHECK_WARN, look->subject, "An export of it cannot start.",
                   "%s can be read, but not written: %s", look->disk->path, g_strerror(errno));
  else
    cbt_checks_add(look->checks, CBT_CHECK_OK, look->subject, NULL, "%s can be read and written",
                   look->disk->path);
  check_use(look, fd);
  check_direct(look);
}

/* ---- its bitmaps ---- */

static const CatalogueLease *
find_lease(const Look *look, const char *bitmap)
{
  for (guint i = 0; i < look->doctor->leases->len; i++) {
    const CatalogueLease *lease = &g_array_index(look->doctor->leases, CatalogueLease, i);
    if (cbt_uuid_equal(&lease->disk_id, &look->disk->id) && strcmp(lease->bitmap, bitmap) == 0)
      return lease;
  }
  return NULL;
}

static void
check_bitmap(const Look *look, const CbtBitmapInfo *info)
{
  const CatalogueLease *lease = find_lease(look, info->name);
  g_autofree char *target = g_strdup_printf("%s:%s", look->subject, info->name);
  g_autofree char *reclaim = g_strdup_printf("cbt-backup bitmap reclaim %s", target);
  if (info->state == CBT_BITMAP_INCONSISTENT)
    cbt_checks_add(look->checks, CBT_CHECK_WARN, look->subject,
                   "The next backup reads all of the disk, and mends it.", "bitmap %s is inconsistent: %s",
                   info->name, info->reason);
  else if (info->state == CBT_BITMAP_FROZEN && lease && lease->expires < g_get_real_time())
    cbt_checks_add(look->checks, CBT_CHECK_WARN, look->subject, reclaim,
                   "bitmap %s is frozen by hand, its lease has ended, and it could not be given back yet",
                   info->name);
  else if (info->state == CBT_BITMAP_FROZEN && !lease && !look->vm->in_use)
    cbt_checks_add(look->checks, CBT_CHECK_WARN, look->subject, reclaim,
                   "bitmap %s is frozen, and no backup is under way", info->name);
  else if (info->state < CBT_N_BITMAP_STATES)
    cbt_checks_add(look->checks, CBT_CHECK_OK, look->subject, NULL, "bitmap %s is %s", info->name,
                   cbt_bitmap_state_name(info->state));
}

static void
check_bitmaps(const Look *look)
{
  CbtControlRequest request;
  CbtControlReply reply;
  g_autoptr(GError) error = NULL;
  const char *vm = look->vm->vm->name;
  cbt_control_request_init(&request, CBT_CONTROL_LIST, NULL);
  g_autoptr(DiskRef) ref = disks_acquire(look->doctor->daemon->disks, vm, look->disk, &error);
  if (ref && disk_ref_call(ref, &request, NULL, &reply, &error)) {
    for (guint i = 0; i < MIN(reply.n_bitmaps, CBT_TRACKER_MAX_BITMAPS); i++)
      check_bitmap(look, &reply.bitmaps[i]);
    return;
  }
  g_autofree char *message = cbt_error_message(error), *hint = cbt_error_hint(error);
  cbt_checks_add(look->checks, CBT_CHECK_FAIL, look->subject, hint, "bitmaps: %s", message);
}

/* ---- a live vm ---- */

static void
check_monitor(const Look *look)
{
  Monitors *monitors = look->doctor->daemon->monitors;
  const char *socket = look->vm->vm->qmp;
  g_autoptr(GError) error = NULL;
  if (live_is_off(socket)) {
    cbt_checks_add(look->checks, CBT_CHECK_OK, look->subject, NULL, "the guest is off: nobody listens on %s",
                   socket);
    return;
  }
  Qmp *qmp = monitors_open(monitors, socket, NULL, &error);
  if (!qmp) {
    g_autofree char *message = cbt_error_message(error), *hint = cbt_error_hint(error);
    cbt_checks_add(look->checks, CBT_CHECK_FAIL, look->subject,
                   hint ? hint : "Give QEMU a QMP socket that nobody else uses.", "%s", message);
    return;
  }
  const QmpVersion *version = qmp_version(qmp);
  cbt_checks_add(look->checks, CBT_CHECK_OK, look->subject, NULL, "QEMU %u.%u.%u answers on %s",
                 version->major, version->minor, version->micro, socket);
  monitors_close(monitors, qmp);
}

static void
check_agent(const Look *look)
{
  const char *socket = look->vm->vm->qga;
  gboolean is_frozen = FALSE;
  g_autoptr(GError) error = NULL;
  g_autoptr(Qga) qga = qga_open(socket, QGA_TIMEOUT_MS, NULL, &error);
  if (!qga || !qga_fsfreeze_status(qga, QGA_TIMEOUT_MS, &is_frozen, &error)) {
    g_autofree char *message = cbt_error_message(error);
    cbt_checks_add(look->checks, CBT_CHECK_WARN, look->subject,
                   "Backups are as after a loss of power until it does: start qemu-guest-agent in the guest.",
                   "%s", message);
  } else if (is_frozen && !look->vm->in_use) {
    cbt_checks_add(look->checks, CBT_CHECK_FAIL, look->subject,
                   "Thaw it, or its programs hang: virsh domfsthaw",
                   "the file systems of the guest are frozen, and no backup is under way");
  } else {
    cbt_checks_add(look->checks, CBT_CHECK_OK, look->subject, NULL, "the guest's agent answers on %s",
                   socket);
  }
}

/* ---- a vm ---- */

static void
check_configs(const Look *look)
{
  for (guint i = 0; i < look->vm->vm->configs->len; i++) {
    const char *path = g_ptr_array_index(look->vm->vm->configs, i);
    if (access(path, R_OK) != 0)
      cbt_checks_add(look->checks, CBT_CHECK_FAIL, look->subject, "Backups of the vm fail without it.",
                     "%s: %s", path, g_strerror(errno));
  }
}

void
doctor_check_vm(const Doctor *doctor, const DoctorVm *vm, GPtrArray *checks)
{
  Look look = {doctor, vm, NULL, checks, vm->vm->name};
  gboolean is_live = catalogue_vm_is_live(vm->vm);
  check_configs(&look);
  if (is_live)
    check_monitor(&look);
  if (vm->vm->qga)
    check_agent(&look);
  for (guint i = 0; i < vm->vm->disks->len && !is_live; i++) {
    look.disk = g_ptr_array_index(vm->vm->disks, i);
    g_autofree char *subject = g_strdup_printf("%s/%s", vm->vm->name, look.disk->name);
    look.subject = subject;
    check_image(&look);
    check_bitmaps(&look);
  }
}
