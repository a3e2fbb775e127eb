/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names of vms, disks and bitmaps. They become file names, so only harmless characters are let through. Names
 * of others, which may hold anything, are made harmless to look at. */
#pragma once

#include <glib.h>

#define CBT_NAME_MAX 63 /* bytes, without the NUL */

/* 1 to CBT_NAME_MAX characters of A-Z a-z 0-9 . _ + - ; the first a letter, digit or '_'. */
gboolean cbt_name_is_valid(const char *name);
/* The same as an error: "WHAT 'NAME' ..." with CBT_ERROR_INVALID. */
gboolean cbt_name_check(const char *what, const char *name, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* TEXT for a terminal or a table: as it is if it is UTF-8 and can be printed, else with backslashes for all
 * that is not plain ASCII (transfer full). */
char *cbt_printable(const char *text);
