/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Shared handles on the disks' trackers: a job and an API request may use one at the same time.
 *
 * An exported disk gives each user a connection of its own. One that is not exported is opened here once, and
 * shared: calls take turns. Of a disk that a running QEMU has, the bitmaps are QEMU's: each call is a
 * conversation with its monitor (cbt/qemu/bitmaps.h), and there is no bitmap file and no identity.
 */
#pragma once

#include <cbt/disk.h>
#include <daemon/exports.h>

typedef struct DiskRef DiskRef;

Disks *disks_new(const DaemonConfig *config, Exports *exports, Monitors *monitors);
/* All references must be gone. */
void disks_free(Disks *disks);

/* Connects to the export of VM's DISK, or opens the disk here. Errors as cbt_disk_connect() and
 * cbt_disk_open(). */
DiskRef *disks_acquire(Disks *disks, const char *vm, const CatalogueDisk *disk,
                       GError **error) G_GNUC_WARN_UNUSED_RESULT;
void disk_ref_release(DiskRef *ref);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DiskRef, disk_ref_release)

/*
 * Keeps all others from opening disks of VM here until disks_unreserve(): they wait. Who has one open already
 * (a request, for milliseconds) is waited for; BUSY if that takes longer than 2 s. One reservation of a vm
 * waits for the other. Not the main thread.
 */
gboolean disks_reserve(Disks *disks, const char *vm, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void disks_unreserve(Disks *disks, const char *vm);

/* The name of the disk's vm (transfer none). */
const char *disk_ref_vm(const DiskRef *ref);
/* "VM/DISK:BITMAP", as the command line takes it (transfer full). */
char *disk_ref_target(const DiskRef *ref, const char *bitmap);
gboolean disk_ref_is_exported(const DiskRef *ref);
/* Whether a QEMU has it. */
gboolean disk_ref_is_live(const DiskRef *ref);
/* TRUE if the export that it is connected to is gone. */
gboolean disk_ref_is_lost(const DiskRef *ref);
const CbtDiskIdentity *disk_ref_identity(const DiskRef *ref);
/* The file of BITMAP (transfer full). */
char *disk_ref_bitmap_path(const DiskRef *ref, const char *bitmap);

/* cbt_disk_call(), cbt_disk_apply() and cbt_disk_info(), one at a time. */
gboolean disk_ref_call(DiskRef *ref, const CbtControlRequest *request, CbtSession *session,
                       CbtControlReply *reply, GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean disk_ref_apply(DiskRef *ref, const char *bitmap, CbtBitmapEvent event, const CbtUuid *pending,
                        const char *reason, GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean disk_ref_info(DiskRef *ref, const char *bitmap, CbtBitmapInfo *info,
                       GError **error) G_GNUC_WARN_UNUSED_RESULT;
