/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One timer looks after all streams, and runs while there are any. */
#include <daemon/job-events.h>

#include <api/events.h>
#include <api/json.h>

#define LOOK_MS       250
#define KEEP_ALIVE_US (15 * G_USEC_PER_SEC)
#define STALLED_US    (60 * G_USEC_PER_SEC) /* a client that takes nothing for so long is cut off */

typedef struct {
  ApiEvents *events;
  Job *job;        /* reference; NULL: the last event was given to EVENTS */
  char *told;      /* (nullable) the job, as its last event had it */
  gint64 ready_us; /* when all was taken at last */
  gint64 told_us;  /* of the last event or comment */
} Follower;

struct JobEvents {
  GPtrArray *followers; /* of Follower */
  guint timer_id;
};

static void
follower_free(gpointer data)
{
  Follower *follower = data;
  api_events_free(follower->events);
  g_clear_pointer(&follower->job, job_unref);
  g_free(follower->told);
  g_free(follower);
}

JobEvents *
job_events_new(void)
{
  JobEvents *self = g_new0(JobEvents, 1);
  self->followers = g_ptr_array_new_with_free_func(follower_free);
  return self;
}

void
job_events_free(JobEvents *self)
{
  if (!self)
    return;
  if (self->timer_id)
    g_source_remove(self->timer_id);
  g_ptr_array_unref(self->followers);
  g_free(self);
}

static void
tell_end(Follower *follower, const char *json)
{
  api_events_send(follower->events, "end", json);
  api_events_end(follower->events);
  g_clear_pointer(&follower->job, job_unref);
}

/* The next event, if there is one to tell. */
static void
tell(Follower *follower, gint64 now_us)
{
  g_autoptr(JsonNode) node = job_to_json(follower->job);
  g_autofree char *json = api_json_to_text(node);
  if (job_is_finished(follower->job))
    tell_end(follower, json);
  else if (g_strcmp0(json, follower->told) != 0)
    api_events_send(follower->events, "progress", json);
  else if (now_us - follower->told_us >= KEEP_ALIVE_US)
    api_events_keep_alive(follower->events);
  else
    return;
  follower->told_us = now_us;
  g_free(follower->told);
  follower->told = g_steal_pointer(&json);
}

/* FALSE if the stream has ended. */
static gboolean
serve(Follower *follower)
{
  gint64 now_us = g_get_monotonic_time();
  ApiEventsState state = api_events_flush(follower->events);
  if (state == API_EVENTS_READY) {
    if (!follower->job)
      return FALSE;
    follower->ready_us = now_us;
    tell(follower, now_us);
    state = api_events_flush(follower->events);
    if (state == API_EVENTS_READY && !follower->job)
      return FALSE;
  }
  return state != API_EVENTS_GONE && now_us - follower->ready_us < STALLED_US;
}

/* Serves those that follow JOB, or all if it is NULL. */
static void
serve_followers(JobEvents *self, const Job *job)
{
  for (guint i = self->followers->len; i-- > 0;) {
    Follower *follower = self->followers->pdata[i];
    if ((!job || follower->job == job) && !serve(follower))
      g_ptr_array_remove_index_fast(self->followers, i);
  }
}

static gboolean
on_timer(gpointer data)
{
  JobEvents *self = data;
  serve_followers(self, NULL);
  if (self->followers->len > 0)
    return G_SOURCE_CONTINUE;
  self->timer_id = 0;
  return G_SOURCE_REMOVE;
}

static Follower *
add_follower(JobEvents *self, ApiRequest *request)
{
  ApiEvents *events = api_events_new(request);
  if (!events)
    return NULL;
  Follower *follower = g_new0(Follower, 1);
  follower->events = events;
  follower->ready_us = g_get_monotonic_time();
  g_ptr_array_add(self->followers, follower);
  if (!self->timer_id)
    self->timer_id = g_timeout_add(LOOK_MS, on_timer, self);
  return follower;
}

void
job_events_follow(JobEvents *self, Job *job, ApiRequest *request)
{
  Follower *follower = add_follower(self, request);
  if (!follower)
    return;
  follower->job = job_ref(job);
  serve_followers(self, job);
}

void
job_events_tell_end(JobEvents *self, const char *json, ApiRequest *request)
{
  Follower *follower = add_follower(self, request);
  if (!follower)
    return;
  tell_end(follower, json);
  if (!serve(follower))
    g_ptr_array_remove_fast(self->followers, follower);
}

void
job_events_changed(JobEvents *self, const Job *job)
{
  serve_followers(self, job);
}
