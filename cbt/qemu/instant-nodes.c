/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Nodes of a disk N, from the device down:
 *
 *   FILTER, PUSH:  device -> cbwN -> the disk        snapN -> cbwN    (snapN is exported, or pushed to tgtN)
 *                              \---> scrN -> fileN
 *   FLEECE:        device -> fltN (of jobN) -> the disk
 *                              \---> scrN (qcow2, its backing is the disk) -> fileN    (scrN is exported)
 *   EXTERNAL:      device -> ovlN -> the disk, which is exported and read-only
 *                              \---> ovfN
 */
#include <cbt/qemu/instant-private.h>

#include <cbt/qemu/json.h>
#include <cbt/qemu/leftovers.h>
#include <cbt/qemu/listen.h>
#include <cbt/qemu/overlay.h>
#include <cbt/qemu/scratch.h>
#include <common/fd.h>
#include <string.h>

#define CBW_TIMEOUT_S 45

/* Scratch */

/* FILTER needs qcow2 only to be limited: what is written grows then from the file's begin on. */
static QemuScratch
scratch_for(const QemuInstant *self, const InstantDisk *disk)
{
  QemuScratch scratch = {.folder = self->scratch_dir, .size_bytes = disk->size_bytes};
  scratch.is_reserved = self->way == QEMU_WAY_FLEECE;
  scratch.is_qcow2 = scratch.is_reserved || self->scratch_limit;
  scratch.limit_bytes = self->scratch_limit;
  return scratch;
}

/* Hands FD over; *fdset_id is where QEMU finds it. */
static gboolean
hand_over(const QemuInstant *self, const QemuSteps *steps, guint index, int fd, gint64 *fdset_id,
          GError **error)
{
  InstantDisk *disk = self->disks->pdata[index];
  g_autoptr(JsonNode) answer = NULL;
  g_autofree char *name = qemu_name(self->prefix, QEMU_NAME_FILE, (int) index);
  const QemuNote said = {.prefix = self->prefix,
                         .disk = index,
                         .node = disk->node,
                         .socket_path = disk->socket_path,
                         .is_pushed = disk->push != NULL};
  g_autofree char *note = qemu_leftovers_note(&said);
  if (!qemu_step_with_fd(steps, "add-fd", name, qmp_args("opaque", qmp_str(note), NULL), fd, &answer, error))
    return FALSE;
  if (qemu_json_int(qemu_json_node_object(answer), "fdset-id", fdset_id))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "QEMU's answer to add-fd cannot be understood");
  return FALSE;
}

static JsonNode *
file_node(const QemuInstant *self, guint index, gint64 fdset_id, guint64 limit_bytes)
{
  g_autofree char *name = qemu_name(self->prefix, QEMU_NAME_FILE, (int) index);
  g_autofree char *path = g_strdup_printf("/dev/fdset/%" G_GINT64_FORMAT, fdset_id);
  JsonNode *file = qmp_dict("driver", qmp_str("file"), "node-name", qmp_str(name), "filename", qmp_str(path),
                            "discard", qmp_str("unmap"), NULL);
  if (!limit_bytes)
    return file;
  return qmp_dict("driver", qmp_str("raw"), "size", qmp_int((gint64) limit_bytes), "discard",
                  qmp_str("unmap"), "file", file, NULL);
}

gboolean
qemu_instant_add_scratch(const QemuInstant *self, const QemuSteps *steps, guint index, GError **error)
{
  gint64 fdset_id;
  InstantDisk *disk = self->disks->pdata[index];
  QemuScratch scratch = scratch_for(self, disk);
  g_autofree char *name = qemu_name(self->prefix, QEMU_NAME_SCRATCH, (int) index);
  CBT_AUTO_FD int fd = qemu_scratch_open(&scratch, error);
  if (fd < 0 || !hand_over(self, steps, index, fd, &fdset_id, error))
    return FALSE;
  disk->scratch_fd = cbt_steal_fd(&fd);
  const char *backing = self->way == QEMU_WAY_FLEECE ? disk->node : NULL;
  return qemu_step(steps, "blockdev-add", name,
                   qmp_args("driver", qmp_str(scratch.is_qcow2 ? "qcow2" : "raw"), "node-name", qmp_str(name),
                            "discard", qmp_str("unmap"), "backing", qmp_str(backing), "file",
                            file_node(self, index, fdset_id, scratch.limit_bytes), NULL),
                   error);
}

/* What is in the file's name tells which backup it was. */
gboolean
qemu_instant_add_overlay(const QemuInstant *self, const QemuSteps *steps, guint index, GError **error)
{
  const InstantDisk *disk = self->disks->pdata[index];
  gboolean has_prefix = g_str_has_prefix(disk->recorder, self->prefix);
  g_autofree char *name =
      g_strconcat(has_prefix ? "" : self->prefix, has_prefix ? "" : "-", disk->recorder, NULL);
  g_autofree char *path = disk->image ? qemu_overlay_path(disk->image, name) : NULL;
  const QemuOverlay overlay = {.prefix = self->prefix,
                               .index = index,
                               .node = disk->node,
                               .image = disk->image,
                               .format = disk->format,
                               .path = path,
                               .socket_path = disk->socket_path,
                               .size_bytes = disk->size_bytes};
  return qemu_overlay_add(steps, &overlay, error);
}

/* Connects QEMU to the disk's own server. */
gboolean
qemu_instant_add_target(const QemuInstant *self, const QemuSteps *steps, guint index, GError **error)
{
  InstantDisk *disk = self->disks->pdata[index];
  g_autofree char *name = qemu_name(self->prefix, QEMU_NAME_TARGET, (int) index);
  CBT_AUTO_FD int fd = qemu_push_steal_client(disk->push);
  return qemu_step_with_fd(steps, "getfd", name, qmp_args("fdname", qmp_str(name), NULL), fd, NULL, error) &&
         qemu_step(steps, "blockdev-add", name,
                   qmp_args("driver", qmp_str("nbd"), "node-name", qmp_str(name), "server",
                            qmp_dict("type", qmp_str("fd"), "str", qmp_str(name), NULL), NULL),
                   error);
}

/* Filters and snapshots */

gboolean
qemu_instant_add_filter(const QemuInstant *self, const QemuSteps *steps, guint index, GError **error)
{
  InstantDisk *disk = self->disks->pdata[index];
  g_autofree char *name = qemu_name(self->prefix, QEMU_NAME_FILTER, (int) index);
  g_autofree char *scratch = qemu_name(self->prefix, QEMU_NAME_SCRATCH, (int) index);
  JsonNode *bitmap = disk->changes_of
                         ? qmp_dict("node", qmp_str(disk->node), "name", qmp_str(disk->changes_of), NULL)
                         : NULL;
  return qemu_step(steps, "blockdev-add", name,
                   qmp_args("driver", qmp_str("copy-before-write"), "node-name", qmp_str(name), "file",
                            qmp_str(disk->node), "target", qmp_str(scratch), "bitmap", bitmap, "on-cbw-error",
                            qmp_str("break-snapshot"), "cbw-timeout", qmp_int(CBW_TIMEOUT_S), NULL),
                   error);
}

gboolean
qemu_instant_add_snap(const QemuInstant *self, const QemuSteps *steps, guint index, GError **error)
{
  g_autofree char *name = qemu_name(self->prefix, QEMU_NAME_SNAP, (int) index);
  g_autofree char *filter = qemu_name(self->prefix, QEMU_NAME_FILTER, (int) index);
  return qemu_step(steps, "blockdev-add", name,
                   qmp_args("driver", qmp_str("snapshot-access"), "node-name", qmp_str(name), "file",
                            qmp_str(filter), NULL),
                   error);
}

/* QEMU's NBD server */

static gboolean
set_server_is_taken(const QemuSteps *steps, GError **error)
{
  g_autoptr(JsonNode) answer = NULL;
  g_autoptr(GString) users = g_string_new(NULL);
  if (!qmp_call(steps->qmp, "query-block-exports", NULL, steps->timeout_ms, &answer, error))
    return FALSE;
  JsonArray *array = qemu_json_node_array(answer);
  for (guint i = 0; array && i < json_array_get_length(array); i++) {
    const char *id = qemu_json_string(qemu_json_item(array, i), "id");
    g_string_append_printf(users, "%s%s", users->len ? ", " : "", id ? id : "?");
  }
  cbt_set_error(error, CBT_ERROR_BUSY, "Wait until it ends, stop it, or let the disks be pushed.",
                "Somebody else has started QEMU's NBD server (exports: %s)",
                users->len ? users->str : "none");
  return FALSE;
}

/*
 * Nothing tells whether the server runs. But an export with a bitmap that is not there is refused because of
 * the bitmap only where there is a server (nbd_export_create()), and made never. To be refused for a name
 * that is too long would do as well, but QEMU takes 20 ms to read it: a system call for each byte.
 */
gboolean
qemu_instant_check_server(const QemuInstant *self, const QemuSteps *steps, GError **error)
{
  g_autoptr(GError) local = NULL;
  g_autofree char *id = qemu_name(self->prefix, QEMU_NAME_EXPORT, -1);
  g_autofree char *node =
      qemu_name(self->prefix, self->way == QEMU_WAY_EXTERNAL ? QEMU_NAME_OVERLAY : QEMU_NAME_SCRATCH, 0);
  gboolean is_made = qmp_call(steps->qmp, "block-export-add",
                              qmp_args("type", qmp_str("nbd"), "id", qmp_str(id), "node-name", qmp_str(node),
                                       "bitmaps", qmp_list(qmp_str(id), NULL), NULL),
                              steps->timeout_ms, NULL, &local);
  if (is_made || strstr(local->message, "is not found"))
    return set_server_is_taken(steps, error);
  if (cbt_error_code(local) == CBT_ERROR_FAILED)
    return TRUE;
  g_propagate_error(error, g_steal_pointer(&local));
  return FALSE;
}

/* The mark says that the server is ours: it is there before the server, and goes if there is to be none. */
static gboolean
start_with_mark(const QemuSteps *steps, const char *name, GError **error)
{
  g_autoptr(GError) local = NULL;
  JsonNode *address = qmp_dict("type", qmp_str("fd"), "data", qmp_dict("str", qmp_str(name), NULL), NULL);
  if (qemu_step(steps, "nbd-server-start", NULL, qmp_args("addr", address, NULL), &local))
    return TRUE;
  if (cbt_error_code(local) == CBT_ERROR_FAILED &&
      !qemu_step(steps, "blockdev-del", name, qmp_args("node-name", qmp_str(name), NULL), error))
    return FALSE;
  if (strstr(local->message, "already running"))
    return set_server_is_taken(steps, error);
  g_propagate_error(error, g_steal_pointer(&local));
  return FALSE;
}

gboolean
qemu_instant_start_server(const QemuInstant *self, const QemuSteps *steps, GError **error)
{
  InstantDisk *first = self->disks->pdata[0];
  g_autofree char *name = qemu_name(self->prefix, QEMU_NAME_NBD, -1);
  CBT_AUTO_FD int fd = qemu_listen(first->socket_path, error);
  return fd >= 0 && qemu_instant_check_server(self, steps, error) &&
         qemu_step(steps, "blockdev-add", name,
                   qmp_args("driver", qmp_str("null-co"), "node-name", qmp_str(name), NULL), error) &&
         qemu_step_with_fd(steps, "getfd", name, qmp_args("fdname", qmp_str(name), NULL), fd, NULL, error) &&
         start_with_mark(steps, name, error);
}

/* QEMU 7.1 takes a bitmap's node; before, it is looked for in the backing chain. */
static JsonNode *
exported_bitmap(const InstantDisk *disk, Qmp *qmp)
{
  if (!disk->changes_of)
    return NULL;
  JsonNode *name = qmp_str(disk->changes_of);
  if (qmp_version_is_at_least(qmp, 7, 1))
    name = qmp_dict("node", qmp_str(disk->node), "name", name, NULL);
  return qmp_list(name, NULL);
}

gboolean
qemu_instant_export(QemuInstant *self, const QemuSteps *steps, const char *kind, guint index, GError **error)
{
  InstantDisk *disk = self->disks->pdata[index];
  g_autofree char *name = qemu_name(self->prefix, QEMU_NAME_EXPORT, (int) index);
  g_autofree char *node = kind ? qemu_name(self->prefix, kind, (int) index) : g_strdup(disk->node);
  g_autofree char *path = g_uri_escape_string(disk->socket_path, "/", FALSE);
  if (!qemu_step(steps, "block-export-add", name,
                 qmp_args("type", qmp_str("nbd"), "id", qmp_str(name), "node-name", qmp_str(node), "name",
                          qmp_str(name), "writable", qmp_bool(FALSE), "bitmaps",
                          exported_bitmap(disk, steps->qmp), NULL),
                 error))
    return FALSE;
  disk->uri = g_strdup_printf("nbd+unix:///%s?socket=%s", name, path);
  return TRUE;
}

/* Pushing */

/* A job's bitmap must be of the node that it copies. */
static gboolean
add_dirty(const QemuSteps *steps, const InstantDisk *disk, const char *snap, const char *name, GError **error)
{
  JsonNode *source = qmp_dict("node", qmp_str(disk->node), "name", qmp_str(disk->changes_of), NULL);
  JsonObject *merge =
      qmp_args("node", qmp_str(snap), "target", qmp_str(name), "bitmaps", qmp_list(source, NULL), NULL);
  if (qemu_step(steps, "block-dirty-bitmap-add", name,
                qmp_args("node", qmp_str(snap), "name", qmp_str(name), "granularity",
                         qmp_int(QEMU_PUSH_GRANULARITY), "persistent", qmp_bool(FALSE), "disabled",
                         qmp_bool(TRUE), NULL),
                error))
    return qemu_step(steps, "block-dirty-bitmap-merge", name, merge, error);
  json_object_unref(merge);
  return FALSE;
}

gboolean
qemu_instant_push(const QemuInstant *self, const QemuSteps *steps, guint index, GError **error)
{
  InstantDisk *disk = self->disks->pdata[index];
  g_autofree char *snap = qemu_name(self->prefix, QEMU_NAME_SNAP, (int) index);
  g_autofree char *target = qemu_name(self->prefix, QEMU_NAME_TARGET, (int) index);
  g_autofree char *filter = qemu_name(self->prefix, QEMU_NAME_JOBFILTER, (int) index);
  g_autofree char *job = qemu_name(self->prefix, QEMU_NAME_JOB, (int) index);
  g_autofree char *dirty = qemu_name(self->prefix, QEMU_NAME_DIRTY, (int) index);
  const char *bitmap = disk->changes_of ? dirty : NULL;
  return (!bitmap || add_dirty(steps, disk, snap, dirty, error)) &&
         qemu_step(steps, "blockdev-backup", job,
                   qmp_args("job-id", qmp_str(job), "device", qmp_str(snap), "target", qmp_str(target),
                            "filter-node-name", qmp_str(filter), "sync", qmp_str(bitmap ? "bitmap" : "full"),
                            "bitmap", qmp_str(bitmap), "bitmap-mode", qmp_str(bitmap ? "never" : NULL),
                            "auto-dismiss", qmp_bool(FALSE), NULL),
                   error);
}
