/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading values out of request bodies and query strings, with errors that name the key. */
#pragma once

#include <json-glib/json-glib.h>

/* Each sets *value if KEY is there and of the right type; leaves it alone if KEY is missing or null and not
 * REQUIRED; else FALSE with CBT_ERROR_INVALID naming KEY. Strings are (transfer none). */
gboolean api_json_get_string(JsonObject *object, const char *key, gboolean required, const char **value,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean api_json_get_bool(JsonObject *object, const char *key, gboolean required, gboolean *value,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* A number of 0 or more, or a size string such as "64K". */
gboolean api_json_get_size(JsonObject *object, const char *key, gboolean required, guint64 *value,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* A number of 0 or more, and no text. */
gboolean api_json_get_count(JsonObject *object, const char *key, gboolean required, guint64 *value,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* A number of seconds of 0 or more, or a duration such as "10m". */
gboolean api_json_get_duration(JsonObject *object, const char *key, gboolean required, guint64 *seconds,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* An array of strings; *value is (transfer full), NULL-terminated. */
gboolean api_json_get_strings(JsonObject *object, const char *key, gboolean required, char ***value,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* An array of objects (transfer none). */
gboolean api_json_get_objects(JsonObject *object, const char *key, gboolean required, JsonArray **value,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Refuses keys of OBJECT that are not in the space-separated ALLOWED. */
gboolean api_json_check_keys(JsonObject *object, const char *allowed,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* A decimal number of a query string; TEXT may be NULL: *value stays. */
gboolean api_query_get_u64(const char *key, const char *text, guint64 *value,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* One-line text of NODE (transfer full), and back; CBT_ERROR_INVALID. Nesting deeper than 32 is refused. */
char *api_json_to_text(JsonNode *node);
JsonNode *api_json_from_text(const char *text, gssize length, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* {"error":{...}} for ERROR (transfer full). */
JsonNode *api_json_from_error(const GError *error);
