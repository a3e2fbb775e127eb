/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <store/vma-sums.h>

#include <common/error.h>
#include <common/fd.h>
#include <common/file-ops.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

struct StoreVmaSums {
  FILE *file;
  guint64 n_pieces; /* that were compared */
};

const char *
store_vma_sums_format(const guint8 *data, gsize length, char line[STORE_VMA_SUMS_LINE_SIZE])
{
  XXH128_hash_t sum = XXH3_128bits(data, length);
  g_snprintf(line, STORE_VMA_SUMS_LINE_SIZE, "%zu %016" G_GINT64_MODIFIER "x%016" G_GINT64_MODIFIER "x\n",
             length, (guint64) sum.high64, (guint64) sum.low64);
  return line;
}

/* Whether the last line says how many pieces there are; FALSE also if it cannot be read. */
static gboolean
has_last_line(int fd)
{
  char tail[STORE_VMA_SUMS_LINE_SIZE];
  struct stat st;
  if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
    return FALSE;
  off_t at = MAX(st.st_size - (off_t) sizeof tail + 1, 0);
  gssize n = cbt_pread_full(fd, tail, sizeof tail - 1, (guint64) at);
  if (n < 2 || tail[n - 1] != '\n')
    return FALSE;
  tail[n - 1] = '\0';
  const char *line = memrchr(tail, '\n', (gsize) n - 1);
  return line && g_str_has_prefix(line + 1, STORE_VMA_SUMS_LAST_LINE);
}

/* The next line as a string; a longer one only in part. Empty at the end; FALSE with ERROR set. */
static gboolean
read_line(StoreVmaSums *sums, char line[STORE_VMA_SUMS_LINE_SIZE], GError **error)
{
  if (fgets(line, STORE_VMA_SUMS_LINE_SIZE, sums->file))
    return TRUE;
  *line = '\0';
  if (!ferror(sums->file))
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot read the archive's checksums");
  return FALSE;
}

StoreVmaSums *
store_vma_sums_new(int fd, GError **error)
{
  g_autoptr(StoreVmaSums) sums = g_new0(StoreVmaSums, 1);
  char line[STORE_VMA_SUMS_LINE_SIZE];
  sums->file = fdopen(fd, "r");
  if (!sums->file) {
    cbt_set_error_errno(error, errno, "cannot read the archive's checksums");
    close(fd);
    return NULL;
  }
  gboolean ends = has_last_line(fd);
  if (!read_line(sums, line, error))
    return NULL;
  if (ends && strcmp(line, STORE_VMA_SUMS_FIRST_LINE) == 0)
    return g_steal_pointer(&sums);
  cbt_set_error(error, CBT_ERROR_CORRUPT, "Remove the file to do without its checksums.",
                "the file with the archive's checksums is none, or was cut off");
  return NULL;
}

StoreVmaSums *
store_vma_sums_open(const char *path, GError **error)
{
  g_autofree char *sums_path = g_strconcat(path, STORE_VMA_SUMS_SUFFIX, NULL);
  int fd = open(sums_path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd >= 0)
    return store_vma_sums_new(fd, error);
  if (errno != ENOENT)
    cbt_set_error_errno(error, errno, "cannot open %s", sums_path);
  return NULL;
}

void
store_vma_sums_free(StoreVmaSums *sums)
{
  if (sums->file)
    fclose(sums->file);
  g_free(sums);
}

gboolean
store_vma_sums_check(StoreVmaSums *sums, const guint8 *data, gsize length, guint64 offset, GError **error)
{
  char expected[STORE_VMA_SUMS_LINE_SIZE], line[STORE_VMA_SUMS_LINE_SIZE];
  if (!read_line(sums, line, error))
    return FALSE;
  sums->n_pieces++;
  if (strcmp(line, store_vma_sums_format(data, length, expected)) == 0)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_CORRUPT, NULL,
                "the %zu bytes at offset %" G_GUINT64_FORMAT " of the archive do not have their checksum",
                length, offset);
  return FALSE;
}

gboolean
store_vma_sums_check_end(StoreVmaSums *sums, GError **error)
{
  char line[STORE_VMA_SUMS_LINE_SIZE];
  g_autofree char *last = g_strdup_printf(STORE_VMA_SUMS_LAST_LINE "%" G_GUINT64_FORMAT "\n", sums->n_pieces);
  if (!read_line(sums, line, error))
    return FALSE;
  if (strcmp(line, last) == 0 && fgetc(sums->file) == EOF)
    return TRUE;
  if (g_str_has_prefix(line, STORE_VMA_SUMS_LAST_LINE))
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL,
                  "the last line of the archive's checksums does not fit: their file is damaged");
  else
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "the archive ends before its checksums do: it was cut off");
  return FALSE;
}
