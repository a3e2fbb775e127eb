/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The files of an archive job. Each is written as NAME.JOB.part and gets its name only when all of them are
 * complete and durable; a file that has the name is never replaced. Job's thread.
 */
#pragma once

#include <glib.h>

typedef struct {
  char *path;
  char *temporary;
  int fd;            /* writing */
  gboolean has_name; /* it is path, no longer temporary */
} ArchiveFile;

/* The paths (of char *) of the vma archive PATH: itself, and its checksums beside it. (transfer full) */
GPtrArray *archive_paths_of_vma(const char *path);
/* EXISTS names the one of PATHS that is there. */
gboolean archive_paths_check(const GPtrArray *paths, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Begins to write PATHS (of char *) for job JOB. Array of ArchiveFile (transfer full); what was not committed
 * is removed when it is freed. */
GPtrArray *archive_files_new(const GPtrArray *paths, gint64 job, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Makes all FILES durable and gives them their names. EXISTS: one is taken; then none gets its name. */
gboolean archive_files_commit(GPtrArray *files, GError **error) G_GNUC_WARN_UNUSED_RESULT;

static inline ArchiveFile *
archive_files_get(const GPtrArray *files, guint i)
{
  return files->pdata[i];
}
