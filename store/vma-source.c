/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <store/vma-stream.h>

#include <common/error.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#define ZSTD_WINDOW_LOG_MAX 27 /* 128 MiB, what zstd itself takes without being asked */

static const guint8 zstd_magic[4] = {0x28, 0xb5, 0x2f, 0xfd};

struct StoreVmaSource {
  int fd;
  StoreVmaSums *sums; /* NULL: no checksums */
  guint8 first[4];    /* read to look for zstd */
  gsize n_first;
  gsize first_used;
  ZSTD_DCtx *zstd; /* NULL: not compressed */
  guint8 *in;      /* ZSTD_DStreamInSize() */
  ZSTD_inBuffer pending;
  size_t frame_left; /* 0 between frames */
  guint64 offset;
};

/* Up to LENGTH raw bytes; fewer only at the end. -1 with errno. */
static gssize
read_raw(StoreVmaSource *source, guint8 *data, gsize length)
{
  gsize done = 0;
  for (; done < length && source->first_used < source->n_first; done++)
    data[done] = source->first[source->first_used++];
  while (done < length) {
    ssize_t n = read(source->fd, data + done, length - done);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return -1;
    if (n == 0)
      break;
    done += (gsize) n;
  }
  return (gssize) done;
}

static gboolean
look_for_zstd(StoreVmaSource *source, GError **error)
{
  gssize n = read_raw(source, source->first, sizeof source->first);
  if (n < 0) {
    cbt_set_error_errno(error, errno, "cannot read the archive");
    return FALSE;
  }
  source->n_first = (gsize) n;
  if (source->n_first < sizeof zstd_magic || memcmp(source->first, zstd_magic, sizeof zstd_magic) != 0)
    return TRUE;
  source->zstd = ZSTD_createDCtx();
  if (!source->zstd) {
    cbt_set_error(error, CBT_ERROR_FAILED, NULL, "cannot start zstd");
    return FALSE;
  }
  ZSTD_DCtx_setParameter(source->zstd, ZSTD_d_windowLogMax, ZSTD_WINDOW_LOG_MAX);
  source->in = g_malloc(ZSTD_DStreamInSize());
  return TRUE;
}

StoreVmaSource *
store_vma_source_new(int fd, StoreVmaSums *sums, GError **error)
{
  g_autoptr(StoreVmaSource) source = g_new0(StoreVmaSource, 1);
  source->fd = fd;
  source->sums = sums;
  if (!look_for_zstd(source, error))
    return NULL;
  return g_steal_pointer(&source);
}

/* FALSE at the end of the input, or with ERROR set. */
static gboolean
refill(StoreVmaSource *source, GError **error)
{
  gssize n = read_raw(source, source->in, ZSTD_DStreamInSize());
  if (n < 0)
    cbt_set_error_errno(error, errno, "cannot read the archive");
  else if (n == 0 && source->frame_left != 0)
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "the compressed archive is cut off");
  source->pending = (ZSTD_inBuffer){source->in, n > 0 ? (gsize) n : 0, 0};
  return n > 0;
}

static gssize
read_zstd(StoreVmaSource *source, guint8 *data, gsize length, GError **error)
{
  ZSTD_outBuffer out = {data, length, 0};
  while (out.pos < length) {
    gsize before = out.pos;
    if (source->pending.pos < source->pending.size || source->frame_left != 0) {
      size_t left = ZSTD_decompressStream(source->zstd, &out, &source->pending);
      if (ZSTD_isError(left)) {
        cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "the compressed archive is damaged: %s",
                      ZSTD_getErrorName(left));
        return -1;
      }
      source->frame_left = left;
    }
    if (out.pos > before || source->pending.pos < source->pending.size)
      continue;
    GError *local = NULL;
    if (!refill(source, &local)) {
      if (!local)
        break;
      g_propagate_error(error, local);
      return -1;
    }
  }
  return (gssize) out.pos;
}

gssize
store_vma_source_read(StoreVmaSource *source, guint8 *data, gsize length, GError **error)
{
  gssize n = source->zstd ? read_zstd(source, data, length, error) : read_raw(source, data, length);
  if (n < 0 && !source->zstd)
    cbt_set_error_errno(error, errno, "cannot read the archive at offset %" G_GUINT64_FORMAT, source->offset);
  source->offset += n > 0 ? (guint64) n : 0;
  return n;
}

gboolean
store_vma_source_check_piece(StoreVmaSource *source, const guint8 *data, gsize length, GError **error)
{
  return !source->sums || store_vma_sums_check(source->sums, data, length, source->offset - length, error);
}

gboolean
store_vma_source_check_end(StoreVmaSource *source, GError **error)
{
  return !source->sums || store_vma_sums_check_end(source->sums, error);
}

guint64
store_vma_source_offset(const StoreVmaSource *source)
{
  return source->offset;
}

void
store_vma_source_free(StoreVmaSource *source)
{
  ZSTD_freeDCtx(source->zstd);
  g_free(source->in);
  g_free(source);
}
