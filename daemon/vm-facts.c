/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/vm-facts.h>

#include <daemon/engine.h>
#include <daemon/exports.h>

static void
vm_facts_free(gpointer data)
{
  VmFacts *facts = data;
  catalogue_vm_free(facts->vm);
  catalogue_point_summary_clear(&facts->points);
  g_clear_pointer(&facts->policy, store_policy_free);
  g_free(facts->policy_damage);
  g_free(facts);
}

static void
look_at_policy(VmFacts *facts, Daemon *daemon)
{
  g_autoptr(GError) error = NULL;
  gint64 jitter_max = (gint64) daemon->config->jitter * G_USEC_PER_SEC;
  facts->policy = catalogue_get_policy(daemon->catalogue, facts->vm->name, &error);
  if (facts->policy)
    facts->wanted =
        store_policy_wanted(facts->policy, facts->points.good_time, facts->vm->created, jitter_max, NULL);
  else if (!g_error_matches(error, CBT_ERROR, CBT_ERROR_NOT_FOUND))
    facts->policy_damage = cbt_error_message(error);
}

static void
look_at_dirty(VmFacts *facts, Daemon *daemon)
{
  const CatalogueVm *vm = facts->vm;
  facts->knows_dirty = facts->exported && !gauges_is_late(daemon->gauges, vm->name);
  for (guint i = 0; facts->knows_dirty && i < vm->disks->len; i++) {
    const char *name = ((const CatalogueDisk *) vm->disks->pdata[i])->name;
    const GaugeDisk *gauge = gauges_disk(daemon->gauges, vm->name, name);
    const CbtBitmapInfo *info = gauge_disk_default(gauge);
    facts->knows_dirty = info && gauge->answers;
    if (facts->knows_dirty)
      facts->dirty += info->count + info->successor_count;
  }
}

/* VM is (transfer full). */
static VmFacts *
vm_facts_new(Daemon *daemon, CatalogueVm *vm, GError **error)
{
  VmFacts *facts = g_new0(VmFacts, 1);
  const Job *job = engine_user_of(daemon->engine, vm->name);
  facts->vm = vm;
  facts->job = job ? job->id : 0;
  facts->exported = exports_has(daemon->exports, vm->name);
  if (!catalogue_summarize_points(daemon->catalogue, vm->name, &facts->points, error)) {
    vm_facts_free(facts);
    return NULL;
  }
  look_at_policy(facts, daemon);
  look_at_dirty(facts, daemon);
  return facts;
}

GPtrArray *
vm_facts_list(Daemon *daemon, GError **error)
{
  g_autoptr(GPtrArray) list = g_ptr_array_new_with_free_func(vm_facts_free);
  g_autoptr(GPtrArray) vms = catalogue_list_vms(daemon->catalogue, error);
  if (!vms)
    return NULL;
  while (vms->len > 0) {
    VmFacts *facts = vm_facts_new(daemon, g_ptr_array_steal_index(vms, 0), error);
    if (!facts)
      return NULL;
    g_ptr_array_add(list, facts);
  }
  return g_steal_pointer(&list);
}
