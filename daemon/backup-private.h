/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the backup job share: backup.c (the sequence), backup-plan.c (what to read, and why),
 * backup-freeze.c (one instant for all disks), backup-copy.c (reading and storing one disk),
 * backup-audit.c (whether what is called clean is), backup-archive.c (the archive beside it). */
#pragma once

#include <cbt/source.h>
#include <daemon/backup.h>
#include <daemon/disks.h>
#include <daemon/throttle.h>
#include <pthread.h>
#include <store/pins.h>

typedef struct Backup Backup;
typedef struct BackupArchive BackupArchive;
typedef struct BackupArchivePart BackupArchivePart;

typedef struct {
  Backup *backup;
  const CatalogueDisk *disk;
  JobDisk *progress;

  /* plan */
  DiskRef *ref;
  CbtSource *source;
  gboolean
      changes_only; /* read the frozen bitmap's extents onto `base`; else all that is allocated, onto zeros */
  StoreManifest base;
  CbtUuid parent; /* nil: none */
  char *reason;   /* (nullable) why not what was asked */

  /* freeze */
  CbtSession *session;   /* NULL if the disk is not exported */
  CbtBitmapFile *frozen; /* read-only; NULL unless changes_only */
  gboolean is_frozen;    /* create-successor was done, and neither abdicate nor reclaim yet */

  /* copy */
  pthread_t thread;
  StoreManifest result;
  StoreTally tally;
  guint64 dirty;
  guint64 audit_next; /* the cluster that the audit begins at; then, that the next one will */
  char *lie;          /* (nullable) what the audit found */
  GError *error;
} BackupDisk;

struct Backup {
  Daemon *daemon;
  Job *job;
  const BackupRequest *request;
  StorePoint *point;  /* to be; its configs are in the store before anything is read */
  CbtUuid uuid;       /* of the point to be */
  gint64 time;        /* of the instant */
  StorePins *pins;    /* what is put for it stays, whether or not it is committed yet */
  GCancellable *stop; /* the request's */
  GPtrArray *disks;   /* of BackupDisk */
  Throttle throttle;
  BackupArchive *archive; /* NULL: none is asked for */
};

/* Acquires the disk, opens its image, and decides what is read onto what. */
gboolean backup_plan_disk(BackupDisk *disk, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Settles a bitmap that is frozen though no job runs: abdicates if the point that it was frozen for was
 * committed, else reclaims. STATE if it was frozen by hand. INFO is brought up to date. Any thread but the
 * main one. */
gboolean backup_settle_bitmap(Daemon *daemon, DiskRef *ref, const CatalogueDisk *disk, CbtBitmapInfo *info,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Freezes all disks at one instant. On failure none is left frozen. */
gboolean backup_freeze(Backup *backup, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Ends the disk's session when all was read. UNREACHABLE if the export that kept it is gone: then nobody
 * preserved what the guest overwrote since, and what was read is of no instant. */
gboolean backup_end_session(BackupDisk *disk, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Gives a frozen bitmap back as if nothing had been. */
void backup_reclaim(BackupDisk *disk);

/* Reads and stores DISK, into disk->result and disk->tally. */
gboolean backup_copy_disk(BackupDisk *disk, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/*
 * Compares clusters that the frozen bitmap calls clean with their digests in the base. CORRUPT, and
 * disk->lie, if one differs: a change was missed. Does nothing for a disk that was read as a whole.
 */
gboolean backup_audit_disk(BackupDisk *disk, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* The archive that the request asks for, which is not there yet; it goes away when it is freed unfinished.
 * Job's thread. */
BackupArchive *backup_archive_new(Backup *backup, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void backup_archive_free(BackupArchive *archive);
/* Begins to take clusters, if all of the disks is going to be read. After the freeze. */
void backup_archive_begin(BackupArchive *archive);
/* Completes it after the point was committed. */
gboolean backup_archive_finish(BackupArchive *archive, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* What one thread puts into the archive of DISK: each cluster once, in any order. NULL, which all below take:
 * nothing is put. */
BackupArchivePart *backup_archive_part_new(const BackupDisk *disk);
void backup_archive_part_add(BackupArchivePart *part, guint64 cluster, const guint8 *data);
void backup_archive_part_add_zeros(BackupArchivePart *part, const CbtExtent *zero);
/* Writes what is left. */
void backup_archive_part_free(BackupArchivePart *part);
