/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Waiting for a job. A thread of its own waits for SIGINT and SIGTERM, for the main one sits in a call to the
 * daemon: it asks, over a connection of its own, to cancel the job, and the main one then sees the job end. A
 * second signal ends the program at once.
 */
#include "output.h"
#include "progress.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define WAIT_MS          10000
#define WAIT_PROGRESS_MS 200
#define TOO_EARLY_US     10000 /* an answer before that did not wait */

typedef struct {
  char *socket_path;
  char *job_path;
  sigset_t signals;
} Canceller;

static gpointer
cancel_on_signal(gpointer user_data)
{
  Canceller *self = user_data; /* lives as long as the program */
  int number;
  sigwait(&self->signals, &number);
  fprintf(stderr, "\ncbt-backup: Cancelling the job; press Ctrl-C again to leave it\n");
  g_autoptr(ApiClient) client = api_client_new(self->socket_path);
  g_autoptr(GError) error = NULL;
  g_autoptr(JsonNode) answer = api_client_call(client, "DELETE", self->job_path, NULL, &error);
  if (!answer)
    fprintf(stderr, "cbt-backup: Cannot cancel: %s\n", error->message);
  sigwait(&self->signals, &number);
  _exit(1);
}

static void
start_canceller(Cli *cli, const char *job_path)
{
  Canceller *self = g_new0(Canceller, 1);
  self->socket_path = g_strdup(cli->socket_path);
  self->job_path = g_strdup(job_path);
  sigemptyset(&self->signals);
  sigaddset(&self->signals, SIGINT);
  sigaddset(&self->signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &self->signals, NULL);
  g_thread_unref(g_thread_new("canceller", cancel_on_signal, self));
}

static gboolean
has_ended(JsonNode *job)
{
  static const char *const ends[] = {"done", "error", "cancelled", NULL};
  const char *status = cli_text(cli_object(job), "status");
  return status && g_strv_contains(ends, status);
}

/* The job when it has ended; asks again and again. */
static JsonNode *
wait_until_end(Cli *cli, JsonNode *job, const char *job_path, CliProgress *progress, GError **error)
{
  g_autoptr(JsonNode) now = json_node_ref(job);
  g_autofree char *path =
      g_strdup_printf("%s?wait-ms=%d", job_path, progress->is_shown ? WAIT_PROGRESS_MS : WAIT_MS);
  while (!has_ended(now)) {
    gint64 asked_us = g_get_monotonic_time();
    cli_progress_show(progress, cli_object(now));
    JsonNode *next = cli_get(cli, path, JSON_NODE_OBJECT, error);
    if (!next)
      return NULL;
    json_node_unref(now);
    now = next;
    if (!has_ended(now) && g_get_monotonic_time() - asked_us < TOO_EARLY_US)
      g_usleep(TOO_EARLY_US);
  }
  return g_steal_pointer(&now);
}

/* FALSE with ERROR for a job that did not get done. */
static gboolean
judge(JsonObject *job, GError **error)
{
  const char *status = cli_text(job, "status"), *message = cli_text(job, "errmsg");
  if (strcmp(status, "done") == 0)
    return TRUE;
  if (strcmp(status, "cancelled") == 0)
    cbt_set_error(error, CBT_ERROR_CANCELLED, NULL, "Job %" G_GINT64_FORMAT " was cancelled",
                  cli_number(job, "id"));
  else
    cbt_set_error(error, cbt_error_code_from_name(cli_text(job, "code")), cli_text(job, "hint"), "%s",
                  message ? message : "The job failed");
  return FALSE;
}

gboolean
cli_wait_job(Cli *cli, JsonNode *job, gboolean cancel, GError **error)
{
  CliProgress progress;
  g_autofree char *path = g_strdup_printf("/v1/jobs/%" G_GINT64_FORMAT, cli_number(cli_object(job), "id"));
  if (cancel)
    start_canceller(cli, path);
  cli_progress_init(&progress, !cli->quiet && !cli->json);
  g_autoptr(JsonNode) ended = wait_until_end(cli, job, path, &progress, error);
  cli_progress_end(&progress);
  if (!ended)
    return FALSE;
  gboolean is_good = judge(cli_object(ended), error);
  if (is_good || cli->json || (!cli->quiet && cli_array(cli_object(ended), "damaged")))
    cli_print_job(cli, ended);
  return is_good;
}
