/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The catalogue belongs to the main thread, and to remove a point takes a few syncs: so the main loop is
 * asked for one point at a time, and serves others in between. That is also where a point is looked at once
 * more, together with its removal: nobody can protect it or begin to read it in between.
 *
 * Bytes are counted before anything is removed, over the points of all vms, for chunks are shared by all.
 * Points are not in use meanwhile: others may remove some, and collect what they used.
 */
#include <daemon/prune.h>

#include <daemon/durable.h>
#include <daemon/engine.h>
#include <daemon/handlers.h>
#include <daemon/json-util.h>
#include <daemon/task.h>
#include <store/mark.h>
#include <string.h>

typedef struct {
  const StorePoint *point; /* of `all` */
  gboolean keep;
  const char *rule;
  char *warning; /* (nullable) what its removal costs */
} Entry;

struct Prune {
  Daemon *daemon;
  gboolean dry_run;
  gboolean counts;
  guint n_removed;
  GPtrArray *all;   /* of StorePoint, of all vms */
  GHashTable *gone; /* of StorePoint, those of them that somebody else removed meanwhile */
  GArray *entries;  /* of Entry: those that are decided on, by vm, newest first */
  StoreMarkFreed freed;
  char *warning; /* (nullable) why the number of bytes is not exact */
};

#define IN_USE "in-use"

static void
entry_clear(gpointer data)
{
  g_free(((Entry *) data)->warning);
}

void
prune_free(Prune *prune)
{
  g_hash_table_unref(prune->gone);
  g_ptr_array_unref(prune->all);
  g_array_unref(prune->entries);
  g_free(prune->warning);
  g_free(prune);
}

/* ---- deciding ---- */

static Entry
make_entry(Daemon *daemon, const StorePoint *point, const StoreRetentionVerdict *verdict)
{
  Entry entry = {point, verdict->keep, store_retention_rule_name(verdict->rule), NULL};
  if (!entry.keep && engine_reader_of(daemon->engine, &point->uuid)) {
    entry.keep = TRUE;
    entry.rule = IN_USE;
  }
  if (!entry.keep)
    entry.warning = handler_cost_of_forgetting(daemon, point);
  return entry;
}

/* POINTS are of one vm, newest first. */
static void
decide(Prune *prune, const GPtrArray *points, const StoreRetention *retention)
{
  g_autofree StoreRetentionPoint *wanted = g_new0(StoreRetentionPoint, points->len);
  g_autofree StoreRetentionVerdict *verdicts = g_new0(StoreRetentionVerdict, points->len);
  for (guint i = 0; i < points->len; i++) {
    const StorePoint *point = points->pdata[i];
    wanted[i] = (StoreRetentionPoint){point->time, point->is_protected, TRUE};
  }
  store_retention_decide(retention, wanted, points->len, NULL, verdicts);
  for (guint i = 0; i < points->len; i++) {
    Entry entry = make_entry(prune->daemon, points->pdata[i], &verdicts[i]);
    g_array_append_val(prune->entries, entry);
  }
}

static int
compare_names(const void *a, const void *b)
{
  return strcmp(*(const char *const *) a, *(const char *const *) b);
}

/* Each vm by itself. */
static void
decide_all(Prune *prune, const char *vm, const StoreRetention *retention)
{
  g_autoptr(GHashTable) by_vm =
      g_hash_table_new_full(g_str_hash, g_str_equal, NULL, (GDestroyNotify) g_ptr_array_unref);
  for (guint i = 0; i < prune->all->len; i++) {
    StorePoint *point = prune->all->pdata[i];
    if (vm && strcmp(point->vm, vm) != 0)
      continue;
    if (!g_hash_table_contains(by_vm, point->vm))
      g_hash_table_insert(by_vm, point->vm, g_ptr_array_new());
    g_ptr_array_add(g_hash_table_lookup(by_vm, point->vm), point);
  }
  guint n_names;
  g_autofree gpointer *names = g_hash_table_get_keys_as_array(by_vm, &n_names);
  qsort(names, n_names, sizeof names[0], compare_names);
  for (guint i = 0; i < n_names; i++)
    decide(prune, g_hash_table_lookup(by_vm, names[i]), retention);
}

Prune *
prune_new(Daemon *daemon, const char *vm, const StoreRetention *retention, gboolean dry_run, GError **error)
{
  GPtrArray *all = catalogue_list_points(daemon->catalogue, NULL, error);
  if (!all)
    return NULL;
  g_autoptr(Prune) prune = g_new0(Prune, 1);
  *prune = (Prune){.daemon = daemon, .dry_run = dry_run, .counts = TRUE, .all = all};
  prune->gone = g_hash_table_new(NULL, NULL);
  prune->entries = g_array_new(FALSE, FALSE, sizeof(Entry));
  g_array_set_clear_func(prune->entries, entry_clear);
  decide_all(prune, vm, retention);
  if (vm && prune->entries->len == 0) {
    g_autoptr(CatalogueVm) known = catalogue_get_vm(daemon->catalogue, vm, error);
    if (!known)
      return NULL;
  }
  return g_steal_pointer(&prune);
}

/* ---- counting and removing ---- */

static gboolean
sum_up(Prune *prune, StoreMarkFreed *freed, GError **error)
{
  g_autoptr(GHashTable) going = g_hash_table_new(NULL, NULL);
  g_autoptr(GPtrArray) kept = g_ptr_array_new();
  g_autoptr(GPtrArray) removed = g_ptr_array_new();
  for (guint i = 0; i < prune->entries->len; i++) {
    const Entry *entry = &g_array_index(prune->entries, Entry, i);
    if (!entry->keep)
      g_hash_table_add(going, (gpointer) entry->point);
  }
  for (guint i = 0; i < prune->all->len; i++) {
    gpointer point = prune->all->pdata[i];
    if (!g_hash_table_contains(prune->gone, point))
      g_ptr_array_add(g_hash_table_contains(going, point) ? removed : kept, point);
  }
  *freed = (StoreMarkFreed){0};
  return removed->len == 0 || store_mark_freed(prune->daemon->store, kept, removed,
                                               tasks_cancellable(prune->daemon->tasks), freed, error);
}

/* Notes the points that are not there any more. A catalogue that cannot be read has none that are gone. */
static void
look_for_gone(gpointer data)
{
  Prune *prune = data;
  g_autoptr(GError) error = NULL;
  for (guint i = 0; i < prune->all->len; i++) {
    StorePoint *point = prune->all->pdata[i];
    g_autoptr(StorePoint) now = catalogue_get_point(prune->daemon->catalogue, &point->uuid, &error);
    if (!now && g_error_matches(error, CBT_ERROR, CBT_ERROR_NOT_FOUND))
      g_hash_table_add(prune->gone, point);
    g_clear_error(&error);
  }
}

/* What a point used that somebody else removes meanwhile may be collected while it is read: then it is
 * counted again without that one. */
static void
count_bytes(Prune *prune)
{
  g_autoptr(GError) error = NULL;
  guint n_gone;
  do {
    n_gone = g_hash_table_size(prune->gone);
    g_clear_error(&error);
    if (sum_up(prune, &prune->freed, &error))
      return;
    main_queue_call(prune->daemon->queue, look_for_gone, prune);
  } while (g_hash_table_size(prune->gone) > n_gone);
  prune->warning = g_strdup_printf("the number of bytes is not exact: %s", error->message);
}

/* Some that were to go have stayed. What the others used may be on its way out, and not be countable. */
static void
count_bytes_again(Prune *prune)
{
  StoreMarkFreed freed;
  g_autoptr(GError) error = NULL;
  if (sum_up(prune, &freed, &error))
    prune->freed = freed;
  else if (!prune->warning)
    prune->warning =
        g_strdup("fewer bytes may come free: some points stayed against the first decision, and what the "
                 "others used is being collected already");
}

typedef struct {
  Daemon *daemon;
  Entry *entry;
  gboolean changed; /* it stays, against what was decided */
  GError *error;
} Removal;

static void
stay(Removal *removal, const char *rule)
{
  removal->entry->keep = TRUE;
  removal->entry->rule = rule;
  g_clear_pointer(&removal->entry->warning, g_free);
  removal->changed = TRUE;
}

/* A point that is gone already is one that was removed. */
static void
remove_point(gpointer data)
{
  Removal *removal = data;
  Daemon *daemon = removal->daemon;
  const CbtUuid *uuid = &removal->entry->point->uuid;
  g_autoptr(StorePoint) now = catalogue_get_point(daemon->catalogue, uuid, &removal->error);
  if (now && now->is_protected)
    stay(removal, store_retention_rule_name(STORE_RETENTION_PROTECTED));
  else if (now && engine_reader_of(daemon->engine, uuid))
    stay(removal, IN_USE);
  else if (now && !handler_forget_point(daemon, now, &removal->error))
    return;
  if (g_error_matches(removal->error, CBT_ERROR, CBT_ERROR_NOT_FOUND))
    g_clear_error(&removal->error);
}

static gboolean
remove_all(Prune *prune, gboolean *changed, GError **error)
{
  for (guint i = 0; i < prune->entries->len; i++) {
    Entry *entry = &g_array_index(prune->entries, Entry, i);
    Removal removal = {.daemon = prune->daemon, .entry = entry};
    if (entry->keep)
      continue;
    durable_call(prune->daemon, remove_point, &removal);
    if (removal.error) {
      g_propagate_prefixed_error(error, removal.error,
                                 "after %u recovery points were removed: ", prune->n_removed);
      return FALSE;
    }
    *changed |= removal.changed;
    prune->n_removed += !removal.changed;
  }
  return TRUE;
}

gboolean
prune_run(Prune *prune, GError **error)
{
  gboolean changed = FALSE;
  if (prune->counts)
    count_bytes(prune);
  if (prune->dry_run)
    return TRUE;
  if (!remove_all(prune, &changed, error))
    return FALSE;
  if (changed && prune->counts)
    count_bytes_again(prune);
  return TRUE;
}

void
prune_skip_bytes(Prune *prune)
{
  prune->counts = FALSE;
}

guint
prune_n_removed(const Prune *prune)
{
  return prune->n_removed;
}

/* ---- the answer ---- */

static void
put_entry(JsonBuilder *builder, const Entry *entry)
{
  json_builder_begin_object(builder);
  json_put_uuid(builder, "uuid", &entry->point->uuid);
  json_put_string(builder, "vm", entry->point->vm);
  json_put_time(builder, "time", entry->point->time);
  json_put_string(builder, "action", entry->keep ? "keep" : "remove");
  json_put_string(builder, "rule", entry->rule);
  json_put_string(builder, "warning", entry->warning);
  json_builder_end_object(builder);
}

JsonNode *
prune_to_json(const Prune *prune)
{
  JsonBuilder *builder = json_builder_new_immutable();
  json_builder_begin_object(builder);
  json_put_bool(builder, "dry-run", prune->dry_run);
  json_builder_set_member_name(builder, "points");
  json_builder_begin_array(builder);
  for (guint i = 0; i < prune->entries->len; i++)
    put_entry(builder, &g_array_index(prune->entries, Entry, i));
  json_builder_end_array(builder);
  json_put_int(builder, "bytes-freed", prune->freed.bytes);
  json_put_string(builder, "warning", prune->warning);
  json_builder_end_object(builder);
  return json_finish(builder);
}
