/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the commands of cbt-vma share. */
#pragma once

#include <store/vma-reader.h>

/* An open archive. */
typedef struct {
  char *path;
  int fd;
  StoreVmaSums *sums; /* (nullable) */
  StoreVmaSource *source;
  StoreVmaReader *reader;
} ToolArchive;

/* PATH may be "-", standard input. With CHECK_SUMS, PATH.xxh3 is used if it is there. */
ToolArchive *tool_archive_open(const char *path, gboolean check_sums,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;
void tool_archive_close(ToolArchive *archive);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ToolArchive, tool_archive_close)

/* A name in an archive must be able to become part of a file name. INVALID names it. */
gboolean tool_check_file_name(const char *what, const char *name, const char *hint,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* The commands: ARGS are what stands behind the command, NULL-terminated. */
gboolean tool_list(char **args, GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean tool_config(char **args, GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean tool_create(char **args, GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean tool_extract(char **args, GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean tool_verify(char **args, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Sets a usage error. */
void tool_set_usage(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);
