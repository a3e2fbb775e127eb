/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A policy: when a vm is backed up by itself, and what is kept. And the decisions of the scheduler: when the next run
 * is due, what comes after one that failed.
 *
 * A run is owed for each time of the schedule; those that were missed are owed as one. `done_until` says up to which instant
 * nothing is owed. All runs of a vm come later than the schedule says by the same time, its jitter, so that many vms with
 * one schedule do not begin at once.
 *
 * Pure: no I/O, and no clock; NOW and all times are microseconds since 1970, by the clock of the wall. Any thread.
 */
#pragma once

#include <store/retention.h>
#include <store/schedule.h>

#define STORE_POLICY_RETRY_MIN ((gint64) 60 * G_USEC_PER_SEC)
#define STORE_POLICY_RETRY_MAX ((gint64) 3600 * G_USEC_PER_SEC)

/* Of the settings. */
#define STORE_POLICY_SPEED_MIN        4096 /* of one that is not 0 */
#define STORE_POLICY_VERIFY_SHARE_MAX 100
#define STORE_POLICY_COUNT_MAX        ((guint64) G_MAXINT64) /* of every number */

typedef enum {
  STORE_POLICY_NEVER,     /* ran yet */
  STORE_POLICY_RUNNING,
  STORE_POLICY_DONE,
  STORE_POLICY_ERROR,
  STORE_POLICY_CANCELLED, /* by a user, or because the daemon stopped */
} StorePolicyResult;

typedef struct {
  /* what was asked for */
  char *vm;
  char *bitmap;
  StoreSchedule schedule;
  StoreRetention retention;
  guint64 speed;        /* bytes a second; 0: no limit */
  guint64 verify_share; /* percent */
  gboolean gc;          /* after a prune that removed something */
  gboolean enabled;

  /* what became of it */
  gint64 done_until;
  gint64 last_run; /* when it began; 0: never */
  StorePolicyResult last_result;
  char *last_error;   /* (nullable) of the last run */
  gint64 last_job;    /* of the last run; 0: none */
  guint64 n_removed;  /* points, by the last run */
  guint64 n_failures; /* in a row */
  gint64 next_retry;  /* 0: none before the next time of the schedule */
} StorePolicy;

/* With a bitmap `default`, garbage collection, enabled; without a schedule. */
StorePolicy *store_policy_new(const char *vm);
void store_policy_free(StorePolicy *policy);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(StorePolicy, store_policy_free)

/* Whether a policy may have what POLICY was asked for, but for the schedule. CORRUPT names the setting. */
gboolean store_policy_check(const StorePolicy *policy, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/*
 * What was asked for as one line of text, and back; docs/formats/vm.md. Of what became of it the text has nothing: a
 * policy that is decoded has done nothing yet, and is owed everything since 1970; see store_policy_restart().
 *
 * Policies of which the same was asked have the same text. CORRUPT names the key that is unknown, missing, there twice, or
 * wrong; any bytes may be given.
 */
#define STORE_POLICY_TEXT_MAX 1024 /* bytes; no text that encode gives is longer */
char *store_policy_encode(const StorePolicy *policy);
StorePolicy *store_policy_decode(const char *vm, const char *text, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* "running", "done", "error", "cancelled"; NULL for NEVER. */
const char *store_policy_result_name(StorePolicyResult result);
/* FALSE for a text that is none. NULL is NEVER. */
gboolean store_policy_result_parse(const char *text, StorePolicyResult *result);

/* By how much the runs of the vm come later: at most JITTER_MAX and a tenth of the schedule's period; the same each time. */
gint64 store_policy_jitter(const StorePolicy *policy, gint64 jitter_max);
/* When the next run is due; it may have passed. 0: never, for it is disabled. */
gint64 store_policy_due(const StorePolicy *policy, gint64 now, gint64 jitter_max, GTimeZone *zone);

/* By when the policy wanted a point newer than that of GOOD (0: there is none), of a vm that is known since CREATED: the first
 * time of the schedule after it, or after the policy was last begun anew, with its jitter. 0: it is disabled. */
gint64 store_policy_wanted(const StorePolicy *policy, gint64 good, gint64 created, gint64 jitter_max, GTimeZone *zone);

/* Takes note of a clock that was set back, which would else make runs wait until it is as late again. Whether it was. */
gboolean store_policy_follow_clock(StorePolicy *policy, gint64 now);
/* The schedule is another, or it is enabled: nothing is owed from before NOW, failures are forgotten. */
void store_policy_restart(StorePolicy *policy, gint64 now);
/* A run begins. */
void store_policy_begin(StorePolicy *policy, gint64 now, gint64 jitter_max);
/* It has ended. */
void store_policy_done(StorePolicy *policy);
/* The run is done, but what was to come after it is not (WHY). It is shown until a run succeeds, and not tried again. */
void store_policy_upkeep_failed(StorePolicy *policy, const char *why);
/* A user ended it: the next one is that of the schedule. */
void store_policy_cancelled(StorePolicy *policy, const char *why);
/* The daemon stops: the run is still owed. */
void store_policy_interrupted(StorePolicy *policy, gint64 now, const char *why);
/* It is tried again 1, 2, 4, ... minutes from NOW, at most 60, unless the schedule comes first. */
void store_policy_failed(StorePolicy *policy, gint64 now, gint64 jitter_max, GTimeZone *zone, const char *why);
