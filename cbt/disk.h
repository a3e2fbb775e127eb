/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The daemon's handle on one disk's tracker, wherever that lives: in an export process (connected) or right
 * here (opened). Callers see no difference but speed: with no export there are no writes to hold, and a
 * session is not needed.
 *
 * Threads: one at a time.
 */
#pragma once

#include <cbt/control.h>

typedef struct CbtDisk CbtDisk;

/* Connects to the export behind CONTROL_SOCKET. One that is just starting is waited for. UNREACHABLE if
 * nobody answers in TIMEOUT_MS. UNSUPPORTED if it is of another protocol version. */
CbtDisk *cbt_disk_connect(const char *control_socket, guint timeout_ms,
                          GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Opens image and bitmap folder here; WITNESS_DIRECTORY as for cbt_tracker_open(). BUSY if an export (or another process) has them; NOT_FOUND, INVALID for
 * the image. */
CbtDisk *cbt_disk_open(const char *image_path, const char *bitmap_directory, const char *witness_directory,
                       const CbtUuid *disk_id, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Disconnects, or closes the tracker clean. */
void cbt_disk_close(CbtDisk *disk);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CbtDisk, cbt_disk_close)

/* TRUE if an export process owns the tracker. */
gboolean cbt_disk_is_exported(const CbtDisk *disk);
/* TRUE if the export hung up: its holds and its session are gone. May be asked beside a call. */
gboolean cbt_disk_is_lost(const CbtDisk *disk);
/* Identity of the image as the owner sees it. */
const CbtDiskIdentity *cbt_disk_identity(const CbtDisk *disk);
gint64 cbt_disk_owner_pid(const CbtDisk *disk);

/*
 * One request to the owner. HOLD, BEGIN, RELEASE and END need no export: without one, BEGIN is just the
 * create-successor. SESSION (for BEGIN on an export, else NULL) is passed along. REPLY may be NULL. Errors:
 * the owner's, or UNREACHABLE when it went away.
 */
gboolean cbt_disk_call(CbtDisk *disk, const CbtControlRequest *request, CbtSession *session,
                       CbtControlReply *reply, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Shorthands for frequent requests. PENDING and REASON may be NULL. */
gboolean cbt_disk_apply(CbtDisk *disk, const char *bitmap, CbtBitmapEvent event, const CbtUuid *pending,
                        const char *reason, GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean cbt_disk_info(CbtDisk *disk, const char *bitmap, CbtBitmapInfo *info,
                       GError **error) G_GNUC_WARN_UNUSED_RESULT;
