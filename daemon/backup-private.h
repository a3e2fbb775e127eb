/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the backup job share: backup.c (the sequence), backup-plan.c (what to read, and why),
 * backup-freeze.c (one instant for all disks), backup-copy.c (reading and storing one disk),
 * backup-audit.c (whether what is called clean is), backup-archive.c (the archive beside it), backup-live.c
 * (disks that a QEMU has), backup-quiesce.c (what the guest does for the instant). */
#pragma once

#include <cbt/source.h>
#include <daemon/backup-flush.h>
#include <daemon/backup.h>
#include <daemon/disks.h>
#include <daemon/throttle.h>
#include <pthread.h>
#include <store/pins.h>

typedef struct Backup Backup;
typedef struct BackupLive BackupLive;
typedef struct BackupArchive BackupArchive;
typedef struct BackupArchivePart BackupArchivePart;

typedef struct {
  Backup *backup;
  const CatalogueDisk *disk;
  JobDisk *progress;

  /* plan */
  DiskRef *ref;
  guint64 size; /* bytes */
  CbtSource *source; /* of a live disk: when it is frozen */
  CbtSource *map;    /* (nullable) of a live disk: where `changes` is, if that is not the source */
  gboolean
      changes_only; /* read the frozen bitmap's extents onto `base`; else all that is allocated, onto zeros */
  StoreManifest base;
  CbtBitmap *zeros; /* (nullable) of a live disk: clusters that had no data shortly before the instant */
  CbtUuid parent; /* nil: none */
  char *reason;   /* (nullable) why not what was asked */
  char *not_adopted; /* (nullable) of a live disk: why the bitmap of an image below is of no use */

  /* freeze */
  CbtSession *session;   /* NULL if the disk is not exported */
  CbtBitmapFile *frozen; /* read-only; NULL unless changes_only, and of a live disk */
  const CbtBitmap *changes; /* what is to be read; NULL unless changes_only */
  gboolean was_missing;  /* the bitmap had to be made */
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
  BackupFlush *flush;
  BackupArchive *archive; /* NULL: none is asked for */
  BackupLive *live;       /* NULL: no QEMU has the disks */

  /* what the guest did for the instant, backup-quiesce.c */
  QemuQuiesce *quiesce;
  StoreConsistency consistency;
  char *consistency_reason; /* (nullable) */
  guint64 frozen_ms;
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

/* A live vm's part. LOOK, first of all: takes away what is left in QEMU, and brings the disks of the request's vm in
 * line with QEMU's. FREEZE: one instant for all, and a source for each disk; on failure none is left frozen. CHECK: whether what was read is of one instant. END: all
 * was read, or will not be; nothing of the instant is left in QEMU but the bitmaps. NOTES: of char *, for the job. */
BackupLive *backup_live_new(Backup *backup);
void backup_live_free(BackupLive *live);
gboolean backup_live_look(BackupLive *live, GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean backup_live_freeze(BackupLive *live, GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean backup_live_check(BackupLive *live, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Why DISK could not be read, in ERROR: QEMU itself does not say. From the thread of the disk. */
void backup_live_explain(const BackupLive *live, const BackupDisk *disk, GError **error);
void backup_live_end(BackupLive *live);
const GPtrArray *backup_live_notes(const BackupLive *live);
/* Names the QEMU that has the disks; NULL if none has, or if it cannot be told from others. */
const char *backup_live_instance(const BackupLive *live);

/* Whether DISK writes to another image than at the latest backup: then its bitmap may be in one below. ADOPT takes that over,
 * if it is of BASE. */
gboolean backup_live_has_moved(const BackupLive *live, const BackupDisk *disk);
gboolean backup_live_adopt(BackupLive *live, const BackupDisk *disk, const CbtUuid *base,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Whether the bitmap of a live disk can be believed, if its image may have been out of QEMU's hands. LOOK before the
 * instant: INSTANCE (nullable) is the process that has the disk; CHECK when `changes` are known. Where the answer is no,
 * changes_only is off, and the reason is set: LIES says that it came too late for the instant. */
gboolean backup_trust_look(BackupDisk *disk, const char *instance, const char *sockets,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean backup_trust_check(BackupDisk *disk, gboolean *lies, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Prepare may take long; between freeze and thaw the guest stands still, so be quick. DISKS: of QemuDisk, or NULL: all
 * of the guest's. Prepare fails only if the job is cancelled. */
gboolean backup_quiesce_prepare(Backup *backup, GPtrArray *disks, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void backup_quiesce_freeze(Backup *backup);
void backup_quiesce_thaw(Backup *backup);

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
