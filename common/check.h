/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What `doctor` finds: a list of things that were looked at, each good, doubtful or bad, with what to do; and
 * the looks at the host, which the daemon takes as well as the command line when there is no daemon.
 *
 * The looks may block as long as the host does. Any thread, one at a time for each list.
 */
#pragma once

#include <glib.h>

typedef enum { CBT_CHECK_OK, CBT_CHECK_WARN, CBT_CHECK_FAIL } CbtCheckLevel;

typedef struct {
  CbtCheckLevel level;
  char *subject; /* what was looked at */
  char *text;    /* what was found */
  char *hint;    /* (nullable) what to do */
} CbtCheck;

const char *cbt_check_level_name(CbtCheckLevel level); /* "ok", "warn", "fail" */

GPtrArray *cbt_checks_new(void); /* of CbtCheck */
/* HINT may be NULL. */
void cbt_checks_add(GPtrArray *checks, CbtCheckLevel level, const char *subject, const char *hint,
                    const char *format, ...) G_GNUC_PRINTF(5, 6);

/* The kernel's version, and whether this process may use io_uring. */
void cbt_check_kernel(GPtrArray *checks);
/* Locked memory and open files, of this process. */
void cbt_check_limits(GPtrArray *checks);
/* Whether the clock is kept by somebody, and is not before NEWEST (microseconds since 1970; 0: unknown). */
void cbt_check_clock(GPtrArray *checks, gint64 newest);
/* Room in the folder PATH against WANTED bytes, and what its file system can do: files, direct I/O, holes,
 * and how long a sync takes. Writes a file without a name there. */
void cbt_check_folder(GPtrArray *checks, const char *subject, const char *path, guint64 wanted);
/* Runs ARGV, which is to end well and quickly; the first line that it prints is shown. HINT is for one that
 * is missing. */
void cbt_check_program(GPtrArray *checks, const char *subject, const char *const *argv, const char *hint);
