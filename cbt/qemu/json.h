/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Looking into what QEMU or a guest said. Nothing of it is trusted: a member that is missing or of another type is
 * simply not there. OBJECT may be NULL everywhere, so that look-ups can be nested. All results are (transfer none).
 */
#pragma once

#include <json-glib/json-glib.h>

const char *qemu_json_string(JsonObject *object, const char *key);
JsonObject *qemu_json_object(JsonObject *object, const char *key);
JsonArray *qemu_json_array(JsonObject *object, const char *key);
/* FALSE if it is not there. */
gboolean qemu_json_bool(JsonObject *object, const char *key);
/* Whether there is an integer; sets *value then. */
gboolean qemu_json_int(JsonObject *object, const char *key, gint64 *value);
/* As above, for what cannot be below zero: a negative number is not there. */
gboolean qemu_json_size(JsonObject *object, const char *key, guint64 *value);
/* Item I of ARRAY if that is an object, else NULL. */
JsonObject *qemu_json_item(JsonArray *array, guint i);
/* The object or array of NODE, which may be NULL; NULL if it is something else. */
JsonObject *qemu_json_node_object(JsonNode *node);
JsonArray *qemu_json_node_array(JsonNode *node);
