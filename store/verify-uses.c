/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where a point uses what is damaged. When a point was read, all that it names was read, in this run or with
 * a point before it; so it is known by then what of it is damaged. Its tree is gone down once more, but for
 * pages that were found to have nothing damaged below them: in a store without damage none is, and with
 * damage each page is looked at once, and those above damage once a point.
 */
#include <store/verify-private.h>

#include <common/bytes.h>

typedef struct {
  StoreVerify *verify;
  const StorePoint *point;
  const StorePointDisk *disk;     /* (nullable) */
  const StorePointConfig *config; /* (nullable) */
  StoreVerifyVerdict *verdict;
} Finder;

static void
keep_use(StoreVerify *verify, StoreVerifyDamage *damage, const StoreVerifyUse *use)
{
  StoreVerifyUse *last =
      damage->uses->len > 0 ? &g_array_index(damage->uses, StoreVerifyUse, damage->uses->len - 1) : NULL;
  /* The same content again and again: one extent. */
  if (last && use->disk && last->disk == use->disk && cbt_uuid_equal(&last->point, &use->point) &&
      last->offset + last->length == use->offset) {
    last->length += use->length;
    return;
  }
  damage->n_uses++;
  if (verify->n_uses_kept < STORE_VERIFY_USES_MAX) {
    g_array_append_val(damage->uses, *use);
    verify->n_uses_kept++;
  }
}

static void
note_use(const Finder *finder, const StoreChunkId *id, guint64 offset, guint64 length)
{
  StoreVerify *verify = finder->verify;
  StoreVerifyDamage *damage = g_hash_table_lookup(verify->by_id, id);
  finder->verdict->n_uses++;
  finder->verdict->bytes += length;
  if (!damage)
    return;
  StoreVerifyUse use = {.point = finder->point->uuid, .offset = offset, .length = length};
  use.vm = g_string_chunk_insert_const(verify->texts, finder->point->vm);
  if (finder->disk)
    use.disk = g_string_chunk_insert_const(verify->texts, finder->disk->name);
  if (finder->config)
    use.config = g_string_chunk_insert_const(verify->texts, finder->config->name);
  keep_use(verify, damage, &use);
}

/* A page that could be read before and cannot now is damaged too. */
static gboolean
load_page(StoreVerify *verify, const StoreChunkId *id, guint level, StorePage *page)
{
  StoreVerifyItem item = {.id = *id, .type = STORE_CHUNK_PAGE, .level = level};
  if (store_id_set_contains(verify->damaged, id))
    return FALSE;
  if (store_page_load(verify->workers[0], id, level, page, &item.error))
    return TRUE;
  store_verify_note_damage(verify, &item);
  return FALSE;
}

/* TRUE if something is damaged in the subtree of page ID. */
static gboolean
find_in_page(const Finder *finder, const StoreChunkId *id, guint level, guint64 base)
{
  StoreVerify *verify = finder->verify;
  guint64 size = finder->disk->manifest.size;
  gboolean found = FALSE;
  StorePage page;
  if (store_chunk_id_is_zero(id) || store_id_set_contains(verify->clean, id))
    return FALSE;
  if (!load_page(verify, id, level, &page)) {
    guint64 n_clusters = G_GUINT64_CONSTANT(1) << store_page_entry_bits(level + 1);
    note_use(finder, id, base * CBT_CLUSTER_SIZE, store_verify_span(size, base, n_clusters));
    return TRUE;
  }
  for (guint64 i = 0; i < STORE_PAGE_FANOUT; i++) {
    guint64 cluster = base + (i << store_page_entry_bits(level));
    if (level > 0) {
      found |= find_in_page(finder, &page.entries[i], level - 1, cluster);
    } else if (store_id_set_contains(verify->damaged, &page.entries[i])) {
      note_use(finder, &page.entries[i], cluster * CBT_CLUSTER_SIZE, store_verify_span(size, cluster, 1));
      found = TRUE;
    }
  }
  if (!found)
    store_id_set_add(verify->clean, id);
  return found;
}

void
store_verify_find_uses(StoreVerify *verify, const StorePoint *point, StoreVerifyVerdict *verdict)
{
  *verdict = (StoreVerifyVerdict){0};
  if (store_id_set_count(verify->damaged) == 0)
    return;
  if (!verify->clean)
    verify->clean = store_id_set_new(TRUE);
  for (guint i = 0; i < point->disks->len; i++) {
    const StorePointDisk *disk = point->disks->pdata[i];
    Finder finder = {verify, point, disk, NULL, verdict};
    find_in_page(&finder, &disk->manifest.root, store_manifest_n_levels(disk->manifest.size) - 1, 0);
  }
  for (guint i = 0; i < point->configs->len; i++) {
    const StorePointConfig *config = point->configs->pdata[i];
    Finder finder = {verify, point, NULL, config, verdict};
    if (store_id_set_contains(verify->damaged, &config->id))
      note_use(&finder, &config->id, 0, config->size);
  }
}
