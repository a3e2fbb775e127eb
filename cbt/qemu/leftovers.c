/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One teardown for all: the end of a good backup, the undoing of a failed one, and what a dead process left.
 * So each stage asks QEMU what there is, and never relies on what somebody remembers.
 *
 * The mark of a stopped guest is there a little longer than the guest stands still. Should the process die
 * between `cont` and its removal, and the owner pause the guest before the next contact, the guest would be
 * made to go on.
 *
 * What a filter hides is read from the note of the scratch descriptor below it: PREFIX-fileN is opened on
 * /dev/fdset/ID, and that fdset has the note. QEMU keeps both for as long as the node is there, also without
 * any monitor. (A removed descriptor of a guest that stands still is listed until it runs: it means nothing.)
 */
#include <cbt/qemu/leftovers.h>

#include <cbt/qemu/disks.h>
#include <cbt/qemu/json.h>
#include <cbt/qemu/overlay.h>
#include <common/json-text.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define POLL_MS 10

#define NOTE_PREFIX "cbt-prefix"
#define NOTE_DISK   QEMU_NOTE_DISK
#define NOTE_NODE   QEMU_NOTE_NODE
#define NOTE_SOCKET "socket"
#define NOTE_PUSHED "pushed"

typedef struct {
  QemuSteps steps;
  const QemuSteps *told; /* the caller's */
  const char *prefix;
  GPtrArray *found; /* or NULL */
  guint commit_ms;
  guint64 committed;
  gboolean is_refused;
} Clearing;

typedef gboolean (*Stage)(Clearing *clearing, GError **error);

char *
qemu_leftovers_note(const QemuNote *self)
{
  g_autoptr(JsonNode) note = qmp_dict(
      NOTE_PREFIX, qmp_str(self->prefix), NOTE_DISK, qmp_int(self->disk), NOTE_NODE, qmp_str(self->node),
      NOTE_SOCKET, qmp_str(self->socket_path), QEMU_NOTE_OVERLAY, qmp_str(self->overlay_path),
      QEMU_NOTE_OVERLAY_ID, qmp_str(self->overlay_id), NOTE_PUSHED, qmp_bool(self->is_pushed), NULL);
  return cbt_json_escape(json_to_string(note, FALSE));
}

JsonNode *
qemu_leftovers_read_note(const char *prefix, JsonObject *fdset)
{
  JsonArray *fds = qemu_json_array(fdset, "fds");
  for (guint i = 0; fds && i < json_array_get_length(fds); i++) {
    const char *opaque = qemu_json_string(qemu_json_item(fds, i), "opaque");
    g_autoptr(JsonNode) note = opaque && *opaque == '{' ? json_from_string(opaque, NULL) : NULL;
    if (g_strcmp0(qemu_json_string(qemu_json_node_object(note), NOTE_PREFIX), prefix) == 0)
      return g_steal_pointer(&note);
  }
  return NULL;
}

G_GNUC_PRINTF(2, 3)
static void
note_found(Clearing *self, const char *format, ...)
{
  va_list args;
  if (!self->found)
    return;
  va_start(args, format);
  g_ptr_array_add(self->found, g_strdup_vprintf(format, args));
  va_end(args);
}

static gint64
deadline_of(const Clearing *self)
{
  return g_get_monotonic_time() + (gint64) self->steps.timeout_ms * 1000;
}

static JsonNode *
query(Clearing *self, const char *command, GError **error)
{
  JsonNode *answer = NULL;
  return qmp_call(self->steps.qmp, command, NULL, self->steps.timeout_ms, &answer, error) ? answer : NULL;
}

static gboolean
has_node(JsonNode *nodes, const char *name)
{
  JsonArray *array = qemu_json_node_array(nodes);
  for (guint i = 0; i < json_array_get_length(array); i++)
    if (g_strcmp0(qemu_json_string(qemu_json_item(array, i), "node-name"), name) == 0)
      return TRUE;
  return FALSE;
}

/* Deletes the node; for a moment after the end of an export or a job it may still be in use. */
static gboolean
delete_node(Clearing *self, const char *name, GError **error)
{
  gint64 deadline_us = deadline_of(self);
  while (TRUE) {
    g_autoptr(GError) local = NULL;
    if (qemu_step(&self->steps, "blockdev-del", name, qmp_args("node-name", qmp_str(name), NULL), &local))
      return TRUE;
    if (self->is_refused || cbt_error_code(local) != CBT_ERROR_FAILED ||
        g_get_monotonic_time() >= deadline_us) {
      g_propagate_error(error, g_steal_pointer(&local));
      return FALSE;
    }
    if (!qmp_pause(self->steps.qmp, POLL_MS, error))
      return FALSE;
  }
}

/* The guest */

static gboolean
guest_is_paused(Clearing *self, gboolean *is_paused, GError **error)
{
  g_autoptr(JsonNode) status = query(self, "query-status", error);
  if (!status)
    return FALSE;
  *is_paused = g_strcmp0(qemu_json_string(qemu_json_node_object(status), "status"), "paused") == 0;
  return TRUE;
}

static gboolean
continue_guest(Clearing *self, GError **error)
{
  gboolean is_paused;
  g_autofree char *marker = qemu_name(self->prefix, QEMU_NAME_STOPPED, -1);
  g_autoptr(JsonNode) nodes = qemu_nodes_query(&self->steps, error);
  if (!nodes)
    return FALSE;
  if (!has_node(nodes, marker))
    return TRUE;
  if (!guest_is_paused(self, &is_paused, error))
    return FALSE;
  note_found(self, is_paused ? "a guest that was stopped" : "the mark of a guest that was stopped");
  if (is_paused && !qemu_step(&self->steps, "cont", NULL, NULL, error))
    return FALSE;
  return delete_node(self, marker, error);
}

/* Exports and the server */

/* How many exports are ours, each told to END if so wished; *n_others of the type NBD are not. */
static gboolean
look_at_exports(Clearing *self, gboolean end, guint *n_ours, guint *n_others, GError **error)
{
  g_autoptr(JsonNode) answer = query(self, "query-block-exports", error);
  JsonArray *array = qemu_json_node_array(answer);
  *n_ours = *n_others = 0;
  for (guint i = 0; array && i < json_array_get_length(array); i++) {
    JsonObject *export = qemu_json_item(array, i);
    const char *id = qemu_json_string(export, "id");
    if (!qemu_name_is(id, self->prefix, QEMU_NAME_EXPORT, NULL)) {
      *n_others += g_strcmp0(qemu_json_string(export, "type"), "nbd") == 0;
      continue;
    }
    (*n_ours)++;
    if (!end || qemu_json_bool(export, "shutting-down"))
      continue;
    note_found(self, "export %s", id);
    if (!qemu_step(&self->steps, "block-export-del", id,
                   qmp_args("id", qmp_str(id), "mode", qmp_str("hard"), NULL), error))
      return FALSE;
  }
  return answer != NULL;
}

static gboolean
clear_exports(Clearing *self, GError **error)
{
  guint n_ours, n_others;
  gint64 deadline_us = deadline_of(self);
  if (!look_at_exports(self, TRUE, &n_ours, &n_others, error))
    return FALSE;
  while (n_ours > 0) {
    if (!qmp_pause(self->steps.qmp, POLL_MS, error) ||
        !look_at_exports(self, FALSE, &n_ours, &n_others, error))
      return FALSE;
    if (n_ours > 0 && g_get_monotonic_time() >= deadline_us) {
      cbt_set_error(error, CBT_ERROR_BUSY, NULL, "%u exports of %s in QEMU do not end in time", n_ours,
                    self->prefix);
      return FALSE;
    }
  }
  return TRUE;
}

/* A step whose refusal by QEMU means that there was nothing to do. */
static gboolean
try_step(Clearing *self, const char *command, const char *subject, JsonObject *arguments, GError **error)
{
  g_autoptr(GError) local = NULL;
  if (qemu_step(&self->steps, command, subject, arguments, &local) ||
      (!self->is_refused && cbt_error_code(local) == CBT_ERROR_FAILED))
    return TRUE;
  g_propagate_error(error, g_steal_pointer(&local));
  return FALSE;
}

static gboolean
clear_server(Clearing *self, GError **error)
{
  guint n_ours, n_others;
  g_autofree char *marker = qemu_name(self->prefix, QEMU_NAME_NBD, -1);
  g_autoptr(JsonNode) nodes = qemu_nodes_query(&self->steps, error);
  if (!nodes)
    return FALSE;
  if (!has_node(nodes, marker))
    return TRUE;
  if (!look_at_exports(self, FALSE, &n_ours, &n_others, error))
    return FALSE;
  note_found(self, "the NBD server");
  return (n_others > 0 || try_step(self, "nbd-server-stop", NULL, NULL, error)) &&
         try_step(self, "closefd", marker, qmp_args("fdname", qmp_str(marker), NULL), error) &&
         delete_node(self, marker, error);
}

/* Jobs */

/* Cancels (the first time) and dismisses jobs of ours; *n_left is how many there still are. */
static gboolean
look_at_jobs(Clearing *self, gboolean cancel, guint *n_left, GError **error)
{
  g_autoptr(JsonNode) answer = query(self, "query-jobs", error);
  JsonArray *array = qemu_json_node_array(answer);
  *n_left = 0;
  for (guint i = 0; array && i < json_array_get_length(array); i++) {
    JsonObject *job = qemu_json_item(array, i);
    const char *id = qemu_json_string(job, "id");
    if (!qemu_name_is(id, self->prefix, QEMU_NAME_JOB, NULL))
      continue;
    if (cancel)
      note_found(self, "job %s", id);
    if (g_strcmp0(qemu_json_string(job, "status"), "concluded") == 0) {
      if (!try_step(self, "job-dismiss", id, qmp_args("id", qmp_str(id), NULL), error))
        return FALSE;
      continue;
    }
    (*n_left)++;
    if (cancel && !try_step(self, "job-cancel", id, qmp_args("id", qmp_str(id), NULL), error))
      return FALSE;
  }
  return answer != NULL;
}

static gboolean
clear_jobs(Clearing *self, GError **error)
{
  guint n_left;
  gint64 deadline_us = deadline_of(self);
  if (!look_at_jobs(self, TRUE, &n_left, error))
    return FALSE;
  while (n_left > 0) {
    if (!qmp_pause(self->steps.qmp, POLL_MS, error) || !look_at_jobs(self, FALSE, &n_left, error))
      return FALSE;
    if (n_left > 0 && g_get_monotonic_time() >= deadline_us) {
      cbt_set_error(error, CBT_ERROR_BUSY, NULL, "%u jobs of %s in QEMU do not end in time", n_left,
                    self->prefix);
      return FALSE;
    }
  }
  return TRUE;
}

/* Nodes */

typedef gboolean (*NodeFunc)(Clearing *clearing, JsonArray *nodes, const char *name, int index,
                             GError **error);

static gboolean
for_each_node(Clearing *self, const char *kind, NodeFunc func, GError **error)
{
  g_autoptr(JsonNode) nodes = qemu_nodes_query(&self->steps, error);
  if (!nodes)
    return FALSE;
  JsonArray *array = qemu_json_node_array(nodes);
  for (guint i = 0; i < json_array_get_length(array); i++) {
    int index;
    const char *name = qemu_json_string(qemu_json_item(array, i), "node-name");
    if (!qemu_name_is(name, self->prefix, kind, &index))
      continue;
    note_found(self, "node %s", name);
    if (!func(self, array, name, index, error))
      return FALSE;
  }
  return TRUE;
}

static gboolean
clear_node(Clearing *self, JsonArray *nodes, const char *name, int index, GError **error)
{
  (void) nodes;
  (void) index;
  return delete_node(self, name, error);
}

static gboolean
clear_targets(Clearing *self, GError **error)
{
  return for_each_node(self, QEMU_NAME_TARGET, clear_node, error);
}

static gboolean
clear_snaps(Clearing *self, GError **error)
{
  return for_each_node(self, QEMU_NAME_SNAP, clear_node, error);
}

static gboolean
clear_scratch(Clearing *self, GError **error)
{
  return for_each_node(self, QEMU_NAME_SCRATCH, clear_node, error);
}

/* Overlays */

static gboolean
clear_overlays(Clearing *self, GError **error)
{
  return qemu_overlays_settle(&self->steps, self->prefix, self->commit_ms, &self->committed, self->found,
                              error);
}

/* Descriptors and their notes */

/* Which fdset the file of disk INDEX is opened on; -1 if there is none. */
static gint64
fdset_of(const char *prefix, JsonArray *nodes, int index)
{
  g_autofree char *name = qemu_name(prefix, QEMU_NAME_FILE, index);
  for (guint i = 0; nodes && i < json_array_get_length(nodes); i++) {
    long id;
    JsonObject *node = qemu_json_item(nodes, i);
    const char *file = qemu_json_string(node, "file");
    if (g_strcmp0(qemu_json_string(node, "node-name"), name) == 0 && file &&
        sscanf(file, "/dev/fdset/%ld", &id) == 1)
      return id;
  }
  return -1;
}

/* The node that stood before the filter of disk INDEX (transfer full), or NULL. */
static char *
find_hidden(const char *prefix, int index, JsonArray *nodes, JsonNode *fdsets)
{
  gint64 wanted = fdset_of(prefix, nodes, index);
  JsonArray *array = qemu_json_node_array(fdsets);
  for (guint i = 0; array && i < json_array_get_length(array); i++) {
    gint64 id = -1;
    JsonObject *fdset = qemu_json_item(array, i);
    g_autoptr(JsonNode) note = qemu_leftovers_read_note(prefix, fdset);
    const char *node = qemu_json_string(qemu_json_node_object(note), NOTE_NODE);
    if (node && qemu_json_int(fdset, "fdset-id", &id) && id == wanted)
      return g_strdup(node);
  }
  return NULL;
}

char *
qemu_leftovers_hidden(const char *filter, JsonNode *nodes, JsonNode *fdsets)
{
  int index;
  const char *kind = strrchr(filter, '-');
  g_autofree char *prefix = kind ? g_strndup(filter, (gsize) (kind - filter)) : NULL;
  if (!prefix || (!qemu_name_is(filter, prefix, QEMU_NAME_FILTER, &index) &&
                  !qemu_name_is(filter, prefix, QEMU_NAME_JOBFILTER, &index)))
    return NULL;
  return find_hidden(prefix, index, qemu_json_node_array(nodes), fdsets);
}

static char *
hidden_node(Clearing *self, JsonArray *nodes, int index, GError **error)
{
  g_autoptr(JsonNode) fdsets = query(self, "query-fdsets", error);
  char *node = fdsets ? find_hidden(self->prefix, index, nodes, fdsets) : NULL;
  if (fdsets && !node)
    cbt_set_error(error, CBT_ERROR_STATE,
                  "Give the device its node back with qom-set of its property drive, then delete the filter.",
                  "The filter %s-%s%d stands in front of a disk of which QEMU tells no more", self->prefix,
                  QEMU_NAME_FILTER, index);
  return node;
}

/* PATH comes from QEMU, which may be anybody's by now: only what has our name is removed. */
static void
unlink_socket(Clearing *self, const char *path)
{
  struct stat status;
  g_autofree char *name = path ? g_path_get_basename(path) : NULL;
  if (name && g_str_has_prefix(name, self->prefix) && lstat(path, &status) == 0 && S_ISSOCK(status.st_mode))
    unlink(path);
}

/* A descriptor that no node took. */
static gboolean
close_target(Clearing *self, JsonObject *note, GError **error)
{
  gint64 disk;
  if (!qemu_json_bool(note, NOTE_PUSHED) || !qemu_json_int(note, NOTE_DISK, &disk) || disk < 0 ||
      disk > G_MAXINT)
    return TRUE;
  g_autofree char *name = qemu_name(self->prefix, QEMU_NAME_TARGET, (int) disk);
  return try_step(self, "closefd", name, qmp_args("fdname", qmp_str(name), NULL), error);
}

/* As long as an overlay is there, what is noted of it is needed. */
static gboolean
is_of_overlay(const Clearing *self, JsonNode *nodes, JsonNode *note)
{
  gint64 disk;
  JsonObject *object = qemu_json_node_object(note);
  if (!qemu_json_string(object, QEMU_NOTE_OVERLAY) || !qemu_json_int(object, NOTE_DISK, &disk) || disk < 0 ||
      disk > G_MAXINT)
    return FALSE;
  g_autofree char *name = qemu_name(self->prefix, QEMU_NAME_OVERLAY_FILE, (int) disk);
  return has_node(nodes, name);
}

static gboolean
clear_fdsets(Clearing *self, GError **error)
{
  g_autoptr(JsonNode) nodes = qemu_nodes_query(&self->steps, error);
  g_autoptr(JsonNode) answer = nodes ? query(self, "query-fdsets", error) : NULL;
  JsonArray *array = qemu_json_node_array(answer);
  for (guint i = 0; array && i < json_array_get_length(array); i++) {
    gint64 id;
    JsonObject *fdset = qemu_json_item(array, i);
    g_autoptr(JsonNode) note = qemu_leftovers_read_note(self->prefix, fdset);
    if (!note || !qemu_json_int(fdset, "fdset-id", &id))
      continue;
    g_autofree char *subject = g_strdup_printf("%" G_GINT64_FORMAT, id);
    unlink_socket(self, qemu_json_string(qemu_json_node_object(note), NOTE_SOCKET));
    if (is_of_overlay(self, nodes, note))
      continue;
    note_found(self, "descriptor set %s", subject);
    if (!close_target(self, qemu_json_node_object(note), error) ||
        !try_step(self, "remove-fd", subject, qmp_args("fdset-id", qmp_int(id), NULL), error))
      return FALSE;
  }
  return answer != NULL;
}

/* Filters */

/* The device that has the node NAME as its disk (transfer full), or NULL. */
static gboolean
find_device(Clearing *self, const char *name, char **device_path, GError **error)
{
  g_autoptr(JsonNode) answer = query(self, "query-block", error);
  JsonArray *array = qemu_json_node_array(answer);
  *device_path = NULL;
  for (guint i = 0; array && i < json_array_get_length(array); i++) {
    JsonObject *entry = qemu_json_item(array, i);
    if (g_strcmp0(qemu_json_string(qemu_json_object(entry, "inserted"), "node-name"), name) == 0)
      *device_path = qemu_device_path(qemu_json_string(entry, "qdev"));
  }
  return answer != NULL;
}

/* QEMU aborts when a device is given the node that it has: only a device that has the filter is touched. */
static gboolean
clear_filter(Clearing *self, JsonArray *nodes, const char *name, int index, GError **error)
{
  g_autofree char *device = NULL, *hidden = NULL;
  if (!find_device(self, name, &device, error))
    return FALSE;
  if (device) {
    hidden = hidden_node(self, nodes, index, error);
    if (!hidden || !qemu_step(&self->steps, "qom-set", device,
                              qmp_args("path", qmp_str(device), "property", qmp_str("drive"), "value",
                                       qmp_str(hidden), NULL),
                              error))
      return FALSE;
  }
  return delete_node(self, name, error);
}

static gboolean
clear_filters(Clearing *self, GError **error)
{
  return for_each_node(self, QEMU_NAME_FILTER, clear_filter, error);
}

/* All of it */

static gboolean
tell(const char *step, gpointer user_data, GError **error)
{
  Clearing *self = user_data;
  self->is_refused |= self->told->func && !self->told->func(step, self->told->user_data, error);
  return !self->is_refused;
}

/* Nor does a QEMU that hangs get to answer at the next stage: each would wait for it as long. */
static gboolean
is_final(const Clearing *self, CbtErrorCode code)
{
  return self->is_refused || !qmp_is_open(self->steps.qmp) || code == CBT_ERROR_CANCELLED ||
         code == CBT_ERROR_UNREACHABLE;
}

static gboolean
clear(Clearing *self, GError **error)
{
  static const Stage stages[] = {continue_guest, clear_exports, clear_server,  clear_jobs,     clear_targets,
                                 clear_snaps,    clear_filters, clear_scratch, clear_overlays, clear_fdsets};
  g_autoptr(GError) first = NULL;
  for (guint i = 0; i < G_N_ELEMENTS(stages); i++) {
    g_autoptr(GError) local = NULL;
    if (stages[i](self, &local))
      continue;
    if (!first)
      first = g_error_copy(local);
    if (is_final(self, cbt_error_code(local)))
      break;
  }
  if (!first)
    return TRUE;
  g_propagate_error(error, g_steal_pointer(&first));
  return FALSE;
}

gboolean
qemu_leftovers_clear_within(const QemuSteps *steps, const char *prefix, guint commit_ms, guint64 *committed,
                            GPtrArray *found, GError **error)
{
  Clearing self = {.told = steps, .prefix = prefix, .found = found, .steps = *steps, .commit_ms = commit_ms};
  self.steps.func = tell;
  self.steps.user_data = &self;
  gboolean ok = qemu_prefix_check(prefix, error) && clear(&self, error);
  if (committed)
    *committed = self.committed;
  return ok;
}

gboolean
qemu_leftovers_clear_by(const QemuSteps *steps, const char *prefix, GPtrArray *found, GError **error)
{
  return qemu_leftovers_clear_within(steps, prefix, 0, NULL, found, error);
}

gboolean
qemu_leftovers_clear(Qmp *qmp, const char *prefix, guint timeout_ms, GPtrArray *found, GError **error)
{
  const QemuSteps steps = {.qmp = qmp, .timeout_ms = timeout_ms};
  return qemu_leftovers_clear_by(&steps, prefix, found, error);
}
