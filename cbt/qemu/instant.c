/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <cbt/qemu/instant-private.h>

#include <cbt/qemu/json.h>
#include <cbt/qemu/leftovers.h>
#include <cbt/qemu/overlay.h>
#include <cbt/qemu/peer.h>
#include <cbt/qemu/scratch.h>
#include <common/fd.h>

#define MIN_LIMIT      (1u << 20)
#define LIMIT_MULTIPLE 65536u

static void
disk_free(gpointer data)
{
  InstantDisk *disk = data;
  char *const texts[] = {disk->node,   disk->qdev,     disk->device_path, disk->changes_of,
                         disk->frozen, disk->recorder, disk->socket_path, disk->uri,
                         disk->image,  disk->format};
  qemu_push_free(disk->push);
  cbt_clear_fd(&disk->scratch_fd);
  for (guint i = 0; i < G_N_ELEMENTS(texts); i++)
    g_free(texts[i]);
  g_free(disk);
}

QemuSteps
qemu_instant_steps(const QemuInstant *self, Qmp *qmp)
{
  return (QemuSteps){.qmp = qmp,
                     .timeout_ms = self->timeout_ms,
                     .func = self->step,
                     .user_data = self->user_data,
                     .images = self->images};
}

/* Preparing */

static gboolean
check_bitmap(const QemuInstantDisk *wanted, GError **error)
{
  const char *name = wanted->frozen;
  const QemuBitmap *bitmap = name ? qemu_disk_bitmap(wanted->disk, name) : NULL;
  if (!name || (bitmap && bitmap->is_recording && !bitmap->is_busy && !bitmap->is_inconsistent))
    return TRUE;
  if (!bitmap)
    cbt_set_error(error, CBT_ERROR_NOT_FOUND, NULL, "The disk %s has no bitmap %s", wanted->disk->node, name);
  else if (bitmap->is_inconsistent)
    cbt_set_error(error, CBT_ERROR_INCONSISTENT, NULL, "The bitmap %s of the disk %s may have missed changes",
                  name, wanted->disk->node);
  else
    cbt_set_error(error, CBT_ERROR_STATE, NULL, "The bitmap %s of the disk %s %s", name, wanted->disk->node,
                  bitmap->is_busy ? "is in use" : "does not record");
  return FALSE;
}

static gboolean
check(const QemuInstantDisk *disks, guint n_disks, const QemuInstantOptions *options, GError **error)
{
  if (n_disks == 0) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "No disks are named");
    return FALSE;
  }
  for (guint i = 0; i < n_disks; i++) {
    const QemuDisk *disk = disks[i].disk;
    if (disk->left_out || !disk->node) {
      cbt_set_error(error, CBT_ERROR_STATE, NULL, "The disk %s of QEMU is %s",
                    disk->node ? disk->node : disk->drive, disk->left_out ? disk->left_out : "empty");
      return FALSE;
    }
    if (disk->filter) {
      const char *name = qemu_disk_lasting_name(disk);
      cbt_set_error(error, CBT_ERROR_BUSY, "Wait until that has ended.",
                    "Another backup of the disk %s is under way (its filter is %s)", name ? name : disk->node,
                    disk->filter);
      return FALSE;
    }
    if (!check_bitmap(&disks[i], error))
      return FALSE;
  }
  return qemu_prefix_check(options->prefix, error);
}

static InstantDisk *
copy_disk(const QemuInstant *self, const QemuInstantDisk *wanted, guint index)
{
  InstantDisk *disk = g_new0(InstantDisk, 1);
  g_autofree char *name = self->way == QEMU_WAY_PUSH
                              ? g_strdup_printf("%s-%s%u", self->prefix, QEMU_NAME_TARGET, index)
                              : g_strdup_printf("%s-%s", self->prefix, QEMU_NAME_NBD);
  disk->node = g_strdup(wanted->disk->node);
  disk->qdev = g_strdup(wanted->disk->qdev);
  disk->device_path = g_strdup(wanted->disk->device_path);
  disk->frozen = g_strdup(wanted->frozen);
  disk->changes_of = g_strdup(wanted->changes_of);
  disk->recorder = g_strdup(wanted->recorder);
  disk->granularity = wanted->granularity;
  disk->size_bytes = wanted->disk->size_bytes;
  disk->is_qcow2 = g_strcmp0(wanted->disk->format, "qcow2") == 0;
  disk->image = g_strdup(wanted->disk->filename);
  disk->format = g_strdup(wanted->disk->format);
  disk->socket_path = g_build_filename(self->socket_dir, name, NULL);
  disk->scratch_fd = -1;
  return disk;
}

static void
add_disk(QemuInstant *self, InstantDisk *disk)
{
  g_ptr_array_add(self->disks, disk);
  if (disk->image)
    g_ptr_array_add(self->images, disk->image);
}

static QemuInstant *
new_instant(const QemuInstantOptions *options)
{
  QemuInstant *self = g_new0(QemuInstant, 1);
  self->prefix = g_strdup(options->prefix);
  self->scratch_dir = g_strdup(options->scratch_dir);
  self->socket_dir = g_strdup(options->socket_dir ? options->socket_dir : options->scratch_dir);
  if (options->scratch_limit)
    self->scratch_limit = MAX(options->scratch_limit, MIN_LIMIT) / LIMIT_MULTIPLE * LIMIT_MULTIPLE;
  self->timeout_ms = options->timeout_ms;
  self->step = options->step;
  self->user_data = options->user_data;
  self->disks = g_ptr_array_new_with_free_func(disk_free);
  self->images = g_ptr_array_new();
  return self;
}

static gboolean
start_push(const QemuInstant *self, InstantDisk *disk, GError **error)
{
  QemuPushOptions options = {.scratch_dir = self->scratch_dir,
                             .socket_path = disk->socket_path,
                             .size_bytes = disk->size_bytes,
                             .limit_bytes = self->scratch_limit,
                             .bitmap = disk->changes_of,
                             .timeout_ms = self->timeout_ms};
  disk->push = qemu_push_new(&options, error);
  return disk->push != NULL;
}

static gboolean
prepare_disk(QemuInstant *self, const QemuSteps *steps, guint index, GError **error)
{
  gboolean is_pushed = self->way == QEMU_WAY_PUSH;
  if (self->way == QEMU_WAY_EXTERNAL)
    return qemu_instant_add_overlay(self, steps, index, error);
  return (!is_pushed || start_push(self, self->disks->pdata[index], error)) &&
         qemu_instant_add_scratch(self, steps, index, error) &&
         (!is_pushed || qemu_instant_add_target(self, steps, index, error));
}

static gboolean
prepare(QemuInstant *self, Qmp *qmp, GError **error)
{
  QemuSteps steps = qemu_instant_steps(self, qmp);
  for (guint i = 0; i < self->disks->len; i++)
    if (!prepare_disk(self, &steps, i, error))
      return FALSE;
  return self->way == QEMU_WAY_PUSH || qemu_instant_check_server(self, &steps, error);
}

QemuInstant *
qemu_instant_prepare(Qmp *qmp, const QemuInstantDisk *disks, guint n_disks, const QemuInstantOptions *options,
                     GError **error)
{
  if (!check(disks, n_disks, options, error))
    return NULL;
  g_autoptr(QemuInstant) self = new_instant(options);
  if (!qemu_instant_choose(qmp, disks, n_disks, options, &self->way, &self->why, error))
    return NULL;
  for (guint i = 0; i < n_disks; i++)
    add_disk(self, copy_disk(self, &disks[i], i));
  if (prepare(self, qmp, error))
    return g_steal_pointer(&self);
  g_autoptr(GError) local = NULL;
  self->step = NULL;
  if (!qemu_instant_end(self, qmp, &local)) {
    g_autofree char *why = cbt_error_message(local);
    g_prefix_error(error, "(And it could not all be undone: %s) ", why);
  }
  return NULL;
}

/* Offering */

static gboolean
offer_disk(QemuInstant *self, const QemuSteps *steps, guint index, GError **error)
{
  if (self->way == QEMU_WAY_FLEECE)
    return qemu_instant_export(self, steps, QEMU_NAME_SCRATCH, index, error);
  if (self->way == QEMU_WAY_EXTERNAL) {
    InstantDisk *disk = self->disks->pdata[index];
    disk->is_readable = g_strcmp0(disk->format, "raw") == 0 && qemu_peer_has_open(steps->qmp, disk->image);
    return qemu_instant_export(self, steps, NULL, index, error);
  }
  return self->way == QEMU_WAY_PUSH ? qemu_instant_push(self, steps, index, error)
                                    : qemu_instant_export(self, steps, QEMU_NAME_SNAP, index, error);
}

gboolean
qemu_instant_offer(QemuInstant *self, Qmp *qmp, GError **error)
{
  QemuSteps steps = qemu_instant_steps(self, qmp);
  if (self->way != QEMU_WAY_PUSH && !qemu_instant_start_server(self, &steps, error))
    return FALSE;
  for (guint i = 0; i < self->disks->len; i++)
    if (!offer_disk(self, &steps, i, error))
      return FALSE;
  return TRUE;
}

/* Pushing */

static JsonObject *
find_job(JsonArray *jobs, const char *id)
{
  for (guint i = 0; jobs && i < json_array_get_length(jobs); i++)
    if (g_strcmp0(qemu_json_string(qemu_json_item(jobs, i), "id"), id) == 0)
      return qemu_json_item(jobs, i);
  return NULL;
}

/* Adds up how far the job of disk INDEX came; *are_over becomes FALSE if it runs. */
static gboolean
look_at_job(const QemuInstant *self, JsonArray *jobs, guint index, guint64 bytes[2], gboolean *are_over,
            GError **error)
{
  guint64 done = 0, total = 0;
  const InstantDisk *disk = self->disks->pdata[index];
  g_autofree char *id = qemu_name(self->prefix, QEMU_NAME_JOB, (int) index);
  JsonObject *job = find_job(jobs, id);
  const char *failure = job ? qemu_json_string(job, "error") : "its job is gone";
  if (failure) {
    cbt_set_error(error, CBT_ERROR_IO, "See how much room the scratch folder has.",
                  "QEMU could not push the disk %s: %s", disk->node, failure);
    return FALSE;
  }
  qemu_json_size(job, "current-progress", &done);
  qemu_json_size(job, "total-progress", &total);
  bytes[0] += done;
  bytes[1] += total;
  *are_over &= g_strcmp0(qemu_json_string(job, "status"), "concluded") == 0;
  return TRUE;
}

/* What was pushed is all here: QEMU is rid of it, and it can be read. */
static gboolean
finish_push(QemuInstant *self, Qmp *qmp, GError **error)
{
  QemuSteps steps = qemu_instant_steps(self, qmp);
  if (!self->is_cleared && !qemu_leftovers_clear_by(&steps, self->prefix, NULL, error))
    return FALSE;
  self->is_cleared = TRUE;
  for (guint i = 0; i < self->disks->len; i++) {
    InstantDisk *disk = self->disks->pdata[i];
    if (!disk->uri && !qemu_push_finish(disk->push, &disk->uri, error))
      return FALSE;
  }
  return TRUE;
}

gboolean
qemu_instant_ready(QemuInstant *self, Qmp *qmp, gboolean *is_ready, guint64 *done_bytes, guint64 *total_bytes,
                   GError **error)
{
  gboolean are_over = TRUE;
  guint64 bytes[2] = {0, 0};
  g_autoptr(JsonNode) answer = NULL;
  if (self->way == QEMU_WAY_PUSH && !self->is_cleared) {
    if (!qmp_call(qmp, "query-jobs", NULL, self->timeout_ms, &answer, error))
      return FALSE;
    for (guint i = 0; i < self->disks->len; i++)
      if (!look_at_job(self, qemu_json_node_array(answer), i, bytes, &are_over, error))
        return FALSE;
  }
  if (self->way == QEMU_WAY_PUSH && are_over && !finish_push(self, qmp, error))
    return FALSE;
  *is_ready = are_over;
  if (done_bytes)
    *done_bytes = bytes[0];
  if (total_bytes)
    *total_bytes = bytes[1];
  return TRUE;
}

/* What it says */

void
qemu_instant_explain(const QemuInstant *self, guint index, GError **error)
{
  g_autoptr(GError) local = NULL;
  const InstantDisk *disk = self->disks->pdata[index];
  if (cbt_error_code(*error) != CBT_ERROR_IO || disk->scratch_fd < 0 ||
      (qemu_scratch_check_room(disk->scratch_fd, self->scratch_dir, self->scratch_limit, &local) &&
       (!disk->push || qemu_push_check_room(disk->push, &local))))
    return;
  g_debug("%s", (*error)->message);
  g_clear_error(error);
  g_propagate_error(error, g_steal_pointer(&local));
}

const char *
qemu_instant_uri(const QemuInstant *self, guint disk)
{
  g_return_val_if_fail(disk < self->disks->len, NULL);
  return ((InstantDisk *) self->disks->pdata[disk])->uri;
}

const char *
qemu_instant_file(const QemuInstant *self, guint disk)
{
  g_return_val_if_fail(disk < self->disks->len, NULL);
  const InstantDisk *found = self->disks->pdata[disk];
  return found->is_readable ? found->image : NULL;
}

const char *
qemu_instant_bitmap(const QemuInstant *self, guint disk)
{
  g_return_val_if_fail(disk < self->disks->len, NULL);
  return ((InstantDisk *) self->disks->pdata[disk])->changes_of;
}

QemuWay
qemu_instant_way(const QemuInstant *self)
{
  return self->way;
}

const char *
qemu_instant_why(const QemuInstant *self)
{
  return self->why;
}

gint64
qemu_instant_time_us(const QemuInstant *self)
{
  return self->time_us;
}

gint64
qemu_instant_pause_us(const QemuInstant *self)
{
  return self->pause_us;
}

/* The end */

gboolean
qemu_instant_end(QemuInstant *self, Qmp *qmp, GError **error)
{
  return qemu_instant_end_within(self, qmp, 0, NULL, error);
}

gboolean
qemu_instant_end_within(QemuInstant *self, Qmp *qmp, guint commit_ms, guint64 *committed, GError **error)
{
  QemuSteps steps = qemu_instant_steps(self, qmp);
  for (guint i = 0; i < self->disks->len; i++) {
    InstantDisk *disk = self->disks->pdata[i];
    if (disk->push)
      qemu_push_abort(disk->push); /* else a job could wait for a target that hangs */
  }
  if (self->is_cleared)
    return TRUE;
  qmp_ignore_cancel(qmp, TRUE);
  self->is_cleared = qemu_leftovers_clear_within(&steps, self->prefix, commit_ms, committed, NULL, error);
  qmp_ignore_cancel(qmp, FALSE);
  return self->is_cleared;
}

void
qemu_instant_free(QemuInstant *self)
{
  if (!self)
    return;
  char *const texts[] = {self->prefix, self->scratch_dir, self->socket_dir, self->why};
  for (guint i = 0; i < G_N_ELEMENTS(texts); i++)
    g_free(texts[i]);
  g_ptr_array_unref(self->images);
  g_ptr_array_unref(self->disks);
  g_free(self);
}
