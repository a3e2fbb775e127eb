/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Status is asked often, and when something hangs: what may block is asked by the gauges, which wait for it a
 * moment at most.
 * The answer is kept as text, for all that were asked for at once: until the gauges have another answer, or
 * something was written to the catalogue. Where many ask, it is made ten times a second at most.
 */
#include <daemon/handlers.h>

#include <api/json.h>
#include <daemon/engine.h>
#include <daemon/json-util.h>
#include <daemon/scheduler.h>
#include <daemon/vm-facts.h>
#include <string.h>

struct StatusCache {
  char *text;        /* NULL: none yet */
  guint64 round;     /* of the gauges, when it was made */
  guint64 n_changes; /* of the catalogue */
  gint64 made_at;    /* monotonic */
};

StatusCache *
status_cache_new(void)
{
  return g_new0(StatusCache, 1);
}

void
status_cache_free(StatusCache *cache)
{
  g_free(cache->text);
  g_free(cache);
}

/* ---- the store ---- */

static void
put_store(JsonBuilder *builder, Daemon *daemon)
{
  const GaugeStore *store = gauges_store(daemon->gauges);
  json_builder_set_member_name(builder, "store");
  json_builder_begin_object(builder);
  json_put_int(builder, "chunks", store->statistics.n_chunks);
  json_put_int(builder, "packs", store->statistics.n_packs);
  json_put_int(builder, "bytes", store->statistics.pack_bytes);
  if (store->is_known)
    json_put_int(builder, "free", store->free);
  else
    json_put_string(builder, "free", NULL);
  json_put_int(builder, "size", store->total);
  json_put_int(builder, "reserve", store_reserve_bytes(daemon->store_reserve));
  json_put_bool(builder, "answers", store->answers);
  json_builder_end_object(builder);
}

/* ---- a vm ---- */

static void
put_points(JsonBuilder *builder, const VmFacts *facts)
{
  const CataloguePointSummary *points = &facts->points;
  json_put_int(builder, "points", points->n_points);
  json_put_int(builder, "damaged-points", points->n_damaged);
  json_put_int(builder, "unverified-points", points->n_unverified);
  json_put_uuid(builder, "latest", &points->latest);
  json_put_time(builder, "latest-time", points->latest_time);
  json_put_uuid(builder, "good", &points->good);
  json_put_time(builder, "good-time", points->good_time);
  json_put_time(builder, "wanted-time", facts->wanted);
  json_put_time(builder, "verified-time", points->verified);
  json_put_time(builder, "full-time", points->full_time);
  json_put_string(builder, "full-reason", points->full_reason);
}

static void
put_bitmap(JsonBuilder *builder, const char *disk, const CbtBitmapInfo *info)
{
  g_autofree char *name = g_strndup(info->name, sizeof info->name);
  json_builder_begin_object(builder);
  json_put_string(builder, "disk", disk);
  json_put_string(builder, "name", name);
  json_put_string(builder, "state",
                  info->state < CBT_N_BITMAP_STATES ? cbt_bitmap_state_name(info->state) : NULL);
  json_put_int(builder, "count", info->count + info->successor_count);
  json_put_uuid(builder, "base", &info->base);
  json_builder_end_object(builder);
}

static void
put_bitmaps(JsonBuilder *builder, Daemon *daemon, const CatalogueVm *vm)
{
  json_builder_set_member_name(builder, "bitmaps");
  json_builder_begin_array(builder);
  for (guint i = 0; i < vm->disks->len; i++) {
    const char *disk = ((const CatalogueDisk *) vm->disks->pdata[i])->name;
    const GaugeDisk *gauge = gauges_disk(daemon->gauges, vm->name, disk);
    for (guint j = 0; gauge && j < gauge->bitmaps->len; j++)
      put_bitmap(builder, disk, &g_array_index(gauge->bitmaps, CbtBitmapInfo, j));
  }
  json_builder_end_array(builder);
}

static const char *
health_of(const VmFacts *facts, const GPtrArray *attention)
{
  const char *health = "ok";
  for (guint i = attention->len; i-- > 0;) {
    const Attention *found = g_ptr_array_index(attention, i);
    if (g_strcmp0(found->vm, facts->vm->name) == 0)
      health = found->is_failure ? "fail" : "warn";
  }
  return health;
}

static void
put_policy(JsonBuilder *builder, Daemon *daemon, const VmFacts *facts)
{
  JsonNode *policy = NULL;
  if (facts->policy)
    policy = policy_to_json(daemon, facts->policy);
  else if (facts->policy_damage)
    policy = policy_damaged_to_json(facts->vm->name, facts->policy_damage);
  json_builder_set_member_name(builder, "policy");
  json_builder_add_value(builder, policy ? policy : json_node_new(JSON_NODE_NULL));
}

static void
put_vm(JsonBuilder *builder, Daemon *daemon, const VmFacts *facts, const GPtrArray *attention)
{
  json_builder_begin_object(builder);
  json_put_string(builder, "name", facts->vm->name);
  json_put_string(builder, "health", health_of(facts, attention));
  json_put_int(builder, "disks", facts->vm->disks->len);
  put_points(builder, facts);
  json_put_bool(builder, "exported", facts->exported);
  if (facts->knows_dirty)
    json_put_int(builder, "dirty", facts->dirty);
  else
    json_put_string(builder, "dirty", NULL);
  put_bitmaps(builder, daemon, facts->vm);
  if (facts->job)
    json_put_int(builder, "job", (guint64) facts->job);
  else
    json_put_string(builder, "job", NULL);
  put_policy(builder, daemon, facts);
  json_builder_end_object(builder);
}

/* ---- all of it ---- */

static void
put_attention(JsonBuilder *builder, const GPtrArray *attention)
{
  json_builder_set_member_name(builder, "attention");
  json_builder_begin_array(builder);
  for (guint i = 0; i < attention->len; i++) {
    const Attention *found = g_ptr_array_index(attention, i);
    json_builder_begin_object(builder);
    json_put_string(builder, "level", found->is_failure ? "fail" : "warn");
    json_put_string(builder, "vm", found->vm);
    json_put_string(builder, "text", found->text);
    json_put_string(builder, "hint", found->hint);
    json_builder_end_object(builder);
  }
  json_builder_end_array(builder);
}

static void
put_daemon(JsonBuilder *builder, Daemon *daemon)
{
  json_put_string(builder, "version", CBT_VERSION);
  json_put_int(builder, "time", (guint64) (g_get_real_time() / G_USEC_PER_SEC));
  json_put_int(builder, "uptime", (guint64) ((g_get_real_time() - daemon->started) / G_USEC_PER_SEC));
  json_put_string(builder, "state-dir", daemon->config->state_dir);
}

static JsonNode *
make_status(Daemon *daemon, GError **error)
{
  guint n_active, n_queued;
  g_autoptr(GPtrArray) facts = vm_facts_list(daemon, error);
  if (!facts)
    return NULL;
  g_autoptr(GPtrArray) attention = attention_list(daemon, facts);
  JsonBuilder *builder = json_builder_new_immutable();
  json_builder_begin_object(builder);
  put_daemon(builder, daemon);
  put_attention(builder, attention);
  put_store(builder, daemon);
  json_builder_set_member_name(builder, "vms");
  json_builder_begin_array(builder);
  for (guint i = 0; i < facts->len; i++)
    put_vm(builder, daemon, g_ptr_array_index(facts, i), attention);
  json_builder_end_array(builder);
  engine_counts(daemon->engine, &n_active, &n_queued);
  json_put_int(builder, "jobs-active", n_active);
  json_put_int(builder, "jobs-queued", n_queued);
  json_builder_end_object(builder);
  return json_finish(builder);
}

static gboolean
still_holds(const StatusCache *cache, const Daemon *daemon)
{
  gboolean is_young = g_get_monotonic_time() - cache->made_at <= GAUGES_FRESH_US;
  return cache->text && ((cache->round == gauges_round(daemon->gauges) &&
                          cache->n_changes == catalogue_n_changes(daemon->catalogue)) ||
                         (is_young && gauges_many_ask(daemon->gauges)));
}

/* Makes the text again unless it still holds. */
static gboolean
keep_fresh(StatusCache *cache, Daemon *daemon, GError **error)
{
  if (still_holds(cache, daemon))
    return TRUE;
  guint64 round = gauges_round(daemon->gauges), n_changes = catalogue_n_changes(daemon->catalogue);
  g_autoptr(JsonNode) status = make_status(daemon, error);
  if (!status)
    return FALSE;
  g_autofree char *line = api_json_to_text(status);
  g_free(cache->text);
  *cache = (StatusCache){g_strconcat(line, "\n", NULL), round, n_changes, g_get_monotonic_time()};
  return TRUE;
}

typedef struct {
  Daemon *daemon;
  ApiRequest *request;
} Asked;

static void
answer(gpointer data)
{
  g_autofree Asked *asked = data;
  StatusCache *cache = asked->daemon->status_cache;
  GError *error = NULL;
  if (keep_fresh(cache, asked->daemon, &error))
    api_request_reply_text(asked->request, 200, "application/json", cache->text);
  else
    api_request_reply_error(asked->request, error);
}

void
handle_status(ApiRequest *request, gpointer data)
{
  Daemon *daemon = data;
  GError *error = NULL;
  Asked *asked = g_new(Asked, 1);
  *asked = (Asked){daemon, request};
  if (gauges_ask(daemon->gauges, answer, asked, &error))
    return;
  g_free(asked);
  api_request_reply_error(request, error);
}
