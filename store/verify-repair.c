/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Repair. Whatever is found is put as a backup would put it: the store then finds its copy damaged and
 * replaces it. Only bytes that have the chunk's digest are put.
 *
 * A page is a function of what is below it: its range of a source is digested as a backup would do, page by
 * page upwards, and if the page that comes out has the digest it is the one that was lost.
 */
#include <store/verify-private.h>

#include <common/bytes.h>
#include <common/error.h>
#include <store/pack-private.h>
#include <string.h>

#define DIGEST_SIZE (STORE_CHUNK_ID_SIZE - 1)

typedef struct {
  StoreVerify *verify;
  StoreWorker *worker;
  const StoreVerifySource *source; /* (nullable) */
  guint8 *data;                    /* STORE_CHUNK_LENGTH_MAX */
  GError *error;
} Repair;

static gboolean
may_go_on(Repair *repair)
{
  const StoreVerifyOptions *options = &repair->verify->options;
  if (repair->error)
    return FALSE;
  if (!options->progress || options->progress(0, 0, options->user_data))
    return TRUE;
  cbt_set_error(&repair->error, CBT_ERROR_CANCELLED, NULL, "the repair was stopped");
  return FALSE;
}

/* Puts LENGTH bytes that have the digest of DAMAGE. */
static void
put(Repair *repair, StoreVerifyDamage *damage, const void *data, gsize length)
{
  StoreChunkId id;
  if (store_put(repair->worker, damage->type, data, length, &id, NULL, NULL, &repair->error))
    damage->is_repaired = store_chunk_id_equal(&id, &damage->id);
}

/* ---- other records ---- */

typedef struct {
  const Repair *repair;
  GArray *found; /* of Copy */
} Search;

typedef struct {
  StoreVerifyDamage *damage;
  StoreLocation location;
} Copy;

static gboolean
note_copy(const StoreRecordInfo *info, const StoreLocation *location, gpointer user_data)
{
  Search *search = user_data;
  Copy copy = {g_hash_table_lookup(search->repair->verify->by_id, &info->id), *location};
  if (copy.damage)
    g_array_append_val(search->found, copy);
  return TRUE;
}

/* A pack that cannot be read has nothing for us. */
static void
search_packs(Repair *repair, GArray *found)
{
  StorePackSet *packs = repair->verify->store->packs;
  Search search = {repair, found};
  g_autoptr(GArray) numbers = store_pack_list(packs, NULL);
  for (guint i = 0; numbers && i < numbers->len && may_go_on(repair); i++) {
    StoreLocation from = {.pack = g_array_index(numbers, guint32, i)};
    if (!store_pack_scan_one(packs, &from, note_copy, &search, NULL))
      g_debug("pack %08x was not searched", from.pack);
  }
}

static void
repair_from_copies(Repair *repair)
{
  g_autoptr(GArray) found = g_array_new(FALSE, FALSE, sizeof(Copy));
  search_packs(repair, found);
  for (guint i = 0; i < found->len && may_go_on(repair); i++) {
    const Copy *copy = &g_array_index(found, Copy, i);
    gsize length;
    if (!copy->damage->is_repaired &&
        store_get_at(repair->worker, &copy->damage->id, &copy->location, repair->data, &length) &&
        (copy->damage->type != STORE_CHUNK_DATA || length == CBT_CLUSTER_SIZE))
      put(repair, copy->damage, repair->data, length);
  }
}

/* ---- a source ---- */

static gboolean
read_source(const Repair *repair, const StoreVerifyUse *use, guint64 offset)
{
  return repair->source->read(use->disk, offset, repair->data, repair->source->user_data);
}

/* The page of LEVEL at OFFSET, as a backup of the source would make it. FALSE if the source has not all of
 * it. */
static gboolean
make_page(Repair *repair, const StoreVerifyUse *use, guint level, guint64 offset, StorePage *page)
{
  guint64 entry_bytes = CBT_CLUSTER_SIZE << store_page_entry_bits(level);
  memset(page, 0, sizeof *page);
  for (guint i = 0; i < STORE_PAGE_FANOUT && offset < use->offset + use->length; i++, offset += entry_bytes) {
    if (!may_go_on(repair))
      return FALSE;
    if (level == 0) {
      if (!read_source(repair, use, offset))
        return FALSE;
      if (!cbt_is_zero(repair->data, CBT_CLUSTER_SIZE))
        page->entries[i] = store_digest(repair->verify->store, repair->data, CBT_CLUSTER_SIZE);
      continue;
    }
    StorePage below;
    guint8 bytes[STORE_PAGE_SIZE_MAX];
    if (!make_page(repair, use, level - 1, offset, &below))
      return FALSE;
    gsize length = store_page_encode(&below, level - 1, bytes);
    if (length > 0)
      page->entries[i] = store_digest(repair->verify->store, bytes, length);
  }
  return TRUE;
}

static void
repair_page(Repair *repair, StoreVerifyDamage *damage, const StoreVerifyUse *use)
{
  StorePage page;
  guint8 bytes[STORE_PAGE_SIZE_MAX];
  if (!make_page(repair, use, damage->level, use->offset, &page))
    return;
  gsize length = store_page_encode(&page, damage->level, bytes);
  if (length == 0)
    return;
  StoreChunkId digest = store_digest(repair->verify->store, bytes, length);
  if (memcmp(digest.bytes, damage->id.bytes, DIGEST_SIZE) == 0)
    put(repair, damage, bytes, length);
}

/* A use may be several clusters of the same content. */
static void
repair_cluster(Repair *repair, StoreVerifyDamage *damage, const StoreVerifyUse *use)
{
  for (guint64 offset = use->offset; offset < use->offset + use->length && !damage->is_repaired;
       offset += CBT_CLUSTER_SIZE)
    if (may_go_on(repair) && read_source(repair, use, offset) &&
        store_has_digest(repair->worker, &damage->id, repair->data))
      put(repair, damage, repair->data, CBT_CLUSTER_SIZE);
}

static void
repair_from_source(Repair *repair, StoreVerifyDamage *damage)
{
  for (guint i = 0; i < damage->uses->len && !damage->is_repaired && may_go_on(repair); i++) {
    const StoreVerifyUse *use = &g_array_index(damage->uses, StoreVerifyUse, i);
    if (!use->disk)
      continue;
    if (damage->type == STORE_CHUNK_PAGE)
      repair_page(repair, damage, use);
    else if (damage->type == STORE_CHUNK_DATA)
      repair_cluster(repair, damage, use);
  }
}

/* ---- what is left ---- */

/* Whether DAMAGE can be read now, by whom ever it was repaired. */
static gboolean
is_sound(StoreVerify *verify, const StoreVerifyDamage *damage)
{
  StoreVerifyItem item = {.id = damage->id, .type = damage->type, .level = damage->level};
  item.length = damage->type == STORE_CHUNK_DATA ? CBT_CLUSTER_SIZE : 0;
  store_verify_read_one(verify, &item);
  gboolean sound = item.error == NULL;
  g_clear_error(&item.error);
  return sound;
}

/* Takes what is sound by now out of what is damaged, and gives how much that is. */
static guint64
note_repaired(StoreVerify *verify)
{
  guint64 n_repaired = 0;
  for (guint i = 0; i < verify->damages->len; i++) {
    StoreVerifyDamage *damage = verify->damages->pdata[i];
    if (!g_hash_table_contains(verify->by_id, &damage->id))
      continue; /* repaired before */
    damage->is_repaired = is_sound(verify, damage);
    n_repaired += damage->is_repaired;
    if (damage->is_repaired)
      g_hash_table_remove(verify->by_id, &damage->id);
  }
  return n_repaired;
}

/*
 * What is sound now is damaged no more, and pages are visited again: below those that were repaired nothing
 * was read yet. Without the details of all that is damaged it is not known what is left; then all of it
 * counts as damaged until the next verify.
 */
static guint64
look_again(StoreVerify *verify)
{
  gboolean all_known = verify->counts.n_damaged == verify->damages->len;
  guint64 n_repaired = note_repaired(verify);
  if (n_repaired == 0)
    return 0; /* who uses what is still known */
  g_autoptr(StoreIdSet) damaged = store_id_set_new(TRUE);
  for (guint i = 0; i < verify->damages->len; i++) {
    StoreVerifyDamage *damage = verify->damages->pdata[i];
    if (!g_hash_table_contains(verify->by_id, &damage->id))
      continue; /* repaired */
    store_id_set_add(damaged, &damage->id);
    verify->n_uses_kept -= damage->uses->len;
    g_array_set_size(damage->uses, 0);
    damage->n_uses = 0;
  }
  verify->counts.n_repaired += n_repaired;
  if (!all_known)
    return n_repaired;
  StoreIdSet *old = verify->damaged;
  verify->damaged = g_steal_pointer(&damaged);
  store_id_set_free(old);
  g_clear_pointer(&verify->clean, store_id_set_free);
  store_id_set_free(verify->pages);
  verify->pages = store_id_set_new(TRUE);
  return n_repaired;
}

gboolean
store_verify_repair(StoreVerify *verify, const StoreVerifySource *source, guint64 *n_repaired, GError **error)
{
  Repair repair = {.verify = verify, .source = source};
  repair.worker = store_worker_new(verify->store);
  repair.data = g_malloc(STORE_CHUNK_LENGTH_MAX);
  store_worker_compare(repair.worker);
  repair_from_copies(&repair);
  for (guint i = 0; source && i < verify->damages->len && may_go_on(&repair); i++)
    repair_from_source(&repair, verify->damages->pdata[i]);
  store_worker_free(repair.worker);
  g_free(repair.data);
  if (!repair.error && !store_flush(verify->store, &repair.error))
    g_assert(repair.error);
  if (repair.error) {
    g_propagate_error(error, repair.error);
    return FALSE;
  }
  *n_repaired = look_again(verify);
  return TRUE;
}
