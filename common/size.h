/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Byte counts as people type and read them: 64K, 1.5G; powers of 1024. */
#pragma once

#include <glib.h>

/* Parses "65536", "64K", "64KiB", "1M", "2T" into *bytes. FALSE with CBT_ERROR_INVALID for anything else,
 * a sign, or a value past 2^63 - 1. */
gboolean cbt_size_parse(const char *text, guint64 *bytes, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* "64.0 KiB"; (transfer full). */
char *cbt_size_format(guint64 bytes);
