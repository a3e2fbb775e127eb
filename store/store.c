/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The store as a whole: opening, recovery, flush.
 *
 * Layout: DIRECTORY/format (identity, secret), packs/ (chunks), points/ (recovery points; not this module's),
 * index (derived), lock (held while the store is open).
 *
 * Validity rule: a chunk is in the store if some pack has a sound record of it. The index only says where to
 * look first: an entry whose record is of another chunk is treated as missing, and a chunk that the index
 * does not find is looked for in all packs once before it is given up.
 *
 * Write order: format before the first pack; packs durable (store_pack_flush) before store_flush returns; the
 * index is synced now and then, after the packs that it covers, so that it never vouches for records that may
 * be gone. Such a checkpoint notes where the packs end (all before that is in the index too, for who appends
 * holds the append lock until it is), then flushes the packs, then syncs the index's slots, then its header
 * with that end. What is appended or flushed after the first step is for the next one. Its sync may take
 * long, and no flush waits for it: while one is under way the others only flush.
 */
#include <store/store-private.h>

#include <common/error.h>
#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>
#include <store/group.h>
#include <store/index-format.h>
#include <string.h>
#include <sys/file.h>

/* A checkpoint of the index costs its dirty pages: about one for each chunk since the last. */
#define CHECKPOINT_BYTES (G_GUINT64_CONSTANT(256) << 20)

StoreChunkId
store_digest(const Store *store, const void *data, gsize length)
{
  StoreChunkId id = store_chunk_id(store->format.secret, data, length);
  if (store->options.digest_mask == 0)
    return id;
  for (guint i = 0; i + 1 < STORE_CHUNK_ID_SIZE; i++)
    id.bytes[i] &= store->options.digest_mask;
  id.bytes[STORE_CHUNK_ID_SIZE - 1] = 0;
  if (store_chunk_id_is_zero(&id))
    id.bytes[STORE_CHUNK_ID_SIZE - 1] = 1;
  return id;
}

/* --- recovery --- */

typedef struct {
  Store *store;
  guint64 n_new;
  StorePackGroup last_known, last_met;
  GError *error;
} Recovery;

static gboolean
location_is_behind(const StoreLocation *a, const StoreLocation *b)
{
  return a->pack > b->pack || (a->pack == b->pack && a->offset > b->offset);
}

/*
 * Of several records of a chunk the last is the one that replaced the others, if it came to the disk: a power
 * cut may leave the table of a pack that was not durable, without all records that it lists. What was put
 * while the packs are read stands behind, and stays. append_lock is held.
 */
static gboolean
is_better(Recovery *recovery, const StoreChunkId *id, const StoreLocation *location,
          const StoreLocation *known)
{
  if (location->pack == known->pack && location->offset == known->offset)
    return TRUE;
  StorePackSet *packs = recovery->store->packs;
  if (location_is_behind(known, location) && store_pack_has(packs, known, id, &recovery->last_known))
    return FALSE;
  return store_pack_has(packs, location, id, &recovery->last_met);
}

static gboolean
recover_locked(Recovery *recovery, const StoreChunkId *id, const StoreLocation *location)
{
  StoreIndex *index = recovery->store->index;
  StoreLocation known;
  gboolean is_known = store_index_lookup(index, id, &known);
  recovery->n_new += !is_known;
  if (is_known && !is_better(recovery, id, location, &known))
    return TRUE;
  return store_index_insert(index, id, location, &recovery->error);
}

/* The append lock is held for one record at a time, and only for those that the index does not have so. */
static gboolean
recover_record(const StoreRecordInfo *info, const StoreLocation *location, gpointer user_data)
{
  Recovery *recovery = user_data;
  Store *store = recovery->store;
  StoreLocation known;
  if (store_index_lookup(store->index, &info->id, &known) &&
      store_index_pack_location(&known) == store_index_pack_location(location))
    return TRUE;
  pthread_mutex_lock(&store->append_lock);
  gboolean ok = recover_locked(recovery, &info->id, location);
  pthread_mutex_unlock(&store->append_lock);
  return ok;
}

static gboolean
recover_scan(Store *store, Recovery *recovery, const StoreLocation *from, GError **error)
{
  *recovery = (Recovery){.store = store};
  return store_pack_scan(store->packs, from, recover_record, recovery, NULL, error);
}

static gboolean
recover_from(Store *store, const StoreLocation *from, GError **error)
{
  Recovery recovery;
  if (!recover_scan(store, &recovery, from, error))
    return FALSE;
  store->n_recovered += recovery.n_new;
  if (!recovery.error)
    return TRUE;
  g_propagate_error(error, recovery.error);
  return FALSE;
}

gboolean
store_rebuild_index(Store *store, gint seen)
{
  g_autoptr(GError) error = NULL;
  if (seen)
    return FALSE;
  pthread_mutex_lock(&store->rebuild_lock);
  gboolean ok = !store->is_sweeping;
  /* A record that is not written out is not seen, and an older one must not take its place. */
  if (ok && !g_atomic_int_get(&store->was_rebuilt) && (ok = store_pack_write(store->packs, &error))) {
    Recovery recovery;
    if (!recover_scan(store, &recovery, NULL, &error) || recovery.error)
      g_debug("%s: the index could not be made again in full", store->directory);
    g_clear_error(&recovery.error);
    g_atomic_int_set(&store->was_rebuilt, 1);
  }
  pthread_mutex_unlock(&store->rebuild_lock);
  return ok;
}

/* --- opening --- */

static gboolean
make_folder(const char *path, GError **error)
{
  if (g_mkdir_with_parents(path, 0700) == 0)
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot make the folder %s", path);
  return FALSE;
}

static gboolean
make_folders(Store *store, GError **error)
{
  g_autofree char *packs = g_build_filename(store->directory, "packs", NULL);
  g_autofree char *points = g_build_filename(store->directory, "points", NULL);
  if (!make_folder(packs, error) || !make_folder(points, error))
    return FALSE;
  if (store->ops->fsync_dir(store->ops, store->directory) == 0)
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot make %s durable", store->directory);
  return FALSE;
}

static gboolean
take_lock(Store *store, GError **error)
{
  g_autofree char *path = g_build_filename(store->directory, "lock", NULL);
  store->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (store->lock_fd < 0) {
    cbt_set_error_errno(error, errno, "cannot open %s", path);
    return FALSE;
  }
  if (flock(store->lock_fd, LOCK_EX | LOCK_NB) == 0)
    return TRUE;
  if (errno == EWOULDBLOCK)
    cbt_set_error(error, CBT_ERROR_BUSY, "One process at a time opens a store: is the daemon running?",
                  "the store %s is open elsewhere", store->directory);
  else
    cbt_set_error_errno(error, errno, "cannot lock %s", path);
  return FALSE;
}

static gboolean
has_packs(const Store *store)
{
  g_autofree char *path = g_build_filename(store->directory, "packs", NULL);
  g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
  for (const char *name = dir ? g_dir_read_name(dir) : NULL; name; name = g_dir_read_name(dir))
    if (g_str_has_suffix(name, ".pack"))
      return TRUE;
  return FALSE;
}

static gboolean
load_or_make_format(Store *store, GError **error)
{
  g_autofree char *path = g_build_filename(store->directory, "format", NULL);
  g_autoptr(GError) local = NULL;
  if (store_format_load(store->ops, path, &store->format, &local))
    return TRUE;
  if (!g_error_matches(local, CBT_ERROR, CBT_ERROR_NOT_FOUND)) {
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
  }
  if (has_packs(store)) {
    cbt_set_error(
        error, CBT_ERROR_CORRUPT,
        "Put the store's format file back from a copy; without its secret the chunks cannot be recognised.",
        "%s is missing, but the store has packs", path);
    return FALSE;
  }
  return store_format_generate(&store->format, error) &&
         store_format_save(store->ops, path, &store->format, error);
}

gboolean
store_raise_version(Store *store, GError **error)
{
  pthread_mutex_lock(&store->version_lock);
  gboolean ok = TRUE;
  if (store->format.version < STORE_FORMAT_VERSION) {
    g_autofree char *path = g_build_filename(store->directory, "format", NULL);
    StoreFormat raised = store->format;
    raised.version = STORE_FORMAT_VERSION;
    ok = store_format_save(store->ops, path, &raised, error);
    if (ok) {
      store->format.version = STORE_FORMAT_VERSION;
      store_pack_set_version(store->packs, STORE_FORMAT_VERSION);
    }
  }
  pthread_mutex_unlock(&store->version_lock);
  return ok;
}

static gboolean
open_parts(Store *store, GError **error)
{
  g_autofree char *packs = g_build_filename(store->directory, "packs", NULL);
  g_autofree char *index = g_build_filename(store->directory, "index", NULL);
  StoreLocation covered;
  store->packs = store_pack_set_open(store->ops, packs, &store->format.uuid, store->options.pack_size, error);
  if (!store->packs)
    return FALSE;
  store_pack_set_version(store->packs, store->format.version);
  store->index = store_index_open(store->ops, index, &store->format.uuid, &covered, error);
  if (!store->index || !recover_from(store, &covered, error))
    return FALSE;
  StoreLocation end = store_pack_end(store->packs);
  guint64 n_packs;
  store_pack_totals(store->packs, &n_packs, &store->checkpoint_bytes);
  store->checkpoint_is_due = store->n_recovered > 0 || location_is_behind(&covered, &end);
  return TRUE;
}

static void
store_free(Store *store)
{
  g_ptr_array_unref(store->pins);
  store_staging_free(store->staging);
  store_group_cache_free(store->groups);
  store_index_close(store->index);
  store_pack_set_close(store->packs);
  cbt_clear_fd(&store->lock_fd);
  pthread_mutex_destroy(&store->checkpoint_lock);
  pthread_mutex_destroy(&store->rebuild_lock);
  pthread_mutex_destroy(&store->append_lock);
  pthread_mutex_destroy(&store->version_lock);
  pthread_mutex_destroy(&store->pins_lock);
  g_free(store->directory);
  g_free(store);
}

Store *
store_open(const char *directory, const StoreOptions *options, GError **error)
{
  Store *store = g_new0(Store, 1);
  store->directory = g_strdup(directory);
  store->options = options ? *options : STORE_OPTIONS_DEFAULT;
  store->ops = store->options.ops ? store->options.ops : cbt_file_ops_default();
  store->lock_fd = -1;
  if (store->options.group_clusters == 0)
    store->options.group_clusters = STORE_GROUP_CHUNKS_MAX;
  g_assert(store->options.group_clusters <= STORE_GROUP_CHUNKS_MAX);
  store->staging = store_staging_new();
  store->groups = store_group_cache_new();
  pthread_mutex_init(&store->checkpoint_lock, NULL);
  pthread_mutex_init(&store->rebuild_lock, NULL);
  pthread_mutex_init(&store->append_lock, NULL);
  pthread_mutex_init(&store->version_lock, NULL);
  pthread_mutex_init(&store->pins_lock, NULL);
  store->pins = g_ptr_array_new();
  if (make_folder(directory, error) && take_lock(store, error) && load_or_make_format(store, error) &&
      make_folders(store, error) && open_parts(store, error))
    return store;
  store_free(store);
  return NULL;
}

/* --- is it still what was opened --- */

/* The lock file is made once in the life of a store. A name that cannot be asked for is the trouble of who
 * uses it. */
static gboolean
has_its_lock(const Store *store)
{
  g_autofree char *path = g_build_filename(store->directory, "lock", NULL);
  struct stat opened, found;
  if (stat(path, &found) != 0)
    return errno != ENOENT && errno != ENOTDIR;
  return fstat(store->lock_fd, &opened) != 0 ||
         (opened.st_dev == found.st_dev && opened.st_ino == found.st_ino);
}

/* Another store may have been copied over this one, file by file. Damage is for the next start to name. */
static gboolean
has_its_format(const Store *store)
{
  g_autofree char *path = g_build_filename(store->directory, "format", NULL);
  g_autoptr(GError) error = NULL;
  StoreFormat found;
  if (!store_format_load(cbt_file_ops_default(), path, &found, &error))
    return !g_error_matches(error, CBT_ERROR, CBT_ERROR_NOT_FOUND);
  return cbt_uuid_equal(&found.uuid, &store->format.uuid);
}

gboolean
store_check_in_place(const Store *store, GError **error)
{
  if (has_its_lock(store) && has_its_format(store))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_STATE,
                "See that the right store is there, then restart the service: systemctl restart cbt-backupd",
                "the store %s was removed or replaced since the daemon opened it", store->directory);
  return FALSE;
}

/* --- flushing and closing --- */

/* Everything appended so far, and noted in the index, up to the returned end. */
static StoreLocation
covered_now(Store *store)
{
  pthread_mutex_lock(&store->append_lock);
  StoreLocation end = store_pack_end(store->packs);
  pthread_mutex_unlock(&store->append_lock);
  return end;
}

/* The packs, and then the index if it is time or IS_FORCED; checkpoint_lock is held. */
static gboolean
checkpoint_locked(Store *store, gboolean is_forced, GError **error)
{
  guint64 n_packs, bytes;
  StoreLocation covered = covered_now(store);
  store_pack_totals(store->packs, &n_packs, &bytes);
  if (!store_pack_flush(store->packs, error))
    return FALSE;
  /* Since the last one packs may also have been removed. */
  guint64 grown = bytes > store->checkpoint_bytes ? bytes - store->checkpoint_bytes : 0;
  if (!is_forced && !store->checkpoint_is_due && grown < CHECKPOINT_BYTES)
    return TRUE;
  /* The index is derived: a checkpoint that fails costs a longer scan one day, not the flush. */
  g_autoptr(GError) local = NULL;
  if (store_index_checkpoint(store->index, &covered, &local)) {
    store->checkpoint_bytes = bytes;
    store->checkpoint_is_due = FALSE;
  } else {
    g_debug("%s", local->message);
  }
  return TRUE;
}

guint64
store_unwritten_bytes(Store *store)
{
  return store_pack_unwritten_bytes(store->packs) +
         store_staging_count(store->staging) * (guint64) STORE_CHUNK_LENGTH_MAX;
}

gboolean
store_is_behind(Store *store)
{
  return store_pack_is_behind(store->packs);
}

void
store_write_behind(Store *store)
{
  store_pack_write_behind(store->packs);
}

gboolean
store_flush_early(Store *store, GError **error)
{
  /* Another's checkpoint may have begun before what this one flushes was appended: then it is not covered
   * yet, which the next one makes good. */
  if (pthread_mutex_trylock(&store->checkpoint_lock) != 0)
    return store_pack_flush(store->packs, error);
  gboolean ok = checkpoint_locked(store, FALSE, error);
  pthread_mutex_unlock(&store->checkpoint_lock);
  return ok;
}

gboolean
store_flush(Store *store, GError **error)
{
  return store_check_in_place(store, error) && store_staging_write_all(store, error) &&
         store_flush_early(store, error);
}

gboolean
store_checkpoint(Store *store, GError **error)
{
  pthread_mutex_lock(&store->checkpoint_lock);
  gboolean ok = checkpoint_locked(store, TRUE, error);
  pthread_mutex_unlock(&store->checkpoint_lock);
  return ok;
}

void
store_close(Store *store)
{
  if (!store)
    return;
  g_autoptr(GError) error = NULL;
  if (!store_staging_write_all(store, &error))
    g_debug("%s: %s", store->directory, error->message);
  g_clear_error(&error);
  if (!checkpoint_locked(store, TRUE, &error))
    g_debug("%s: %s", store->directory, error->message);
  store_free(store);
}

const char *
store_directory(const Store *store)
{
  return store->directory;
}

const CbtUuid *
store_uuid(const Store *store)
{
  return &store->format.uuid;
}

void
store_statistics(Store *store, StoreStatistics *statistics)
{
  *statistics = (StoreStatistics){
      .n_chunks = store_index_count(store->index),
      .n_recovered = store->n_recovered,
  };
  store_pack_totals(store->packs, &statistics->n_packs, &statistics->pack_bytes);
}
