/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the commands of cbt-store share. They print for people, or one JSON document. */
#pragma once

#include <json-glib/json-glib.h>
#include <store/offline.h>
#include <store/point.h>

typedef struct {
  char *directory; /* of the store */
  gboolean json;
  gboolean quiet;
  gboolean has_printed; /* the one JSON document is out */
} Tool;

/* ARGS are what stands behind the command, NULL-terminated. */
gboolean tool_check(Tool *tool, char **args, GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean tool_dump(Tool *tool, char **args, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Sets a usage error. */
void tool_set_usage(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);
GQuark tool_usage_quark(void);
#define TOOL_USAGE (tool_usage_quark())

/* Prints OBJECT (transfer full) as the one JSON document. */
void tool_print_json(Tool *tool, JsonObject *object);
void tool_put_uuid(JsonObject *object, const char *key, const CbtUuid *uuid);
void tool_put_chunk(JsonObject *object, const char *key, const StoreChunkId *id);
/* "0000002a" */
void tool_put_pack(JsonObject *object, const char *key, guint32 number);
/* "2024-05-01 12:00:00" of the local clock (transfer full). */
char *tool_format_time(gint64 time_us);
const char *tool_type_name(StoreChunkType type);
char *tool_points_folder(Tool *tool);
