/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A group is open while its worker adds to it, then closed, then written by one thread: its worker, or a
 * flush. It leaves the pending chunks only after the index has them, so that who finds a chunk neither
 * pending nor, after that, in the index can be sure that it was in neither when it first looked; and what is
 * added is checked again under the append lock.
 *
 * A collection may take chunks out of the index that nobody wants, before their group has left; and then
 * somebody may find them pending, and want them. So whether the index has them all is asked under the append
 * lock when the group is to leave; if not it is written again.
 */
#include <store/staging.h>

#include <common/error.h>
#include <store/group-write.h>
#include <store/worker-private.h>
#include <string.h>

typedef struct {
  StoreChunkId id;
  const guint8 *content;
} Pending;

struct StoreStaged {
  /* protected by lock; ids and contents below n do not change any more, but for a copy under way */
  guint64 number;     /* in the order in which they were begun */
  StoreWorker *owner; /* (nullable) */
  gboolean is_closed;
  gboolean is_being_written;
  gboolean has_failed;
  Pending
      *filling; /* (nullable) the last cluster, which the owner is copying here: nobody writes the group */
  StoreGroupDraft
      draft; /* n, ids: changed with the store's append_lock held too; of who writes it, once it is closed */
};

struct StoreStaging {
  pthread_mutex_t lock;
  pthread_cond_t changed; /* a group was written, or could not be */
  GHashTable *pending;    /* of Pending, by id; protected by lock, like all below */
  GPtrArray *groups;      /* of StoreStaged, in their order */
  guint64 next_number;
  gint n_pending; /* atomic: of pending */
  gint n_failed;  /* atomic: of groups */
};

StoreStaging *
store_staging_new(void)
{
  StoreStaging *staging = g_new0(StoreStaging, 1);
  pthread_mutex_init(&staging->lock, NULL);
  pthread_cond_init(&staging->changed, NULL);
  staging->pending = g_hash_table_new_full(store_chunk_id_hash, store_chunk_id_hash_equal, g_free, NULL);
  staging->groups = g_ptr_array_new();
  return staging;
}

static void
staged_free(StoreStaged *staged)
{
  g_free(staged->draft.contents);
  g_free(staged);
}

void
store_staging_free(StoreStaging *staging)
{
  if (!staging)
    return;
  for (guint i = 0; i < staging->groups->len; i++)
    staged_free(staging->groups->pdata[i]);
  g_ptr_array_unref(staging->groups);
  g_hash_table_unref(staging->pending);
  pthread_mutex_destroy(&staging->lock);
  pthread_cond_destroy(&staging->changed);
  g_free(staging);
}

/* ---- what is pending ---- */

guint
store_staging_count(StoreStaging *staging)
{
  return (guint) g_atomic_int_get(&staging->n_pending);
}

gboolean
store_staging_has(StoreStaging *staging, const StoreChunkId *id)
{
  gboolean is_equal;
  return store_staging_compare(staging, id, NULL, 0, &is_equal);
}

gboolean
store_staging_get(StoreStaging *staging, const StoreChunkId *id, void *content)
{
  if (g_atomic_int_get(&staging->n_pending) == 0)
    return FALSE;
  pthread_mutex_lock(&staging->lock);
  const Pending *pending = g_hash_table_lookup(staging->pending, id);
  if (pending)
    memcpy(content, pending->content, STORE_CHUNK_LENGTH_MAX);
  pthread_mutex_unlock(&staging->lock);
  return pending != NULL;
}

gboolean
store_staging_compare(StoreStaging *staging, const StoreChunkId *id, const void *data, gsize length,
                      gboolean *is_equal)
{
  if (g_atomic_int_get(&staging->n_pending) == 0)
    return FALSE;
  pthread_mutex_lock(&staging->lock);
  const Pending *pending = g_hash_table_lookup(staging->pending, id);
  *is_equal = pending && length == STORE_CHUNK_LENGTH_MAX && memcmp(pending->content, data, length) == 0;
  pthread_mutex_unlock(&staging->lock);
  return pending != NULL;
}

/* ---- writing a group ---- */

/* Nothing is added to the group any more. The append lock and lock are held. */
static void
close_group(StoreStaged *staged)
{
  staged->is_closed = TRUE;
  if (staged->owner && staged->owner->staged == staged)
    staged->owner->staged = NULL;
}

/* The group is in the packs and the index. lock is held. */
static void
remove_group(StoreStaging *staging, StoreStaged *staged)
{
  for (guint i = 0; i < staged->draft.n; i++)
    g_hash_table_remove(staging->pending, &staged->draft.ids[i]);
  g_atomic_int_add(&staging->n_pending, -(gint) staged->draft.n);
  g_ptr_array_remove(staging->groups, staged);
  if (staged->owner && !staged->owner->spare)
    staged->owner->spare = g_steal_pointer(&staged->draft.contents);
  staged_free(staged);
}

/* The append lock is held. */
static gboolean
is_indexed(Store *store, const StoreGroupDraft *draft)
{
  StoreLocation location;
  for (guint i = 0; i < draft->n; i++)
    if (!store_index_lookup(store->index, &draft->ids[i], &location))
      return FALSE;
  return TRUE;
}

/* Notes the outcome of writing; frees what is written. lock is held. */
static void
settle_group(StoreStaging *staging, StoreStaged *staged, gboolean ok)
{
  g_atomic_int_add(&staging->n_failed, (gint) !ok - (gint) staged->has_failed);
  staged->has_failed = !ok;
  staged->is_being_written = FALSE;
  if (ok)
    remove_group(staging, staged);
  pthread_cond_broadcast(&staging->changed);
}

/* Writes a group that is closed and taken by the caller, with WORKER's buffers. */
static gboolean
write_group(StoreWorker *worker, StoreStaged *staged, GError **error)
{
  Store *store = worker->store;
  StoreStaging *staging = store->staging;
  gboolean ok, is_settled;
  do {
    guint64 bytes = 0;
    ok = store_group_write(worker, &staged->draft, &bytes, error);
    pthread_mutex_lock(&store->append_lock);
    pthread_mutex_lock(&staging->lock);
    if (staged->owner)
      __atomic_fetch_add(&staged->owner->stored_bytes, bytes, __ATOMIC_RELAXED);
    is_settled = !ok || is_indexed(store, &staged->draft);
    if (is_settled)
      settle_group(staging, staged, ok);
    pthread_mutex_unlock(&staging->lock);
    pthread_mutex_unlock(&store->append_lock);
  } while (!is_settled);
  return ok;
}

/* The first group before LIMIT that nobody uses, closed and taken for writing: waits for those that others
 * use. NULL: there is none left. */
static StoreStaged *
take_group(Store *store, guint64 limit, gboolean only_failed)
{
  StoreStaging *staging = store->staging;
  StoreStaged *taken = NULL;
  gboolean waits = TRUE;
  pthread_mutex_lock(&store->append_lock);
  pthread_mutex_lock(&staging->lock);
  while (!taken && waits) {
    waits = FALSE;
    for (guint i = 0; i < staging->groups->len && !taken; i++) {
      StoreStaged *staged = staging->groups->pdata[i];
      if (staged->number >= limit || (only_failed && !staged->has_failed))
        continue;
      gboolean is_in_use = staged->is_being_written || staged->filling;
      waits |= is_in_use;
      taken = is_in_use ? NULL : staged;
    }
    if (taken || !waits)
      break;
    /* Who uses it may need the append lock. */
    pthread_mutex_unlock(&store->append_lock);
    pthread_cond_wait(&staging->changed, &staging->lock);
    pthread_mutex_unlock(&staging->lock);
    pthread_mutex_lock(&store->append_lock);
    pthread_mutex_lock(&staging->lock);
  }
  if (taken) {
    close_group(taken);
    taken->is_being_written = TRUE;
  }
  pthread_mutex_unlock(&staging->lock);
  pthread_mutex_unlock(&store->append_lock);
  return taken;
}

static gboolean
write_before(StoreWorker *worker, guint64 limit, gboolean only_failed, GError **error)
{
  StoreStaged *staged;
  while ((staged = take_group(worker->store, limit, only_failed)) != NULL)
    if (!write_group(worker, staged, error))
      return FALSE;
  return TRUE;
}

gboolean
store_staging_write_all(Store *store, GError **error)
{
  StoreStaging *staging = store->staging;
  pthread_mutex_lock(&staging->lock);
  guint64 limit = staging->next_number;
  gboolean is_empty = staging->groups->len == 0;
  pthread_mutex_unlock(&staging->lock);
  if (is_empty)
    return TRUE;
  g_autoptr(StoreWorker) worker = store_worker_new(store);
  return write_before(worker, limit, FALSE, error);
}

/* ---- a worker's group ---- */

gboolean
store_staging_prepare(StoreWorker *worker, GError **error)
{
  return g_atomic_int_get(&worker->store->staging->n_failed) == 0 ||
         write_before(worker, G_MAXUINT64, TRUE, error);
}

/* The append lock is held. */
static StoreStaged *
begin_group(StoreWorker *worker)
{
  StoreStaging *staging = worker->store->staging;
  StoreStaged *staged = g_new0(StoreStaged, 1);
  staged->owner = worker;
  pthread_mutex_lock(&staging->lock);
  staged->draft.contents = g_steal_pointer(&worker->spare);
  if (!staged->draft.contents)
    staged->draft.contents = g_malloc((gsize) worker->store->options.group_clusters * STORE_CHUNK_LENGTH_MAX);
  staged->number = staging->next_number++;
  g_ptr_array_add(staging->groups, staged);
  pthread_mutex_unlock(&staging->lock);
  return worker->staged = staged;
}

void
store_staging_add(StoreWorker *worker, const StoreChunkId *id, const StoreLocation *seen, const void *data)
{
  StoreStaging *staging = worker->store->staging;
  StoreStaged *staged = worker->staged ? worker->staged : begin_group(worker);
  Pending *pending = g_new(Pending, 1);
  *pending = (Pending){*id, data};
  pthread_mutex_lock(&staging->lock);
  staged->draft.ids[staged->draft.n] = *id;
  staged->draft.seen[staged->draft.n++] = *seen;
  staged->filling = pending;
  g_hash_table_add(staging->pending, pending);
  g_atomic_int_inc(&staging->n_pending);
  pthread_mutex_unlock(&staging->lock);
}

gboolean
store_staging_fill(StoreWorker *worker)
{
  StoreStaging *staging = worker->store->staging;
  StoreStaged *staged = worker->staged; /* nobody takes it meanwhile */
  guint8 *content = staged->draft.contents + (gsize) (staged->draft.n - 1) * STORE_CHUNK_LENGTH_MAX;
  gboolean is_full = staged->draft.n == worker->store->options.group_clusters;
  memcpy(content, staged->filling->content, STORE_CHUNK_LENGTH_MAX);
  pthread_mutex_lock(&staging->lock);
  staged->filling->content = content;
  staged->filling = NULL;
  pthread_cond_broadcast(&staging->changed);
  pthread_mutex_unlock(&staging->lock);
  return is_full;
}

/* The worker's group, closed and taken for writing; NULL if it has none, or a flush took it. */
static StoreStaged *
take_own(StoreWorker *worker)
{
  Store *store = worker->store;
  pthread_mutex_lock(&store->append_lock);
  pthread_mutex_lock(&store->staging->lock);
  StoreStaged *staged = worker->staged;
  if (staged) {
    close_group(staged);
    staged->is_being_written = TRUE;
  }
  pthread_mutex_unlock(&store->staging->lock);
  pthread_mutex_unlock(&store->append_lock);
  return staged;
}

gboolean
store_staging_write(StoreWorker *worker, GError **error)
{
  StoreStaged *staged = take_own(worker);
  return !staged || write_group(worker, staged, error);
}

void
store_staging_leave(StoreWorker *worker)
{
  StoreStaging *staging = worker->store->staging;
  g_autoptr(GError) error = NULL;
  if (!staging)
    return;
  if (!store_staging_write(worker, &error))
    g_debug("clusters that were put wait for the next flush: %s", error->message);
  pthread_mutex_lock(&staging->lock);
  for (guint i = 0; i < staging->groups->len; i++) {
    StoreStaged *staged = staging->groups->pdata[i];
    if (staged->owner == worker)
      staged->owner = NULL;
  }
  pthread_mutex_unlock(&staging->lock);
}
