/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A point is done in two steps: all of it that was not read yet is read (verify-walk.c); then, if anything
 * was found damaged so far, the places of the point that use it are looked for (verify-uses.c). So a chunk is
 * read once, and yet each point that shares it is named.
 */
#include <store/verify-private.h>

#include <common/bytes.h>
#include <common/error.h>
#include <malloc.h>
#include <string.h>

#define BATCH_DEFAULT 2048u
#define THREADS_MIN   2u
#define TRIM_BYTES    (16u << 20)

static void
damage_free(gpointer data)
{
  StoreVerifyDamage *damage = data;
  g_free(damage->error);
  g_array_unref(damage->uses);
  g_free(damage);
}

StoreVerify *
store_verify_new(Store *store, const StoreVerifyOptions *options)
{
  StoreVerify *verify = g_new0(StoreVerify, 1);
  verify->store = store;
  store_group_cache_clear(store->groups); /* what the disk has is verified */
  if (options)
    verify->options = *options;
  guint n_threads =
      verify->options.n_threads ? verify->options.n_threads : MAX(THREADS_MIN, g_get_num_processors());
  verify->n_threads = MIN(n_threads, STORE_VERIFY_THREADS_MAX);
  verify->batch_size = verify->options.batch ? verify->options.batch : BATCH_DEFAULT;
  for (guint i = 0; i < verify->n_threads; i++)
    verify->workers[i] = store_worker_new(store);
  verify->pages = store_id_set_new(TRUE);
  verify->chunks = store_id_set_new(FALSE);
  verify->damaged = store_id_set_new(TRUE);
  verify->damages = g_ptr_array_new_with_free_func(damage_free);
  verify->by_id = g_hash_table_new(store_chunk_id_hash, store_chunk_id_hash_equal);
  verify->texts = g_string_chunk_new(256);
  return verify;
}

void
store_verify_free(StoreVerify *verify)
{
  guint64 memory = store_id_set_memory(verify->pages) + store_id_set_memory(verify->chunks);
  for (guint i = 0; i < verify->n_threads; i++)
    store_worker_free(verify->workers[i]);
  store_id_set_free(verify->pages);
  store_id_set_free(verify->chunks);
  store_id_set_free(verify->damaged);
  store_id_set_free(verify->clean);
  g_hash_table_unref(verify->by_id);
  g_ptr_array_unref(verify->damages);
  g_string_chunk_free(verify->texts);
  g_free(verify);
  if (memory >= TRIM_BYTES)
    malloc_trim(0);
}

void
store_verify_note_damage(StoreVerify *verify, StoreVerifyItem *item)
{
  g_autoptr(GError) error = g_steal_pointer(&item->error);
  StoreLocation location = {0};
  if (!store_id_set_add(verify->damaged, &item->id))
    return;
  verify->counts.n_damaged++;
  if (verify->damages->len >= STORE_VERIFY_DAMAGES_MAX)
    return;
  if (!store_index_lookup(verify->store->index, &item->id, &location))
    location = (StoreLocation){0};
  StoreVerifyDamage *damage = g_new0(StoreVerifyDamage, 1);
  *damage = (StoreVerifyDamage){.id = item->id, .type = item->type, .level = item->level};
  damage->pack = location.pack;
  damage->offset = location.offset;
  damage->error = cbt_error_message(error);
  damage->uses = g_array_new(FALSE, FALSE, sizeof(StoreVerifyUse));
  g_ptr_array_add(verify->damages, damage);
  g_hash_table_insert(verify->by_id, &damage->id, damage);
}

gboolean
store_verify_cover(StoreVerify *verify, guint64 disk_bytes)
{
  if (disk_bytes > 0 && verify->options.progress &&
      !verify->options.progress(0, disk_bytes, verify->options.user_data))
    g_atomic_int_set(&verify->stopped, 1);
  return !g_atomic_int_get(&verify->stopped);
}

gboolean
store_verify_point(StoreVerify *verify, const StorePoint *point, const StoreVerifyPlace *from,
                   StoreVerifyVerdict *verdict, GError **error)
{
  if (!store_verify_walk(verify, point, from)) {
    cbt_set_error(error, CBT_ERROR_CANCELLED, NULL, "the verification was stopped");
    return FALSE;
  }
  store_verify_find_uses(verify, point, verdict);
  return TRUE;
}

/* ---- what was verified before ---- */

static gboolean
skip_page(StoreVerify *verify, const StoreChunkId *id, guint level, guint64 base, guint64 end)
{
  StorePage page;
  guint bits = store_page_entry_bits(level);
  if (base >= end || store_chunk_id_is_zero(id) || store_id_set_contains(verify->pages, id))
    return TRUE;
  if (!store_page_load(verify->workers[0], id, level, &page, NULL))
    return FALSE;
  for (guint64 i = 0; i < STORE_PAGE_FANOUT && base + (i << bits) < end; i++) {
    const StoreChunkId *entry = &page.entries[i];
    if (level > 0) {
      if (!skip_page(verify, entry, level - 1, base + (i << bits), end))
        return FALSE;
    } else if (!store_chunk_id_is_zero(entry)) {
      verify->counts.n_skipped += store_id_set_add(verify->chunks, entry);
    }
  }
  if (base + (G_GUINT64_CONSTANT(1) << store_page_entry_bits(level + 1)) <= end)
    store_id_set_add(verify->pages, id);
  return TRUE;
}

gboolean
store_verify_skip(StoreVerify *verify, const StorePoint *point, const StoreVerifyPlace *until)
{
  for (guint i = 0; i < point->disks->len && (!until || i <= until->disk); i++) {
    const StoreManifest *manifest = &((const StorePointDisk *) point->disks->pdata[i])->manifest;
    guint64 end = until && i == until->disk ? until->cluster : G_MAXUINT64;
    if (!skip_page(verify, &manifest->root, store_manifest_n_levels(manifest->size) - 1, 0, end))
      return FALSE;
  }
  for (guint i = 0; i < point->configs->len && !until; i++)
    store_id_set_add(verify->chunks, &((const StorePointConfig *) point->configs->pdata[i])->id);
  return TRUE;
}

/* ---- what was found ---- */

const GPtrArray *
store_verify_damages(const StoreVerify *verify)
{
  return verify->damages;
}

void
store_verify_counts(const StoreVerify *verify, StoreVerifyCounts *counts)
{
  *counts = verify->counts;
}
