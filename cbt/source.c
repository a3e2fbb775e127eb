/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The calls through the table, with the checks that every kind of source would have to repeat. */
#include <cbt/source.h>

#include <common/bytes.h>

void
cbt_source_close(CbtSource *source)
{
  if (source)
    source->klass->close(source);
}

gboolean
cbt_source_next_extent(CbtSource *source, guint64 offset, guint64 length, CbtExtent *extent, gboolean *hole,
                       GError **error)
{
  g_assert(length > 0 && cbt_range_fits(offset, length, source->size));
  if (!source->klass->next_extent(source, offset, length, extent, hole, error))
    return FALSE;
  /* A walk over a disk relies on these two: it begins where asked, and it moves on. */
  g_assert(extent->offset == offset && extent->length > 0 && extent->length <= length);
  return TRUE;
}

int
cbt_source_fd(CbtSource *source, gboolean direct)
{
  return source->klass->get_fd(source, direct);
}

gboolean
cbt_source_check_changed(CbtSource *source, gboolean *changed, GError **error)
{
  return source->klass->check_changed(source, changed, error);
}
