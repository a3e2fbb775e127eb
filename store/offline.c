/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <store/offline.h>

#include <common/bytes.h>
#include <common/error.h>
#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>
#include <store/pack-private.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define SLOTS_PER_READ 32768u

/* Whether somebody holds the lock; it is not made, and not kept. */
static gboolean
is_locked(const char *directory)
{
  g_autofree char *path = g_build_filename(directory, "lock", NULL);
  CBT_AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
  return fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

/* No pack is open for appending, and none is recovered. */
static StorePackSet *
open_packs(const char *directory, const CbtUuid *uuid)
{
  StorePackSet *set = g_new0(StorePackSet, 1);
  set->ops = cbt_file_ops_default();
  set->folder = g_build_filename(directory, "packs", NULL);
  set->store = *uuid;
  set->unsynced = g_ptr_array_new();
  set->table = g_byte_array_new();
  pthread_mutex_init(&set->flush_lock, NULL);
  pthread_mutex_init(&set->append_lock, NULL);
  pthread_mutex_init(&set->buffer_lock, NULL);
  pthread_mutex_init(&set->fd_lock, NULL);
  return set;
}

static gboolean
check_directory(const char *directory, GError **error)
{
  g_autofree char *packs = g_build_filename(directory, "packs", NULL);
  g_autofree char *format = g_build_filename(directory, "format", NULL);
  if (g_file_test(packs, G_FILE_TEST_IS_DIR) || g_file_test(format, G_FILE_TEST_EXISTS))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_NOT_FOUND,
                "Name the store's folder with --store; it has packs/ and a file 'format'.",
                "there is no store in %s", directory);
  return FALSE;
}

/* A bit of the version may have flipped: then the checksum does not fit either. */
static gboolean
is_of_our_version(const char *path)
{
  gsize length = 0;
  g_autofree char *bytes = cbt_file_read(cbt_file_ops_default(), path, STORE_FORMAT_SIZE, &length, NULL);
  const guint8 *at = (const guint8 *) bytes;
  return bytes && length == STORE_FORMAT_SIZE &&
         cbt_get_u64(at + STORE_FORMAT_AT_CHECKSUM) != cbt_checksum64(at, STORE_FORMAT_AT_CHECKSUM);
}

/* A format file that is missing beside packs is damage. */
static gboolean
load_format(const char *directory, StoreFormat *format, GError **error)
{
  g_autofree char *path = g_build_filename(directory, "format", NULL);
  GError *local = NULL;
  if (store_format_load(cbt_file_ops_default(), path, format, &local))
    return TRUE;
  if (g_error_matches(local, CBT_ERROR, CBT_ERROR_NOT_FOUND) ||
      (g_error_matches(local, CBT_ERROR, CBT_ERROR_UNSUPPORTED) && is_of_our_version(path)))
    local->code = CBT_ERROR_CORRUPT;
  g_propagate_error(error, local);
  return FALSE;
}

static gboolean
make_index(StoreOffline *offline, GError **error)
{
  StoreLocation covered;
  GError *local = NULL;
  offline->temporary = g_dir_make_tmp("cbt-store.XXXXXX", &local);
  if (!offline->temporary) {
    cbt_set_error(error, cbt_error_code(local), "TMPDIR names the folder for temporary files.", "%s",
                  local->message);
    g_error_free(local);
    return FALSE;
  }
  g_autofree char *path = g_build_filename(offline->temporary, "index", NULL);
  offline->store->index =
      store_index_open(cbt_file_ops_default(), path, &offline->store->format.uuid, &covered, error);
  return offline->store->index != NULL;
}

StoreOffline *
store_offline_open(const char *directory, GError **error)
{
  StoreFormat format;
  if (!check_directory(directory, error) || !load_format(directory, &format, error))
    return NULL;
  g_autoptr(StoreOffline) offline = g_new0(StoreOffline, 1);
  Store *store = offline->store = g_new0(Store, 1);
  store->directory = g_strdup(directory);
  store->options = STORE_OPTIONS_DEFAULT;
  store->ops = cbt_file_ops_default();
  store->format = format;
  store->lock_fd = -1;
  store->was_rebuilt = 1; /* never: what was noted is all there is */
  pthread_mutex_init(&store->checkpoint_lock, NULL);
  pthread_mutex_init(&store->rebuild_lock, NULL);
  pthread_mutex_init(&store->append_lock, NULL);
  store->staging = store_staging_new();
  store->groups = store_group_cache_new();
  store->packs = open_packs(directory, &format.uuid);
  offline->in_use = is_locked(directory);
  return make_index(offline, error) ? g_steal_pointer(&offline) : NULL;
}

static void
remove_temporary(const char *folder)
{
  static const char *const names[] = {"index", "index.new"};
  for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
    g_autofree char *path = g_build_filename(folder, names[i], NULL);
    unlink(path);
  }
  rmdir(folder);
}

void
store_offline_close(StoreOffline *offline)
{
  if (!offline)
    return;
  Store *store = offline->store;
  store_staging_free(store->staging);
  store_group_cache_free(store->groups);
  store_index_close(store->index);
  store_pack_set_close(store->packs);
  pthread_mutex_destroy(&store->checkpoint_lock);
  pthread_mutex_destroy(&store->rebuild_lock);
  pthread_mutex_destroy(&store->append_lock);
  g_free(store->directory);
  g_free(store);
  if (offline->temporary)
    remove_temporary(offline->temporary);
  g_free(offline->temporary);
  g_free(offline);
}

/* ---- where chunks are ---- */

gboolean
store_offline_note(StoreOffline *offline, const StoreRecordInfo *info, const StoreLocation *location,
                   GError **error)
{
  /* As when the daemon reads its packs: of several records the last one counts. */
  return store_index_insert(offline->store->index, &info->id, location, error);
}

typedef struct {
  StoreOffline *offline;
  GError *error;
} Noting;

static gboolean
note_record(const StoreRecordInfo *info, const StoreLocation *location, gpointer user_data)
{
  Noting *noting = user_data;
  return store_offline_note(noting->offline, info, location, &noting->error);
}

gboolean
store_offline_note_all(StoreOffline *offline, GError **error)
{
  Noting noting = {.offline = offline};
  g_autoptr(GArray) numbers = store_pack_list(offline->store->packs, error);
  if (!numbers)
    return FALSE;
  for (guint i = 0; i < numbers->len && !noting.error; i++) {
    StoreLocation from = {.pack = g_array_index(numbers, guint32, i)};
    if (!store_pack_scan_one(offline->store->packs, &from, note_record, &noting, NULL))
      continue;
  }
  if (noting.error)
    g_propagate_error(error, noting.error);
  return noting.error == NULL;
}

/* ---- the index ---- */

static void
compare_slots(StoreOffline *offline, const guint8 *slots, guint n, StoreOfflineIndex *index)
{
  for (guint i = 0; i < n; i++) {
    StoreChunkId id;
    StoreLocation noted = {0};
    guint64 packed;
    memcpy(id.bytes, slots + i * STORE_INDEX_SLOT_SIZE, sizeof id.bytes);
    memcpy(&packed, slots + i * STORE_INDEX_SLOT_SIZE + STORE_CHUNK_ID_SIZE, sizeof packed);
    packed = GUINT64_FROM_LE(packed);
    if (packed == STORE_INDEX_EMPTY || packed == STORE_INDEX_REMOVED)
      continue;
    index->n_entries++;
    StoreLocation location = store_index_unpack_location(packed);
    index->n_wrong += !store_index_lookup(offline->store->index, &id, &noted) ||
                      noted.pack != location.pack || noted.offset != location.offset;
  }
}

static void
compare_file(StoreOffline *offline, int fd, StoreOfflineIndex *index)
{
  gsize room = (gsize) SLOTS_PER_READ * STORE_INDEX_SLOT_SIZE;
  g_autofree guint8 *slots = g_malloc(room);
  guint64 n = index->header.n_slots + index->header.n_spare;
  for (guint64 i = 0; i < n; i += SLOTS_PER_READ) {
    gsize length = (gsize) MIN((guint64) SLOTS_PER_READ, n - i) * STORE_INDEX_SLOT_SIZE;
    gssize got = cbt_file_pread_full(offline->store->ops, fd, slots, length,
                                     STORE_INDEX_HEADER_SIZE + i * STORE_INDEX_SLOT_SIZE);
    if (got != (gssize) length) {
      index->is_sound = FALSE;
      return;
    }
    compare_slots(offline, slots, (guint) (length / STORE_INDEX_SLOT_SIZE), index);
  }
}

void
store_offline_compare_index(StoreOffline *offline, StoreOfflineIndex *index)
{
  guint8 bytes[STORE_INDEX_HEADER_SIZE];
  struct stat st;
  *index = (StoreOfflineIndex){0};
  g_autofree char *path = g_build_filename(offline->store->directory, "index", NULL);
  CBT_AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
  index->is_there = fd >= 0;
  if (fd < 0 || fstat(fd, &st) != 0 ||
      cbt_file_pread_full(offline->store->ops, fd, bytes, sizeof bytes, 0) != (gssize) sizeof bytes)
    return;
  index->is_sound =
      store_index_header_decode(bytes, &offline->store->format.uuid, (guint64) st.st_size, &index->header);
  if (index->is_sound)
    compare_file(offline, fd, index);
}
