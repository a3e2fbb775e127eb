/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The restore job: disks of a recovery point as raw images, and its configuration files. */
#pragma once

#include <daemon/disks.h>
#include <daemon/job.h>

/* Where one disk goes. */
typedef struct {
  char *disk;
  char *path;
  char *made; /* (nullable) what the job has made of it, and removes if it fails: PATH.partial, then PATH */
  int fd;     /* -1 unless the job runs */
  /* the registered disk that has this image, whose bitmaps are told (both NULL: none) */
  CatalogueVm *owner;
  const CatalogueDisk *owner_disk;
  DiskRef *ref; /* of owner_disk, while the job runs: no export of it can start */
} RestoreTarget;

/* All fields are owned. */
typedef struct {
  StorePoint *point;
  char *folder;       /* (nullable) all disks as FOLDER/DISK.raw, and the configs */
  GPtrArray *targets; /* of RestoreTarget; filled from `folder` by restore_job_new() */
  gboolean in_place;
} RestoreRequest;

RestoreRequest *restore_request_new(StorePoint *point);
void restore_request_free(RestoreRequest *request);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(RestoreRequest, restore_request_free)
RestoreTarget *restore_request_add_target(RestoreRequest *request, const char *disk, const char *path);
/* Where DISK of the point goes, if all go into a folder (transfer full). */
char *restore_path_in_folder(const RestoreRequest *request, const StorePointDisk *disk);

/* A job for REQUEST (transfer full). NOT_FOUND for a disk that the point does not have; EXISTS for a target
 * that exists, without in_place; BUSY for the image of an exported disk, or of one that is being backed up.
 * The job itself is BUSY if another program uses a target, before it writes to any. Main thread. */
Job *restore_job_new(Daemon *daemon, RestoreRequest *request, GError **error) G_GNUC_WARN_UNUSED_RESULT;
