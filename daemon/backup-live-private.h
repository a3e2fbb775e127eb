/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of a backup of a live vm share: backup-live-look.c (which disks there are), backup-live.c (the rest). */
#pragma once

#include <cbt/qemu/instant.h>
#include <cbt/qemu/offline.h>
#include <daemon/backup-private.h>
#include <daemon/live-journal.h>
#include <daemon/monitors.h>

struct BackupLive {
  Backup *backup;
  QemuInstant *instant;
  GPtrArray *names; /* of char *: QEMU's, of the bitmaps that record from the instant on */
  GPtrArray *disks; /* of QemuDisk, as found last */
  GPtrArray *notes; /* of char *: what the job is to say */
  char *instance;   /* of the QEMU; NULL if it is off or unknown */
  LiveJournal *journal;
  GHashTable *moved;  /* of char *: names of the disks whose image is another one than at the latest backup */
  gboolean is_off;    /* the guest is: the images are read at rest */
  GPtrArray *servers; /* of QemuOffline: of images at rest */
};

/* One more of the notes, which is logged as well. */
void backup_live_note(BackupLive *live, const char *format, ...) G_GNUC_PRINTF(2, 3);
/* The vm's monitor, until the job is cancelled. */
Qmp *backup_live_open_monitor(const BackupLive *live, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void backup_live_close_monitor(const BackupLive *live, Qmp *qmp);
/* Makes the folders that a backup needs. (transfer full): where the sockets of what is read are, ours alone, and each vm's its
 * own. */
char *backup_live_make_folders(const BackupLive *live, GError **error) G_GNUC_WARN_UNUSED_RESULT;
