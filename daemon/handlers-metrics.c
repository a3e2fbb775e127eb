/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Each family once, with the samples of all vms behind it: a small table says where a vm's number is. */
#include <daemon/handlers.h>

#include <daemon/engine.h>
#include <daemon/metrics.h>
#include <daemon/scheduler.h>
#include <daemon/vm-facts.h>

/* ---- of each vm ---- */

/* FALSE: it has no such value. */
typedef gboolean (*VmValueFunc)(Daemon *daemon, const VmFacts *facts, double *value);

static gboolean
put_time(gint64 time, double *value)
{
  *value = (double) time / G_USEC_PER_SEC;
  return time != 0;
}

static gboolean
n_points(Daemon *daemon G_GNUC_UNUSED, const VmFacts *facts, double *value)
{
  *value = (double) facts->points.n_points;
  return TRUE;
}

static gboolean
n_damaged(Daemon *daemon G_GNUC_UNUSED, const VmFacts *facts, double *value)
{
  *value = (double) facts->points.n_damaged;
  return TRUE;
}

static gboolean
n_unverified(Daemon *daemon G_GNUC_UNUSED, const VmFacts *facts, double *value)
{
  *value = (double) facts->points.n_unverified;
  return TRUE;
}

static gboolean
latest_time(Daemon *daemon G_GNUC_UNUSED, const VmFacts *facts, double *value)
{
  return put_time(facts->points.latest_time, value);
}

static gboolean
latest_age(Daemon *daemon G_GNUC_UNUSED, const VmFacts *facts, double *value)
{
  *value = (double) MAX(g_get_real_time() - facts->points.latest_time, 0) / G_USEC_PER_SEC;
  return facts->points.latest_time != 0;
}

static gboolean
good_time(Daemon *daemon G_GNUC_UNUSED, const VmFacts *facts, double *value)
{
  return put_time(facts->points.good_time, value);
}

static gboolean
verified_time(Daemon *daemon G_GNUC_UNUSED, const VmFacts *facts, double *value)
{
  return put_time(facts->points.verified, value);
}

static gboolean
verified_age(Daemon *daemon G_GNUC_UNUSED, const VmFacts *facts, double *value)
{
  *value = (double) MAX(g_get_real_time() - facts->points.verified, 0) / G_USEC_PER_SEC;
  return facts->points.verified != 0;
}

static gboolean
overdue(Daemon *daemon G_GNUC_UNUSED, const VmFacts *facts, double *value)
{
  *value = (double) MAX(g_get_real_time() - facts->wanted, 0) / G_USEC_PER_SEC;
  return facts->wanted != 0;
}

static gboolean
n_failures(Daemon *daemon G_GNUC_UNUSED, const VmFacts *facts, double *value)
{
  *value = facts->policy ? (double) facts->policy->n_failures : 0;
  return facts->policy != NULL;
}

static gboolean
next_run(Daemon *daemon, const VmFacts *facts, double *value)
{
  return facts->policy && put_time(scheduler_due(daemon->scheduler, facts->policy), value);
}

static const struct {
  const char *name;
  const char *help;
  VmValueFunc get;
} vm_families[] = {
    {"cbt_backup_points", "Recovery points of the vm.", n_points},
    {"cbt_backup_points_damaged", "Of them, those in which the last verify found damage.", n_damaged},
    {"cbt_backup_points_unverified", "Of them, those that were never verified.", n_unverified},
    {"cbt_backup_newest_point_timestamp_seconds", "Time of the newest recovery point.", latest_time},
    {"cbt_backup_newest_point_age_seconds", "Age of the newest recovery point.", latest_age},
    {"cbt_backup_newest_good_point_timestamp_seconds",
     "Time of the newest recovery point that is not known to be damaged.", good_time},
    {"cbt_backup_verified_timestamp_seconds", "When a recovery point was last verified and found good.",
     verified_time},
    {"cbt_backup_verified_age_seconds", "How long ago that was.", verified_age},
    {"cbt_backup_overdue_seconds",
     "For how long the policy has wanted a newer good point than there is; 0 while it does not.", overdue},
    {"cbt_backup_policy_failures", "Runs of the policy that failed in a row.", n_failures},
    {"cbt_backup_next_run_timestamp_seconds", "When the next run of the policy is due.", next_run},
};

static void
put_vms(Daemon *daemon, const GPtrArray *facts, ApiPrometheus *text)
{
  for (guint of = 0; of < G_N_ELEMENTS(vm_families); of++) {
    api_prometheus_family(text, vm_families[of].name, "gauge", vm_families[of].help);
    for (guint i = 0; i < facts->len; i++) {
      const VmFacts *vm = g_ptr_array_index(facts, i);
      const char *const labels[] = {"vm", vm->vm->name, NULL};
      double value;
      if (vm_families[of].get(daemon, vm, &value))
        api_prometheus_sample(text, value, labels);
    }
  }
}

/* ---- of each disk ---- */

/* Puts the samples of one disk, LABELS being its vm and name; GAUGE is not NULL. */
typedef void (*DiskSamplesFunc)(const GaugeDisk *gauge, gboolean answers, const char *const *labels,
                                ApiPrometheus *text);

static void
put_dirty(const GaugeDisk *gauge, gboolean answers, const char *const *labels, ApiPrometheus *text)
{
  const CbtBitmapInfo *info = gauge_disk_default(gauge);
  if (info && answers)
    api_prometheus_sample(text, (double) (info->count + info->successor_count), labels);
}

static void
put_up(const GaugeDisk *gauge, gboolean answers, const char *const *labels, ApiPrometheus *text)
{
  if (gauge->exported)
    api_prometheus_sample(text, answers, labels);
}

static void
put_round_trip(const GaugeDisk *gauge, gboolean answers, const char *const *labels, ApiPrometheus *text)
{
  if (answers)
    api_prometheus_sample(text, (double) gauge->round_trip_us / G_USEC_PER_SEC, labels);
}

static void
put_states(const GaugeDisk *gauge, gboolean answers G_GNUC_UNUSED, const char *const *labels,
           ApiPrometheus *text)
{
  for (guint i = 0; i < gauge->bitmaps->len; i++) {
    const CbtBitmapInfo *info = &g_array_index(gauge->bitmaps, CbtBitmapInfo, i);
    g_autofree char *name = g_strndup(info->name, sizeof info->name);
    for (CbtBitmapState state = 0; state < CBT_N_BITMAP_STATES; state++) {
      const char *const all[] = {labels[0], labels[1], labels[2], labels[3],
                                 "bitmap",  name,      "state",   cbt_bitmap_state_name(state),
                                 NULL};
      api_prometheus_sample(text, info->state == state, all);
    }
  }
}

static const struct {
  const char *name;
  const char *help;
  DiskSamplesFunc put;
} disk_families[] = {
    {"cbt_backup_dirty_bytes",
     "Bytes that changed since the last backup, by the bitmap `default` of an exported disk.", put_dirty},
    {"cbt_backup_export_up", "Whether the export of the disk answered.", put_up},
    {"cbt_backup_export_round_trip_seconds",
     "How long the export last took to answer on its control socket: connecting, and two requests.",
     put_round_trip},
    {"cbt_backup_bitmap_state", "1 for the state that the bitmap is in, 0 for the others.", put_states},
};

static void
put_disks(Daemon *daemon, const GPtrArray *facts, guint of, ApiPrometheus *text)
{
  for (guint i = 0; i < facts->len; i++) {
    const CatalogueVm *vm = ((const VmFacts *) facts->pdata[i])->vm;
    gboolean late = gauges_is_late(daemon->gauges, vm->name);
    for (guint j = 0; j < vm->disks->len; j++) {
      const char *disk = ((const CatalogueDisk *) vm->disks->pdata[j])->name;
      const GaugeDisk *gauge = gauges_disk(daemon->gauges, vm->name, disk);
      const char *const labels[] = {"vm", vm->name, "disk", disk, NULL};
      if (gauge)
        disk_families[of].put(gauge, gauge->answers && !late, labels, text);
    }
  }
}

/* ---- of the store and the daemon ---- */

static void
put_value(ApiPrometheus *text, const char *name, const char *help, double value)
{
  api_prometheus_family(text, name, "gauge", help);
  api_prometheus_sample(text, value, NULL);
}

static void
put_store(Daemon *daemon, ApiPrometheus *text)
{
  const GaugeStore *store = gauges_store(daemon->gauges);
  put_value(text, "cbt_backup_store_bytes", "Bytes that the packs of the store take.",
            (double) store->statistics.pack_bytes);
  put_value(text, "cbt_backup_store_chunks", "Chunks in the store.", (double) store->statistics.n_chunks);
  put_value(text, "cbt_backup_store_packs", "Packs in the store.", (double) store->statistics.n_packs);
  put_value(text, "cbt_backup_store_answers", "Whether the file system of the store answered.",
            store->answers);
  put_value(text, "cbt_backup_store_reserve_bytes", "Bytes that backups leave free.",
            (double) store_reserve_bytes(daemon->store_reserve));
  if (!store->is_known)
    return;
  put_value(text, "cbt_backup_store_free_bytes", "Bytes free on the file system of the store, as last known.",
            (double) store->free);
  put_value(text, "cbt_backup_store_size_bytes", "Bytes of the file system of the store.",
            (double) store->total);
}

static void
put_daemon(Daemon *daemon, guint n_vms, ApiPrometheus *text)
{
  const char *const labels[] = {"version", CBT_VERSION, NULL};
  api_prometheus_family(text, "cbt_backup_build_info", "gauge", "1, with the version of the daemon.");
  api_prometheus_sample(text, 1, labels);
  put_value(text, "cbt_backup_vms", "Vms that are registered.", n_vms);
  put_value(text, "process_start_time_seconds", "Start time of the process since unix epoch in seconds.",
            (double) daemon->started / G_USEC_PER_SEC);
  metrics_put_process(text);
}

static void
put_jobs(Daemon *daemon, ApiPrometheus *text)
{
  guint n_active, n_queued;
  g_autoptr(GPtrArray) active = engine_list_active(daemon->engine);
  engine_counts(daemon->engine, &n_active, &n_queued);
  put_value(text, "cbt_backup_jobs_active", "Jobs that are at work.", n_active);
  put_value(text, "cbt_backup_jobs_queued", "Jobs that wait for their turn.", n_queued);
  metrics_put_jobs(daemon->metrics, active, text);
}

static char *
make_text(Daemon *daemon, GError **error)
{
  g_autoptr(GPtrArray) facts = vm_facts_list(daemon, error);
  if (!facts)
    return NULL;
  ApiPrometheus *text = api_prometheus_new();
  put_daemon(daemon, facts->len, text);
  put_jobs(daemon, text);
  put_store(daemon, text);
  put_vms(daemon, facts, text);
  for (guint of = 0; of < G_N_ELEMENTS(disk_families); of++) {
    api_prometheus_family(text, disk_families[of].name, "gauge", disk_families[of].help);
    put_disks(daemon, facts, of, text);
  }
  return api_prometheus_free_to_text(text);
}

typedef struct {
  Daemon *daemon;
  ApiRequest *request;
} Scrape;

static void
answer(gpointer data)
{
  g_autofree Scrape *scrape = data;
  GError *error = NULL;
  g_autofree char *text = make_text(scrape->daemon, &error);
  if (text)
    api_request_reply_text(scrape->request, 200, API_PROMETHEUS_TYPE, text);
  else
    api_request_reply_error(scrape->request, error);
}

void
handle_metrics(ApiRequest *request, gpointer data)
{
  Daemon *daemon = data;
  GError *error = NULL;
  Scrape *scrape = g_new(Scrape, 1);
  *scrape = (Scrape){daemon, request};
  if (gauges_ask(daemon->gauges, answer, scrape, &error))
    return;
  g_free(scrape);
  api_request_reply_error(request, error);
}
