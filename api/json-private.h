/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For api/ and its tests: the strict look at a JSON text before json-glib sees it. */
#pragma once

#include <json-glib/json-glib.h>

#define API_JSON_DEPTH_MAX 32 /* arrays and objects inside each other */

/*
 * TRUE if TEXT is one JSON value after RFC 8259 in UTF-8, nested no deeper than API_JSON_DEPTH_MAX, with
 * integers that fit 64 bits and strings without NUL. json-glib itself takes comments, "var x =", hexadecimal
 * and octal numbers, wraps large integers, and cuts strings at NUL. CBT_ERROR_INVALID names the byte offset.
 */
gboolean api_json_check_text(const char *text, gsize length, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* {"error":{...}} of its three parts; HINT may be NULL (transfer full). */
JsonNode *api_json_new_error(const char *code, const char *message, const char *hint);
