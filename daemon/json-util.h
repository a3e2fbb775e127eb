/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writing JSON: short names for what every answer needs. */
#pragma once

#include <common/uuid.h>
#include <json-glib/json-glib.h>

/* Members of the object that BUILDER is in; a NULL string and the nil uuid become null. */
void json_put_string(JsonBuilder *builder, const char *key, const char *value);
void json_put_int(JsonBuilder *builder, const char *key, guint64 value);
void json_put_bool(JsonBuilder *builder, const char *key, gboolean value);
void json_put_uuid(JsonBuilder *builder, const char *key, const CbtUuid *uuid);
/* Microseconds since 1970 as whole seconds; 0 becomes null. */
void json_put_time(JsonBuilder *builder, const char *key, gint64 time_us);
/* The finished document (transfer full); frees BUILDER. */
JsonNode *json_finish(JsonBuilder *builder);
