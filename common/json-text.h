/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is left to be done to a JSON text that json-glib wrote. */
#pragma once

#include <glib.h>

/*
 * TEXT (transfer full), as it is valid JSON (transfer full): json-glib 1.6 escapes each control byte but
 * 0x1f, which can only stand in a string or a name.
 */
char *cbt_json_escape(char *text) G_GNUC_WARN_UNUSED_RESULT;
