/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/handlers.h>

#include <api/json.h>
#include <daemon/durable.h>
#include <daemon/engine.h>
#include <daemon/throttle.h>
#include <daemon/verify.h>

/* What is asked for: exactly one of the three. */
typedef struct {
  const char *point;
  const char *vm;
  gboolean all;
} Wanted;

static gboolean
read_wanted(JsonObject *body, Wanted *wanted, GError **error)
{
  if (!api_json_get_string(body, "point", FALSE, &wanted->point, error) ||
      !api_json_get_string(body, "vm", FALSE, &wanted->vm, error) ||
      !api_json_get_bool(body, "all", FALSE, &wanted->all, error) ||
      (wanted->vm && !cbt_name_check("vm", wanted->vm, error)))
    return FALSE;
  if ((wanted->point != NULL) + (wanted->vm != NULL) + (wanted->all != FALSE) == 1)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, NULL,
                "name one of 'point', 'vm' and 'all': what is to be verified");
  return FALSE;
}

static VerifyRequest *
request_of_point(Daemon *daemon, const char *text, GError **error)
{
  char uuid[CBT_UUID_TEXT_SIZE];
  g_autoptr(GPtrArray) points = g_ptr_array_new_with_free_func((GDestroyNotify) store_point_free);
  StorePoint *point = catalogue_resolve_point(daemon->catalogue, text, error);
  if (!point)
    return NULL;
  g_ptr_array_add(points, point);
  g_autofree char *scope = g_strdup_printf("point %s", cbt_uuid_format(&point->uuid, uuid));
  VerifyRequest *request = verify_request_new(scope, points);
  request->vm = g_strdup(point->vm);
  return request;
}

/* VM NULL: of all. */
static VerifyRequest *
request_of_vm(Daemon *daemon, const char *vm, GError **error)
{
  g_autoptr(GPtrArray) points = catalogue_list_points(daemon->catalogue, vm, error);
  if (!points)
    return NULL;
  if (vm && points->len == 0) {
    g_autoptr(CatalogueVm) known = catalogue_get_vm(daemon->catalogue, vm, error);
    if (!known)
      return NULL;
  }
  g_autofree char *scope = vm ? g_strdup_printf("vm %s", vm) : g_strdup("all");
  VerifyRequest *request = verify_request_new(scope, points);
  request->vm = g_strdup(vm);
  return request;
}

/* Where a repair takes bytes from. */
static gboolean
set_from(ApiRequest *request, Daemon *daemon, VerifyRequest *verify, const char *from, GError **error)
{
  if (!verify_request_set_from(verify, daemon->catalogue, from, error))
    return FALSE;
  if (!verify->from_path)
    return TRUE;
  g_autofree char *given = verify->from_path;
  verify->from_path = handler_take_path(request, daemon, given, error);
  return verify->from_path != NULL;
}

static VerifyRequest *
request_from_json(ApiRequest *request, Daemon *daemon, GError **error)
{
  JsonObject *body = api_request_body(request);
  Wanted wanted = {0};
  guint64 speed = 0;
  gboolean restart = FALSE, repair = FALSE;
  const char *from = NULL;
  if (!read_wanted(body, &wanted, error) || !api_json_get_size(body, "speed", FALSE, &speed, error) ||
      !throttle_check_speed(speed, error) || !api_json_get_bool(body, "restart", FALSE, &restart, error) ||
      !api_json_get_bool(body, "repair", FALSE, &repair, error) ||
      !api_json_get_string(body, "from", FALSE, &from, error))
    return NULL;
  if (from && !repair) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL,
                  "'from' says where a repair takes bytes from: it needs 'repair'");
    return NULL;
  }
  g_autoptr(VerifyRequest) verify =
      wanted.point ? request_of_point(daemon, wanted.point, error) : request_of_vm(daemon, wanted.vm, error);
  if (!verify || (from && !set_from(request, daemon, verify, from, error)))
    return NULL;
  verify->speed = speed;
  verify->restart = restart;
  verify->repair = repair;
  return g_steal_pointer(&verify);
}

void
handle_verify(ApiRequest *request, gpointer data)
{
  Daemon *daemon = data;
  GError *error = NULL;
  VerifyRequest *verify = request_from_json(request, daemon, &error);
  Job *job = verify ? engine_submit(daemon->engine, verify_job_new(verify), &error) : NULL;
  if (job)
    durable_reply(daemon, request, 202, job_to_json(job));
  else
    api_request_reply_error(request, error);
}
