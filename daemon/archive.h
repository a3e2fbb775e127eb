/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The archive job: a recovery point as one portable file, or as a stream to a client. */
#pragma once

#include <api/server.h>
#include <daemon/job.h>

typedef enum { ARCHIVE_VMA } ArchiveFormat;

/* "vma"; INVALID. */
gboolean archive_format_parse(const char *text, ArchiveFormat *format,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* All fields are owned. */
typedef struct {
  StorePoint *point;
  ArchiveFormat format;
  char *path;        /* the file to be made, compressed if it ends in .zst; NULL: into stream */
  ApiStream *stream; /* NULL: into path */
  guint64 speed;     /* bytes of the disks a second; 0: no limit */
} ArchiveRequest;

void archive_request_free(ArchiveRequest *request);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ArchiveRequest, archive_request_free)

/* A job for REQUEST (transfer full). EXISTS for a path that is there. Main thread. */
Job *archive_job_new(ArchiveRequest *request, GError **error) G_GNUC_WARN_UNUSED_RESULT;
