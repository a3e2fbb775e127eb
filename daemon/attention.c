/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One function for each thing that can be wrong; what they say is for people. */
#include <daemon/vm-facts.h>

#include <string.h>

#define OVERDUE_US (60 * G_USEC_PER_SEC) /* a run takes a moment to begin */

typedef struct {
  Daemon *daemon;
  const VmFacts *facts; /* NULL: not of one vm */
  GPtrArray *found;     /* of Attention */
} Look;

static void
attention_free(gpointer data)
{
  Attention *attention = data;
  g_free(attention->text);
  g_free(attention->hint);
  g_free(attention);
}

/* TEXT and HINT are (transfer full). */
static void
add(const Look *look, gboolean is_failure, char *text, char *hint)
{
  Attention *attention = g_new0(Attention, 1);
  *attention = (Attention){is_failure, look->facts ? look->facts->vm->name : NULL, text, hint};
  g_ptr_array_add(look->found, attention);
}

/* "3 d", "5 h", "12 min" */
static char *
format_age(gint64 us)
{
  gint64 minutes = MAX(us, 0) / (60 * G_USEC_PER_SEC);
  if (minutes >= 2 * 24 * 60)
    return g_strdup_printf("%" G_GINT64_FORMAT " d", minutes / (24 * 60));
  if (minutes >= 2 * 60)
    return g_strdup_printf("%" G_GINT64_FORMAT " h", minutes / 60);
  return g_strdup_printf("%" G_GINT64_FORMAT " min", minutes);
}

static void
look_at_points(const Look *look)
{
  const VmFacts *facts = look->facts;
  const char *vm = facts->vm->name;
  if (facts->points.n_damaged > 0)
    add(look, TRUE,
        g_strdup_printf("%" G_GUINT64_FORMAT " of the recovery points of vm %s are damaged",
                        facts->points.n_damaged, vm),
        g_strdup_printf("cbt-backup verify %s", vm));
  if (facts->points.good_time == 0 && facts->wanted == 0)
    add(look, FALSE, g_strdup_printf("vm %s has no good recovery point", vm),
        facts->job == 0 ? g_strdup_printf("cbt-backup --full %s", vm) : g_strdup("A job is at work on it."));
}

static void
look_at_age(const Look *look)
{
  const VmFacts *facts = look->facts;
  gint64 now = g_get_real_time();
  if (facts->wanted == 0 || facts->job != 0 || now - facts->wanted < OVERDUE_US)
    return;
  g_autofree char *late = format_age(now - facts->wanted), *age = format_age(now - facts->points.good_time);
  g_autofree char *what = facts->points.good_time == 0
                              ? g_strdup("it has no good recovery point")
                              : g_strdup_printf("its last good point is %s old", age);
  add(look, TRUE,
      g_strdup_printf("vm %s is not backed up as its policy says: %s, the next was due %s ago",
                      facts->vm->name, what, late),
      g_strdup_printf("cbt-backup policy show %s", facts->vm->name));
}

static void
look_at_policy(const Look *look)
{
  const VmFacts *facts = look->facts;
  const StorePolicy *policy = facts->policy;
  if (facts->policy_damage)
    add(look, TRUE, g_strdup(facts->policy_damage), NULL);
  if (!policy || policy->n_failures == 0)
    return;
  add(look, TRUE,
      g_strdup_printf("the policy of vm %s failed %" G_GUINT64_FORMAT " times in a row: %s", facts->vm->name,
                      policy->n_failures, policy->last_error ? policy->last_error : "-"),
      g_strdup_printf("cbt-backup policy show %s", facts->vm->name));
}

/* A freeze by hand has a lease, which ends it. */
static gboolean
has_lease(const Look *look, const CatalogueDisk *disk, const char *bitmap)
{
  CatalogueLease lease;
  return catalogue_get_lease(look->daemon->catalogue, &disk->id, bitmap, &lease, NULL) &&
         !cbt_uuid_is_nil(&lease.id);
}

static void
look_at_bitmap(const Look *look, const CatalogueDisk *disk, const CbtBitmapInfo *info)
{
  const char *vm = look->facts->vm->name;
  g_autofree char *name = g_strndup(info->name, sizeof info->name);
  g_autofree char *target = g_strdup_printf("%s/%s:%s", vm, disk->name, name);
  if (info->state == CBT_BITMAP_INCONSISTENT)
    add(look, FALSE,
        g_strdup_printf("bitmap %s is inconsistent: the next backup reads all of the disk", target),
        g_strdup_printf("cbt-backup bitmap show %s", target));
  else if (info->state == CBT_BITMAP_FROZEN && look->facts->job == 0 && !has_lease(look, disk, name))
    add(look, FALSE, g_strdup_printf("bitmap %s is frozen, and no backup is under way", target),
        g_strdup_printf("The next backup settles it; by hand: cbt-backup bitmap reclaim %s", target));
}

static void
look_at_disk(const Look *look, const CatalogueDisk *disk)
{
  const char *vm = look->facts->vm->name;
  const GaugeDisk *gauge = gauges_disk(look->daemon->gauges, vm, disk->name);
  if (gauge && gauge->exported && (!gauge->answers || gauges_is_late(look->daemon->gauges, vm)))
    add(look, TRUE, g_strdup_printf("the export of %s/%s does not answer", vm, disk->name),
        g_strdup("cbt-backup export list"));
  if (gauge && gauge->image_is_missing)
    add(look, TRUE, g_strdup_printf("the image of %s/%s is missing: %s", vm, disk->name, disk->path),
        g_strdup_printf("Put it back; or forget the vm: cbt-backup vm remove %s", vm));
  for (guint i = 0; gauge && i < gauge->bitmaps->len; i++)
    look_at_bitmap(look, disk, &g_array_index(gauge->bitmaps, CbtBitmapInfo, i));
}

static void
look_at_vm(const Look *look)
{
  look_at_points(look);
  look_at_age(look);
  look_at_policy(look);
  for (guint i = 0; i < look->facts->vm->disks->len; i++)
    look_at_disk(look, g_ptr_array_index(look->facts->vm->disks, i));
}

static void
look_at_store(const Look *look)
{
  const GaugeStore *store = gauges_store(look->daemon->gauges);
  if (!store->answers)
    add(look, TRUE, g_strdup("the store's file system does not answer"), NULL);
  if (store->is_replaced)
    add(look, TRUE, g_strdup("the store was removed or replaced while the daemon runs: no job begins"),
        g_strdup("See that the right store is there, then: systemctl restart cbt-backupd"));
  if (store->is_known && store->free < store_reserve_bytes(look->daemon->store_reserve) + store->unwritten)
    add(look, TRUE, g_strdup("less is free than the reserve: no backup begins before there is room"),
        g_strdup("Make room: cbt-backup prune, then cbt-backup gc"));
}

/* Failures first, else as found. */
static void
sort(GPtrArray *found)
{
  g_autoptr(GPtrArray) warnings = g_ptr_array_new();
  guint n = 0;
  for (guint i = 0; i < found->len; i++)
    if (((Attention *) found->pdata[i])->is_failure)
      found->pdata[n++] = found->pdata[i];
    else
      g_ptr_array_add(warnings, found->pdata[i]);
  for (guint i = 0; i < warnings->len; i++)
    found->pdata[n + i] = warnings->pdata[i];
}

GPtrArray *
attention_list(Daemon *daemon, const GPtrArray *facts)
{
  GPtrArray *found = g_ptr_array_new_with_free_func(attention_free);
  Look look = {daemon, NULL, found};
  look_at_store(&look);
  for (guint i = 0; i < facts->len; i++) {
    look.facts = g_ptr_array_index(facts, i);
    look_at_vm(&look);
  }
  sort(found);
  return found;
}
