/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/live-recover.h>

#include <cbt/qemu/leftovers.h>
#include <cbt/qemu/quiesce.h>
#include <daemon/live-vm.h>
#include <daemon/monitors.h>
#include <string.h>

#define THAW_TIMEOUT_MS 10000u
#define COMMIT_MS       20000u /* nobody is served before the start is over */

typedef struct {
  Daemon *daemon;
  const char *vm;
  char *step; /* NULL: it is not in the journal */
} Entry;

static void
look_up(gpointer data)
{
  Entry *entry = data;
  g_autoptr(GError) error = NULL;
  g_autoptr(GPtrArray) entries = catalogue_journal_list(entry->daemon->catalogue, &error);
  for (guint i = 0; entries && i < entries->len; i++) {
    const CatalogueJournalEntry *found = entries->pdata[i];
    if (strcmp(found->vm, entry->vm) == 0)
      entry->step = g_strdup(found->step);
  }
  if (error)
    g_warning("cannot read the journal: %s", error->message);
}

static void
forget(gpointer data)
{
  Entry *entry = data;
  g_autoptr(GError) error = NULL;
  if (!catalogue_journal_clear(entry->daemon->catalogue, entry->vm, &error))
    g_warning("cannot write the journal: %s", error->message);
}

static void
thaw(const CatalogueVm *vm)
{
  g_autoptr(GError) error = NULL;
  gboolean was_frozen = FALSE;
  if (!qemu_quiesce_thaw_leftover(vm->qga, THAW_TIMEOUT_MS, &was_frozen, &error))
    g_warning("vm '%s': its guest may be frozen: %s", vm->name, error->message);
  else if (was_frozen)
    g_message("vm '%s': its guest was left frozen, and is thawed", vm->name);
}

static gboolean
clear(Daemon *daemon, const CatalogueVm *vm, GCancellable *cancellable, GError **error)
{
  g_autoptr(GPtrArray) found = g_ptr_array_new_with_free_func(g_free);
  Qmp *qmp = monitors_open(daemon->monitors, vm->qmp, cancellable, error);
  if (!qmp)
    return FALSE;
  g_autoptr(GPtrArray) images = live_vm_images(daemon, vm->qmp);
  const QemuSteps steps = {.qmp = qmp, .timeout_ms = MONITOR_TIMEOUT_MS, .images = images};
  gboolean ok =
      qemu_leftovers_clear_within(&steps, monitors_prefix(daemon->monitors), COMMIT_MS, NULL, found, error);
  monitors_close(daemon->monitors, qmp);
  for (guint i = 0; i < found->len; i++)
    g_message("vm '%s': taken out of QEMU: %s", vm->name, (const char *) found->pdata[i]);
  return ok;
}

gboolean
live_recover(Daemon *daemon, const CatalogueVm *vm)
{
  g_autoptr(GError) error = NULL;
  Entry entry = {daemon, vm->name, NULL};
  if (vm->qga)
    thaw(vm);
  if (!catalogue_vm_is_live(vm))
    return TRUE;
  main_queue_call(daemon->queue, look_up, &entry);
  if (!entry.step)
    return FALSE;
  g_message("vm '%s': the daemon ended in the middle of a backup, after or in: %s", vm->name, entry.step);
  g_free(entry.step);
  if (!clear(daemon, vm, NULL, &error)) {
    g_warning("vm '%s': %s; it is tried again", vm->name, error->message);
    return FALSE;
  }
  main_queue_call(daemon->queue, forget, &entry);
  return TRUE;
}

gboolean
live_recover_again(Daemon *daemon, const CatalogueVm *vm, GCancellable *cancellable, GError **error)
{
  Entry entry = {daemon, vm->name, NULL};
  if (!clear(daemon, vm, cancellable, error))
    return FALSE;
  main_queue_call(daemon->queue, forget, &entry);
  return TRUE;
}
