/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The rule: at any time, what a power cut may take away (bits of a bitmap that were set, bytes of the image
 * that were written) lies in regions whose flags are durable.
 *
 * The image is part of it, because a backup reads what the guest wrote from the page cache. If a cut takes
 * those bytes away again, the image differs from the recovery point, and no bit would say so.
 *
 * Three sets of regions:
 *
 *   open      flag durable, of this generation: a write may go ahead. What the fast path looks at
 *   old       flag durable, of an earlier generation: before the trim that is under way, or from the file
 *   pending   somebody waits for the flag
 *
 * A sector of the file gets open | old | pending. A region that is old becomes open in memory alone. So in
 * the middle of a trim, while image and bitmaps are being synced, writers do not wait; and a trim needs
 * writes to stand still only while begin_trim() moves open to old, which is memory.
 *
 * Group commit: who finds no flush under way becomes the leader and writes all sectors with pending flags at
 * once; the others wait, and what they added meanwhile is in the next flush. `flushing` makes the writes of
 * sectors follow each other; each is made from the sets as they are then, so an older one never overtakes a
 * newer one.
 *
 * Torn writes: between trims flags only go from 0 to 1, and a trim takes away what is not needed any more. So
 * each flag may be found old or new, in any mixture; nothing depends on how much of a sector is written at
 * once. The checksum of a sector is against decay; where it fails, be it for a torn sector, all its regions
 * are flagged.
 *
 * A flush that fails: the guest's write must go on. First the file is made invalid (its header zeroed and
 * synced; if that fails, unlinked and the folder synced), then all who wait are let go, and nobody waits any
 * more. A bitmap whose log is gone is inconsistent after a power cut, as if there had never been a log, and
 * exact otherwise. The hole that is left: the flush fails, neither way of making it invalid can be made
 * durable, nor can the headers of the bitmaps be changed, which the tracker tries at its next call, and then
 * power fails.
 */
#include <cbt/region-log.h>

#include <cbt/region-log-format.h>
#include <common/bytes.h>
#include <common/error.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>

#define WORD_BITS 64u

struct CbtRegionLog {
  /* constant after creation */
  const CbtFileOps *ops;
  char *directory;
  char *path;
  int fd;
  CbtUuid id;
  CbtUuid disk_id;
  guint64 size; /* bytes of the disk */
  guint64 n_regions;
  gsize n_sectors;
  gsize n_words; /* of each set; all words of all sectors */

  guint64 *open; /* atomic; written under mutex */
  gint broken;   /* atomic; written under mutex */
  gint invalid;  /* atomic; the file is known not to be taken for good */

  pthread_mutex_t mutex;
  pthread_cond_t flushed;
  /* protected by mutex */
  guint64 *old;
  guint64 *pending;
  guint8 *dirty; /* sectors that are not as they should be in the file */
  gboolean flushing;
  /* of whoever flushes */
  guint8 *buffer;    /* sectors as they are written */
  guint64 *in_flush; /* what of pending is in the buffer */
  guint8 *writing;   /* which sectors are in the buffer */
};

static inline guint64
load_word(const guint64 *word)
{
  return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline void
store_word(guint64 *word, guint64 value)
{
  __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/* --- making and freeing --- */

static CbtRegionLog *
log_new(const CbtFileOps *ops, const char *directory, const CbtUuid *disk_id, guint64 size)
{
  CbtRegionLog *log = g_new0(CbtRegionLog, 1);
  log->ops = ops;
  log->directory = g_strdup(directory);
  log->path = g_build_filename(directory, CBT_REGION_LOG_NAME, NULL);
  log->fd = -1;
  log->disk_id = *disk_id;
  log->size = size;
  log->n_regions = cbt_div_up(size, CBT_REGION_LOG_REGION_SIZE);
  log->n_sectors = cbt_div_up(cbt_div_up(log->n_regions, WORD_BITS), CBT_REGION_LOG_WORDS);
  log->n_words = log->n_sectors * CBT_REGION_LOG_WORDS;
  log->open = g_new0(guint64, log->n_words);
  log->old = g_new0(guint64, log->n_words);
  log->pending = g_new0(guint64, log->n_words);
  log->in_flush = g_new0(guint64, log->n_words);
  log->dirty = g_new0(guint8, log->n_sectors);
  log->writing = g_new0(guint8, log->n_sectors);
  log->buffer = g_malloc0(log->n_sectors * CBT_REGION_LOG_SECTOR);
  pthread_mutex_init(&log->mutex, NULL);
  pthread_cond_init(&log->flushed, NULL);
  return log;
}

void
cbt_region_log_free(CbtRegionLog *log)
{
  if (log == NULL)
    return;
  if (log->fd >= 0)
    log->ops->close(log->ops, log->fd);
  pthread_cond_destroy(&log->flushed);
  pthread_mutex_destroy(&log->mutex);
  g_free(log->buffer);
  g_free(log->writing);
  g_free(log->dirty);
  g_free(log->in_flush);
  g_free(log->pending);
  g_free(log->old);
  g_free(log->open);
  g_free(log->path);
  g_free(log->directory);
  g_free(log);
}

void
cbt_region_log_remove(CbtRegionLog *log)
{
  if (log == NULL)
    return;
  if (log->ops->unlink(log->ops, log->path) != 0 && errno != ENOENT)
    g_debug("cannot remove %s: %s", log->path, g_strerror(errno));
  cbt_region_log_free(log);
}

const CbtUuid *
cbt_region_log_id(const CbtRegionLog *log)
{
  return &log->id;
}

/* --- bytes --- */

static void
encode_header(const CbtRegionLog *log, guint8 page[CBT_REGION_LOG_PAGE])
{
  memset(page, 0, CBT_REGION_LOG_PAGE);
  memcpy(page + CBT_REGION_LOG_AT_MAGIC, CBT_REGION_LOG_MAGIC, 8);
  cbt_put_u32(page + CBT_REGION_LOG_AT_VERSION, CBT_REGION_LOG_VERSION);
  cbt_put_u32(page + CBT_REGION_LOG_AT_HEADER_SIZE, CBT_REGION_LOG_PAGE);
  memcpy(page + CBT_REGION_LOG_AT_ID, log->id.bytes, sizeof log->id.bytes);
  memcpy(page + CBT_REGION_LOG_AT_DISK_ID, log->disk_id.bytes, sizeof log->disk_id.bytes);
  cbt_put_u64(page + CBT_REGION_LOG_AT_DISK_SIZE, log->size);
  cbt_put_u64(page + CBT_REGION_LOG_AT_REGION_SIZE, CBT_REGION_LOG_REGION_SIZE);
  cbt_put_u64(page + CBT_REGION_LOG_AT_CHECKSUM, cbt_checksum64(page, CBT_REGION_LOG_AT_CHECKSUM));
}

/* Takes the id from PAGE, and checks that it is the header of this disk's log. */
static gboolean
decode_header(CbtRegionLog *log, const guint8 page[CBT_REGION_LOG_PAGE], GError **error)
{
  guint8 again[CBT_REGION_LOG_PAGE];
  if (memcmp(page + CBT_REGION_LOG_AT_MAGIC, CBT_REGION_LOG_MAGIC, 8) != 0 ||
      cbt_get_u64(page + CBT_REGION_LOG_AT_CHECKSUM) != cbt_checksum64(page, CBT_REGION_LOG_AT_CHECKSUM)) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "the header of the region log is damaged");
    return FALSE;
  }
  guint32 version = cbt_get_u32(page + CBT_REGION_LOG_AT_VERSION);
  if (version > CBT_REGION_LOG_VERSION) {
    cbt_set_error(error, CBT_ERROR_UNSUPPORTED, NULL, "region log version %u is newer than %u", version,
                  CBT_REGION_LOG_VERSION);
    return FALSE;
  }
  memcpy(log->id.bytes, page + CBT_REGION_LOG_AT_ID, sizeof log->id.bytes);
  encode_header(log, again);
  if (memcmp(page, again, sizeof again) == 0 && !cbt_uuid_is_nil(&log->id))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INCONSISTENT, NULL, "the region log is of another disk, or of another size");
  return FALSE;
}

static guint64
sector_checksum(const CbtRegionLog *log, gsize sector, const guint8 *bytes)
{
  guint8 all[CBT_REGION_SECTOR_AT_CHECKSUM + 8 + sizeof log->id.bytes];
  memcpy(all, bytes, CBT_REGION_SECTOR_AT_CHECKSUM);
  cbt_put_u64(all + CBT_REGION_SECTOR_AT_CHECKSUM, sector);
  memcpy(all + CBT_REGION_SECTOR_AT_CHECKSUM + 8, log->id.bytes, sizeof log->id.bytes);
  return cbt_checksum64(all, sizeof all);
}

static void
encode_sector(const CbtRegionLog *log, gsize sector, guint8 *bytes)
{
  for (gsize i = 0; i < CBT_REGION_LOG_WORDS; i++) {
    gsize word = sector * CBT_REGION_LOG_WORDS + i;
    cbt_put_u64(bytes + 8 * i, load_word(&log->open[word]) | log->old[word] | log->pending[word]);
  }
  cbt_put_u64(bytes + CBT_REGION_SECTOR_AT_CHECKSUM, sector_checksum(log, sector, bytes));
}

/* The bits of flag word WORD that stand for regions of the disk. */
static guint64
valid_regions(const CbtRegionLog *log, gsize word)
{
  guint64 first = word * WORD_BITS;
  if (first >= log->n_regions)
    return 0;
  guint64 n = log->n_regions - first;
  return n >= WORD_BITS ? G_MAXUINT64 : (G_GUINT64_CONSTANT(1) << n) - 1;
}

static void
decode_sector(CbtRegionLog *log, gsize sector, const guint8 *bytes)
{
  gboolean good = cbt_get_u64(bytes + CBT_REGION_SECTOR_AT_CHECKSUM) == sector_checksum(log, sector, bytes);
  if (!good)
    g_message("%s: sector %zu is damaged: all its regions count as written", log->path, sector);
  for (gsize i = 0; i < CBT_REGION_LOG_WORDS; i++) {
    gsize word = sector * CBT_REGION_LOG_WORDS + i;
    log->old[word] = (good ? cbt_get_u64(bytes + 8 * i) : G_MAXUINT64) & valid_regions(log, word);
  }
}

/* --- flushing --- */

/* Puts the sectors that are not up to date into the buffer. */
static void
collect_locked(CbtRegionLog *log)
{
  memcpy(log->writing, log->dirty, log->n_sectors);
  memset(log->dirty, 0, log->n_sectors);
  for (gsize sector = 0; sector < log->n_sectors; sector++)
    if (log->writing[sector]) {
      gsize word = sector * CBT_REGION_LOG_WORDS;
      encode_sector(log, sector, log->buffer + sector * CBT_REGION_LOG_SECTOR);
      memcpy(&log->in_flush[word], &log->pending[word], CBT_REGION_LOG_WORDS * sizeof(guint64));
    }
}

/* Neighbours go in one write. */
static gboolean
write_collected(CbtRegionLog *log)
{
  gsize end;
  for (gsize first = 0; first < log->n_sectors; first = end) {
    for (end = first; end < log->n_sectors && log->writing[end]; end++)
      ;
    gsize at = first * CBT_REGION_LOG_SECTOR;
    if (end > first && !cbt_file_pwrite_full(log->ops, log->fd, log->buffer + at,
                                             (end - first) * CBT_REGION_LOG_SECTOR, CBT_REGION_LOG_PAGE + at))
      return FALSE;
    end = MAX(end, first + 1);
  }
  return log->ops->fdatasync(log->ops, log->fd) == 0;
}

static void
publish_locked(CbtRegionLog *log)
{
  for (gsize sector = 0; sector < log->n_sectors; sector++)
    if (log->writing[sector])
      for (gsize i = 0; i < CBT_REGION_LOG_WORDS; i++) {
        gsize word = sector * CBT_REGION_LOG_WORDS + i;
        if (log->in_flush[word] != 0)
          store_word(&log->open[word], load_word(&log->open[word]) | log->in_flush[word]);
        log->pending[word] &= ~log->in_flush[word];
      }
}

/* Makes sure that the file is not taken for good; TRUE if that is durable. */
static gboolean
invalidate(CbtRegionLog *log)
{
  static const guint8 zeros[CBT_REGION_LOG_PAGE];
  if (cbt_file_pwrite_full(log->ops, log->fd, zeros, sizeof zeros, 0) &&
      log->ops->fdatasync(log->ops, log->fd) == 0)
    return TRUE;
  return log->ops->unlink(log->ops, log->path) == 0 && log->ops->fsync_dir(log->ops, log->directory) == 0;
}

/* Nobody is let go before the file is invalid, or all was tried. `flushing` keeps others out meanwhile. */
static void
flush_locked(CbtRegionLog *log)
{
  log->flushing = TRUE;
  collect_locked(log);
  pthread_mutex_unlock(&log->mutex);
  gboolean ok = write_collected(log);
  int errsv = errno;
  gboolean invalid = !ok && invalidate(log);
  pthread_mutex_lock(&log->mutex);
  log->flushing = FALSE;
  if (ok) {
    publish_locked(log);
  } else {
    g_message("%s: %s: after a power cut %s", log->path, g_strerror(errsv),
              invalid ? "the bitmaps of this disk will be inconsistent"
                      : "changes of this disk may be missed");
    __atomic_store_n(&log->invalid, invalid, __ATOMIC_RELEASE);
    __atomic_store_n(&log->broken, TRUE, __ATOMIC_RELEASE);
  }
  pthread_cond_broadcast(&log->flushed);
}

static gboolean
flush_all(CbtRegionLog *log, GError **error)
{
  pthread_mutex_lock(&log->mutex);
  while (log->flushing)
    pthread_cond_wait(&log->flushed, &log->mutex);
  if (!log->broken)
    flush_locked(log);
  gboolean ok = !log->broken;
  pthread_mutex_unlock(&log->mutex);
  if (!ok)
    cbt_set_error(error, CBT_ERROR_IO, NULL, "cannot write %s", log->path);
  return ok;
}

gboolean
cbt_region_log_is_broken(const CbtRegionLog *log, gboolean *is_invalid)
{
  gboolean broken = __atomic_load_n(&log->broken, __ATOMIC_ACQUIRE);
  if (is_invalid != NULL)
    *is_invalid = __atomic_load_n(&log->invalid, __ATOMIC_ACQUIRE);
  return broken;
}

/* --- create and load --- */

/* Header and sectors into LOG's open file, durable. */
static gboolean
write_all(CbtRegionLog *log)
{
  guint8 page[CBT_REGION_LOG_PAGE];
  encode_header(log, page);
  memset(log->dirty, TRUE, log->n_sectors);
  collect_locked(log);
  return cbt_file_pwrite_full(log->ops, log->fd, page, sizeof page, 0) && write_collected(log);
}

static void
flag_all_locked(CbtRegionLog *log)
{
  memset(log->dirty, TRUE, log->n_sectors);
  for (gsize word = 0; word < log->n_words; word++)
    log->old[word] = valid_regions(log, word);
}

CbtRegionLog *
cbt_region_log_create(const CbtFileOps *ops, const char *directory, const CbtUuid *disk_id, guint64 size,
                      gboolean flag_all, GError **error)
{
  g_autoptr(CbtRegionLog) log = log_new(ops, directory, disk_id, size);
  g_autofree char *temporary = g_strconcat(log->path, ".tmp", NULL);
  log->id = cbt_uuid_generate();
  if (flag_all)
    flag_all_locked(log);
  ops->unlink(ops, temporary); /* what a crash left */
  log->fd = ops->open(ops, temporary, O_RDWR | O_CREAT | O_EXCL, 0600);
  if (log->fd >= 0 && write_all(log) && ops->rename(ops, temporary, log->path) == 0 &&
      ops->fsync_dir(ops, directory) == 0)
    return g_steal_pointer(&log);
  cbt_set_error_errno(error, errno, "cannot create %s", log->path);
  ops->unlink(ops, temporary);
  return NULL;
}

gboolean
cbt_region_log_flag_all(CbtRegionLog *log, GError **error)
{
  pthread_mutex_lock(&log->mutex);
  flag_all_locked(log);
  pthread_mutex_unlock(&log->mutex);
  return flush_all(log, error);
}

static gboolean
read_all(CbtRegionLog *log, GError **error)
{
  guint8 page[CBT_REGION_LOG_PAGE];
  gssize n = cbt_file_pread_full(log->ops, log->fd, page, sizeof page, 0);
  if (n == (gssize) sizeof page && !decode_header(log, page, error))
    return FALSE;
  gsize length = log->n_sectors * CBT_REGION_LOG_SECTOR;
  gssize m = cbt_file_pread_full(log->ops, log->fd, log->buffer, length, sizeof page);
  if (n < 0 || m < 0) {
    cbt_set_error_errno(error, errno, "cannot read %s", log->path);
    return FALSE;
  }
  if (n < (gssize) sizeof page || m < (gssize) length) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "the region log is too short");
    return FALSE;
  }
  for (gsize sector = 0; sector < log->n_sectors; sector++)
    decode_sector(log, sector, log->buffer + sector * CBT_REGION_LOG_SECTOR);
  return TRUE;
}

/* All sectors are written again: a process that died, or a sync that failed, may have left pages that the
 * kernel holds for clean and the disk has not. */
CbtRegionLog *
cbt_region_log_load(const CbtFileOps *ops, const char *directory, const CbtUuid *disk_id, guint64 size,
                    GError **error)
{
  g_autoptr(CbtRegionLog) log = log_new(ops, directory, disk_id, size);
  log->fd = ops->open(ops, log->path, O_RDWR | O_NONBLOCK | O_NOFOLLOW, 0);
  if (log->fd < 0 && errno == ENOENT) {
    cbt_set_error(error, CBT_ERROR_NOT_FOUND, NULL, "there is no region log in %s", log->directory);
    return NULL;
  }
  if (log->fd < 0) {
    cbt_set_error_errno(error, errno, "cannot open %s", log->path);
    return NULL;
  }
  if (!read_all(log, error))
    return NULL;
  memset(log->dirty, TRUE, log->n_sectors);
  return flush_all(log, error) ? g_steal_pointer(&log) : NULL;
}

/* --- opening --- */

/* The regions of a range, clipped to the disk; FALSE if there are none. */
static inline gboolean
regions_of(const CbtRegionLog *log, guint64 offset, guint64 length, guint64 *first, guint64 *last)
{
  if (offset >= log->size || length == 0)
    return FALSE;
  *first = offset / CBT_REGION_LOG_REGION_SIZE;
  *last = (offset + MIN(length, log->size - offset) - 1) / CBT_REGION_LOG_REGION_SIZE;
  return TRUE;
}

gboolean
cbt_region_log_is_open(const CbtRegionLog *log, guint64 offset, guint64 length)
{
  guint64 first, last;
  if (!regions_of(log, offset, length, &first, &last))
    return TRUE;
  for (guint64 region = first; region <= last; region++)
    if (((load_word(&log->open[region / WORD_BITS]) >> (region % WORD_BITS)) & 1) == 0)
      return cbt_region_log_is_broken(log, NULL);
  return TRUE;
}

/* Opens what has its flag already and asks for the rest; TRUE if there is no rest. */
static gboolean
claim_locked(CbtRegionLog *log, guint64 first, guint64 last)
{
  gboolean all = TRUE;
  for (guint64 region = first; region <= last; region++) {
    gsize word = region / WORD_BITS;
    guint64 bit = G_GUINT64_CONSTANT(1) << (region % WORD_BITS);
    guint64 open = load_word(&log->open[word]);
    if ((open & bit) != 0)
      continue;
    if ((log->old[word] & bit) != 0) {
      store_word(&log->open[word], open | bit);
      continue;
    }
    all = FALSE;
    if ((log->pending[word] & bit) == 0)
      log->dirty[word / CBT_REGION_LOG_WORDS] = TRUE;
    log->pending[word] |= bit;
  }
  return all;
}

void
cbt_region_log_open_range(CbtRegionLog *log, guint64 offset, guint64 length)
{
  guint64 first, last;
  if (!regions_of(log, offset, length, &first, &last) || cbt_region_log_is_open(log, offset, length))
    return;
  pthread_mutex_lock(&log->mutex);
  while (!log->broken && !claim_locked(log, first, last)) {
    if (log->flushing)
      pthread_cond_wait(&log->flushed, &log->mutex);
    else
      flush_locked(log);
  }
  pthread_mutex_unlock(&log->mutex);
}

/* --- flags as a whole --- */

void
cbt_region_log_mark(CbtRegionLog *log, CbtBitmap *bitmap)
{
  pthread_mutex_lock(&log->mutex);
  for (guint64 region = 0; region < log->n_regions; region++) {
    gsize word = region / WORD_BITS;
    guint64 flags = load_word(&log->open[word]) | log->old[word] | log->pending[word];
    if ((flags >> (region % WORD_BITS)) & 1)
      cbt_bitmap_set(bitmap, region * CBT_REGION_LOG_REGION_SIZE, CBT_REGION_LOG_REGION_SIZE);
  }
  pthread_mutex_unlock(&log->mutex);
}

guint64
cbt_region_log_count(CbtRegionLog *log)
{
  guint64 n = 0;
  pthread_mutex_lock(&log->mutex);
  for (gsize word = 0; word < log->n_words; word++)
    n += (guint64) __builtin_popcountll(load_word(&log->open[word]) | log->old[word] | log->pending[word]);
  pthread_mutex_unlock(&log->mutex);
  return n;
}

void
cbt_region_log_begin_trim(CbtRegionLog *log)
{
  pthread_mutex_lock(&log->mutex);
  for (gsize word = 0; word < log->n_words; word++) {
    log->old[word] |= load_word(&log->open[word]);
    store_word(&log->open[word], 0);
  }
  pthread_mutex_unlock(&log->mutex);
}

gboolean
cbt_region_log_finish_trim(CbtRegionLog *log, GError **error)
{
  pthread_mutex_lock(&log->mutex);
  for (gsize word = 0; word < log->n_words; word++) {
    if ((log->old[word] & ~load_word(&log->open[word])) != 0)
      log->dirty[word / CBT_REGION_LOG_WORDS] = TRUE;
    log->old[word] = 0;
  }
  pthread_mutex_unlock(&log->mutex);
  return flush_all(log, error);
}
