/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Ranges are asked in windows, kept in a queue in their order and handed on in that order, whenever they are
 * answered. An answer may cover less than its window (QEMU tells 128 Ki extents at most): the rest is asked
 * again, at its place.
 */
#include <cbt/qemu/nbd-map.h>

#include <errno.h>
#include <libnbd.h>

#define DEFAULT_WINDOW    (G_GUINT64_CONSTANT(1) << 30)
#define DEFAULT_IN_FLIGHT 16
#define POLL_SLICE_MS     100 /* how long a cancel may wait */
#define BITMAP_PREFIX     "qemu:dirty-bitmap:"
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
  g_clear_pointer(&walk->nbd, nbd_close);
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
  note_progress(walk);
  walk->nbd = nbd_create();
  if (!walk->nbd || nbd_add_meta_context(walk->nbd, walk->context) != 0 ||
      nbd_aio_connect_uri(walk->nbd, walk->request->uri) != 0)
    return set_nbd_error(walk, CBT_ERROR_UNREACHABLE, "connecting", error);
  while (nbd_aio_is_connecting(walk->nbd) > 0)
    if (!wait_for_progress(walk, error))
      return FALSE;
  int64_t size = nbd_aio_is_ready(walk->nbd) > 0 ? nbd_get_size(walk->nbd) : -1;
  if (size < 0)
    return set_nbd_error(walk, CBT_ERROR_UNREACHABLE, "connecting", error);
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
    cbt_set_error_errno(error, window->error, "NBD export %s, block status at %" G_GUINT64_FORMAT,
                        walk->request->uri, range->offset);
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

/* Asks for all of RANGES. */
static gboolean
walk_ranges(Walk *walk, const CbtExtent *ranges, guint n_ranges, StatusFunc func, gpointer user_data,
            GError **error)
{
  guint n_max = walk->request->n_in_flight ? walk->request->n_in_flight : DEFAULT_IN_FLIGHT;
  CbtExtent left = {0, 0};
  note_progress(walk);
  for (guint next = 0;;) {
    if (left.length == 0 && next < n_ranges)
      left = ranges[next++];
    if (left.length > 0 && walk->windows.length < n_max) {
      if (!ask_next(walk, &left, error))
        return FALSE;
      continue;
    }
    if (!consume_answered(walk, func, user_data, error))
      return FALSE;
    if (walk->windows.length == 0 && left.length == 0 && next == n_ranges)
      return TRUE;
    Window *first = g_queue_peek_head(&walk->windows);
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
  GArray *dirty = user_data;
  CbtExtent *last = dirty->len > 0 ? &g_array_index(dirty, CbtExtent, dirty->len - 1) : NULL;
  if (!(flags & STATE_DIRTY))
    return TRUE;
  if (last && last->offset + last->length == extent->offset)
    last->length += extent->length;
  else
    g_array_append_val(dirty, *extent);
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

/* Appends the dirty extents to DIRTY: without a bitmap, all. */
static gboolean
read_dirty(const QemuNbdMapRequest *request, guint64 size_bytes, GArray *dirty, GCancellable *cancellable,
           GError **error)
{
  CbtExtent all = {0, size_bytes};
  guint64 size = 0;
  if (!request->bitmap) {
    g_array_append_val(dirty, all);
    return TRUE;
  }
  g_autofree char *context = g_strconcat(BITMAP_PREFIX, request->bitmap, NULL);
  g_auto(Walk) walk = {.request = request, .context = context, .cancellable = cancellable};
  if (!open_export(&walk, &size, error))
    return FALSE;
  if (nbd_can_meta_context(walk.nbd, context) <= 0) {
    cbt_set_error(error, CBT_ERROR_NOT_FOUND, NULL, "NBD export %s has no dirty bitmap %s", request->uri,
                  request->bitmap);
    return FALSE;
  }
  if (size != size_bytes)
    return set_odd(&walk, "its size changed", size, error);
  return walk_ranges(&walk, &all, 1, collect_dirty, dirty, error);
}

gboolean
qemu_nbd_map_read(const QemuNbdMapRequest *request, QemuRangeFunc func, gpointer user_data,
                  guint64 *size_bytes, GCancellable *cancellable, GError **error)
{
  g_auto(Walk)
      walk = {.request = request, .context = LIBNBD_CONTEXT_BASE_ALLOCATION, .cancellable = cancellable};
  g_autoptr(GArray) dirty = g_array_new(FALSE, FALSE, sizeof(CbtExtent));
  Joiner joiner = {.func = func, .user_data = user_data};
  if (!open_export(&walk, size_bytes, error))
    return FALSE;
  if (nbd_can_meta_context(walk.nbd, walk.context) <= 0) {
    cbt_set_error(error, CBT_ERROR_UNSUPPORTED, NULL, "NBD export %s does not tell what is allocated",
                  request->uri);
    return FALSE;
  }
  if (*size_bytes == 0)
    return TRUE;
  if (!read_dirty(request, *size_bytes, dirty, cancellable, error) ||
      !walk_ranges(&walk, (const CbtExtent *) dirty->data, dirty->len, join_allocation, &joiner, error))
    return FALSE;
  if (join(&joiner, *size_bytes, QEMU_RANGE_CLEAN) && flush(&joiner))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_CANCELLED, NULL, "stopped");
  return FALSE;
}
