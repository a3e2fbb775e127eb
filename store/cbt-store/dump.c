/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* store dump: what stands in the files of a store, as they are. */
#include "tool.h"

#include <common/error.h>
#include <store/manifest-format.h>
#include <store/pack-private.h>
#include <stdio.h>
#include <string.h>

/* ---- format ---- */

static gboolean
dump_format(Tool *tool, StoreOffline *offline, const char *what G_GNUC_UNUSED, GError **error G_GNUC_UNUSED)
{
  const StoreFormat *format = &offline->store->format;
  char uuid[CBT_UUID_TEXT_SIZE];
  if (tool->json) {
    JsonObject *object = json_object_new();
    json_object_set_int_member(object, "version", format->version);
    tool_put_uuid(object, "uuid", &format->uuid);
    json_object_set_int_member(object, "created", format->created / G_USEC_PER_SEC);
    json_object_set_boolean_member(object, "in-use", offline->in_use);
    tool_print_json(tool, object);
    return TRUE;
  }
  g_autofree char *time = tool_format_time(format->created);
  printf("version %u\nuuid %s\ncreated %s\n%s", format->version, cbt_uuid_format(&format->uuid, uuid), time,
         offline->in_use ? "a daemon has it open\n" : "");
  return TRUE;
}

/* ---- packs ---- */

static const char *
state_of(const StorePackCheck *check)
{
  return !check->header_is_sound || check->table_error || check->gaps->len > 0 || check->n_padding > 0
             ? "damaged"
         : check->is_sealed ? "sealed"
                            : "open";
}

static void
print_pack(JsonArray *array, guint32 number, const StorePackCheck *check, const char *problem)
{
  JsonObject *object = json_object_new();
  tool_put_pack(object, "pack", number);
  json_object_set_int_member(object, "bytes", (gint64) check->size);
  json_object_set_int_member(object, "records", (gint64) check->n_records);
  json_object_set_string_member(object, "state", problem ? "unreadable" : state_of(check));
  json_object_set_int_member(object, "damaged-stretches", check->gaps ? check->gaps->len : 0);
  json_object_set_int_member(object, "torn-bytes", (gint64) check->torn);
  if (problem || check->table_error)
    json_object_set_string_member(object, "problem", problem ? problem : check->table_error);
  json_array_add_object_element(array, object);
}

static gboolean
dump_packs(Tool *tool, StoreOffline *offline, const char *what G_GNUC_UNUSED, GError **error)
{
  StorePackSet *packs = offline->store->packs;
  g_autoptr(GArray) numbers = store_pack_list(packs, error);
  JsonArray *array = json_array_new();
  for (guint i = 0; numbers && i < numbers->len; i++) {
    guint32 number = g_array_index(numbers, guint32, i);
    g_autoptr(GError) local = NULL;
    StorePackCheck check;
    gboolean ok = store_pack_check(packs, number, NULL, NULL, &check, &local);
    if (tool->json)
      print_pack(array, number, &check, ok ? NULL : local->message);
    else
      printf("%08x %10" G_GUINT64_FORMAT " bytes %6" G_GUINT64_FORMAT " records %s%s%s\n", number, check.size,
             check.n_records, ok ? state_of(&check) : local->message, check.table_error ? ": " : "",
             check.table_error ? check.table_error : "");
    store_pack_check_clear(&check);
  }
  if (tool->json) {
    JsonObject *object = json_object_new();
    json_object_set_array_member(object, "packs", array);
    tool_print_json(tool, object);
  } else {
    json_array_unref(array);
  }
  return numbers != NULL;
}

/* ---- the records of a pack ---- */

static const char *const encoding_names[] = {
    [STORE_ENCODING_RAW] = "raw", [STORE_ENCODING_ZSTD] = "zstd", [STORE_ENCODING_GROUP] = "group"};

/* Of a chunk in a group: its share of the record. */
static guint32
payload_of(const StoreRecordInfo *info, const StoreLocation *location)
{
  return info->encoding == STORE_ENCODING_GROUP ? location->length
                                                : location->length - STORE_RECORD_HEADER_SIZE;
}

static gboolean
print_record(const StoreRecordInfo *info, const StoreLocation *location, gpointer records)
{
  char id[STORE_CHUNK_ID_TEXT_SIZE];
  if (records) {
    JsonObject *object = json_object_new();
    json_object_set_int_member(object, "offset", location->offset);
    json_object_set_string_member(object, "type", tool_type_name(info->type));
    tool_put_chunk(object, "chunk", &info->id);
    json_object_set_int_member(object, "length", info->length);
    json_object_set_int_member(object, "payload", payload_of(info, location));
    json_object_set_string_member(object, "encoding", encoding_names[info->encoding]);
    json_array_add_object_element(records, object);
  } else {
    printf("%10u %-6s %s %6u bytes, %s %u\n", location->offset, tool_type_name(info->type),
           store_chunk_id_format(&info->id, id), info->length, encoding_names[info->encoding],
           payload_of(info, location));
  }
  return TRUE;
}

static void
print_gaps(JsonArray *gaps, const StorePackCheck *check)
{
  for (guint i = 0; i < check->gaps->len; i++) {
    const StorePackGap *gap = &g_array_index(check->gaps, StorePackGap, i);
    if (!gaps) {
      printf("%10" G_GUINT64_FORMAT " no sound record in %" G_GUINT64_FORMAT " bytes\n", gap->offset,
             gap->length);
      continue;
    }
    JsonObject *object = json_object_new();
    json_object_set_int_member(object, "offset", (gint64) gap->offset);
    json_object_set_int_member(object, "length", (gint64) gap->length);
    json_array_add_object_element(gaps, object);
  }
}

static void
print_pack_end(const StorePackCheck *check)
{
  print_gaps(NULL, check);
  if (check->torn > 0)
    printf("%" G_GUINT64_FORMAT " bytes at the end are no record\n", check->torn);
  printf("%" G_GUINT64_FORMAT " records, %s%s%s\n", check->n_records, state_of(check),
         check->table_error ? ": " : "", check->table_error ? check->table_error : "");
}

static gboolean
dump_pack(Tool *tool, StoreOffline *offline, const char *what, GError **error)
{
  char *end = NULL;
  guint64 number = g_ascii_strtoull(what, &end, 16);
  if (!g_ascii_isxdigit(*what) || (*end != '\0' && strcmp(end, ".pack") != 0) || number == 0 ||
      number > STORE_PACK_NUMBER_MAX) {
    tool_set_usage(error, "'%s' is no number of a pack, as in 0000002a", what);
    return FALSE;
  }
  StorePackCheck check;
  JsonArray *records = tool->json ? json_array_new() : NULL;
  gboolean ok =
      store_pack_check(offline->store->packs, (guint32) number, print_record, records, &check, error);
  if (ok && tool->json) {
    JsonObject *object = json_object_new();
    JsonArray *gaps = json_array_new();
    print_gaps(gaps, &check);
    tool_put_pack(object, "pack", (guint32) number);
    json_object_set_string_member(object, "state", state_of(&check));
    if (check.table_error)
      json_object_set_string_member(object, "problem", check.table_error);
    json_object_set_array_member(object, "records", g_steal_pointer(&records));
    json_object_set_array_member(object, "damaged-stretches", gaps);
    json_object_set_int_member(object, "torn-bytes", (gint64) check.torn);
    tool_print_json(tool, object);
  } else if (ok) {
    print_pack_end(&check);
  }
  g_clear_pointer(&records, json_array_unref);
  store_pack_check_clear(&check);
  return ok;
}

/* ---- points ---- */

static JsonObject *
point_to_json(const StorePoint *point)
{
  JsonObject *object = json_object_new();
  JsonArray *disks = json_array_new(), *configs = json_array_new();
  tool_put_uuid(object, "uuid", &point->uuid);
  json_object_set_string_member(object, "vm", point->vm);
  json_object_set_string_member(object, "kind", point->incremental ? "incremental" : "full");
  tool_put_uuid(object, "parent", &point->parent);
  json_object_set_int_member(object, "time", point->time / G_USEC_PER_SEC);
  json_object_set_string_member(object, "reason", point->reason);
  json_object_set_string_member(object, "note", point->note);
  json_object_set_boolean_member(object, "protected", point->is_protected);
  json_object_set_int_member(object, "verified", point->verified / G_USEC_PER_SEC);
  json_object_set_int_member(object, "damaged", point->damaged / G_USEC_PER_SEC);
  for (guint i = 0; i < point->disks->len; i++) {
    const StorePointDisk *disk = point->disks->pdata[i];
    JsonObject *member = json_object_new();
    json_object_set_string_member(member, "name", disk->name);
    json_object_set_string_member(member, "path", disk->path);
    json_object_set_int_member(member, "size", (gint64) disk->manifest.size);
    tool_put_chunk(member, "root", &disk->manifest.root);
    json_array_add_object_element(disks, member);
  }
  for (guint i = 0; i < point->configs->len; i++) {
    const StorePointConfig *config = point->configs->pdata[i];
    JsonObject *member = json_object_new();
    json_object_set_string_member(member, "name", config->name);
    json_object_set_int_member(member, "size", (gint64) config->size);
    tool_put_chunk(member, "chunk", &config->id);
    json_array_add_object_element(configs, member);
  }
  json_object_set_array_member(object, "disks", disks);
  json_object_set_array_member(object, "configs", configs);
  return object;
}

static int
compare_times(gconstpointer a, gconstpointer b)
{
  const StorePoint *x = *(StorePoint *const *) a, *y = *(StorePoint *const *) b;
  return (x->time > y->time) - (x->time < y->time);
}

/* All that can be read, oldest first; the others are told of on standard error. */
static GPtrArray *
load_points(Tool *tool, GError **error)
{
  g_autofree char *folder = tool_points_folder(tool);
  g_autoptr(GArray) uuids = store_point_list(folder, error);
  GPtrArray *points = uuids ? g_ptr_array_new_with_free_func((GDestroyNotify) store_point_free) : NULL;
  for (guint i = 0; uuids && i < uuids->len; i++) {
    g_autoptr(GError) local = NULL;
    StorePoint *point =
        store_point_load(cbt_file_ops_default(), folder, &g_array_index(uuids, CbtUuid, i), &local);
    if (point)
      g_ptr_array_add(points, point);
    else
      fprintf(stderr, "cbt-backup store: %s\n", local->message);
  }
  if (points)
    g_ptr_array_sort(points, compare_times);
  return points;
}

static gboolean
dump_points(Tool *tool, StoreOffline *offline G_GNUC_UNUSED, const char *what G_GNUC_UNUSED, GError **error)
{
  g_autoptr(GPtrArray) points = load_points(tool, error);
  JsonArray *array = json_array_new();
  for (guint i = 0; points && i < points->len; i++) {
    const StorePoint *point = points->pdata[i];
    char uuid[CBT_UUID_TEXT_SIZE];
    if (tool->json) {
      json_array_add_object_element(array, point_to_json(point));
      continue;
    }
    g_autofree char *time = tool_format_time(point->time);
    printf("%s %s %-11s %s, %u disks%s\n", cbt_uuid_format(&point->uuid, uuid), time,
           point->incremental ? "incremental" : "full", point->vm, point->disks->len,
           point->damaged ? ", damaged when last verified" : "");
  }
  if (points && tool->json) {
    JsonObject *object = json_object_new();
    json_object_set_array_member(object, "points", json_array_ref(array));
    tool_print_json(tool, object);
  }
  json_array_unref(array);
  return points != NULL;
}

/* The point whose uuid begins with TEXT; the file itself is what is looked at. */
static StorePoint *
find_point(Tool *tool, const char *text, GError **error)
{
  g_autofree char *folder = tool_points_folder(tool);
  g_autoptr(GArray) uuids = store_point_list(folder, error);
  const CbtUuid *found = NULL;
  guint n = 0;
  for (guint i = 0; uuids && i < uuids->len; i++) {
    char uuid[CBT_UUID_TEXT_SIZE];
    if (strlen(text) >= 4 &&
        g_str_has_prefix(cbt_uuid_format(&g_array_index(uuids, CbtUuid, i), uuid), text)) {
      found = &g_array_index(uuids, CbtUuid, i);
      n++;
    }
  }
  if (n == 1)
    return store_point_load(cbt_file_ops_default(), folder, found, error);
  if (uuids)
    cbt_set_error(error, CBT_ERROR_NOT_FOUND, "See: cbt-backup store dump points",
                  "%s point begins with '%s'", n == 0 ? "no" : "more than one", text);
  return NULL;
}

static gboolean
dump_point(Tool *tool, StoreOffline *offline G_GNUC_UNUSED, const char *what, GError **error)
{
  gsize length;
  g_autoptr(StorePoint) point = find_point(tool, what, error);
  if (!point)
    return FALSE;
  if (tool->json) {
    tool_print_json(tool, point_to_json(point));
    return TRUE;
  }
  g_autofree char *text =
      store_point_encode(point, &length); /* key files escape what is not for a terminal */
  fputs(text, stdout);
  return TRUE;
}

/* ---- a manifest ---- */

typedef struct {
  StoreOffline *offline;
  JsonArray *clusters; /* (nullable) */
  guint64 n;
} Manifest;

static gboolean
print_cluster(guint64 cluster, const StoreChunkId *id, gpointer user_data)
{
  Manifest *manifest = user_data;
  char text[STORE_CHUNK_ID_TEXT_SIZE];
  StoreLocation location = {0};
  gboolean known = store_index_lookup(manifest->offline->store->index, id, &location);
  manifest->n++;
  if (manifest->clusters) {
    JsonObject *object = json_object_new();
    json_object_set_int_member(object, "cluster", (gint64) cluster);
    tool_put_chunk(object, "chunk", id);
    tool_put_pack(object, "pack", known ? location.pack : 0);
    json_object_set_int_member(object, "offset", location.offset);
    json_array_add_object_element(manifest->clusters, object);
  } else if (known) {
    printf("%10" G_GUINT64_FORMAT " %s %08x %10u\n", cluster, store_chunk_id_format(id, text), location.pack,
           location.offset);
  } else {
    printf("%10" G_GUINT64_FORMAT " %s missing\n", cluster, store_chunk_id_format(id, text));
  }
  return TRUE;
}

static const StorePointDisk *
find_disk(const StorePoint *point, const char *name, GError **error)
{
  const StorePointDisk *disk = store_point_find_disk(point, name);
  if (!disk)
    cbt_set_error(error, CBT_ERROR_NOT_FOUND, NULL, "the point has no disk '%s'", name);
  return disk;
}

/* What can be read is printed, a leaf at a time, also where a page is damaged. */
static gboolean
walk_leaves(Manifest *manifest, const StoreManifest *of, GError **error)
{
  GError *first = NULL;
  g_autoptr(StoreWorker) worker = store_worker_new(manifest->offline->store);
  for (guint64 at = 0; at < store_manifest_n_clusters(of->size); at += STORE_PAGE_FANOUT) {
    GError *local = NULL;
    if (store_manifest_walk(worker, of, at, STORE_PAGE_FANOUT, print_cluster, manifest, &local))
      continue;
    if (first)
      g_error_free(local);
    else
      first = local;
  }
  if (first)
    g_propagate_error(error, first);
  return first == NULL;
}

static gboolean
dump_manifest(Tool *tool, StoreOffline *offline, const char *what, GError **error)
{
  g_auto(GStrv) parts = g_strsplit(what, "/", 2);
  if (!parts[0] || !parts[1]) {
    tool_set_usage(error, "'%s' is not of the form UUID/DISK", what);
    return FALSE;
  }
  g_autoptr(StorePoint) point = find_point(tool, parts[0], error);
  const StorePointDisk *disk = point ? find_disk(point, parts[1], error) : NULL;
  if (!disk || !store_offline_note_all(offline, error))
    return FALSE;
  Manifest manifest = {offline, tool->json ? json_array_new() : NULL, 0};
  gboolean ok = walk_leaves(&manifest, &disk->manifest, error);
  if (tool->json) {
    JsonObject *object = json_object_new();
    tool_put_uuid(object, "point", &point->uuid);
    json_object_set_string_member(object, "disk", disk->name);
    json_object_set_int_member(object, "size", (gint64) disk->manifest.size);
    json_object_set_int_member(object, "levels", store_manifest_n_levels(disk->manifest.size));
    tool_put_chunk(object, "root", &disk->manifest.root);
    json_object_set_array_member(object, "clusters", manifest.clusters);
    tool_print_json(tool, object);
  } else {
    printf("%" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT " clusters are not zero\n", manifest.n,
           store_manifest_n_clusters(disk->manifest.size));
  }
  return ok;
}

/* ---- the index ---- */

static void
print_index(const StoreOfflineIndex *index)
{
  const StoreIndexHeader *header = &index->header;
  printf("%" G_GUINT64_FORMAT " slots and %" G_GUINT64_FORMAT " spare ones, %" G_GUINT64_FORMAT
         " entries\ncovers the packs up to %08x, offset %u%s\n%" G_GUINT64_FORMAT
         " entries do not name the last record of their chunk\n",
         header->n_slots, header->n_spare, index->n_entries, header->covered.pack, header->covered.offset,
         header->flags & STORE_INDEX_VOLATILE ? ", until the next boot" : "", index->n_wrong);
}

static gboolean
dump_index(Tool *tool, StoreOffline *offline, const char *what G_GNUC_UNUSED, GError **error)
{
  StoreOfflineIndex index;
  if (!store_offline_note_all(offline, error))
    return FALSE;
  store_offline_compare_index(offline, &index);
  const char *state = !index.is_there ? "missing" : index.is_sound ? "sound" : "damaged";
  if (tool->json) {
    JsonObject *object = json_object_new();
    json_object_set_string_member(object, "state", state);
    json_object_set_int_member(object, "slots", (gint64) index.header.n_slots);
    json_object_set_int_member(object, "entries", (gint64) index.n_entries);
    json_object_set_int_member(object, "wrong", (gint64) index.n_wrong);
    tool_put_pack(object, "covered-pack", index.header.covered.pack);
    json_object_set_int_member(object, "covered-offset", index.header.covered.offset);
    tool_print_json(tool, object);
  } else if (index.is_sound) {
    print_index(&index);
  } else {
    printf("%s: it is made again when the store is opened\n", state);
  }
  return TRUE;
}

/* ---- the command ---- */

static const struct {
  const char *name;
  gboolean takes_argument;
  gboolean (*run)(Tool *tool, StoreOffline *offline, const char *what, GError **error);
} things[] = {
    {"packs", FALSE, dump_packs},   {"pack", TRUE, dump_pack},         {"points", FALSE, dump_points},
    {"point", TRUE, dump_point},    {"manifest", TRUE, dump_manifest}, {"index", FALSE, dump_index},
    {"format", FALSE, dump_format},
};

gboolean
tool_dump(Tool *tool, char **args, GError **error)
{
  const char *what = args[0] ? args[0] : "packs";
  guint n_args = args[0] ? g_strv_length(args) - 1 : 0;
  for (gsize i = 0; i < G_N_ELEMENTS(things); i++) {
    if (strcmp(things[i].name, what) != 0)
      continue;
    if (n_args != (guint) things[i].takes_argument) {
      tool_set_usage(
          error, things[i].takes_argument ? "dump %s: say which one" : "dump %s takes no more words", what);
      return FALSE;
    }
    g_autoptr(StoreOffline) offline = store_offline_open(tool->directory, error);
    return offline && things[i].run(tool, offline, n_args > 0 ? args[1] : NULL, error);
  }
  tool_set_usage(error, "there is no '%s' to dump: packs, pack, points, point, manifest, index, format",
                 what);
  return FALSE;
}
