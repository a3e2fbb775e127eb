/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/durable.h>

#include <daemon/task.h>

#define SOON_MS  500
#define AGAIN_MS 5000 /* after one that failed */

struct Durable {
  Daemon *daemon;
  guint timer_id;      /* begins a sync */
  gboolean is_syncing; /* one is under way */
  gboolean is_due;     /* something was written since it began */
  gboolean has_failed; /* the last one; its thread's until it has ended */
  gboolean is_stopped;
};

static gboolean
sync_catalogue(Daemon *daemon)
{
  g_autoptr(GError) error = NULL;
  if (!catalogue_sync(daemon->catalogue, &error))
    g_warning("what was done last may be forgotten if the power fails: %s", error->message);
  return error == NULL;
}

/* ---- soon ---- */

static gboolean begin_sync(gpointer data);

static void
plan(Durable *durable, guint after_ms)
{
  if (!durable->timer_id && !durable->is_stopped)
    durable->timer_id = g_timeout_add(after_ms, begin_sync, durable);
}

static JsonNode *
run_sync(Daemon *daemon, gpointer data, guint *status G_GNUC_UNUSED, GError **error G_GNUC_UNUSED)
{
  Durable *durable = data;
  durable->has_failed = !sync_catalogue(daemon);
  return NULL;
}

static void
end_sync(gpointer data)
{
  Durable *durable = data;
  durable->is_syncing = FALSE;
  if (durable->is_due || durable->has_failed)
    plan(durable, durable->has_failed ? AGAIN_MS : SOON_MS);
}

static gboolean
begin_sync(gpointer data)
{
  Durable *durable = data;
  durable->timer_id = 0;
  durable->is_syncing = TRUE;
  durable->is_due = FALSE;
  task_run(durable->daemon, NULL, 0, run_sync, durable, end_sync);
  return G_SOURCE_REMOVE;
}

static void
on_commit(gpointer data)
{
  Durable *durable = data;
  durable->is_due = TRUE;
  if (!durable->is_syncing)
    plan(durable, SOON_MS);
}

Durable *
durable_new(Daemon *daemon)
{
  Durable *durable = g_new0(Durable, 1);
  durable->daemon = daemon;
  catalogue_on_commit(daemon->catalogue, on_commit, durable);
  return durable;
}

void
durable_stop(Durable *durable)
{
  durable->is_stopped = TRUE;
  g_clear_handle_id(&durable->timer_id, g_source_remove);
}

void
durable_free(Durable *durable)
{
  catalogue_on_commit(durable->daemon->catalogue, NULL, NULL);
  g_free(durable);
}

/* ---- now ---- */

void
durable_call(Daemon *daemon, MainFunc func, gpointer data)
{
  main_queue_call(daemon->queue, func, data);
  sync_catalogue(daemon);
}

static JsonNode *
sync_before_answer(Daemon *daemon, gpointer data, guint *status G_GNUC_UNUSED, GError **error)
{
  g_autoptr(JsonNode) body = data;
  if (catalogue_sync(daemon->catalogue, error))
    return g_steal_pointer(&body);
  g_prefix_error(error, "this was done, but may be forgotten if the power fails: ");
  return NULL;
}

void
durable_reply(Daemon *daemon, ApiRequest *request, guint status, JsonNode *body)
{
  task_run(daemon, request, status, sync_before_answer, body, NULL);
}
