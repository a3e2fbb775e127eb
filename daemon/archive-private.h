/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the archive job share: archive.c (the job), archive-request.c (what is asked for),
 * archive-vma.c, archive-image.c and archive-chain.c (the formats), archive-file.h. */
#pragma once

#include <daemon/archive-file.h>
#include <daemon/archive.h>
#include <daemon/throttle.h>

typedef struct {
  Daemon *daemon;
  Job *job;
  const ArchiveRequest *request;
  GPtrArray *files; /* of ArchiveFile, the request's; NULL: into its stream */
  Throttle throttle;
} Archive;

/* Each writes the format to the files or the stream, without ending those. Job's thread. */
gboolean archive_write_vma(Archive *archive, GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean archive_write_images(Archive *archive, GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean archive_write_chain(Archive *archive, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Adds BYTES to the progress of DISK, and waits as long as the limit wants. */
void archive_progress(Archive *archive, JobDisk *disk, guint64 bytes);
/* The request's stream takes LENGTH bytes; DATA is the Archive. */
gboolean archive_write_to_client(gpointer data, const guint8 *bytes, gsize length,
                                 GError **error) G_GNUC_WARN_UNUSED_RESULT;
