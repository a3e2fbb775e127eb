/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Ranges are asked in windows, kept in a queue in their order and handed on in that order, whenever they are
 * answered. An answer may cover less than its window (QEMU tells 128 Ki extents at most): the rest is asked
 * again, at its place.
 *
 * Dirty ranges are kept as bits of clusters, which bounds memory however scattered they are. That rounds
 * them, which loses nothing: what is backed up is clusters, and a copy-before-write filter keeps clusters,
 * too.
 */
#include <cbt/qemu/nbd-map.h>

#include <cbt/bitmap.h>
#include <cbt/qemu/nbd-link.h>

#define DEFAULT_WINDOW    (G_GUINT64_CONSTANT(1) << 30)
#define DEFAULT_IN_FLIGHT 16
#define POLL_SLICE_MS     100 /* how long a cancel may wait */
#define BITMAP_PREFIX     "qemu:dirty-bitmap:"
#define DEPTH_CONTEXT     "qemu:allocation-depth"
#define STATE_DIRTY       1u /* of that context */

/* A window that is being asked for. */
typedef struct {
  const char *context;
  CbtExtent range;
  GArray *entries; /* guint32: length, flags, length, flags... from range.offset on */
  gboolean is_done;
  int error; /* errno */
} Window;

/* An extent of one context, within what was asked for. Return FALSE to stop. */
typedef gboolean (*StatusFunc)(const CbtExtent *extent, guint32 flags, gpointer user_data);

typedef struct {
  const QemuNbdMapRequest *request;
  const char *context;
  GCancellable *cancellable;
  struct nbd_handle *nbd;
  GQueue windows;     /* Window, in the order of their ranges */
  gint64 deadline_us; /* moves with each progress */
} Walk;

static void
window_free(gpointer data)
{
  Window *window = data;
  g_array_unref(window->entries);
  g_free(window);
}

/* Callbacks of libnbd are over when the handle is closed; only then may the windows go. */
static void
walk_clear(Walk *walk)
{
  qemu_nbd_disconnect(&walk->nbd);
  g_queue_clear_full(&walk->windows, window_free);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Walk, walk_clear)

static gboolean
set_nbd_error(const Walk *walk, CbtErrorCode code, const char *doing, GError **error)
{
  cbt_set_error(error, code, NULL, "NBD export %s, %s: %s", walk->request->uri, doing, nbd_get_error());
  return FALSE;
}

static void
note_progress(Walk *walk)
{
  walk->deadline_us = g_get_monotonic_time() + (gint64) walk->request->timeout_ms * 1000;
}

static gboolean
wait_for_progress(Walk *walk, GError **error)
{
  if (g_cancellable_is_cancelled(walk->cancellable)) {
    cbt_set_error(error, CBT_ERROR_CANCELLED, NULL, "cancelled");
    return FALSE;
  }
  int result = nbd_poll(walk->nbd, POLL_SLICE_MS);
  if (result < 0)
    return set_nbd_error(walk, CBT_ERROR_UNREACHABLE, "waiting for it", error);
  if (result > 0)
    note_progress(walk);
  if (g_get_monotonic_time() <= walk->deadline_us)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_UNREACHABLE, NULL, "NBD export %s does not answer", walk->request->uri);
  return FALSE;
}

static gboolean
open_export(Walk *walk, guint64 *size_bytes, GError **error)
{
  walk->nbd = qemu_nbd_connect(walk->request->uri, walk->context, walk->request->timeout_ms,
                               walk->cancellable, error);
  if (!walk->nbd)
    return FALSE;
  int64_t size = nbd_get_size(walk->nbd);
  if (size < 0)
    return set_nbd_error(walk, CBT_ERROR_UNREACHABLE, "asking for its size", error);
  *size_bytes = (guint64) size;
  return TRUE;
}

/* Asking */

static int
take_entries(void *user_data, const char *context, uint64_t offset, uint32_t *entries, size_t n_entries,
             int *error)
{
  Window *window = user_data;
  (void) error;
  if (g_str_equal(context, window->context) && offset == window->range.offset && window->entries->len == 0)
    g_array_append_vals(window->entries, entries, (guint) n_entries);
  return 0;
}

static int
take_end(void *user_data, int *error)
{
  Window *window = user_data;
  window->is_done = TRUE;
  window->error = *error;
  return 1; /* libnbd forgets the command */
}

static gboolean
ask(Walk *walk, Window *window, GError **error)
{
  nbd_extent_callback on_extents = {.callback = take_entries, .user_data = window};
  nbd_completion_callback on_end = {.callback = take_end, .user_data = window};
  window->is_done = FALSE;
  g_array_set_size(window->entries, 0);
  if (nbd_aio_block_status(walk->nbd, window->range.length, window->range.offset, on_extents, on_end, 0) < 0)
    return set_nbd_error(walk, CBT_ERROR_UNREACHABLE, "asking for block status", error);
  return TRUE;
}

/* Cuts the next window off *left. */
static gboolean
ask_next(Walk *walk, CbtExtent *left, GError **error)
{
  guint64 window_bytes = walk->request->window_bytes ? walk->request->window_bytes : DEFAULT_WINDOW;
  guint64 end = MIN((left->offset / window_bytes + 1) * window_bytes, left->offset + left->length);
  Window *window = g_new0(Window, 1);
  window->context = walk->context;
  window->range = (CbtExtent){left->offset, end - left->offset};
  window->entries = g_array_new(FALSE, FALSE, sizeof(guint32));
  g_queue_push_tail(&walk->windows, window);
  left->length -= window->range.length;
  left->offset = end;
  return ask(walk, window, error);
}

/* Answers */

static gboolean
set_odd(const Walk *walk, const char *what, guint64 offset, GError **error)
{
  cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "NBD export %s: %s at %" G_GUINT64_FORMAT, walk->request->uri,
                what, offset);
  return FALSE;
}

/* Hands on what WINDOW's answer tells, and takes it off its range. */
static gboolean
consume(const Walk *walk, Window *window, StatusFunc func, gpointer user_data, GError **error)
{
  CbtExtent *range = &window->range;
  const guint32 *entries = (const guint32 *) window->entries->data;
  if (window->error != 0) {
    qemu_nbd_set_answer_error(error, walk->request->uri, "block status", range->offset, window->error);
    return FALSE;
  }
  if (window->entries->len < 2)
    return set_odd(walk, "no block status", range->offset, error);
  for (guint i = 0; i + 1 < window->entries->len && range->length > 0; i += 2) {
    CbtExtent extent = {range->offset, MIN(entries[i], range->length)};
    if (extent.length == 0)
      return set_odd(walk, "an empty extent", range->offset, error);
    if (!func(&extent, entries[i + 1], user_data)) {
      cbt_set_error(error, CBT_ERROR_CANCELLED, NULL, "stopped");
      return FALSE;
    }
    range->offset += extent.length;
    range->length -= extent.length;
  }
  return TRUE;
}

/* Goes through the windows that are answered, as far as they come in order. */
static gboolean
consume_answered(Walk *walk, StatusFunc func, gpointer user_data, GError **error)
{
  Window *window;
  while ((window = g_queue_peek_head(&walk->windows)) && window->is_done) {
    if (!consume(walk, window, func, user_data, error))
      return FALSE;
    if (window->range.length > 0)
      return ask(walk, window, error);
    window_free(g_queue_pop_head(&walk->windows));
  }
  return TRUE;
}

/* Sets *left to the next range at or after AT that is to be asked for: all, or what DIRTY has. */
static gboolean
next_range(guint64 size_bytes, const CbtBitmap *dirty, guint64 at, CbtExtent *left)
{
  if (dirty)
    return cbt_bitmap_next_dirty(dirty, at, G_MAXUINT64, left);
  *left = (CbtExtent){at, size_bytes - at};
  return left->length > 0;
}

/* Asks for all of the disk, or just for what is set in DIRTY (nullable). */
static gboolean
walk_ranges(Walk *walk, guint64 size_bytes, const CbtBitmap *dirty, StatusFunc func, gpointer user_data,
            GError **error)
{
  guint n_max = walk->request->n_in_flight ? walk->request->n_in_flight : DEFAULT_IN_FLIGHT;
  CbtExtent left = {0, 0}; /* of the range whose windows are asked for */
  gboolean more = TRUE;
  note_progress(walk);
  for (;;) {
    if (more && left.length == 0)
      more = next_range(size_bytes, dirty, left.offset, &left);
    if (more && walk->windows.length < n_max) {
      if (!ask_next(walk, &left, error))
        return FALSE;
      continue;
    }
    if (!consume_answered(walk, func, user_data, error))
      return FALSE;
    Window *first = g_queue_peek_head(&walk->windows);
    if (!more && !first)
      return TRUE;
    if (first && !first->is_done && !wait_for_progress(walk, error))
      return FALSE;
  }
}

/* Both maps */

typedef struct {
  QemuRangeFunc func;
  gpointer user_data;
  CbtExtent range; /* not handed on yet, for what comes may continue it */
  QemuRangeKind kind;
} Joiner;

static gboolean
flush(Joiner *joiner)
{
  gboolean go_on = joiner->range.length == 0 || joiner->func(&joiner->range, joiner->kind, joiner->user_data);
  joiner->range.offset += joiner->range.length;
  joiner->range.length = 0;
  return go_on;
}

/* The range up to END is of KIND. */
static gboolean
join(Joiner *joiner, guint64 end, QemuRangeKind kind)
{
  if (end == joiner->range.offset + joiner->range.length)
    return TRUE;
  if (kind != joiner->kind && !flush(joiner))
    return FALSE;
  joiner->kind = kind;
  joiner->range.length = end - joiner->range.offset;
  return TRUE;
}

static gboolean
collect_dirty(const CbtExtent *extent, guint32 flags, gpointer user_data)
{
  CbtBitmap *dirty = user_data;
  if (flags & STATE_DIRTY)
    cbt_bitmap_set(dirty, extent->offset, extent->length);
  return TRUE;
}

static gboolean
join_allocation(const CbtExtent *extent, guint32 flags, gpointer user_data)
{
  Joiner *joiner = user_data;
  QemuRangeKind kind = flags & LIBNBD_STATE_ZERO ? QEMU_RANGE_ZERO : QEMU_RANGE_DATA;
  return join(joiner, extent->offset, QEMU_RANGE_CLEAN) &&
         join(joiner, extent->offset + extent->length, kind);
}

/* Sets in DIRTY what the bitmap of REQUEST marks. */
static gboolean
read_dirty(const QemuNbdMapRequest *request, CbtBitmap *dirty, GCancellable *cancellable, GError **error)
{
  guint64 size = 0;
  g_autofree char *context = g_strconcat(BITMAP_PREFIX, request->bitmap, NULL);
  g_auto(Walk) walk = {.request = request, .context = context, .cancellable = cancellable};
  if (!open_export(&walk, &size, error))
    return FALSE;
  if (nbd_can_meta_context(walk.nbd, context) <= 0) {
    cbt_set_error(error, CBT_ERROR_NOT_FOUND, NULL, "NBD export %s has no dirty bitmap %s", request->uri,
                  request->bitmap);
    return FALSE;
  }
  if (size != cbt_bitmap_size(dirty))
    return set_odd(&walk, "its size changed", size, error);
  return walk_ranges(&walk, size, NULL, collect_dirty, dirty, error);
}

static gboolean
check_size(const char *uri, guint64 size_bytes, GError **error)
{
  if (size_bytes <= CBT_DISK_SIZE_MAX)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, "The largest disk is 1 PiB.",
                "NBD export %s has %" G_GUINT64_FORMAT " bytes, which is too large", uri, size_bytes);
  return FALSE;
}

/* *dirty (transfer full) becomes what the bitmap marks; NULL if none is asked for. */
static gboolean
make_dirty(const QemuNbdMapRequest *request, guint64 size_bytes, CbtBitmap **dirty, GCancellable *cancellable,
           GError **error)
{
  *dirty = NULL;
  if (!request->bitmap)
    return TRUE;
  *dirty = cbt_bitmap_new(size_bytes, CBT_CLUSTER_SIZE);
  if (*dirty)
    return read_dirty(request, *dirty, cancellable, error);
  cbt_set_error(error, CBT_ERROR_FAILED, NULL, "no memory for the changes of %" G_GUINT64_FORMAT " bytes",
                size_bytes);
  return FALSE;
}

gboolean
qemu_nbd_map_read(const QemuNbdMapRequest *request, QemuRangeFunc func, gpointer user_data,
                  guint64 *size_bytes, GCancellable *cancellable, GError **error)
{
  g_auto(Walk)
      walk = {.request = request, .context = LIBNBD_CONTEXT_BASE_ALLOCATION, .cancellable = cancellable};
  g_autoptr(CbtBitmap) dirty = NULL;
  Joiner joiner = {.func = func, .user_data = user_data};
  if (!open_export(&walk, size_bytes, error) || !check_size(request->uri, *size_bytes, error))
    return FALSE;
  if (nbd_can_meta_context(walk.nbd, walk.context) <= 0) {
    cbt_set_error(error, CBT_ERROR_UNSUPPORTED, NULL, "NBD export %s does not tell what is allocated",
                  request->uri);
    return FALSE;
  }
  if (*size_bytes == 0)
    return TRUE;
  if (!make_dirty(request, *size_bytes, &dirty, cancellable, error) ||
      !walk_ranges(&walk, *size_bytes, dirty, join_allocation, &joiner, error))
    return FALSE;
  if (join(&joiner, *size_bytes, QEMU_RANGE_CLEAN) && flush(&joiner))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_CANCELLED, NULL, "stopped");
  return FALSE;
}

/* Depths */

typedef struct {
  QemuDepthFunc func;
  gpointer user_data;
} DepthReader;

static gboolean
tell_depth(const CbtExtent *extent, guint32 depth, gpointer user_data)
{
  const DepthReader *reader = user_data;
  return reader->func(extent, depth, reader->user_data);
}

gboolean
qemu_nbd_map_read_depth(const QemuNbdMapRequest *request, QemuDepthFunc func, gpointer user_data,
                        guint64 *size_bytes, GCancellable *cancellable, GError **error)
{
  g_auto(Walk) walk = {.request = request, .context = DEPTH_CONTEXT, .cancellable = cancellable};
  DepthReader reader = {func, user_data};
  if (!open_export(&walk, size_bytes, error) || !check_size(request->uri, *size_bytes, error))
    return FALSE;
  if (nbd_can_meta_context(walk.nbd, walk.context) <= 0) {
    cbt_set_error(error, CBT_ERROR_UNSUPPORTED, NULL, "NBD export %s does not tell which image has what",
                  request->uri);
    return FALSE;
  }
  return walk_ranges(&walk, *size_bytes, NULL, tell_depth, &reader, error);
}
