/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The archive job: a recovery point as portable files, or as a stream to a client. */
#pragma once

#include <api/server.h>
#include <daemon/job.h>

typedef enum {
  ARCHIVE_VMA,   /* one file, and its checksums beside it */
  ARCHIVE_RAW,   /* one image a disk, with holes */
  ARCHIVE_QCOW2, /* one image a disk */
  ARCHIVE_CHAIN  /* a folder, store/chain.h */
} ArchiveFormat;

/* "vma", "raw", "qcow2", "chain"; INVALID. */
gboolean archive_format_parse(const char *text, ArchiveFormat *format,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* All fields are owned. */
typedef struct {
  StorePoint *point;
  ArchiveFormat format;
  char *path;        /* NULL: into stream. Else the file to be made, a vma one compressed if it ends in .zst;
                        the folder of a chain; or a folder to which images go as DISK.FORMAT */
  char *disk;        /* (nullable) of images: only this one */
  GPtrArray *points; /* of a chain: all of the vm, newest first; else NULL */
  ApiStream *stream; /* NULL: into path */
  guint64 speed;     /* bytes a second; 0: no limit */
  /* made by archive_request_check() */
  GPtrArray *disks; /* of StorePointDisk of the point (transfer none), those that are written */
  GPtrArray *files; /* of char *: those to be made, but of a chain */
} ArchiveRequest;

void archive_request_free(ArchiveRequest *request);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ArchiveRequest, archive_request_free)

/* Decides which files of which disks are made; stream may still be missing. EXISTS for one that is there;
 * NOT_FOUND for a disk that the point does not have; INVALID for disks that do not fit into one file, and for
 * a chain without a path. */
gboolean archive_request_check(ArchiveRequest *request, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* A job for REQUEST (transfer full), which was checked. Main thread. */
Job *archive_job_new(ArchiveRequest *request);
