/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/handlers.h>

#include <daemon/doctor.h>
#include <daemon/json-util.h>
#include <daemon/task.h>

static void
put_check(JsonBuilder *builder, const CbtCheck *check)
{
  json_builder_begin_object(builder);
  json_put_string(builder, "level", cbt_check_level_name(check->level));
  json_put_string(builder, "subject", check->subject);
  json_put_string(builder, "text", check->text);
  json_put_string(builder, "hint", check->hint);
  json_builder_end_object(builder);
}

static JsonNode *
run(Daemon *daemon G_GNUC_UNUSED, gpointer data, guint *status G_GNUC_UNUSED, GError **error G_GNUC_UNUSED)
{
  g_autoptr(GPtrArray) checks = doctor_run(data);
  JsonBuilder *builder = json_builder_new_immutable();
  json_builder_begin_array(builder);
  for (guint i = 0; i < checks->len; i++)
    put_check(builder, g_ptr_array_index(checks, i));
  json_builder_end_array(builder);
  return json_finish(builder);
}

void
handle_doctor(ApiRequest *request, gpointer data)
{
  Daemon *daemon = data;
  GError *error = NULL;
  Doctor *doctor = doctor_new(daemon, api_request_query(request, "vm"), &error);
  if (doctor)
    task_run(daemon, request, 200, run, doctor, (GDestroyNotify) doctor_free);
  else
    api_request_reply_error(request, error);
}
