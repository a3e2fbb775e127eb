/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <daemon/handlers.h>

#include <daemon/durable.h>
#include <daemon/engine.h>
#include <daemon/gc.h>

void
handle_gc(ApiRequest *request, gpointer data)
{
  Daemon *daemon = data;
  GError *error = NULL;
  Job *job = NULL;
  if (engine_has(daemon->engine, JOB_GC, NULL, TRUE)) /* that one takes all with it */
    cbt_set_error(&error, CBT_ERROR_BUSY, "It is in: cbt-backup job list", "a gc is queued already");
  else
    job = engine_submit(daemon->engine, gc_job_new(), &error);
  if (job)
    durable_reply(daemon, request, 202, job_to_json(job));
  else
    api_request_reply_error(request, error);
}
