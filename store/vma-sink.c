/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <store/vma-stream.h>

#include <common/error.h>
#include <common/file-ops.h>
#include <errno.h>
#include <store/vma-sums.h>
#include <string.h>
#include <zstd.h>

struct StoreVmaSink {
  StoreVmaWriteFunc write;
  gpointer user_data;
  int fd; /* -1: none, write has a taker of its own */
  int sums_fd;
  ZSTD_CCtx *zstd; /* NULL: not compressed */
  guint8 *out;     /* ZSTD_CStreamOutSize() */
  guint64 n_pieces;
  guint64 written;
};

static gboolean
write_to_fd(gpointer user_data, const guint8 *data, gsize length, GError **error)
{
  const StoreVmaSink *sink = user_data;
  if (cbt_write_full(sink->fd, data, length)) {
    cbt_file_begin_writeback(sink->fd, sink->written, length);
    return TRUE;
  }
  cbt_set_error_errno(error, errno, "cannot write the archive");
  return FALSE;
}

static gboolean
put_bytes(StoreVmaSink *sink, const guint8 *data, gsize length, GError **error)
{
  if (!sink->write(sink->user_data, data, length, error))
    return FALSE;
  sink->written += length;
  return TRUE;
}

static gboolean
put_text(const StoreVmaSink *sink, const char *text, GError **error)
{
  if (sink->sums_fd < 0 || cbt_write_full(sink->sums_fd, text, strlen(text)))
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot write the checksums of the archive");
  return FALSE;
}

static gboolean
begin_zstd(StoreVmaSink *sink, guint n_threads, GError **error)
{
  sink->zstd = ZSTD_createCCtx();
  sink->out = g_malloc(ZSTD_CStreamOutSize());
  if (sink->zstd && !ZSTD_isError(ZSTD_CCtx_setParameter(sink->zstd, ZSTD_c_compressionLevel, 1)) &&
      !ZSTD_isError(ZSTD_CCtx_setParameter(sink->zstd, ZSTD_c_checksumFlag, 1))) {
    ZSTD_CCtx_setParameter(sink->zstd, ZSTD_c_nbWorkers, (int) n_threads); /* or one, where zstd has none */
    return TRUE;
  }
  cbt_set_error(error, CBT_ERROR_FAILED, NULL, "cannot start zstd");
  return FALSE;
}

StoreVmaSink *
store_vma_sink_new_for(StoreVmaWriteFunc write_func, gpointer user_data)
{
  StoreVmaSink *sink = g_new0(StoreVmaSink, 1);
  sink->write = write_func;
  sink->user_data = user_data;
  sink->fd = sink->sums_fd = -1;
  return sink;
}

StoreVmaSink *
store_vma_sink_new(int fd, guint zstd_threads, int sums_fd, GError **error)
{
  g_autoptr(StoreVmaSink) sink = store_vma_sink_new_for(write_to_fd, NULL);
  sink->user_data = sink;
  sink->fd = fd;
  sink->sums_fd = sums_fd;
  if ((zstd_threads > 0 && !begin_zstd(sink, zstd_threads, error)) ||
      !put_text(sink, STORE_VMA_SUMS_FIRST_LINE, error))
    return NULL;
  return g_steal_pointer(&sink);
}

static gboolean
compress(StoreVmaSink *sink, const guint8 *data, gsize length, ZSTD_EndDirective directive, GError **error)
{
  ZSTD_inBuffer in = {data, length, 0};
  for (;;) {
    ZSTD_outBuffer out = {sink->out, ZSTD_CStreamOutSize(), 0};
    size_t left = ZSTD_compressStream2(sink->zstd, &out, &in, directive);
    if (ZSTD_isError(left)) {
      cbt_set_error(error, CBT_ERROR_FAILED, NULL, "zstd: %s", ZSTD_getErrorName(left));
      return FALSE;
    }
    if (!put_bytes(sink, sink->out, out.pos, error))
      return FALSE;
    if (directive == ZSTD_e_end ? left == 0 : in.pos == in.size)
      return TRUE;
  }
}

gboolean
store_vma_sink_write(StoreVmaSink *sink, const guint8 *data, gsize length, GError **error)
{
  char line[STORE_VMA_SUMS_LINE_SIZE];
  sink->n_pieces++;
  if (sink->sums_fd >= 0 && !put_text(sink, store_vma_sums_format(data, length, line), error))
    return FALSE;
  return sink->zstd ? compress(sink, data, length, ZSTD_e_continue, error)
                    : put_bytes(sink, data, length, error);
}

gboolean
store_vma_sink_finish(StoreVmaSink *sink, GError **error)
{
  g_autofree char *last = g_strdup_printf(STORE_VMA_SUMS_LAST_LINE "%" G_GUINT64_FORMAT "\n", sink->n_pieces);
  return (!sink->zstd || compress(sink, NULL, 0, ZSTD_e_end, error)) && put_text(sink, last, error);
}

guint64
store_vma_sink_written(const StoreVmaSink *sink)
{
  return sink->written;
}

void
store_vma_sink_free(StoreVmaSink *sink)
{
  ZSTD_freeCCtx(sink->zstd);
  g_free(sink->out);
  g_free(sink);
}
