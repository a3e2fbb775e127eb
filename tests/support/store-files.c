/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <tests/support/store-files.h>

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

char *
store_test_folder_new(void)
{
  char *folder = g_dir_make_tmp("cbt-store-XXXXXX", NULL);
  g_assert_nonnull(folder);
  return folder;
}

static int
remove_one(const char *path, const struct stat *st G_GNUC_UNUSED, int type G_GNUC_UNUSED,
           struct FTW *ftw G_GNUC_UNUSED)
{
  return remove(path);
}

void
store_test_folder_free(char *folder)
{
  nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
  g_free(folder);
}

guint64
store_test_file_size(const char *path)
{
  struct stat st;
  g_assert_cmpint(stat(path, &st), ==, 0);
  return (guint64) st.st_size;
}

void
store_test_truncate(const char *path, guint64 length)
{
  g_assert_cmpint(truncate(path, (off_t) length), ==, 0);
}

void
store_test_flip(const char *path, guint64 offset, guint8 bits)
{
  guint8 byte;
  int fd = open(path, O_RDWR | O_CLOEXEC);
  g_assert_cmpint(fd, >=, 0);
  g_assert_cmpint(pread(fd, &byte, 1, (off_t) offset), ==, 1);
  byte ^= bits;
  g_assert_cmpint(pwrite(fd, &byte, 1, (off_t) offset), ==, 1);
  close(fd);
}

void
store_test_write(const char *path, gconstpointer data, gsize length)
{
  g_assert_true(g_file_set_contents(path, data, (gssize) length, NULL));
}

void
store_test_fill_random(guint8 *data, gsize length, guint32 seed)
{
  guint64 state = (guint64) seed * 0x9e3779b97f4a7c15u + 1;
  for (gsize i = 0; i < length; i++) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    data[i] = (guint8) (state >> 32);
  }
}

void
store_test_fill_text(guint8 *data, gsize length, guint32 seed)
{
  for (gsize i = 0; i < length; i++)
    data[i] = (guint8) ("the quick brown fox "[i % 20] + (i / 997 + seed) % 7);
  if (length >= 4)
    memcpy(data, &seed, 4);
}

static char *
hex_of(const guint8 *data, gsize length)
{
  GString *text = g_string_new(NULL);
  for (gsize i = 0; i < length; i++) {
    if (i % 16 == 0)
      g_string_append_printf(text, "%s%04zx ", i > 0 ? "\n" : "", i);
    g_string_append_printf(text, " %02x", data[i]);
  }
  g_string_append_c(text, '\n');
  return g_string_free(text, FALSE);
}

void
store_test_golden(const char *name, const char *document, gconstpointer data, gsize length)
{
  g_autofree char *path = g_strdup_printf("%s/%s.hex", CBT_GOLDEN_DIR, name);
  g_autofree char *page = g_strdup_printf("%s/../../docs/formats/%s", CBT_GOLDEN_DIR, document);
  g_autofree char *text = hex_of(data, length);
  g_autofree char *golden = NULL;
  g_autofree char *docs = NULL;
  if (g_getenv("CBT_UPDATE_GOLDEN"))
    g_assert_true(g_file_set_contents(path, text, -1, NULL));
  g_assert_true(g_file_get_contents(path, &golden, NULL, NULL));
  g_assert_cmpstr(text, ==, golden);
  g_assert_true(g_file_get_contents(page, &docs, NULL, NULL));
  g_assert_nonnull(strstr(docs, golden));
}
