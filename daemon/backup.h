/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The backup job: freeze, read, store, commit, abdicate; or reclaim. Full and incremental.
 */
#pragma once

#include <cbt/qemu/quiesce.h>
#include <daemon/job.h>

/* What was asked for. All fields are owned. */
typedef struct {
  CatalogueVm *vm;
  gboolean incremental;
  char *bitmap;
  guint64 speed; /* bytes a second; 0: no limit */
  guint64 audit; /* clean clusters of a disk to compare, at most BACKUP_AUDIT_MAX */
  char **disks;  /* (nullable) only these */
  char *note;    /* (nullable) */
  char *archive; /* (nullable) the vma archive to be made of the point */
  gboolean is_external; /* overlays beside the images take what the guest writes meanwhile */
  QemuQuiesceLevel quiesce; /* what the guest is to do for the instant; NONE without an agent */

  GCancellable *stop; /* cancelled with the job, or by the first failure of a disk */
} BackupRequest;

BackupRequest *backup_request_new(CatalogueVm *vm, gboolean incremental, const char *bitmap);
void backup_request_free(BackupRequest *request);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BackupRequest, backup_request_free)

/* Whether it covers the vm's disk of that name. */
gboolean backup_request_has_disk(const BackupRequest *request, const char *disk);

/* A job for REQUEST (transfer full), not yet submitted. NOT_FOUND if it names a disk that the vm does not
 * have. */
Job *backup_job_new(BackupRequest *request, GError **error) G_GNUC_WARN_UNUSED_RESULT;
