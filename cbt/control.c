/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Requests to tracker calls, by a table. Nothing in a request is trusted: texts may lack their NUL, numbers
 * may be anything. */
#include <cbt/control.h>

#include <cbt/bitmap-file-private.h>
#include <common/error.h>
#include <string.h>
#include <unistd.h>

void
cbt_control_request_init(CbtControlRequest *request, CbtControlOp op, const char *name)
{
  memset(request, 0, sizeof *request);
  request->magic = CBT_CONTROL_MAGIC;
  request->version = CBT_CONTROL_VERSION;
  request->op = op;
  /* A name that is too long must not become another name by being cut: without a NUL it is refused. */
  if (name != NULL)
    memcpy(request->name, name, MIN(strlen(name), sizeof request->name));
}

static void
reply_init(CbtControlReply *reply)
{
  memset(reply, 0, sizeof *reply);
  reply->magic = CBT_CONTROL_MAGIC;
  reply->version = CBT_CONTROL_VERSION;
  reply->code = -1;
  reply->pid = getpid();
}

void
cbt_control_reply_error(CbtControlReply *reply, const GError *error)
{
  reply_init(reply);
  reply->code = (gint32) cbt_error_code(error);
  cbt_bitmap_copy_text(reply->message, sizeof reply->message, error->message);
}

/* A name field of a request, checked. */
static gboolean
check_name(const char field[CBT_NAME_MAX + 1], GError **error)
{
  if (memchr(field, '\0', CBT_NAME_MAX + 1) != NULL)
    return cbt_name_check("bitmap", field, error);
  cbt_set_error(error, CBT_ERROR_INVALID, NULL, "a bitmap name has more than %d characters", CBT_NAME_MAX);
  return FALSE;
}

static gboolean
run_nothing(CbtTracker *tracker G_GNUC_UNUSED, const CbtControlRequest *request G_GNUC_UNUSED,
            GError **error G_GNUC_UNUSED)
{
  return TRUE;
}

static gboolean
run_add(CbtTracker *tracker, const CbtControlRequest *request, GError **error)
{
  return cbt_tracker_add(tracker, request->name, request->granularity, error);
}

static gboolean
run_remove(CbtTracker *tracker, const CbtControlRequest *request, GError **error)
{
  return cbt_tracker_remove(tracker, request->name, error);
}

static gboolean
run_apply(CbtTracker *tracker, const CbtControlRequest *request, GError **error)
{
  char reason[sizeof request->reason + 1] = "";
  if (request->event >= CBT_N_BITMAP_EVENTS) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "%u is no bitmap event", request->event);
    return FALSE;
  }
  memcpy(reason, request->reason, sizeof request->reason - 1);
  return cbt_tracker_apply(tracker, request->name, (CbtBitmapEvent) request->event, &request->pending, reason,
                           error);
}

static gboolean
run_merge(CbtTracker *tracker, const CbtControlRequest *request, GError **error)
{
  return check_name(request->source, error) &&
         cbt_tracker_merge(tracker, request->name, request->source, error);
}

typedef struct {
  gboolean (*run)(CbtTracker *tracker, const CbtControlRequest *request, GError **error); /* NULL: not here */
  gboolean named; /* the request carries a bitmap's name */
  gboolean lists; /* the reply carries all bitmaps */
} Operation;

static const Operation operations[CBT_N_CONTROL_OPS] = {
    [CBT_CONTROL_HELLO] = {run_nothing, FALSE, FALSE}, [CBT_CONTROL_LIST] = {run_nothing, FALSE, TRUE},
    [CBT_CONTROL_ADD] = {run_add, TRUE, TRUE},         [CBT_CONTROL_REMOVE] = {run_remove, TRUE, TRUE},
    [CBT_CONTROL_APPLY] = {run_apply, TRUE, TRUE},     [CBT_CONTROL_MERGE] = {run_merge, TRUE, TRUE},
};

static const Operation *
find_operation(const CbtControlRequest *request, GError **error)
{
  if (request->magic != CBT_CONTROL_MAGIC) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "not a control request");
    return NULL;
  }
  if (request->version != CBT_CONTROL_VERSION) {
    cbt_set_error(error, CBT_ERROR_UNSUPPORTED, NULL, "control protocol version %u is not %u",
                  request->version, CBT_CONTROL_VERSION);
    return NULL;
  }
  if (request->op >= CBT_N_CONTROL_OPS || operations[request->op].run == NULL) {
    cbt_set_error(error, CBT_ERROR_UNSUPPORTED, NULL, "control operation %u is not known here", request->op);
    return NULL;
  }
  return &operations[request->op];
}

static void
list_bitmaps(const CbtTracker *tracker, CbtControlReply *reply)
{
  reply->n_bitmaps = MIN(cbt_tracker_n_bitmaps(tracker), CBT_TRACKER_MAX_BITMAPS);
  for (guint i = 0; i < reply->n_bitmaps; i++)
    cbt_tracker_info(tracker, i, &reply->bitmaps[i]);
}

static gboolean
execute(CbtTracker *tracker, const CbtControlRequest *request, CbtControlReply *reply, GError **error)
{
  const Operation *operation = find_operation(request, error);
  if (operation == NULL || (operation->named && !check_name(request->name, error)) ||
      !operation->run(tracker, request, error) || !cbt_tracker_get_identity(tracker, &reply->identity, error))
    return FALSE;
  if (operation->lists)
    list_bitmaps(tracker, reply);
  return TRUE;
}

void
cbt_control_execute(CbtTracker *tracker, const CbtControlRequest *request, CbtControlReply *reply)
{
  g_autoptr(GError) error = NULL;
  reply_init(reply);
  if (!execute(tracker, request, reply, &error))
    cbt_control_reply_error(reply, error);
}
