/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * store check. In this order: the point files (what a point names is in the packs before its file is there,
 * so a backup that goes on meanwhile does no harm); each pack from end to end; then all that the points name,
 * with decompression and digest; the index at last.
 *
 * A record that is damaged, but of which there is a sound one elsewhere, was replaced: that is worth a note.
 * So is the torn end of a pack that is not sealed, for nothing may refer to it; if something does, the chunk
 * is missing.
 */
#include "tool.h"

#include <common/error.h>
#include <common/size.h>
#include <store/pack-private.h>
#include <store/verify.h>
#include <stdio.h>
#include <string.h>

#define TRIES     3u     /* while packs are removed under us */
#define ITEMS_MAX 10000u /* of each list; the counts are exact */
#define USES_MAX  50u    /* of each chunk */

typedef struct {
  guint32 number;
  gboolean is_last;
  gboolean was_read;
  char *error; /* (nullable) why it was not */
  StorePackCheck check;
} Pack;

typedef struct {
  Tool *tool;
  StoreOffline *offline;
  GPtrArray *points; /* of StorePoint */
  GArray *packs;     /* of Pack */
  GError *error;     /* of noting a record */
  JsonArray *damage;
  JsonArray *notes;
  guint64 n_damage;
  guint64 n_records;
  guint64 pack_bytes;
  StoreVerifyCounts counts;
} Check;

/* ---- the report ---- */

static JsonObject *
item_new(const char *kind)
{
  JsonObject *item = json_object_new();
  json_object_set_string_member(item, "kind", kind);
  return item;
}

/* Takes ITEM; the message is what people read. */
static void
add_item(Check *check, gboolean is_damage, JsonObject *item, const char *format, ...)
{
  JsonArray *list = is_damage ? check->damage : check->notes;
  va_list args;
  va_start(args, format);
  g_autofree char *message = g_strdup_vprintf(format, args);
  va_end(args);
  json_object_set_string_member(item, "message", message);
  check->n_damage += is_damage;
  if (json_array_get_length(list) < ITEMS_MAX)
    json_array_add_object_element(list, item);
  else
    json_object_unref(item);
}

static JsonObject *
pack_item(const char *kind, guint32 number)
{
  JsonObject *item = item_new(kind);
  tool_put_pack(item, "pack", number);
  return item;
}

/* A folder that is not there is damage; FALSE for all else. Takes LOCAL. */
static gboolean
folder_is_missing(Check *check, GError *local, GError **error)
{
  if (!g_error_matches(local, CBT_ERROR, CBT_ERROR_NOT_FOUND)) {
    g_propagate_error(error, local);
    return FALSE;
  }
  add_item(check, TRUE, item_new("folder"), "%s", local->message);
  g_error_free(local);
  return TRUE;
}

/* ---- point files ---- */

static gboolean
load_points(Check *check, GError **error)
{
  g_autofree char *folder = tool_points_folder(check->tool);
  GError *missing = NULL;
  g_autoptr(GArray) uuids = store_point_list(folder, &missing);
  for (guint i = 0; uuids && i < uuids->len; i++) {
    const CbtUuid *uuid = &g_array_index(uuids, CbtUuid, i);
    g_autoptr(GError) local = NULL;
    StorePoint *point = store_point_load(cbt_file_ops_default(), folder, uuid, &local);
    if (point) {
      g_ptr_array_add(check->points, point);
    } else if (!g_error_matches(local, CBT_ERROR, CBT_ERROR_NOT_FOUND)) {
      JsonObject *item = item_new("point");
      tool_put_uuid(item, "point", uuid);
      g_autofree char *message = cbt_error_message(local);
      add_item(check, TRUE, item, "%s", message);
    }
  }
  return uuids || folder_is_missing(check, missing, error);
}

/* ---- packs ---- */

static void
pack_clear(gpointer data)
{
  Pack *pack = data;
  g_free(pack->error);
  store_pack_check_clear(&pack->check);
}

static gboolean
note_record(const StoreRecordInfo *info, const StoreLocation *location, gpointer user_data)
{
  Check *check = user_data;
  return store_offline_note(check->offline, info, location, &check->error);
}

static gboolean
read_packs(Check *check, GError **error)
{
  GError *missing = NULL;
  g_autoptr(GArray) numbers = store_pack_list(check->offline->store->packs, &missing);
  for (guint i = 0; numbers && i < numbers->len; i++) {
    g_autoptr(GError) local = NULL;
    Pack pack = {.number = g_array_index(numbers, guint32, i), .is_last = i + 1 == numbers->len};
    pack.was_read =
        store_pack_check(check->offline->store->packs, pack.number, note_record, check, &pack.check, &local);
    if (local)
      pack.error = cbt_error_message(local);
    check->n_records += pack.check.n_records;
    check->pack_bytes += pack.check.size;
    g_array_append_val(check->packs, pack);
    if (check->error) {
      g_propagate_error(error, g_steal_pointer(&check->error));
      return FALSE;
    }
  }
  return numbers || folder_is_missing(check, missing, error);
}

/* The record that stood in GAP, if it is known; and whether all that stood there is elsewhere too. */
static const StorePackLost *
find_lost(const Check *check, const Pack *pack, const StorePackGap *gap, gboolean *replaced)
{
  const StorePackLost *first = NULL;
  guint64 known = 0;
  *replaced = TRUE;
  for (guint i = 0; i < pack->check.lost->len; i++) {
    const StorePackLost *lost = &g_array_index(pack->check.lost, StorePackLost, i);
    StoreLocation location;
    if (lost->location.offset < gap->offset || lost->location.offset >= gap->offset + gap->length)
      continue;
    if (!first)
      first = lost;
    known += lost->info.encoding == STORE_ENCODING_GROUP
                 ? lost->location.length
                 : store_record_span(lost->location.length - STORE_RECORD_HEADER_SIZE);
    *replaced &= store_index_lookup(check->offline->store->index, &lost->info.id, &location);
  }
  *replaced &= known >= gap->length;
  return first;
}

static void
report_gap(Check *check, const Pack *pack, const StorePackGap *gap)
{
  gboolean replaced;
  const StorePackLost *lost = find_lost(check, pack, gap, &replaced);
  char id[STORE_CHUNK_ID_TEXT_SIZE] = "";
  JsonObject *item = pack_item("record", pack->number);
  json_object_set_int_member(item, "offset", (gint64) gap->offset);
  json_object_set_int_member(item, "length", (gint64) gap->length);
  if (lost)
    tool_put_chunk(item, "chunk", &lost->info.id);
  add_item(check, !replaced, item,
           "pack %08x has no sound record at %" G_GUINT64_FORMAT " (%" G_GUINT64_FORMAT " bytes%s%s)%s",
           pack->number, gap->offset, gap->length, lost ? ", chunk " : "",
           lost ? store_chunk_id_format(&lost->info.id, id) : "",
           replaced ? "; the chunk has another record, which is sound" : "");
}

static void
report_pack(Check *check, const Pack *pack)
{
  const StorePackCheck *found = &pack->check;
  if (!pack->was_read) {
    add_item(check, TRUE, pack_item("pack", pack->number), "%s", pack->error);
    return;
  }
  if (!found->header_is_sound && (found->size >= STORE_PACK_HEADER_SIZE || !pack->is_last))
    add_item(check, TRUE, pack_item("pack", pack->number), "the header of pack %08x is damaged",
             pack->number);
  if (found->table_error)
    add_item(check, TRUE, pack_item("table", pack->number), "pack %08x: %s", pack->number,
             found->table_error);
  if (found->n_padding > 0)
    add_item(check, TRUE, pack_item("record", pack->number),
             "pack %08x has %" G_GUINT64_FORMAT
             " records with bytes in their padding, the first at %" G_GUINT64_FORMAT
             "; no chunk is harmed by that",
             pack->number, found->n_padding, found->padding);
  for (guint i = 0; i < found->gaps->len; i++)
    report_gap(check, pack, &g_array_index(found->gaps, StorePackGap, i));
  if (found->torn > 0)
    add_item(check, FALSE, pack_item("pack", pack->number),
             "pack %08x ends in %" G_GUINT64_FORMAT " bytes that are no record: %s", pack->number,
             found->torn,
             check->offline->in_use && pack->is_last
                 ? "it is being written"
                 : "it was being written when its writer was cut off, or was cut");
  if (!found->is_sealed && !pack->is_last)
    add_item(check, FALSE, pack_item("pack", pack->number),
             "pack %08x has no table of contents: it was cut off before it was sealed, or later",
             pack->number);
}

/* ---- chunks of points ---- */

static JsonObject *
use_to_json(const StoreVerifyUse *use)
{
  JsonObject *object = json_object_new();
  tool_put_uuid(object, "point", &use->point);
  json_object_set_string_member(object, "vm", use->vm);
  if (use->disk)
    json_object_set_string_member(object, "disk", use->disk);
  if (use->config)
    json_object_set_string_member(object, "config", use->config);
  json_object_set_int_member(object, "offset", (gint64) use->offset);
  json_object_set_int_member(object, "length", (gint64) use->length);
  return object;
}

/* Where the record of a chunk that has no sound one should be. */
static const StoreLocation *
find_location(const Check *check, const StoreChunkId *id)
{
  for (guint i = 0; i < check->packs->len; i++) {
    const GArray *lost = g_array_index(check->packs, Pack, i).check.lost;
    for (guint l = 0; lost && l < lost->len; l++)
      if (store_chunk_id_equal(&g_array_index(lost, StorePackLost, l).info.id, id))
        return &g_array_index(lost, StorePackLost, l).location;
  }
  return NULL;
}

static void
report_chunk(Check *check, const StoreVerifyDamage *damage)
{
  char id[STORE_CHUNK_ID_TEXT_SIZE];
  const StoreLocation *lost = damage->pack ? NULL : find_location(check, &damage->id);
  JsonObject *item = item_new("chunk");
  JsonArray *uses = json_array_new();
  g_autoptr(GString) places = g_string_new(NULL);
  tool_put_chunk(item, "chunk", &damage->id);
  json_object_set_string_member(item, "type", tool_type_name(damage->type));
  tool_put_pack(item, "pack", lost ? lost->pack : damage->pack);
  json_object_set_int_member(item, "offset", lost ? lost->offset : damage->offset);
  for (guint i = 0; i < MIN(damage->uses->len, USES_MAX); i++) {
    const StoreVerifyUse *use = &g_array_index(damage->uses, StoreVerifyUse, i);
    char point[CBT_UUID_TEXT_SIZE];
    json_array_add_object_element(uses, use_to_json(use));
    g_string_append_printf(places, "\n  %s of %s, %s, %" G_GUINT64_FORMAT " bytes at %" G_GUINT64_FORMAT,
                           use->vm, cbt_uuid_format(&use->point, point), use->disk ? use->disk : use->config,
                           use->length, use->offset);
  }
  json_object_set_int_member(item, "used-by-count", (gint64) damage->n_uses);
  json_object_set_array_member(item, "used-by", uses);
  add_item(check, TRUE, item, "%s chunk %s: %s; used by%s%s", tool_type_name(damage->type),
           store_chunk_id_format(&damage->id, id), damage->error, places->str,
           damage->n_uses > USES_MAX ? "\n  and others" : "");
}

static gboolean
read_chunks(Check *check, GError **error)
{
  g_autoptr(StoreVerify) verify = store_verify_new(check->offline->store, NULL);
  for (guint i = 0; i < check->points->len; i++) {
    StoreVerifyVerdict verdict;
    if (!store_verify_point(verify, check->points->pdata[i], NULL, &verdict, error))
      return FALSE;
  }
  const GPtrArray *damages = store_verify_damages(verify);
  for (guint i = 0; i < damages->len; i++)
    report_chunk(check, damages->pdata[i]);
  store_verify_counts(verify, &check->counts);
  check->n_damage += check->counts.n_damaged - damages->len;
  return TRUE;
}

static void
report_index(Check *check)
{
  StoreOfflineIndex index;
  store_offline_compare_index(check->offline, &index);
  if (!index.is_there)
    add_item(check, FALSE, item_new("index"), "there is no index: it is made again when the store is opened");
  else if (!index.is_sound)
    add_item(check, FALSE, item_new("index"),
             "the index is damaged, or of another version: it is made again when the store is opened");
  else if (index.n_wrong > 0)
    add_item(check, FALSE, item_new("index"),
             "%" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT
             " entries of the index do not name the last sound record of their chunk: what is not found is "
             "looked for",
             index.n_wrong, index.n_entries);
}

/* ---- all of it ---- */

static void
check_reset(Check *check)
{
  g_clear_pointer(&check->offline, store_offline_close);
  g_clear_pointer(&check->points, g_ptr_array_unref);
  g_clear_pointer(&check->packs, g_array_unref);
  g_clear_pointer(&check->damage, json_array_unref);
  g_clear_pointer(&check->notes, json_array_unref);
  check->n_damage = check->n_records = check->pack_bytes = 0;
}

static void
check_init(Check *check)
{
  check_reset(check);
  check->points = g_ptr_array_new_with_free_func((GDestroyNotify) store_point_free);
  check->packs = g_array_new(FALSE, FALSE, sizeof(Pack));
  g_array_set_clear_func(check->packs, pack_clear);
  check->damage = json_array_new();
  check->notes = json_array_new();
}

static gboolean
check_once(Check *check, GError **error)
{
  GError *local = NULL;
  check_init(check);
  check->offline = store_offline_open(check->tool->directory, &local);
  if (g_error_matches(local, CBT_ERROR, CBT_ERROR_CORRUPT)) {
    add_item(check, TRUE, item_new("format"), "%s", local->message);
    g_error_free(local);
    return TRUE; /* without its secret nothing else can be told */
  }
  if (!check->offline) {
    g_propagate_error(error, local);
    return FALSE;
  }
  if (!load_points(check, error) || !read_packs(check, error))
    return FALSE;
  for (guint i = 0; i < check->packs->len; i++)
    report_pack(check, &g_array_index(check->packs, Pack, i));
  if (!read_chunks(check, error))
    return FALSE;
  report_index(check);
  return TRUE;
}

/* A daemon collects garbage: chunks were moved away from where we found them, or out of what we had read. */
static gboolean
packs_went(const Check *check)
{
  gboolean went = FALSE;
  for (guint i = 0; check->offline && check->offline->in_use && i < check->packs->len; i++) {
    g_autofree char *path =
        store_pack_path(check->offline->store->packs, g_array_index(check->packs, Pack, i).number);
    went |= !g_file_test(path, G_FILE_TEST_EXISTS);
  }
  return went;
}

static gboolean
check_all(Check *check, GError **error)
{
  for (guint i = 0; i < TRIES; i++) {
    if (!check_once(check, error))
      return FALSE;
    if (check->n_damage == 0 || !packs_went(check))
      return TRUE;
  }
  cbt_set_error(error, CBT_ERROR_BUSY, "Stop the daemon, or try again when it collects no garbage.",
                "packs of the store are removed faster than they can be checked");
  return FALSE;
}

static void
print_json(Check *check)
{
  JsonObject *object = json_object_new();
  json_object_set_string_member(object, "store", check->tool->directory);
  if (check->offline)
    tool_put_uuid(object, "uuid", &check->offline->store->format.uuid);
  json_object_set_boolean_member(object, "in-use", check->offline && check->offline->in_use);
  json_object_set_int_member(object, "packs", check->packs->len);
  json_object_set_int_member(object, "bytes", (gint64) check->pack_bytes);
  json_object_set_int_member(object, "records", (gint64) check->n_records);
  json_object_set_int_member(object, "points", check->points->len);
  json_object_set_int_member(object, "chunks-read", (gint64) check->counts.n_chunks);
  json_object_set_int_member(object, "damage-count", (gint64) check->n_damage);
  json_object_set_array_member(object, "damage", g_steal_pointer(&check->damage));
  json_object_set_array_member(object, "notes", g_steal_pointer(&check->notes));
  tool_print_json(check->tool, object);
}

static void
print_items(const char *what, JsonArray *items)
{
  for (guint i = 0; i < json_array_get_length(items); i++)
    printf("%s: %s\n", what,
           json_object_get_string_member(json_array_get_object_element(items, i), "message"));
}

static void
print_text(const Check *check)
{
  g_autofree char *size = cbt_size_format(check->pack_bytes);
  print_items("damage", check->damage);
  if (check->tool->quiet)
    return;
  print_items("note", check->notes);
  if (check->offline && check->offline->in_use)
    puts("note: a daemon has the store open: what it appended meanwhile was not looked at");
  printf("%s: %u packs (%s, %" G_GUINT64_FORMAT " records), %u recovery points, %" G_GUINT64_FORMAT
         " chunks of theirs read: %s\n",
         check->tool->directory, check->packs->len, size, check->n_records, check->points->len,
         check->counts.n_chunks, check->n_damage > 0 ? "DAMAGED" : "all sound");
}

gboolean
tool_check(Tool *tool, char **args, GError **error)
{
  Check check = {.tool = tool};
  if (args[0]) {
    tool_set_usage(error, "check takes no '%s'", args[0]);
    return FALSE;
  }
  gboolean ok = check_all(&check, error);
  guint64 n_damage = check.n_damage;
  if (ok && tool->json)
    print_json(&check);
  else if (ok)
    print_text(&check);
  check_reset(&check);
  if (ok && n_damage > 0)
    cbt_set_error(
        error, CBT_ERROR_CORRUPT,
        "Points that are not named restore. A backup of the same data, or cbt-backup verify --repair, "
        "heals chunks; see the operations guide.",
        "%" G_GUINT64_FORMAT " damaged things in the store", n_damage);
  return ok && n_damage == 0;
}
