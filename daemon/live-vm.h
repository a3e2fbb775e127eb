/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What disks a live vm has: those that its QEMU tells of, found again by the names that last.
 *
 * Threads: any but the main one.
 */
#pragma once

#include <cbt/qemu/disks.h>
#include <daemon/daemon.h>
#include <daemon/monitors.h>
#include <store/catalogue.h>

/* A disk that was named: NAME of ours, NODE of QEMU's. */
typedef struct {
  char *name;
  char *node;
} LiveVmDisk;
void live_vm_disk_free(gpointer disk);

/* Gives VM, which has a monitor and no disks, those of NAMED (of LiveVmDisk); all that its QEMU has if that is empty. Errors of
 * monitors_open(); NOT_FOUND, INVALID, STATE as qemu_disks_find(); INVALID if a disk has no name that lasts. */
gboolean live_vm_find_disks(Monitors *monitors, CatalogueVm *vm, const GPtrArray *named, guint64 granularity,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Adds DISK to VM under a name made of what QEMU calls it, and returns it (transfer none). INVALID if nothing lasts. */
CatalogueDisk *live_vm_take_disk(CatalogueVm *vm, const QemuDisk *disk, guint64 granularity,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* The images of all disks, of any vm, that are known to be of the QEMU with the monitor QMP: of char * (transfer full). */
GPtrArray *live_vm_images(Daemon *daemon, const char *qmp);
/* What to show as the path of DISK's image, by what QEMU tells (transfer none). */
const char *live_vm_path_of(const QemuDisk *disk);
/* Whether QEMU names a file of this host, but is not seen to have it open: that is then no path to read, as root, when no
 * QEMU has it. */
gboolean live_vm_is_unseen(const QemuDisk *disk);
/* What is recorded as the path of DISK, which is called NAME (transfer full): VM/NAME if it is unseen. */
char *live_vm_make_path(const CatalogueVm *vm, const char *name, const QemuDisk *disk);
