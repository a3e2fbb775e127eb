/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * QEMU has no command that puts what is allocated into a bitmap. But writes of zeros to a null device put it
 * into a bitmap of that device, and bitmaps are merged from any node.
 *
 * The depth of an allocation counts images and filters. Filters come in with jobs, and a filter in front of
 * the overlay would have its allocation look as if it were of an image below. So the chain must be overlays
 * and nothing else before the depths are read and after, and no job may begin or end between.
 */
#include <cbt/qemu/adopt.h>

#include <cbt/bitmap.h>
#include <cbt/qemu/bitmaps.h>
#include <cbt/qemu/instant-private.h>
#include <cbt/qemu/json.h>
#include <cbt/qemu/leftovers.h>
#include <cbt/qemu/nbd-link.h>
#include <cbt/qemu/nbd-map.h>
#include <common/bytes.h>
#include <string.h>

#define CHAIN_MAX     200 /* images */
#define ZERO_MAX      (G_GUINT64_CONSTANT(256) << 20)
#define POLL_SLICE_MS 100
#define GRANULARITY   CBT_CLUSTER_SIZE
#define JOB_EVENT     "JOB_STATUS_CHANGE"

typedef struct {
  const QemuAdoptRequest *request;
  const QemuDisk *disk;
  QemuInstant instant; /* for QEMU's NBD server */
  QemuSteps steps;
  const char *recorder; /* QEMU's name of the bitmap without a base */
  GPtrArray *chain; /* of char *: the disk's node, and those below it down to the one that has the bitmap */
  CbtBitmap *allocated; /* in those above that one */
} Adoption;

/* The chain */

static gboolean
set_unclear(const Adoption *self, const char *why, GError **error)
{
  cbt_set_error(error, CBT_ERROR_UNSUPPORTED, NULL, "the images below disk %s: %s", self->disk->node, why);
  return FALSE;
}

/* The number of the node below the node PARENT; -1 if there is none. */
static gint64
backing_of(JsonObject *graph, gint64 parent)
{
  JsonArray *edges = qemu_json_array(graph, "edges");
  for (guint i = 0; edges && i < json_array_get_length(edges); i++) {
    gint64 from, to;
    JsonObject *edge = qemu_json_item(edges, i);
    if (qemu_json_int(edge, "parent", &from) && from == parent && qemu_json_int(edge, "child", &to) &&
        g_strcmp0(qemu_json_string(edge, "name"), "backing") == 0)
      return to;
  }
  return -1;
}

/* The node NAME, of which *id is set, or (NULL) the node *id: its name. NULL if there is none. */
static const char *
look_up_node(JsonObject *graph, const char *name, gint64 *id)
{
  JsonArray *nodes = qemu_json_array(graph, "nodes");
  for (guint i = 0; nodes && i < json_array_get_length(nodes); i++) {
    gint64 found;
    JsonObject *node = qemu_json_item(nodes, i);
    const char *its_name = qemu_json_string(node, "name");
    if (g_strcmp0(qemu_json_string(node, "type"), "block-driver") != 0 || !qemu_json_int(node, "id", &found))
      continue;
    if (name ? g_strcmp0(its_name, name) == 0 : found == *id) {
      *id = found;
      return its_name;
    }
  }
  return NULL;
}

/* The item of query-named-block-nodes. */
static JsonObject *
node_called(JsonNode *nodes, const char *name)
{
  JsonArray *array = qemu_json_node_array(nodes);
  for (guint i = 0; array && i < json_array_get_length(array); i++)
    if (g_strcmp0(qemu_json_string(qemu_json_item(array, i), "node-name"), name) == 0)
      return qemu_json_item(array, i);
  return NULL;
}

/* Whether NODE is an image of the disk's size in one of those formats. */
static gboolean
check_image(const Adoption *self, JsonObject *node, gboolean may_be_raw, GError **error)
{
  guint64 size;
  const char *driver = qemu_json_string(node, "drv");
  if (g_strcmp0(driver, "qcow2") != 0 && !(may_be_raw && g_strcmp0(driver, "raw") == 0))
    return set_unclear(self, "there is something else between them", error);
  return (qemu_json_size(qemu_json_object(node, "image"), "virtual-size", &size) &&
          size == self->disk->size_bytes) ||
         set_unclear(self, "one has another size", error);
}

static const CbtBitmapInfo *
find_info(const CbtBitmapInfo *infos, guint n_infos, const char *bitmap)
{
  for (guint i = 0; i < n_infos; i++)
    if (strcmp(infos[i].name, bitmap) == 0)
      return &infos[i];
  return NULL;
}

static gboolean
check_base(const Adoption *self, const CbtBitmapInfo *info, GError **error)
{
  const char *why = *info->reason ? info->reason : "it does not record";
  if (info->state == CBT_BITMAP_ACTIVE && cbt_uuid_equal(&info->base, self->request->base))
    return TRUE;
  if (info->state == CBT_BITMAP_ACTIVE)
    why = "it is of another state than the catalogue knows";
  cbt_set_error(error, CBT_ERROR_INCONSISTENT, NULL, "bitmap '%s' of the image below disk %s: %s",
                self->request->bitmap, self->disk->node, why);
  return FALSE;
}

/* Whether NODE may be at DEPTH of the chain; *found if it is the one that has the bitmap. */
static gboolean
look_at_image(const Adoption *self, JsonObject *node, guint depth, gboolean *found, GError **error)
{
  if (!node)
    return set_unclear(self, "QEMU does not tell of all", error);
  if (depth == 0)
    return check_image(self, node, FALSE, error);
  g_autofree CbtBitmapInfo *infos = g_new0(CbtBitmapInfo, CBT_TRACKER_MAX_BITMAPS);
  QemuDisk *image =
      qemu_disk_at_rest(qemu_json_string(node, "node-name"), NULL, qemu_json_string(node, "drv"),
                        self->disk->size_bytes, qemu_disks_parse_bitmaps(node));
  guint n = qemu_bitmaps_list(image, self->request->bitmap_prefix, infos);
  qemu_disk_free(image);
  const CbtBitmapInfo *info = find_info(infos, n, self->request->bitmap);
  *found = info != NULL;
  return check_image(self, node, *found, error) && (!info || check_base(self, info, error));
}

/* Goes down from the overlay to the image that has the bitmap. */
static gboolean
walk_chain(const Adoption *self, JsonObject *graph, JsonNode *nodes, GPtrArray *chain, GError **error)
{
  gint64 id = -1;
  gboolean found = FALSE;
  const char *name = look_up_node(graph, self->disk->node, &id);
  for (guint depth = 0; name && depth < CHAIN_MAX; depth++) {
    if (!look_at_image(self, node_called(nodes, name), depth, &found, error))
      return FALSE;
    g_ptr_array_add(chain, g_strdup(name));
    if (found)
      return TRUE;
    id = backing_of(graph, id);
    name = look_up_node(graph, NULL, &id);
  }
  cbt_set_error(error, CBT_ERROR_NOT_FOUND, NULL, "no image below disk %s has bitmap '%s'", self->disk->node,
                self->request->bitmap);
  return FALSE;
}

/* (transfer full): the nodes, down to the one that has the bitmap. */
static GPtrArray *
read_chain(const Adoption *self, GError **error)
{
  g_autoptr(JsonNode) graph = NULL, nodes = NULL;
  g_autoptr(GPtrArray) chain = g_ptr_array_new_with_free_func(g_free);
  if (!qmp_call(self->steps.qmp, "x-debug-query-block-graph", NULL, self->steps.timeout_ms, &graph, error) ||
      !(nodes = qemu_nodes_query(&self->steps, error)) ||
      !walk_chain(self, qemu_json_node_object(graph), nodes, chain, error))
    return NULL;
  return g_steal_pointer(&chain);
}

static gboolean
is_same_chain(const GPtrArray *a, const GPtrArray *b)
{
  gboolean is_same = a->len == b->len;
  for (guint i = 0; is_same && i < a->len; i++)
    is_same = strcmp(a->pdata[i], b->pdata[i]) == 0;
  return is_same;
}

/* What was read is of the chain that it was taken to be of. */
static gboolean
check_unchanged(const Adoption *self, GError **error)
{
  g_autoptr(GPtrArray) now = read_chain(self, error);
  if (!now)
    return FALSE;
  if (is_same_chain(now, self->chain) &&
      !qmp_wait_event(self->steps.qmp, JOB_EVENT, NULL, NULL, 0, NULL, NULL))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_STATE, NULL,
                "the images below disk %s were changed just now, or a job is on them", self->disk->node);
  return FALSE;
}

static const char *
base_node(const Adoption *self)
{
  return self->chain->pdata[self->chain->len - 1];
}

/* What the overlays hold */

/* All of the chain but the last one are overlays. */
static gboolean
collect(const CbtExtent *range, guint depth, gpointer user_data)
{
  const Adoption *self = user_data;
  if (depth > 0 && depth < self->chain->len)
    cbt_bitmap_set(self->allocated, range->offset, range->length);
  return TRUE;
}

/* (transfer full) */
static char *
uri_of(const Adoption *self, const char *export)
{
  const InstantDisk *disk = self->instant.disks->pdata[0];
  g_autofree char *path = g_uri_escape_string(disk->socket_path, "/", FALSE);
  return g_strdup_printf("nbd+unix:///%s?socket=%s", export, path);
}

static gboolean
read_allocated(Adoption *self, GError **error)
{
  guint64 size;
  g_autofree char *export = qemu_name(self->instant.prefix, QEMU_NAME_EXPORT, 0);
  g_autofree char *uri = uri_of(self, export);
  const QemuNbdMapRequest request = {.uri = uri, .timeout_ms = self->steps.timeout_ms};
  if (!qemu_step(&self->steps, "block-export-add", export,
                 qmp_args("type", qmp_str("nbd"), "id", qmp_str(export), "node-name",
                          qmp_str(self->disk->node), "name", qmp_str(export), "allocation-depth",
                          qmp_bool(TRUE), NULL),
                 error) ||
      !qemu_nbd_map_read_depth(&request, collect, self, &size, self->request->cancellable, error))
    return FALSE;
  return size == self->disk->size_bytes || set_unclear(self, "the disk was resized just now", error);
}

/* Putting it into a bitmap of QEMU's */

static int
note_answer(void *user_data, int *error)
{
  gint64 *result = user_data;
  *result = *error;
  return 1;
}

/* Has NBD write zeros to RANGE. */
static gboolean
zero_range(const Adoption *self, struct nbd_handle *nbd, const char *uri, const CbtExtent *range,
           GError **error)
{
  gint64 result = -1, deadline_us = g_get_monotonic_time() + (gint64) self->steps.timeout_ms * 1000;
  nbd_completion_callback on_end = {.callback = note_answer, .user_data = &result};
  gboolean ok = nbd_aio_zero(nbd, range->length, range->offset, on_end, 0) >= 0;
  while (ok && result < 0)
    ok = nbd_poll(nbd, POLL_SLICE_MS) >= 0 && g_get_monotonic_time() < deadline_us;
  if (ok && result == 0)
    return TRUE;
  if (ok)
    qemu_nbd_set_answer_error(error, uri, "writing", range->offset, (int) result);
  else
    cbt_set_error(error, CBT_ERROR_UNREACHABLE, NULL, "NBD export %s does not answer", uri);
  return FALSE;
}

static gboolean
zero_allocated(const Adoption *self, const char *uri, GError **error)
{
  CbtExtent range = {0, 0};
  gboolean ok = TRUE;
  struct nbd_handle *nbd =
      qemu_nbd_connect(uri, NULL, self->steps.timeout_ms, self->request->cancellable, error);
  if (!nbd)
    return FALSE;
  while (ok && cbt_bitmap_next_dirty(self->allocated, range.offset + range.length, ZERO_MAX, &range))
    ok = zero_range(self, nbd, uri, &range, error);
  qemu_nbd_disconnect(&nbd);
  return ok;
}

/* Whether QEMU's bitmap has just what was written: that zeros of a null device count is nowhere promised. */
static gboolean
check_count(const Adoption *self, const char *node, const char *bitmap, GError **error)
{
  g_autoptr(JsonNode) nodes = qemu_nodes_query(&self->steps, error);
  if (!nodes)
    return FALSE;
  g_autoptr(GPtrArray) bitmaps = qemu_disks_parse_bitmaps(node_called(nodes, node));
  guint64 expected = cbt_bitmap_n_dirty(self->allocated) * GRANULARITY;
  for (guint i = 0; i < bitmaps->len; i++) {
    const QemuBitmap *found = bitmaps->pdata[i];
    if (strcmp(found->name, bitmap) == 0 && cbt_round_up(found->count, GRANULARITY) == expected)
      return TRUE;
  }
  return set_unclear(self, "QEMU did not take what they hold into a bitmap", error);
}

/* Makes a null device with a bitmap that marks what is allocated. */
static gboolean
make_marks(const Adoption *self, const char *node, const char *bitmap, GError **error)
{
  g_autofree char *export = qemu_name(self->instant.prefix, QEMU_NAME_EXPORT, 1);
  g_autofree char *uri = uri_of(self, export);
  return qemu_step(&self->steps, "blockdev-add", node,
                   qmp_args("driver", qmp_str("null-co"), "node-name", qmp_str(node), "size",
                            qmp_int((gint64) self->disk->size_bytes), NULL),
                   error) &&
         qemu_step(&self->steps, "block-dirty-bitmap-add", bitmap,
                   qmp_args("node", qmp_str(node), "name", qmp_str(bitmap), "granularity",
                            qmp_int(GRANULARITY), NULL),
                   error) &&
         qemu_step(&self->steps, "block-export-add", export,
                   qmp_args("type", qmp_str("nbd"), "id", qmp_str(export), "node-name", qmp_str(node), "name",
                            qmp_str(export), "writable", qmp_bool(TRUE), NULL),
                   error) &&
         zero_allocated(self, uri, error) && check_count(self, node, bitmap, error);
}

/* The bitmap itself */

static JsonNode *
source(const char *node, const char *name)
{
  return qmp_dict("node", qmp_str(node), "name", qmp_str(name), NULL);
}

/* In this order: what is written meanwhile is recorded by one of the two. */
static gboolean
exchange(const Adoption *self, const char *marks_node, const char *marks, GError **error)
{
  const char *node = self->disk->node;
  const QemuAdoptRequest *request = self->request;
  guint64 granularity = qemu_disk_bitmap(self->disk, self->recorder)->granularity;
  g_autofree char *name = qemu_bitmap_name(request->bitmap_prefix, request->bitmap, request->base);
  JsonNode *add = qmp_action("block-dirty-bitmap-add",
                             qmp_args("node", qmp_str(node), "name", qmp_str(name), "persistent",
                                      qmp_bool(TRUE), "granularity", qmp_int((gint64) granularity), NULL));
  JsonNode *merge = qmp_action("block-dirty-bitmap-merge",
                               qmp_args("node", qmp_str(node), "target", qmp_str(name), "bitmaps",
                                        qmp_list(source(node, self->recorder), source(base_node(self), name),
                                                 source(marks_node, marks), NULL),
                                        NULL));
  JsonNode *remove = qmp_action("block-dirty-bitmap-remove",
                                qmp_args("node", qmp_str(node), "name", qmp_str(self->recorder), NULL));
  return qemu_step(&self->steps, "transaction", name,
                   qmp_args("actions", qmp_list(add, merge, remove, NULL), NULL), error);
}

static gboolean
adopt(Adoption *self, GError **error)
{
  g_autofree char *marks_node = qemu_name(self->instant.prefix, QEMU_NAME_SCRATCH, 0);
  g_autofree char *marks = qemu_name(self->instant.prefix, QEMU_NAME_DIRTY, 0);
  qmp_clear_events(self->steps.qmp);
  return (self->chain = read_chain(self, error)) != NULL &&
         qemu_instant_start_server(&self->instant, &self->steps, error) && read_allocated(self, error) &&
         make_marks(self, marks_node, marks, error) && check_unchanged(self, error) &&
         exchange(self, marks_node, marks, error);
}

static gboolean
check_disk(const Adoption *self, GError **error)
{
  const QemuDisk *disk = self->disk;
  if (disk->iothread)
    cbt_set_error(error, CBT_ERROR_UNSUPPORTED, NULL,
                  "disk %s has an iothread: with it, QEMU's NBD server can end QEMU", disk->node);
  else if (disk->filter || disk->left_out || !self->recorder)
    cbt_set_error(error, CBT_ERROR_STATE, NULL, "disk %s has no bitmap that records from now on", disk->node);
  else if (!self->allocated)
    cbt_set_error(error, CBT_ERROR_FAILED, NULL, "no memory for a bitmap of disk %s", disk->node);
  else
    return TRUE;
  return FALSE;
}

gboolean
qemu_adopt_bitmap(Qmp *qmp, const QemuDisk *disk, const QemuAdoptRequest *request, GError **error)
{
  g_autofree char *socket_name = g_strdup_printf("%s-%s", request->prefix, QEMU_NAME_NBD);
  g_autofree char *socket_path = g_build_filename(request->socket_dir, socket_name, NULL);
  InstantDisk only = {.node = disk->node, .socket_path = socket_path};
  Adoption self = {.request = request, .disk = disk};
  g_autoptr(GError) local = NULL;
  g_autoptr(GPtrArray) disks = g_ptr_array_new();
  g_autoptr(CbtBitmap) allocated = self.allocated = cbt_bitmap_new(disk->size_bytes, GRANULARITY);
  g_ptr_array_add(disks, &only);
  self.instant = (QemuInstant){.prefix = (char *) request->prefix,
                               .timeout_ms = request->timeout_ms,
                               .step = request->step,
                               .user_data = request->user_data,
                               .disks = disks};
  self.steps = qemu_instant_steps(&self.instant, qmp);
  self.recorder = qemu_bitmaps_recorder(disk, request->bitmap_prefix, request->bitmap);
  if (!check_disk(&self, error))
    return FALSE;
  gboolean ok = adopt(&self, error);
  g_clear_pointer(&self.chain, g_ptr_array_unref);
  return qemu_leftovers_clear_by(&self.steps, request->prefix, NULL, ok ? error : &local) && ok;
}
