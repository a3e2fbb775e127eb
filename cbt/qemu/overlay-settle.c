/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is to be done with an overlay is read from QEMU at each look, never remembered:
 *
 *   its job runs                          wait
 *   its job is ready                      job-complete: the guest uses the image from then on
 *   its job has failed                    dismiss it: the overlay stays in use
 *   its job is over, the overlay in use   dismiss it: somebody else ended it
 *   its job is over                       delete the node, the file, the file's node; dismiss the job last of
 * all no job, nothing stands below it       it was never used: the same no job, and it stands on the image
 * block-commit
 *
 * So the job that is over is the proof that all of the overlay is in the image, and stays until nothing is
 * left that would need it. Without it an overlay that has an image below is never deleted, also if no device
 * uses it: the device may have been unplugged. And if a device uses the image itself, it is never committed
 * either: the image is newer.
 */
#include <cbt/qemu/overlay.h>

#include <cbt/qemu/json.h>
#include <cbt/qemu/leftovers.h>
#include <cbt/qemu/peer.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#define POLL_MS   50
#define COMMITTED "committed into its image" /* told of what was found */
#define STALL_MS  60000                      /* without any progress */

typedef struct {
  int index;
  gboolean is_settled, is_noted;
  gboolean is_stuck;    /* it cannot be: left as it is */
  gint64 busy_until_us; /* in use by nobody known: for so long it is tried again */
} Overlay;

typedef struct {
  QemuSteps steps;
  const QemuSteps *told; /* the caller's */
  const char *prefix;
  GPtrArray *found; /* or NULL */
  GArray *overlays;
  JsonNode *nodes, *jobs, *blocks, *fdsets; /* of this look */
  guint64 progress;
  gboolean is_refused;
  GError *first;
} Settling;

static gboolean
tell(const char *step, gpointer user_data, GError **error)
{
  Settling *self = user_data;
  self->is_refused |= self->told->func && !self->told->func(step, self->told->user_data, error);
  return !self->is_refused;
}

/* Looking */

static void
forget_look(Settling *self)
{
  g_clear_pointer(&self->nodes, json_node_unref);
  g_clear_pointer(&self->jobs, json_node_unref);
  g_clear_pointer(&self->blocks, json_node_unref);
  g_clear_pointer(&self->fdsets, json_node_unref);
}

static gboolean
look(Settling *self, GError **error)
{
  Qmp *qmp = self->steps.qmp;
  guint timeout_ms = self->steps.timeout_ms;
  forget_look(self);
  /* Not flat: only then is told how much stands below. */
  return qmp_call(qmp, "query-named-block-nodes", NULL, timeout_ms, &self->nodes, error) &&
         qmp_call(qmp, "query-jobs", NULL, timeout_ms, &self->jobs, error) &&
         qmp_call(qmp, "query-block", NULL, timeout_ms, &self->blocks, error) &&
         qmp_call(qmp, "query-fdsets", NULL, timeout_ms, &self->fdsets, error);
}

static JsonObject *
find(JsonNode *list, const char *key, const char *value)
{
  JsonArray *array = qemu_json_node_array(list);
  for (guint i = 0; array && i < json_array_get_length(array); i++)
    if (g_strcmp0(qemu_json_string(qemu_json_item(array, i), key), value) == 0)
      return qemu_json_item(array, i);
  return NULL;
}

/* Whether a device has the node NAME as its disk. */
static gboolean
is_used(const Settling *self, const char *name)
{
  JsonArray *array = qemu_json_node_array(self->blocks);
  for (guint i = 0; array && i < json_array_get_length(array); i++) {
    JsonObject *inserted = qemu_json_object(qemu_json_item(array, i), "inserted");
    if (g_strcmp0(qemu_json_string(inserted, "node-name"), name) == 0)
      return TRUE;
  }
  return FALSE;
}

/* What was noted of the overlay INDEX (transfer full), or NULL. */
static JsonNode *
note_of(const Settling *self, int index)
{
  JsonArray *array = qemu_json_node_array(self->fdsets);
  for (guint i = 0; array && i < json_array_get_length(array); i++) {
    gint64 disk = -1;
    g_autoptr(JsonNode) note = qemu_leftovers_read_note(self->prefix, qemu_json_item(array, i));
    JsonObject *object = qemu_json_node_object(note);
    if (qemu_json_string(object, QEMU_NOTE_OVERLAY) && qemu_json_int(object, QEMU_NOTE_DISK, &disk) &&
        disk == index)
      return g_steal_pointer(&note);
  }
  return NULL;
}

/* Doing */

static void
note_found(Settling *self, Overlay *overlay, const char *what)
{
  g_autoptr(JsonNode) note = note_of(self, overlay->index);
  const char *path = qemu_json_string(qemu_json_node_object(note), QEMU_NOTE_OVERLAY);
  if (self->found && !overlay->is_noted)
    g_ptr_array_add(self->found, g_strdup_printf("overlay %s, %s", path ? path : self->prefix, what));
  overlay->is_noted = TRUE;
}

static void
give_up(Settling *self, Overlay *overlay, GError *failure)
{
  overlay->is_stuck = TRUE;
  if (self->first)
    g_error_free(failure);
  else
    self->first = failure;
}

/* What QEMU refuses is over with this overlay; all else with all of them. */
static gboolean
is_local(const Settling *self, const GError *error)
{
  CbtErrorCode code = cbt_error_code(error);
  return !self->is_refused &&
         (code == CBT_ERROR_FAILED || code == CBT_ERROR_NOT_FOUND || code == CBT_ERROR_STATE);
}

/* FALSE with an error that ends all; *refused is QEMU's (transfer full). */
static gboolean
try_step(Settling *self, const char *command, const char *subject, JsonObject *arguments, GError **refused,
         GError **error)
{
  g_autoptr(GError) local = NULL;
  if (qemu_step(&self->steps, command, subject, arguments, &local))
    return TRUE;
  if (!is_local(self, local)) {
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
  }
  *refused = g_steal_pointer(&local);
  return TRUE;
}

static char *
path_of(const Settling *self, const Overlay *overlay)
{
  g_autoptr(JsonNode) note = note_of(self, overlay->index);
  return g_strdup(qemu_json_string(qemu_json_node_object(note), QEMU_NOTE_OVERLAY));
}

/* The image that the overlay of NOTE stands beside, or NULL: QEMU's word alone is not enough. */
static const char *
image_of(const Settling *self, JsonObject *note, const char *path)
{
  const GPtrArray *known = self->steps.images;
  JsonObject *node = find(self->nodes, "node-name", qemu_json_string(note, QEMU_NOTE_NODE));
  const char *told = qemu_json_string(node, "file");
  if (told && !qemu_overlay_is_of(path, told, self->prefix))
    return NULL;
  for (guint i = 0; known && i < known->len; i++)
    if (qemu_overlay_is_of(path, known->pdata[i], self->prefix) &&
        (!told || strcmp(told, known->pdata[i]) == 0))
      return known->pdata[i];
  return known ? NULL : told;
}

/* Why the file PATH, as QEMU's note says, is not to be removed (transfer none), or NULL; or it is not there.
 */
static const char *
doubt(const Settling *self, JsonObject *note, const char *path, gboolean *is_there)
{
  struct stat status;
  *is_there = lstat(path, &status) == 0;
  if (!*is_there)
    return errno == ENOENT ? NULL : g_strerror(errno);
  g_autofree char *id = qemu_overlay_id(&status);
  return !image_of(self, note, path) ? "it is beside no image of the vm"
         : !S_ISREG(status.st_mode)  ? "it is no regular file"
         : g_strcmp0(id, qemu_json_string(note, QEMU_NOTE_OVERLAY_ID)) != 0 ? "it is another file"
         : !qemu_peer_has_open(self->steps.qmp, path)                       ? "QEMU does not have it open"
                                                                            : NULL;
}

/* FALSE: it stays, and the overlay was given up. */
static gboolean
unlink_file(Settling *self, Overlay *overlay)
{
  gboolean is_there;
  GError *failure = NULL;
  g_autoptr(JsonNode) note = note_of(self, overlay->index);
  JsonObject *object = qemu_json_node_object(note);
  const char *path = qemu_json_string(object, QEMU_NOTE_OVERLAY);
  const char *why = path ? doubt(self, object, path, &is_there) : NULL;
  if (!why && (!path || !is_there || unlink(path) == 0))
    return TRUE;
  cbt_set_error(&failure, CBT_ERROR_STATE,
                "See what it is. If it is that overlay, remove it; the next backup does the rest.",
                "The file %s, by QEMU's word an overlay that is not used any more, was not removed: %s", path,
                why ? why : g_strerror(errno));
  give_up(self, overlay, failure);
  return FALSE;
}

static gboolean
remove_file(Settling *self, Overlay *overlay, GError **error)
{
  g_autoptr(GError) refused = NULL;
  g_autofree char *file = qemu_name(self->prefix, QEMU_NAME_OVERLAY_FILE, overlay->index);
  if (!unlink_file(self, overlay))
    return TRUE;
  note_found(self, overlay, "not in use");
  if (!find(self->nodes, "node-name", file))
    return TRUE;
  return try_step(self, "blockdev-del", file, qmp_args("node-name", qmp_str(file), NULL), &refused, error);
}

/* Deletes nodes and file, as far as they are there; *is_gone: all are. */
static gboolean
remove_all(Settling *self, Overlay *overlay, gboolean *is_gone, GError **error)
{
  GError *refused = NULL;
  gint64 now_us = g_get_monotonic_time();
  g_autofree char *node = qemu_name(self->prefix, QEMU_NAME_OVERLAY, overlay->index);
  g_autofree char *file = qemu_name(self->prefix, QEMU_NAME_OVERLAY_FILE, overlay->index);
  *is_gone = FALSE;
  if (!find(self->nodes, "node-name", node)) {
    *is_gone = !find(self->nodes, "node-name", file);
    return *is_gone || remove_file(self, overlay, error);
  }
  if (!try_step(self, "blockdev-del", node, qmp_args("node-name", qmp_str(node), NULL), &refused, error))
    return FALSE;
  if (!refused)
    return remove_file(self, overlay, error);
  if (!overlay->busy_until_us)
    overlay->busy_until_us = now_us + (gint64) self->steps.timeout_ms * 1000;
  if (now_us >= overlay->busy_until_us)
    give_up(self, overlay, g_steal_pointer(&refused));
  g_clear_error(&refused); /* a job or an export that has just ended */
  return TRUE;
}

/* Why the overlay NODE must not be committed into BASE (transfer none), or NULL. */
static const char *
obstacle(const Settling *self, const char *node, const char *base)
{
  return !base                 ? "QEMU tells no more what it stands on"
         : is_used(self, node) ? NULL
         : is_used(self, base) ? "its image is in use beside it"
                               : NULL;
}

static gboolean
commit(Settling *self, Overlay *overlay, const char *node, GError **error)
{
  GError *refused = NULL;
  g_autoptr(JsonNode) note = note_of(self, overlay->index);
  const char *base = qemu_json_string(qemu_json_node_object(note), QEMU_NOTE_NODE);
  g_autofree char *job = qemu_name(self->prefix, QEMU_NAME_COMMIT, overlay->index);
  g_autofree char *filter = qemu_name(self->prefix, QEMU_NAME_COMMITFILTER, overlay->index);
  const char *why = obstacle(self, node, base);
  note_found(self, overlay, COMMITTED);
  if (why) {
    cbt_set_error(&refused, CBT_ERROR_STATE, "See by hand which of the two is right.",
                  "The overlay %s cannot be committed into its image: %s", node, why);
  } else if (!try_step(self, "block-commit", job,
                       qmp_args("job-id", qmp_str(job), "device", qmp_str(node), "base-node", qmp_str(base),
                                "filter-node-name", qmp_str(filter), "auto-dismiss", qmp_bool(FALSE), NULL),
                       &refused, error)) {
    return FALSE;
  }
  if (refused)
    give_up(self, overlay, refused);
  return TRUE;
}

static gboolean
dismiss(Settling *self, const char *id, GError **error)
{
  g_autoptr(GError) refused = NULL;
  return try_step(self, "job-dismiss", id, qmp_args("id", qmp_str(id), NULL), &refused, error);
}

static gboolean
end_failed(Settling *self, Overlay *overlay, const char *id, const char *why, GError **error)
{
  GError *failure = NULL;
  g_autofree char *path = path_of(self, overlay);
  cbt_set_error(
      &failure, CBT_ERROR_IO,
      "Make room where the image is, if that is why. The next backup tries again; until then do not start "
      "QEMU anew from the image alone.",
      "The overlay %s could not be committed into its image, and the guest goes on with it: %s",
      path ? path : id, why);
  give_up(self, overlay, failure);
  return dismiss(self, id, error);
}

static gboolean
end_job(Settling *self, Overlay *overlay, JsonObject *job, const char *id, GError **error)
{
  gboolean is_gone;
  const char *why = qemu_json_string(job, "error");
  g_autofree char *node = qemu_name(self->prefix, QEMU_NAME_OVERLAY, overlay->index);
  if (why)
    return end_failed(self, overlay, id, why, error);
  if (is_used(self, node))
    return dismiss(self, id, error);
  if (!remove_all(self, overlay, &is_gone, error))
    return FALSE;
  return !is_gone || dismiss(self, id, error);
}

static gboolean
follow_job(Settling *self, Overlay *overlay, JsonObject *job, const char *id, GError **error)
{
  g_autoptr(GError) refused = NULL;
  guint64 progress = 0;
  const char *status = qemu_json_string(job, "status");
  qemu_json_size(job, "current-progress", &progress);
  self->progress += progress + 1;
  note_found(self, overlay, COMMITTED);
  if (g_strcmp0(status, "concluded") == 0)
    return end_job(self, overlay, job, id, error);
  return g_strcmp0(status, "ready") != 0 ||
         try_step(self, "job-complete", id, qmp_args("id", qmp_str(id), NULL), &refused, error);
}

static gboolean
advance(Settling *self, Overlay *overlay, GError **error)
{
  guint64 depth = 0;
  g_autofree char *id = qemu_name(self->prefix, QEMU_NAME_COMMIT, overlay->index);
  g_autofree char *name = qemu_name(self->prefix, QEMU_NAME_OVERLAY, overlay->index);
  JsonObject *job = find(self->jobs, "id", id), *node = find(self->nodes, "node-name", name);
  if (job)
    return follow_job(self, overlay, job, id, error);
  qemu_json_size(node, "backing_file_depth", &depth);
  return depth > 0 ? commit(self, overlay, name, error)
                   : remove_all(self, overlay, &overlay->is_settled, error);
}

/* All of them */

static void
collect_from(Settling *self, JsonNode *list, const char *key, const char *kind)
{
  JsonArray *array = qemu_json_node_array(list);
  for (guint i = 0; array && i < json_array_get_length(array); i++) {
    gboolean is_known = FALSE;
    Overlay overlay = {0};
    const char *name = qemu_json_string(qemu_json_item(array, i), key);
    if (!qemu_name_is(name, self->prefix, kind, &overlay.index))
      continue;
    for (guint k = 0; k < self->overlays->len; k++)
      is_known |= g_array_index(self->overlays, Overlay, k).index == overlay.index;
    if (!is_known)
      g_array_append_val(self->overlays, overlay);
  }
}

static void
collect(Settling *self)
{
  collect_from(self, self->nodes, "node-name", QEMU_NAME_OVERLAY_FILE);
  collect_from(self, self->jobs, "id", QEMU_NAME_COMMIT);
}

static gboolean
advance_all(Settling *self, guint *n_open, GError **error)
{
  *n_open = 0;
  self->progress = 0;
  for (guint i = 0; i < self->overlays->len; i++) {
    Overlay *overlay = &g_array_index(self->overlays, Overlay, i);
    if (!overlay->is_settled && !overlay->is_stuck && !advance(self, overlay, error))
      return FALSE;
    *n_open += !overlay->is_settled && !overlay->is_stuck;
  }
  return TRUE;
}

static gboolean
settle_all(Settling *self, guint limit_ms, guint64 *committed, GError **error)
{
  guint n_open;
  gboolean ok;
  guint64 progress = 0;
  gint64 start_us = g_get_monotonic_time(), moved_us = start_us;
  if (!look(self, error))
    return FALSE;
  collect(self);
  while ((ok = advance_all(self, &n_open, error)) && n_open > 0) {
    gint64 now_us = g_get_monotonic_time();
    if (self->progress != progress)
      moved_us = now_us;
    progress = self->progress;
    if (now_us - moved_us >= (gint64) STALL_MS * 1000 ||
        (limit_ms && now_us - start_us >= (gint64) limit_ms * 1000)) {
      *committed = self->progress + n_open;
      cbt_set_error(error, CBT_ERROR_BUSY, "It goes on in QEMU; what comes next finishes it.",
                    "%u overlays are not yet committed into their images", n_open);
      return FALSE;
    }
    if (!qmp_pause(self->steps.qmp, POLL_MS, error) || !look(self, error))
      return FALSE;
  }
  return ok;
}

gboolean
qemu_overlays_settle(const QemuSteps *steps, const char *prefix, guint limit_ms, guint64 *committed,
                     GPtrArray *found, GError **error)
{
  Settling self = {.steps = *steps, .told = steps, .prefix = prefix, .found = found};
  self.steps.func = tell;
  self.steps.user_data = &self;
  self.overlays = g_array_new(FALSE, TRUE, sizeof(Overlay));
  gboolean is_done = settle_all(&self, limit_ms, committed, error);
  forget_look(&self);
  g_array_unref(self.overlays);
  if (is_done && self.first)
    g_propagate_error(error, g_steal_pointer(&self.first));
  else if (is_done)
    return TRUE;
  g_clear_error(&self.first);
  return FALSE;
}
