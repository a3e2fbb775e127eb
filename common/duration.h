/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Spans of time as people type them: 90, 90s, 10m, 2h, 7d. */
#pragma once

#include <glib.h>

/* Parses a whole number of seconds, or one with s, m, h or d behind it, into *seconds. FALSE with
 * CBT_ERROR_INVALID for anything else, a sign, or a value past 2^31 - 1. */
gboolean cbt_duration_parse(const char *text, guint64 *seconds, GError **error) G_GNUC_WARN_UNUSED_RESULT;
