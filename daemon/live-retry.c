/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The journal is read each time: it is small, mostly empty, and the truth. */
#include <daemon/live-retry.h>

#include <daemon/engine.h>
#include <daemon/live-recover.h>
#include <daemon/live-rest.h>
#include <daemon/task.h>

#define INTERVAL_S 10

struct LiveRetry {
  Daemon *daemon; /* constant */
  guint timer_id; /* 0: stopped */
};

typedef struct {
  Daemon *daemon;
  CatalogueVm *vm;
  GCancellable *cancellable;
} Attempt;

static JsonNode *
run_attempt(Daemon *daemon, gpointer data, guint *status G_GNUC_UNUSED, GError **error G_GNUC_UNUSED)
{
  const Attempt *attempt = data;
  const CatalogueVm *vm = attempt->vm;
  g_autoptr(GError) local = NULL;
  if (live_is_off(vm->qmp))
    return NULL;
  if (live_recover_again(daemon, vm, attempt->cancellable, &local)) {
    g_message("vm '%s': what an earlier backup had left in its QEMU is taken away", vm->name);
    return NULL;
  }
  g_autofree char *why = cbt_error_message(local);
  g_info("vm '%s': what an earlier backup left in its QEMU is not taken away yet, it is tried again: %s",
         vm->name, why);
  return NULL;
}

static void
finish_attempt(gpointer data)
{
  Attempt *attempt = data;
  engine_release(attempt->daemon->engine, attempt->vm->name);
  catalogue_vm_free(attempt->vm);
  g_object_unref(attempt->cancellable);
  g_free(attempt);
}

static void
try_vm(Daemon *daemon, const char *name, GError **error)
{
  CatalogueVm *vm = catalogue_get_vm(daemon->catalogue, name, error);
  g_autoptr(GCancellable) cancellable = g_cancellable_new();
  if (!vm || !catalogue_vm_is_live(vm) || !engine_hold(daemon->engine, name, cancellable)) {
    g_clear_pointer(&vm, catalogue_vm_free);
    return;
  }
  Attempt *attempt = g_new0(Attempt, 1);
  *attempt = (Attempt){daemon, vm, g_steal_pointer(&cancellable)};
  task_run(daemon, NULL, 0, run_attempt, attempt, finish_attempt);
}

static gboolean
on_timer(gpointer data)
{
  LiveRetry *retry = data;
  g_autoptr(GError) error = NULL;
  g_autoptr(GPtrArray) entries = catalogue_journal_list(retry->daemon->catalogue, &error);
  for (guint i = 0; entries && i < entries->len; i++) {
    g_autoptr(GError) local = NULL;
    const CatalogueJournalEntry *entry = entries->pdata[i];
    try_vm(retry->daemon, entry->vm, &local);
    if (local)
      g_info("vm '%s', which is in the journal: %s", entry->vm, local->message);
  }
  if (error)
    g_warning("cannot read the journal: %s", error->message);
  return G_SOURCE_CONTINUE;
}

LiveRetry *
live_retry_new(Daemon *daemon)
{
  LiveRetry *retry = g_new0(LiveRetry, 1);
  retry->daemon = daemon;
  return retry;
}

void
live_retry_start(LiveRetry *retry)
{
  retry->timer_id = g_timeout_add_seconds(INTERVAL_S, on_timer, retry);
}

void
live_retry_stop(LiveRetry *retry)
{
  if (retry->timer_id)
    g_source_remove(retry->timer_id);
  retry->timer_id = 0;
}

void
live_retry_free(LiveRetry *retry)
{
  g_free(retry);
}
