/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest stands still (FILTER, PUSH) from before the transaction until all filters, and the snapshots on
 * them, are in place: a node that is opened on one of an iothread aborts QEMU (7.2: a lock is given back that
 * was not taken) if a request is under way there, and none is while the guest stands still. While it does,
 * PREFIX-stopped is there: whoever finds that node and a paused guest, lets the guest go on. A guest that did
 * not run is not touched; that somebody else had it run meanwhile is told by RESUME, and spoils the instant.
 * A process of its own sees to it that the guest goes on if this one cannot (cbt/qemu/pause-guard.h); it is
 * told to end only when QEMU has said that the guest does.
 *
 * From the first command on nothing is left half done: undo() takes all back, whatever happened, if need be
 * by a connection of its own.
 */
#include <cbt/qemu/instant-private.h>

#include <cbt/qemu/json.h>
#include <cbt/qemu/leftovers.h>
#include <cbt/qemu/overlay.h>
#include <cbt/qemu/pause-guard.h>
#include <string.h>

#define GUARD_SLACK_MS 1000

typedef struct {
  QemuInstant *instant;
  QemuSteps steps;
  gint64 deadline_us;    /* 0: the guest is not stopped */
  gboolean has_bitmaps;  /* the transaction was carried out */
  gboolean is_uncertain; /* or perhaps it was */
  QemuPauseGuard *guard; /* while the guest may stand still because of us */
} Taking;

/* The steps, each bounded by what is left of the pause. */
static const QemuSteps *
steps_of(Taking *self)
{
  if (self->deadline_us) {
    gint64 left_ms = (self->deadline_us - g_get_monotonic_time()) / 1000;
    self->steps.timeout_ms = (guint) CLAMP(left_ms, 1, QEMU_INSTANT_PAUSE_MS);
  }
  return &self->steps;
}

/* The transaction */

static void
add_bitmap_actions(JsonArray *actions, const InstantDisk *disk)
{
  json_array_add_element(actions,
                         qmp_action("block-dirty-bitmap-add",
                                    qmp_args("node", qmp_str(disk->node), "name", qmp_str(disk->recorder),
                                             "persistent", qmp_bool(disk->is_qcow2), "granularity",
                                             qmp_int((gint64) disk->granularity), NULL)));
  if (disk->frozen)
    json_array_add_element(
        actions, qmp_action("block-dirty-bitmap-disable",
                            qmp_args("node", qmp_str(disk->node), "name", qmp_str(disk->frozen), NULL)));
}

static void
add_fleece_action(JsonArray *actions, const QemuInstant *instant, const InstantDisk *disk, int index)
{
  g_autofree char *job = qemu_name(instant->prefix, QEMU_NAME_JOB, index);
  g_autofree char *scratch = qemu_name(instant->prefix, QEMU_NAME_SCRATCH, index);
  g_autofree char *filter = qemu_name(instant->prefix, QEMU_NAME_JOBFILTER, index);
  json_array_add_element(
      actions,
      qmp_action("blockdev-backup", qmp_args("job-id", qmp_str(job), "device", qmp_str(disk->node), "target",
                                             qmp_str(scratch), "filter-node-name", qmp_str(filter), "sync",
                                             qmp_str("none"), "auto-dismiss", qmp_bool(FALSE), NULL)));
}

static void
add_undo_actions(JsonArray *actions, const InstantDisk *disk)
{
  if (disk->frozen) {
    json_array_add_element(actions,
                           qmp_action("block-dirty-bitmap-merge",
                                      qmp_args("node", qmp_str(disk->node), "target", qmp_str(disk->frozen),
                                               "bitmaps", qmp_list(qmp_str(disk->recorder), NULL), NULL)));
    json_array_add_element(
        actions, qmp_action("block-dirty-bitmap-enable",
                            qmp_args("node", qmp_str(disk->node), "name", qmp_str(disk->frozen), NULL)));
  }
  json_array_add_element(
      actions, qmp_action("block-dirty-bitmap-remove",
                          qmp_args("node", qmp_str(disk->node), "name", qmp_str(disk->recorder), NULL)));
}

static JsonObject *
transaction(JsonArray *actions)
{
  JsonNode *node = json_node_new(JSON_NODE_ARRAY);
  json_node_take_array(node, actions);
  return qmp_args("actions", node, NULL);
}

/*
 * What keeps the old bytes comes first: it drains its disk, and keeps it so until the transaction is over. A
 * write that were under way while the bitmaps change places would be in the image of the instant, but only
 * the new bitmap would know.
 */
static void
add_actions(JsonArray *actions, const QemuInstant *instant)
{
  for (guint i = 0; i < instant->disks->len; i++) {
    const InstantDisk *disk = instant->disks->pdata[i];
    if (instant->way == QEMU_WAY_EXTERNAL)
      json_array_add_element(actions, qemu_overlay_action(instant->prefix, (int) i, disk->node));
    else if (instant->way == QEMU_WAY_FLEECE)
      add_fleece_action(actions, instant, disk, (int) i);
  }
  for (guint i = 0; i < instant->disks->len; i++)
    add_bitmap_actions(actions, instant->disks->pdata[i]);
}

static gboolean
run_transaction(Taking *self, GError **error)
{
  g_autoptr(GError) local = NULL;
  QemuInstant *instant = self->instant;
  JsonArray *actions = json_array_new();
  add_actions(actions, instant);
  instant->time_us = g_get_real_time();
  gboolean is_done = qemu_step(steps_of(self), "transaction", instant->prefix, transaction(actions), &local);
  self->has_bitmaps = is_done;
  self->is_uncertain = !is_done && cbt_error_code(local) != CBT_ERROR_FAILED;
  if (!is_done)
    g_propagate_error(error, g_steal_pointer(&local));
  return is_done;
}

/* The guard */

static void
disarm(Taking *self)
{
  g_clear_pointer(&self->guard, qemu_pause_guard_disarm);
}

/* QEMU answers in order: by then it has carried out a `stop` whose answer was not waited for. */
static void
disarm_unless_paused(Taking *self, Qmp *qmp)
{
  g_autoptr(JsonNode) answer = NULL;
  if (!self->guard || !qmp_call(qmp, "query-status", NULL, self->instant->timeout_ms, &answer, NULL))
    return;
  const char *status = qemu_json_string(qemu_json_node_object(answer), "status");
  if (status && strcmp(status, "paused") != 0)
    disarm(self);
}

/* Undoing */

/* The node that is in use by DISK's device must be the one that was looked at. */
static gboolean
disks_are_there(Taking *self, GError **error)
{
  g_autoptr(JsonNode) answer = NULL;
  if (!qmp_call(self->steps.qmp, "query-block", NULL, steps_of(self)->timeout_ms, &answer, error))
    return FALSE;
  JsonArray *array = qemu_json_node_array(answer);
  for (guint i = 0; i < self->instant->disks->len; i++) {
    const InstantDisk *disk = self->instant->disks->pdata[i];
    gboolean is_there = FALSE;
    for (guint k = 0; array && k < json_array_get_length(array); k++) {
      JsonObject *entry = qemu_json_item(array, k);
      const char *node = qemu_json_string(qemu_json_object(entry, "inserted"), "node-name");
      is_there |=
          g_strcmp0(node, disk->node) == 0 && g_strcmp0(qemu_json_string(entry, "qdev"), disk->qdev) == 0;
    }
    if (!is_there) {
      cbt_set_error(error, CBT_ERROR_STATE, "Look again which disks there are.",
                    "The disk %s is no longer what its device uses", disk->node);
      return FALSE;
    }
  }
  return TRUE;
}

static gboolean
undo_bitmaps(Taking *self, Qmp *qmp, GError **error)
{
  g_autoptr(GError) local = NULL;
  JsonArray *actions;
  if (!self->has_bitmaps && !self->is_uncertain)
    return TRUE;
  actions = json_array_new();
  for (guint i = 0; i < self->instant->disks->len; i++)
    add_undo_actions(actions, self->instant->disks->pdata[i]);
  if (qmp_call(qmp, "transaction", transaction(actions), self->instant->timeout_ms, NULL, &local) ||
      (self->is_uncertain && cbt_error_code(local) == CBT_ERROR_FAILED))
    return TRUE;
  g_propagate_error(error, g_steal_pointer(&local));
  return FALSE;
}

/* The guest goes on first. */
static gboolean
undo_with(Taking *self, Qmp *qmp, GError **error)
{
  gboolean is_clear =
      qemu_leftovers_clear(qmp, self->instant->prefix, self->instant->timeout_ms, NULL, error);
  return undo_bitmaps(self, qmp, is_clear ? error : NULL) && is_clear;
}

/* Takes back all that was made, and adds to ERROR if that is not possible. */
static void
undo(Taking *self, GError **error)
{
  g_autoptr(GError) local = NULL;
  g_autoptr(Qmp) own = NULL;
  Qmp *qmp = self->steps.qmp;
  if (!qmp_is_open(qmp)) {
    qmp_drop(qmp); /* QEMU serves one at a time */
    qmp = own = qmp_open(qmp_socket_path(qmp), self->instant->timeout_ms, NULL, &local);
  }
  if (qmp && undo_with(self, qmp, &local))
    self->instant->is_cleared = TRUE;
  if (qmp && !g_error_matches(local, CBT_ERROR, CBT_ERROR_UNREACHABLE))
    disarm_unless_paused(self, qmp);
  g_clear_pointer(&self->guard, qemu_pause_guard_give_up);
  if (local) {
    g_autofree char *why = cbt_error_message(local);
    g_prefix_error(error, "(And it could not all be undone: %s) ", why);
  }
}

/* The pause */

static gboolean
put_filter_in(Taking *self, guint index, GError **error)
{
  InstantDisk *disk = self->instant->disks->pdata[index];
  g_autofree char *name = qemu_name(self->instant->prefix, QEMU_NAME_FILTER, (int) index);
  return qemu_instant_add_filter(self->instant, steps_of(self), index, error) &&
         qemu_step(steps_of(self), "qom-set", disk->device_path,
                   qmp_args("path", qmp_str(disk->device_path), "property", qmp_str("drive"), "value",
                            qmp_str(name), NULL),
                   error) &&
         qemu_instant_add_snap(self->instant, steps_of(self), index, error);
}

static gboolean
nobody_resumed(Taking *self, GError **error)
{
  if (!qmp_wait_event(self->steps.qmp, "RESUME", NULL, NULL, 0, NULL, NULL))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_STATE, "Try again.",
                "Somebody else had the guest go on while its disks were prepared");
  return FALSE;
}

static gboolean
take_still(Taking *self, GError **error)
{
  if (!disks_are_there(self, error) || !run_transaction(self, error))
    return FALSE;
  for (guint i = 0; i < self->instant->disks->len; i++)
    if (!put_filter_in(self, i, error))
      return FALSE;
  return nobody_resumed(self, error);
}

static gboolean
guest_runs(Taking *self, gboolean *runs, GError **error)
{
  g_autoptr(JsonNode) answer = NULL;
  if (!qmp_call(self->steps.qmp, "query-status", NULL, self->steps.timeout_ms, &answer, error))
    return FALSE;
  *runs = qemu_json_bool(qemu_json_node_object(answer), "running");
  return TRUE;
}

static gboolean
take_stopped(Taking *self, GError **error)
{
  g_autofree char *marker = qemu_name(self->instant->prefix, QEMU_NAME_STOPPED, -1);
  if (!qemu_step(steps_of(self), "blockdev-add", marker,
                 qmp_args("driver", qmp_str("null-co"), "node-name", qmp_str(marker), NULL), error))
    return FALSE;
  self->guard = qemu_pause_guard_new(self->steps.qmp, QEMU_INSTANT_PAUSE_MS + GUARD_SLACK_MS, error);
  if (!self->guard)
    return FALSE;
  gint64 start_us = g_get_monotonic_time();
  self->deadline_us = start_us + QEMU_INSTANT_PAUSE_MS * 1000;
  if (!qemu_step(steps_of(self), "stop", NULL, NULL, error) || !take_still(self, error))
    return FALSE;
  self->steps.timeout_ms = self->instant->timeout_ms;
  self->deadline_us = 0;
  if (!qemu_step(&self->steps, "cont", NULL, NULL, error))
    return FALSE;
  self->instant->pause_us = g_get_monotonic_time() - start_us;
  disarm(self);
  return qemu_step(&self->steps, "blockdev-del", marker, qmp_args("node-name", qmp_str(marker), NULL), error);
}

static gboolean
take(Taking *self, GError **error)
{
  gboolean runs;
  if (self->instant->way == QEMU_WAY_FLEECE || self->instant->way == QEMU_WAY_EXTERNAL)
    return disks_are_there(self, error) && run_transaction(self, error);
  qmp_clear_events(self->steps.qmp);
  if (!guest_runs(self, &runs, error))
    return FALSE;
  return runs ? take_stopped(self, error) : take_still(self, error);
}

gboolean
qemu_instant_take(QemuInstant *instant, Qmp *qmp, GError **error)
{
  Taking self = {.instant = instant, .steps = qemu_instant_steps(instant, qmp)};
  qmp_ignore_cancel(qmp, TRUE);
  gboolean is_taken = take(&self, error);
  if (!is_taken)
    undo(&self, error);
  qmp_ignore_cancel(qmp, FALSE);
  return is_taken;
}
