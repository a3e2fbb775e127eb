/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * repack STORE SIZE: writes all records of a store anew, into packs of SIZE bytes, so that a small store has
 * what a large one has: several packs, most of them sealed. The index, which names the old places, is
 * removed. No daemon may run.
 */
#include <glib/gstdio.h>
#include <store/format.h>
#include <store/pack-format.h>
#include <store/pack.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
  StorePackSet *from;
  StorePackSet *to;
  guint8 *buffer;
  StoreLocation group; /* the one that was copied last */
  guint n;
} Repack;

static void
check(gboolean ok, GError *error)
{
  if (ok)
    return;
  fprintf(stderr, "repack: %s\n", error ? error->message : "failed");
  exit(1);
}

/* All chunks of a group at once. */
static void
copy_group(Repack *repack, const StoreLocation *location)
{
  StoreRecordInfo info;
  StoreLocation copy;
  gsize length;
  GError *error = NULL;
  g_autoptr(GByteArray) record = g_byte_array_new();
  const guint8 *payload = store_pack_read_group(repack->from, location, &info, record, &length, &error);
  check(payload != NULL, error);
  check(store_pack_append(repack->to, &info, payload, length, &copy, &error), error);
  repack->group = *location;
}

static gboolean
copy_record(const StoreRecordInfo *info, const StoreLocation *location, gpointer user_data)
{
  Repack *repack = user_data;
  StoreRecordInfo read;
  StoreLocation copy;
  const guint8 *payload;
  gsize length;
  GError *error = NULL;
  repack->n++;
  if (info->encoding == STORE_ENCODING_GROUP) {
    if (location->pack != repack->group.pack || location->offset != repack->group.offset)
      copy_group(repack, location);
    return TRUE;
  }
  check(store_pack_read(repack->from, location, &read, repack->buffer, &payload, &length, &error), error);
  check(store_pack_append(repack->to, info, payload, length, &copy, &error), error);
  return TRUE;
}

int
main(int argc, char **argv)
{
  StoreFormat format;
  GError *error = NULL;
  Repack repack = {.buffer = g_malloc(STORE_PACK_READ_SIZE)};
  if (argc != 3)
    return 2;
  g_autofree char *format_path = g_build_filename(argv[1], "format", NULL);
  g_autofree char *packs = g_build_filename(argv[1], "packs", NULL);
  g_autofree char *old = g_build_filename(argv[1], "packs.old", NULL);
  g_autofree char *index = g_build_filename(argv[1], "index", NULL);
  check(store_format_load(cbt_file_ops_default(), format_path, &format, &error), error);
  check(g_rename(packs, old) == 0 && g_mkdir(packs, 0700) == 0, NULL);
  repack.from = store_pack_set_open(NULL, old, &format.uuid, 0, &error);
  check(repack.from != NULL, error);
  repack.to = store_pack_set_open(NULL, packs, &format.uuid, g_ascii_strtoull(argv[2], NULL, 10), &error);
  check(repack.to != NULL, error);
  check(store_pack_scan(repack.from, NULL, copy_record, &repack, NULL, &error), error);
  check(store_pack_flush(repack.to, &error), error);
  store_pack_set_close(repack.to);
  store_pack_set_close(repack.from);
  g_free(repack.buffer);
  g_autofree char *command = g_strdup_printf("rm -rf '%s'", old);
  check(system(command) == 0 && g_remove(index) == 0, NULL);
  printf("%u records\n", repack.n);
  return 0;
}
