/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Building what QMP commands take, so that a call reads like the command:
 *
 *   qmp_args("node", qmp_str("disk0"), "name", qmp_str(name), "granularity", qmp_int(65536), NULL)
 *
 * Values are nodes (transfer full). A value of NULL leaves its key out: qmp_str(NULL) is an option that was not given.
 */
#pragma once

#include <json-glib/json-glib.h>

JsonNode *qmp_str(const char *text); /* NULL for NULL */
JsonNode *qmp_int(gint64 number);
JsonNode *qmp_bool(gboolean value);
JsonNode *qmp_obj(JsonObject *object); /* (transfer full); NULL for NULL */

/* Pairs of a key and a value, then NULL. */
JsonObject *qmp_args(const char *key, ...) G_GNUC_NULL_TERMINATED;
/* The pairs as a value: qmp_obj(qmp_args(...)). */
#define qmp_dict(...) qmp_obj(qmp_args(__VA_ARGS__))
/* Values, then NULL. */
JsonNode *qmp_list(JsonNode *first, ...) G_GNUC_NULL_TERMINATED;
/* {"type": TYPE, "data": DATA}: an action of `transaction`. DATA is (transfer full). */
JsonNode *qmp_action(const char *type, JsonObject *data);
