/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/handlers.h>

#include <daemon/json-util.h>
#include <daemon/rebuild.h>

static JsonNode *
result_to_json(const RebuildResult *result)
{
  JsonBuilder *builder = json_builder_new_immutable();
  json_builder_begin_object(builder);
  json_put_int(builder, "vms", result->n_vms);
  json_put_int(builder, "points", result->n_points);
  json_put_int(builder, "damaged", result->n_damaged);
  json_builder_set_member_name(builder, "problems");
  json_builder_begin_array(builder);
  for (guint i = 0; i < result->problems->len; i++) {
    g_autofree char *text = g_utf8_make_valid(result->problems->pdata[i], -1);
    json_builder_add_string_value(builder, text);
  }
  json_builder_end_array(builder);
  json_builder_end_object(builder);
  return json_finish(builder);
}

void
handle_rebuild_catalogue(ApiRequest *request, gpointer daemon)
{
  GError *error = NULL;
  g_auto(RebuildResult) result = {0};
  if (rebuild_catalogue(daemon, &result, &error))
    api_request_reply(request, 200, result_to_json(&result));
  else
    api_request_reply_error(request, error);
}
