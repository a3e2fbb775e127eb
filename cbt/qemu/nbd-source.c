/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <cbt/qemu/nbd-source.h>

#include <cbt/qemu/nbd-engine-private.h>
#include <cbt/qemu/nbd-map.h>
#include <common/error.h>

typedef struct {
  CbtSource base;
  QemuNbdEngineOptions engine; /* its uri and cancellable are ours */
  CbtBitmap *changes;          /* clusters that are wanted; NULL: all */
  CbtBitmap *data;             /* those of them that do not read as zeros only */
} NbdSource;

/* Whether BITMAP is set at OFFSET; *length is cut down to where that changes. */
static gboolean
run_at(const CbtBitmap *bitmap, guint64 offset, guint64 *length)
{
  CbtExtent set;
  if (!cbt_bitmap_next_dirty(bitmap, offset, *length, &set))
    return FALSE;
  *length = MIN(*length, set.offset > offset ? set.offset - offset : set.length);
  return set.offset == offset;
}

static gboolean
nbd_next_extent(CbtSource *source, guint64 offset, guint64 length, CbtExtent *extent, gboolean *hole,
                GError **error G_GNUC_UNUSED)
{
  const NbdSource *self = (const NbdSource *) source;
  gboolean is_data = run_at(self->data, offset, &length);
  gboolean is_wanted = is_data || !self->changes || run_at(self->changes, offset, &length);
  *hole = is_wanted && !is_data;
  *extent = (CbtExtent){offset, length};
  return TRUE;
}

static int
nbd_get_fd(CbtSource *source G_GNUC_UNUSED, gboolean direct G_GNUC_UNUSED)
{
  return -1;
}

static gboolean
nbd_check_changed(CbtSource *source G_GNUC_UNUSED, gboolean *changed, GError **error G_GNUC_UNUSED)
{
  *changed = FALSE;
  return TRUE;
}

static CbtReaderEngine *
nbd_new_engine(CbtSource *source, guint8 *arena G_GNUC_UNUSED, gsize arena_size G_GNUC_UNUSED, guint depth,
               gboolean direct G_GNUC_UNUSED, GError **error)
{
  const NbdSource *self = (const NbdSource *) source;
  return qemu_nbd_engine_new(&self->engine, source->size, depth, error);
}

static void
nbd_source_close(CbtSource *source)
{
  NbdSource *self = (NbdSource *) source;
  g_clear_object(&self->engine.cancellable);
  g_free((char *) self->engine.uri);
  cbt_bitmap_free(self->changes);
  cbt_bitmap_free(self->data);
  g_free(self);
}

static const CbtSourceClass nbd_class = {
    .type = "nbd",
    .close = nbd_source_close,
    .next_extent = nbd_next_extent,
    .get_fd = nbd_get_fd,
    .check_changed = nbd_check_changed,
    .new_engine = nbd_new_engine,
};

/* Opening */

typedef struct {
  NbdSource *source;
  gboolean has_changes; /* a bitmap is asked for */
  gboolean is_short;    /* of memory */
} Filling;

/* With the first range, for the size is known only then. */
static gboolean
make_bitmaps(Filling *filling)
{
  NbdSource *source = filling->source;
  source->data = cbt_bitmap_new(source->base.size, CBT_CLUSTER_SIZE);
  if (filling->has_changes)
    source->changes = cbt_bitmap_new(source->base.size, CBT_CLUSTER_SIZE);
  filling->is_short = !source->data || (filling->has_changes && !source->changes);
  return !filling->is_short;
}

static gboolean
take_range(const CbtExtent *range, QemuRangeKind kind, gpointer user_data)
{
  Filling *filling = user_data;
  NbdSource *source = filling->source;
  if (!source->data && !make_bitmaps(filling))
    return FALSE;
  if (kind == QEMU_RANGE_DATA)
    cbt_bitmap_set(source->data, range->offset, range->length);
  if (kind != QEMU_RANGE_CLEAN && source->changes)
    cbt_bitmap_set(source->changes, range->offset, range->length);
  return TRUE;
}

static gboolean
read_map(NbdSource *source, const QemuNbdSourceOptions *options, GError **error)
{
  QemuNbdMapRequest request = {
      .uri = options->uri, .bitmap = options->bitmap, .timeout_ms = options->timeout_ms};
  Filling filling = {.source = source, .has_changes = options->bitmap != NULL};
  g_autoptr(GError) local = NULL;
  gboolean is_read = qemu_nbd_map_read(&request, take_range, &filling, &source->base.size,
                                       source->engine.cancellable, &local);
  if (is_read && source->base.size > 0)
    return TRUE;
  if (is_read)
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "NBD export %s is empty", options->uri);
  else if (filling.is_short)
    cbt_set_error(error, CBT_ERROR_FAILED, NULL, "no memory for the map of NBD export %s", options->uri);
  else
    g_propagate_error(error, g_steal_pointer(&local));
  return FALSE;
}

CbtSource *
qemu_nbd_source_open(const QemuNbdSourceOptions *options, GCancellable *cancellable, GError **error)
{
  NbdSource *self = g_new0(NbdSource, 1);
  g_autoptr(CbtSource) source = &self->base;
  source->klass = &nbd_class;
  self->engine = (QemuNbdEngineOptions){.uri = g_strdup(options->uri),
                                        .timeout_ms = options->timeout_ms,
                                        .n_connections = options->n_connections,
                                        .cancellable = cancellable ? g_object_ref(cancellable) : NULL};
  return read_map(self, options, error) ? g_steal_pointer(&source) : NULL;
}

const CbtBitmap *
qemu_nbd_source_changes(CbtSource *source)
{
  g_assert(source->klass == &nbd_class);
  return ((const NbdSource *) source)->changes;
}
