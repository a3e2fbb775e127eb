/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Points of one disk whose every cluster is known, made as a backup makes them: with pins, on a base. */
#pragma once
#include "store-fixture.h"

#include <store/gc.h>
#include <store/manifest.h>
#include <store/mark.h>
#include <store/pins.h>

#ifndef DISK_CLUSTERS
#define DISK_CLUSTERS 300u /* three leaves */
#define N_CONTENTS    200  /* few, so that much is shared and comes back */
#endif

typedef struct {
  StorePoint *point;
  guint contents[DISK_CLUSTERS]; /* 0: zeros */
} KnownPoint;

static G_GNUC_UNUSED void
known_point_free(gpointer data)
{
  KnownPoint *known = data;
  store_point_free(known->point);
  g_free(known);
}

/* Contents that were made already; they are made of many steps. */
typedef struct {
  guint8 *data[N_CONTENTS];
} Contents;

static G_GNUC_UNUSED const guint8 *
contents_get(Contents *contents, guint content)
{
  if (!contents->data[content]) {
    contents->data[content] = g_malloc(CBT_CLUSTER_SIZE);
    cluster_of(content, contents->data[content]);
  }
  return contents->data[content];
}

static G_GNUC_UNUSED void
contents_clear(Contents *contents)
{
  for (guint i = 0; i < N_CONTENTS; i++)
    g_free(contents->data[i]);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Contents, contents_clear)

/* A point with up to N_CHANGES clusters other than in BASE (nullable); NULL if the store failed. */
static G_GNUC_UNUSED KnownPoint *
make_point(Store *store, StorePins *pins, const KnownPoint *base, guint n_changes, GRand *rand)
{
  KnownPoint *known = g_new0(KnownPoint, 1);
  g_auto(Contents) contents = {0};
  StoreWorker *worker = store_worker_new(store);
  const StorePointDisk *from = base ? base->point->disks->pdata[0] : NULL;
  store_worker_set_pins(worker, pins);
  known->point = store_point_new();
  known->point->uuid = cbt_uuid_generate();
  known->point->vm = g_strdup("vm");
  StorePointDisk *disk = store_point_add_disk(known->point, "root");
  StoreManifestBuilder *builder = store_manifest_builder_new(
      worker, from ? &from->manifest : NULL, DISK_CLUSTERS * (guint64) CBT_CLUSTER_SIZE, NULL, NULL);
  assert_non_null(builder);
  if (base)
    memcpy(known->contents, base->contents, sizeof known->contents);
  gboolean ok = TRUE;
  for (guint cluster = 0; ok && cluster < DISK_CLUSTERS; cluster++) {
    StoreChunkId id = {{0}};
    if ((guint) g_rand_int_range(rand, 0, DISK_CLUSTERS) >= n_changes)
      continue;
    guint content = (guint) g_rand_int_range(rand, 0, N_CONTENTS);
    known->contents[cluster] = content;
    ok = (content == 0 || store_put(worker, STORE_CHUNK_DATA, contents_get(&contents, content),
                                    CBT_CLUSTER_SIZE, &id, NULL, NULL, NULL)) &&
         store_manifest_builder_set(builder, cluster, &id, NULL);
  }
  ok = ok && store_manifest_builder_finish(builder, &disk->manifest, NULL) && store_flush(store, NULL);
  store_manifest_builder_free(builder);
  store_worker_free(worker);
  if (ok)
    return known;
  known_point_free(known);
  return NULL;
}

typedef struct {
  StoreWorker *worker;
  const KnownPoint *known;
  StoreChunkId read[N_CONTENTS]; /* the chunk that has this content, as was seen by reading it */
} PointCheck;

static G_GNUC_UNUSED gboolean
check_cluster(guint64 cluster, const StoreChunkId *id, gpointer user_data)
{
  PointCheck *check = user_data;
  g_autoptr(GError) error = NULL;
  guint content = check->known->contents[cluster];
  if (content == 0)
    assert_true(store_chunk_id_is_zero(id));
  else if (store_chunk_id_equal(&check->read[content], id))
    return TRUE;
  else if (!cluster_is_readable(check->worker, content, id, &error))
    fail_msg("cluster %u: %s", (guint) cluster, error->message);
  check->read[content] = *id;
  return TRUE;
}

static G_GNUC_UNUSED void
check_one(PointCheck *check, const KnownPoint *known)
{
  g_autoptr(GError) error = NULL;
  const StorePointDisk *disk = known->point->disks->pdata[0];
  check->known = known;
  if (!store_manifest_changes(check->worker, NULL, &disk->manifest, 0, G_MAXUINT64, check_cluster, check,
                              &error))
    fail_msg("%s", error->message);
}

/* Each cluster of KNOWN is what it was. */
static G_GNUC_UNUSED void
check_point(Store *store, const KnownPoint *known)
{
  g_autoptr(StoreWorker) worker = store_worker_new(store);
  PointCheck check = {.worker = worker};
  check_one(&check, known);
}

static G_GNUC_UNUSED void
check_points(Store *store, const GPtrArray *points)
{
  g_autoptr(StoreWorker) worker = store_worker_new(store);
  PointCheck check = {.worker = worker};
  for (guint i = 0; i < points->len; i++)
    check_one(&check, points->pdata[i]);
}

/* As StorePoints (container). */
static G_GNUC_UNUSED GPtrArray *
plain_points(const GPtrArray *known)
{
  GPtrArray *points = g_ptr_array_new();
  for (guint i = 0; i < known->len; i++)
    g_ptr_array_add(points, ((const KnownPoint *) known->pdata[i])->point);
  return points;
}

/* Marks POINTS (of KnownPoint) and sweeps. */
static G_GNUC_UNUSED gboolean
collect(Store *store, const GPtrArray *points, StoreGcResult *result, GError **error)
{
  g_autoptr(GPtrArray) plain = plain_points(points);
  g_autoptr(StoreGc) gc = store_gc_begin(store, NULL, error);
  return gc && store_gc_mark(gc, plain, error) && store_gc_sweep(gc, result, error);
}
