/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <tests/support/store-fault-ops.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define DISK_PAGE ((gsize) 4096)

typedef struct {
  off_t offset;
  size_t length;
} Range;

/* What a power cut leaves of a path. */
typedef struct {
  GByteArray *synced; /* the content that the disk has */
  GArray *dirty; /* of Range: what the next sync writes; a sync that fails forgets it, as the kernel does */
  gboolean name_is_durable;
  GBytes *before; /* (nullable) what the disk has under this name as long as the name is not durable */
} Kept;

struct StoreFaultOps {
  CbtFileOps table;
  pthread_mutex_t lock; /* all below */
  guint64 n_calls;
  guint64 fail_at;
  gboolean for_ever;
  guint64 cut_at;
  int errsv;
  gboolean has_failed;
  GHashTable *paths; /* fd to char * */
  GHashTable *files; /* path to Kept; files opened for writing */
  GHashTable *gone;  /* path to GBytes: removed, but the folder was not synced since */
};

static void
kept_free(gpointer data)
{
  Kept *kept = data;
  g_byte_array_unref(kept->synced);
  g_array_unref(kept->dirty);
  g_clear_pointer(&kept->before, g_bytes_unref);
  g_free(kept);
}

static Kept *
kept_new(const char *path, gboolean existed)
{
  Kept *kept = g_new0(Kept, 1);
  char *data = NULL;
  gsize length = 0;
  kept->name_is_durable = existed;
  kept->dirty = g_array_new(FALSE, FALSE, sizeof(Range));
  if (existed && g_file_get_contents(path, &data, &length, NULL))
    kept->synced = g_byte_array_new_take((guint8 *) data, length);
  else
    kept->synced = g_byte_array_new();
  return kept;
}

/* What the disk has under PATH (transfer full), NULL if nothing; the lock is held. */
static GBytes *
durable_content(StoreFaultOps *faults, const char *path)
{
  const Kept *kept = g_hash_table_lookup(faults->files, path);
  char *data = NULL;
  gsize length = 0;
  if (kept && kept->name_is_durable)
    return g_bytes_new(kept->synced->data, kept->synced->len);
  if (kept)
    return kept->before ? g_bytes_ref(kept->before) : NULL;
  return g_file_get_contents(path, &data, &length, NULL) ? g_bytes_new_take(data, length) : NULL;
}

/* The file of FD, or NULL; the lock is held. */
static Kept *
kept_of(StoreFaultOps *faults, int fd, const char **path)
{
  *path = g_hash_table_lookup(faults->paths, GINT_TO_POINTER(fd));
  return *path ? g_hash_table_lookup(faults->files, *path) : NULL;
}

static void
kept_sync(Kept *kept, const char *path)
{
  g_autofree char *data = NULL;
  gsize length = 0;
  if (!g_file_get_contents(path, &data, &length, NULL))
    return;
  guint old_length = kept->synced->len;
  g_byte_array_set_size(kept->synced, (guint) length);
  if (length > old_length)
    memset(kept->synced->data + old_length, 0, length - old_length);
  for (guint i = 0; i < kept->dirty->len; i++) {
    const Range *range = &g_array_index(kept->dirty, Range, i);
    gsize from = MIN((gsize) range->offset, length);
    memcpy(kept->synced->data + from, data + from, MIN(range->length, length - from));
  }
}

static gboolean
fails(const CbtFileOps *ops)
{
  StoreFaultOps *faults = ops->user;
  pthread_mutex_lock(&faults->lock);
  guint64 call = ++faults->n_calls;
  gboolean hit =
      faults->fail_at != 0 && (call == faults->fail_at || (faults->for_ever && call > faults->fail_at));
  gboolean is_cut = faults->cut_at != 0 && call >= faults->cut_at;
  int errsv = is_cut ? EIO : faults->errsv;
  hit |= is_cut;
  faults->has_failed |= hit;
  pthread_mutex_unlock(&faults->lock);
  if (hit)
    errno = errsv;
  return hit;
}

/* As fails(), for calls that cannot be short. */
static gboolean
fails_whole(const CbtFileOps *ops)
{
  return fails(ops) && errno != 0;
}

static void
note_open(StoreFaultOps *faults, int fd, const char *path, gboolean for_writing, gboolean existed)
{
  pthread_mutex_lock(&faults->lock);
  g_hash_table_insert(faults->paths, GINT_TO_POINTER(fd), g_strdup(path));
  if (for_writing && !g_hash_table_contains(faults->files, path)) {
    Kept *kept = kept_new(path, existed);
    gpointer name = NULL, before = NULL;
    if (g_hash_table_steal_extended(faults->gone, path, &name, &before))
      kept->before = before;
    g_free(name);
    g_hash_table_insert(faults->files, g_strdup(path), kept);
  }
  pthread_mutex_unlock(&faults->lock);
}

static int
fault_open(const CbtFileOps *ops, const char *path, int flags, mode_t mode)
{
  if (fails_whole(ops))
    return -1;
  gboolean existed = access(path, F_OK) == 0;
  int fd = open(path, flags | O_CLOEXEC, mode);
  if (fd >= 0)
    note_open(ops->user, fd, path, (flags & O_ACCMODE) != O_RDONLY, existed);
  return fd;
}

static int
fault_close(const CbtFileOps *ops, int fd)
{
  StoreFaultOps *faults = ops->user;
  pthread_mutex_lock(&faults->lock);
  g_hash_table_remove(faults->paths, GINT_TO_POINTER(fd));
  pthread_mutex_unlock(&faults->lock);
  return close(fd);
}

static ssize_t
fault_pread(const CbtFileOps *ops, int fd, void *buffer, size_t length, off_t offset)
{
  gboolean failing = fails(ops);
  if (failing && errno != 0)
    return -1;
  return pread(fd, buffer, failing ? (length + 1) / 2 : length, offset);
}

static void
note_write(StoreFaultOps *faults, int fd, off_t offset, ssize_t length)
{
  const char *path;
  pthread_mutex_lock(&faults->lock);
  Kept *kept = kept_of(faults, fd, &path);
  if (kept && length > 0) {
    Range range = {offset, (size_t) length};
    g_array_append_val(kept->dirty, range);
  }
  pthread_mutex_unlock(&faults->lock);
}

static ssize_t
fault_pwrite(const CbtFileOps *ops, int fd, const void *buffer, size_t length, off_t offset)
{
  gboolean failing = fails(ops);
  int errsv = errno;
  ssize_t n = pwrite(fd, buffer, failing ? (length + 1) / 2 : length, offset);
  note_write(ops->user, fd, offset, n);
  if (!failing || errsv == 0)
    return n;
  errno = errsv;
  return -1;
}

static int
fault_ftruncate(const CbtFileOps *ops, int fd, off_t length)
{
  return fails_whole(ops) ? -1 : ftruncate(fd, length);
}

static int
fault_fdatasync(const CbtFileOps *ops, int fd)
{
  StoreFaultOps *faults = ops->user;
  const char *path;
  gboolean failing = fails_whole(ops);
  int errsv = errno;
  pthread_mutex_lock(&faults->lock);
  Kept *kept = kept_of(faults, fd, &path);
  if (kept && !failing)
    kept_sync(kept, path);
  if (kept)
    g_array_set_size(kept->dirty, 0);
  pthread_mutex_unlock(&faults->lock);
  errno = errsv;
  return failing ? -1 : 0;
}

static int
fault_rename(const CbtFileOps *ops, const char *from, const char *to)
{
  StoreFaultOps *faults = ops->user;
  if (fails_whole(ops))
    return -1;
  pthread_mutex_lock(&faults->lock);
  GBytes *before = durable_content(faults, to);
  gpointer name, value;
  gboolean ok = rename(from, to) == 0;
  int errsv = errno;
  if (ok && g_hash_table_steal_extended(faults->files, from, &name, &value)) {
    Kept *kept = value;
    g_free(name);
    g_clear_pointer(&kept->before, g_bytes_unref);
    kept->before = g_steal_pointer(&before);
    kept->name_is_durable = FALSE;
    g_hash_table_insert(faults->files, g_strdup(to), kept);
  }
  g_clear_pointer(&before, g_bytes_unref);
  pthread_mutex_unlock(&faults->lock);
  errno = errsv;
  return ok ? 0 : -1;
}

static int
fault_unlink(const CbtFileOps *ops, const char *path)
{
  StoreFaultOps *faults = ops->user;
  if (fails_whole(ops))
    return -1;
  pthread_mutex_lock(&faults->lock);
  GBytes *before = durable_content(faults, path);
  gboolean ok = unlink(path) == 0;
  int errsv = errno;
  if (ok)
    g_hash_table_remove(faults->files, path);
  if (ok && before)
    g_hash_table_insert(faults->gone, g_strdup(path), g_steal_pointer(&before));
  g_clear_pointer(&before, g_bytes_unref);
  pthread_mutex_unlock(&faults->lock);
  errno = errsv;
  return ok ? 0 : -1;
}

static gboolean
is_in(const char *path, const char *folder)
{
  g_autofree char *parent = g_path_get_dirname(path);
  return strcmp(parent, folder) == 0;
}

static gboolean
is_gone_for_good(gpointer path, gpointer content G_GNUC_UNUSED, gpointer folder)
{
  return is_in(path, folder);
}

static int
fault_fsync_dir(const CbtFileOps *ops, const char *folder)
{
  StoreFaultOps *faults = ops->user;
  GHashTableIter iter;
  gpointer path, value;
  if (fails_whole(ops))
    return -1;
  pthread_mutex_lock(&faults->lock);
  g_hash_table_iter_init(&iter, faults->files);
  while (g_hash_table_iter_next(&iter, &path, &value)) {
    Kept *kept = value;
    if (!is_in(path, folder))
      continue;
    kept->name_is_durable = TRUE;
    g_clear_pointer(&kept->before, g_bytes_unref);
  }
  g_hash_table_foreach_remove(faults->gone, is_gone_for_good, (gpointer) folder);
  pthread_mutex_unlock(&faults->lock);
  return 0;
}

StoreFaultOps *
store_fault_ops_new(void)
{
  StoreFaultOps *faults = g_new0(StoreFaultOps, 1);
  faults->table = (CbtFileOps){
      .open = fault_open,
      .close = fault_close,
      .pread = fault_pread,
      .pwrite = fault_pwrite,
      .ftruncate = fault_ftruncate,
      .fdatasync = fault_fdatasync,
      .rename = fault_rename,
      .unlink = fault_unlink,
      .fsync_dir = fault_fsync_dir,
      .user = faults,
  };
  pthread_mutex_init(&faults->lock, NULL);
  faults->paths = g_hash_table_new_full(NULL, NULL, NULL, g_free);
  faults->files = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, kept_free);
  faults->gone = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, (GDestroyNotify) g_bytes_unref);
  return faults;
}

void
store_fault_ops_free(StoreFaultOps *faults)
{
  pthread_mutex_destroy(&faults->lock);
  g_hash_table_unref(faults->paths);
  g_hash_table_unref(faults->files);
  g_hash_table_unref(faults->gone);
  g_free(faults);
}

const CbtFileOps *
store_fault_ops_table(StoreFaultOps *faults)
{
  return &faults->table;
}

void
store_fault_ops_arm(StoreFaultOps *faults, guint64 fail_at, gboolean for_ever, int errsv)
{
  faults->n_calls = 0;
  faults->fail_at = fail_at;
  faults->cut_at = 0;
  faults->for_ever = for_ever;
  faults->errsv = errsv;
  faults->has_failed = FALSE;
}

void
store_fault_ops_arm_cut(StoreFaultOps *faults, guint64 cut_at)
{
  faults->cut_at = cut_at;
}

guint64
store_fault_ops_n_calls(StoreFaultOps *faults)
{
  return faults->n_calls;
}

gboolean
store_fault_ops_has_failed(StoreFaultOps *faults)
{
  return faults->has_failed;
}

/* ---- the cut ---- */

static gboolean
toss(GRand *rand)
{
  return rand && g_rand_boolean(rand);
}

/* Writes that no sync covered come to the disk or not, page by page. */
static void
draw_writes(Kept *kept, const char *path, GRand *rand)
{
  g_autofree char *data = NULL;
  gsize length = 0;
  if (!g_file_get_contents(path, &data, &length, NULL))
    return;
  for (guint i = 0; i < kept->dirty->len; i++) {
    const Range *range = &g_array_index(kept->dirty, Range, i);
    gsize end = MIN((gsize) range->offset + range->length, length);
    for (gsize at = (gsize) range->offset, next; at < end; at = next) {
      next = MIN((at / DISK_PAGE + 1) * DISK_PAGE, end);
      guint old_length = kept->synced->len;
      if (!toss(rand))
        continue;
      if (next > old_length) {
        g_byte_array_set_size(kept->synced, (guint) next);
        memset(kept->synced->data + old_length, 0, next - old_length);
      }
      memcpy(kept->synced->data + at, data + at, next - at);
    }
  }
}

static void
cut_file(Kept *kept, const char *path, GRand *rand)
{
  if (rand)
    draw_writes(kept, path, rand);
  if (kept->name_is_durable || toss(rand))
    g_file_set_contents(path, (const char *) kept->synced->data, (gssize) kept->synced->len, NULL);
  else if (kept->before)
    g_file_set_contents(path, g_bytes_get_data(kept->before, NULL), (gssize) g_bytes_get_size(kept->before),
                        NULL);
  else
    unlink(path);
}

void
store_fault_ops_power_cut(StoreFaultOps *faults, GRand *rand)
{
  g_autoptr(GList) paths = g_list_sort(g_hash_table_get_keys(faults->files), (GCompareFunc) strcmp);
  g_autoptr(GList) gone = g_list_sort(g_hash_table_get_keys(faults->gone), (GCompareFunc) strcmp);
  for (GList *path = paths; path; path = path->next)
    /* The index is mapped: its content went past this table, and is as good as any after a power cut. */
    if (!g_str_has_suffix(path->data, "/index"))
      cut_file(g_hash_table_lookup(faults->files, path->data), path->data, rand);
  for (GList *path = gone; path; path = path->next) {
    GBytes *content = g_hash_table_lookup(faults->gone, path->data);
    if (toss(rand) && access(path->data, F_OK) != 0)
      g_file_set_contents(path->data, g_bytes_get_data(content, NULL), (gssize) g_bytes_get_size(content),
                          NULL);
  }
}
