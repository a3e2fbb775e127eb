/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a peer of the control socket asks for. HELLO and LIST only look, and only the control thread ever
 * changes what they look at (bits are read one by one while the guest sets them), so they do not disturb the
 * guest. A bitmap request holds the guest's changes for the moments in which pointers move, under the peer's
 * own hold or a short one; it never holds them while it waits for storage.
 *
 * A session is ended by taking it out of the export, which stops new changes from using it; it is freed when
 * the gate was seen empty after that, or when a short hold has drained it. If even that is not to be had,
 * because the storage hangs, it waits among the retired for the next try. There is one session at a time; a
 * list of them would stand where CbtExport.session stands, and nothing here but put_up_session() and
 * retire_session() would change.
 */
#include <cbt/export-private.h>

#include <cbt/bitmap-file-private.h>
#include <common/error.h>
#include <stdatomic.h>
#include <string.h>

#define AUTO_HOLD_MS    2000u /* for a bitmap request without a hold */
#define HOLD_DEFAULT_MS 2000u
#define HOLD_MAX_MS     10000u
#define RETIRE_HOLD_MS  250u /* how long the guest may wait so that a session can be freed */

/* One request on its way through. */
typedef struct {
  CbtExport *export;
  CbtControlPeer *peer;
  CbtRetired *retired;
  const CbtControlRequest *request;
  CbtControlFds *fds;
  CbtControlReply *reply;
  CbtSession *session; /* of BEGIN; NULL when the export has taken it */
} Call;

static void
reply_done(CbtControlReply *reply, guint64 value)
{
  reply->code = -1;
  reply->value = value;
}

/* --- bitmap requests --- */

/* For the moments of a request at which no change may pass: under the peer's own hold, or a short one. */
static gboolean
pause_changes(gpointer user_data, CbtTrackerFunc func, gpointer data, GError **error)
{
  Call *call = user_data;
  CbtGate *gate = call->export->gate;
  guint64 duration_us = 0;
  if (cbt_gate_run_held(gate, call->peer->hold, func, data))
    return TRUE;
  guint64 hold = cbt_gate_hold(gate, AUTO_HOLD_MS, error);
  if (hold == 0)
    return FALSE;
  gboolean ran = cbt_gate_run_held(gate, hold, func, data);
  cbt_gate_release(gate, hold, &duration_us);
  if (!ran)
    cbt_set_error(error, CBT_ERROR_BUSY, "Try again.", "the writes could not be held long enough");
  return ran;
}

static gboolean
handle_look(Call *call, GError **error G_GNUC_UNUSED)
{
  cbt_control_execute(call->export->tracker, call->request, call->reply);
  return TRUE;
}

/* A bitmap that is being read under a session belongs to the session's peer: a reclaim by another would mark
 * clusters that the session does not preserve, and the reader would take them for part of the backup. */
static gboolean
check_not_in_session(const Call *call, GError **error)
{
  const CbtExport *export = call->export;
  if (call->request->op != CBT_CONTROL_APPLY || call->peer->session != NULL ||
      atomic_load(&export->session) == NULL ||
      strncmp(call->request->name, export->session_bitmap, sizeof export->session_bitmap) != 0)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_BUSY, "Wait for the backup, or cancel it.",
                "bitmap '%s' is being read by a backup", export->session_bitmap);
  return FALSE;
}

static gboolean
handle_bitmap(Call *call, GError **error)
{
  CbtTracker *tracker = call->export->tracker;
  if (!check_not_in_session(call, error))
    return FALSE;
  cbt_tracker_set_pause(tracker, pause_changes, call);
  cbt_control_execute(tracker, call->request, call->reply);
  cbt_tracker_set_pause(tracker, NULL, NULL);
  /* Not while the peer holds the guest; it comes with the release then. */
  if (!cbt_gate_is_held_by(call->export->gate, call->peer->hold))
    cbt_tracker_settle(tracker);
  return TRUE;
}

/* --- holds --- */

static gboolean
handle_hold(Call *call, GError **error)
{
  guint timeout_ms = call->request->timeout_ms != 0 ? call->request->timeout_ms : HOLD_DEFAULT_MS;
  if (timeout_ms > HOLD_MAX_MS) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "writes may be held for at most %u ms, not %u", HOLD_MAX_MS,
                  timeout_ms);
    return FALSE;
  }
  guint64 hold = cbt_gate_hold(call->export->gate, timeout_ms, error);
  if (hold == 0)
    return FALSE;
  call->peer->hold = hold;
  reply_done(call->reply, 0);
  return TRUE;
}

static gboolean
handle_release(Call *call, GError **error)
{
  guint64 duration_us = 0;
  if (call->peer->hold == 0) {
    cbt_set_error(error, CBT_ERROR_STATE, NULL, "the writes are not held");
    return FALSE;
  }
  gboolean in_force = cbt_gate_release(call->export->gate, call->peer->hold, &duration_us);
  call->peer->hold = 0;
  if (in_force)
    reply_done(call->reply, duration_us);
  else
    cbt_set_error(error, CBT_ERROR_STATE, "Try again; if it stays so, raise the hold's time-out.",
                  "the hold had ended by itself after %" G_GUINT64_FORMAT " us", duration_us);
  return in_force;
}

void
cbt_control_peer_released(CbtExport *export, CbtControlPeer *peer)
{
  if (peer->session != NULL)
    cbt_session_prepare(peer->session);
  cbt_tracker_settle(export->tracker);
}

/* --- sessions --- */

static void
put_up_session(Call *call)
{
  call->peer->session = call->session;
  g_strlcpy(call->export->session_bitmap, call->request->name, sizeof call->export->session_bitmap);
  atomic_store(&call->export->session, call->session);
  call->session = NULL;
}

/* Under the hold: freezes the bitmap, then turns the session on. */
static void
begin_held(gpointer user_data)
{
  Call *call = user_data;
  CbtControlRequest freeze = *call->request;
  freeze.op = CBT_CONTROL_APPLY;
  freeze.event = CBT_BITMAP_CREATE_SUCCESSOR;
  cbt_control_execute(call->export->tracker, &freeze, call->reply);
  if (call->reply->code != -1)
    return;
  CbtBitmapFile *file = cbt_tracker_find(call->export->tracker, freeze.name, NULL);
  g_assert(file != NULL); /* it was frozen just now */
  /* The bits of a bitmap that was inconsistent say nothing: then all is preserved. */
  gboolean whole = call->request->whole || file->header.inconsistent_base;
  cbt_session_start(call->session, whole ? NULL : cbt_bitmap_file_parent(file));
  put_up_session(call);
}

static gboolean
attach_session(Call *call, GError **error)
{
  CbtControlFds *fds = call->fds;
  if (fds->n_fds != 2) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "a session needs 2 descriptors, %u came", fds->n_fds);
    return FALSE;
  }
  fds->n_fds = 0; /* attach closes them on failure, too */
  call->session = cbt_session_attach(fds->fds[0], fds->fds[1], call->export->size, error);
  return call->session != NULL;
}

static gboolean
handle_begin(Call *call, GError **error)
{
  if (atomic_load(&call->export->session) != NULL) {
    cbt_set_error(error, CBT_ERROR_BUSY, "Wait until the other backup has ended.",
                  "another backup session of this disk is on");
    return FALSE;
  }
  if (!attach_session(call, error))
    return FALSE;
  gboolean ran = cbt_gate_run_held(call->export->gate, call->peer->hold, begin_held, call);
  if (!ran)
    cbt_set_error(error, CBT_ERROR_STATE, "Try again; if it stays so, raise the hold's time-out.",
                  "the writes are not held, or the hold has ended by itself");
  g_clear_pointer(&call->session, cbt_session_free);
  return ran;
}

static gboolean
gate_was_empty(CbtGate *gate)
{
  guint64 duration_us = 0;
  if (cbt_gate_is_idle(gate))
    return TRUE;
  guint64 hold = cbt_gate_hold(gate, RETIRE_HOLD_MS, NULL);
  if (hold != 0)
    cbt_gate_release(gate, hold, &duration_us);
  return hold != 0;
}

gboolean
cbt_retired_free_drained(CbtRetired *retired)
{
  gboolean ended = TRUE;
  for (guint i = 0; i < retired->sessions->len; i++)
    ended = cbt_session_end_preparing(g_ptr_array_index(retired->sessions, i)) && ended;
  if (retired->sessions->len != 0 && ended && gate_was_empty(retired->export->gate))
    g_ptr_array_set_size(retired->sessions, 0);
  return retired->sessions->len == 0;
}

static void
retire_session(CbtExport *export, CbtControlPeer *peer, CbtRetired *retired)
{
  if (peer->session == NULL)
    return;
  atomic_store(&export->session, NULL);
  g_ptr_array_add(retired->sessions, g_steal_pointer(&peer->session));
  cbt_retired_free_drained(retired);
}

static gboolean
handle_end(Call *call, GError **error)
{
  if (call->peer->session == NULL) {
    cbt_set_error(error, CBT_ERROR_STATE, NULL, "this connection has no backup session");
    return FALSE;
  }
  retire_session(call->export, call->peer, call->retired);
  reply_done(call->reply, 0);
  return TRUE;
}

void
cbt_control_peer_drop(CbtExport *export, CbtControlPeer *peer, CbtRetired *retired)
{
  guint64 duration_us = 0;
  retire_session(export, peer, retired);
  if (peer->hold != 0)
    cbt_gate_release(export->gate, peer->hold, &duration_us);
  peer->hold = 0;
}

/* --- dispatch --- */

static gboolean (*const handlers[CBT_N_CONTROL_OPS])(Call *call, GError **error) = {
    [CBT_CONTROL_HELLO] = handle_look,      [CBT_CONTROL_LIST] = handle_look,
    [CBT_CONTROL_ADD] = handle_bitmap,      [CBT_CONTROL_REMOVE] = handle_bitmap,
    [CBT_CONTROL_APPLY] = handle_bitmap,    [CBT_CONTROL_MERGE] = handle_bitmap,
    [CBT_CONTROL_HOLD] = handle_hold,       [CBT_CONTROL_BEGIN] = handle_begin,
    [CBT_CONTROL_RELEASE] = handle_release, [CBT_CONTROL_END] = handle_end,
};

void
cbt_control_peer_handle(CbtExport *export, CbtControlPeer *peer, CbtRetired *retired,
                        const CbtControlRequest *request, CbtControlFds *fds, CbtControlReply *reply)
{
  g_autoptr(GError) error = NULL;
  Call call = {export, peer, retired, request, fds, reply, NULL};
  if (request->op >= CBT_N_CONTROL_OPS)
    cbt_set_error(&error, CBT_ERROR_UNSUPPORTED, NULL, "control operation %u is not known", request->op);
  if (error != NULL || !handlers[request->op](&call, &error))
    cbt_control_reply_error(reply, error);
}
