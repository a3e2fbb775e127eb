/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <store/chain.h>

#define NOWHERE G_MAXUINT

static guint
find_point(const GPtrArray *points, const CbtUuid *uuid)
{
  for (guint i = 0; i < points->len; i++)
    if (cbt_uuid_equal(&((const StorePoint *) points->pdata[i])->uuid, uuid))
      return i;
  return NOWHERE;
}

/* The place of the point that the one at I is to stand on. */
static guint
find_point_before(const GPtrArray *points, guint i)
{
  const StorePoint *point = points->pdata[i];
  if (!point->incremental || cbt_uuid_is_nil(&point->parent))
    return NOWHERE;
  guint parent = find_point(points, &point->parent);
  if (parent != NOWHERE)
    return parent;
  return i + 1 < points->len ? i + 1 : NOWHERE;
}

GPtrArray *
store_chain_select(const GPtrArray *points, const CbtUuid *point)
{
  GPtrArray *chain = g_ptr_array_new();
  /* A clock that was put back may have made a parent newer than its child, but nobody is there twice. */
  for (guint i = find_point(points, point); i != NOWHERE && !g_ptr_array_find(chain, points->pdata[i], NULL);
       i = find_point_before(points, i))
    g_ptr_array_insert(chain, 0, points->pdata[i]);
  return chain;
}
