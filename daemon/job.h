/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A job: long work that runs in a thread, can be watched and cancelled, and is remembered.
 *
 * Threads: the state belongs to the main thread; the progress counters to the job's threads, read by anybody.
 * The result (error, point, reason) is written by the job's thread before it ends and read after.
 */
#pragma once

#include <daemon/daemon.h>
#include <gio/gio.h>
#include <json-glib/json-glib.h>
#include <stdatomic.h>

typedef enum { JOB_QUEUED, JOB_ACTIVE, JOB_DONE, JOB_ERROR, JOB_CANCELLED } JobStatus;
typedef enum { JOB_BACKUP, JOB_RESTORE, JOB_ARCHIVE, JOB_IMPORT, JOB_VERIFY, JOB_GC } JobType;

typedef struct Job Job;

/* The job has ended: status and error are there. Main thread. */
typedef void (*JobEndFunc)(Job *job, gpointer data);
/* Does the work, in the job's thread. */
typedef gboolean (*JobFunc)(Daemon *daemon, Job *job, gpointer data, GError **error);

/* Progress of one disk; bytes. */
typedef struct {
  char *name;
  atomic_ullong total;       /* size */
  atomic_ullong dirty;       /* to be looked at */
  atomic_ullong transferred; /* of them, done */
} JobDisk;

struct Job {
  /* constant after creation */
  gint64 id;
  JobType type;
  char *vm;   /* NULL: of no one vm */
  char *kind; /* (nullable) "full" or "incremental" as asked */
  JobFunc func;
  gpointer data;
  GDestroyNotify free_data;
  GCancellable *cancellable;
  gboolean by_policy;    /* nobody asked for it just now */
  JobEndFunc on_end;     /* (nullable) */
  gpointer on_end_data;
  GPtrArray *vms_in_use; /* names of the vms whose images it reads or changes */

  /* main thread */
  JobStatus status;
  gint64 start_time; /* microseconds since 1970 */
  gint64 end_time;
  GPtrArray *waiters; /* of ApiRequest; engine's */
  GArray *points;     /* of CbtUuid: those that it reads */
  guint n_refs;

  /* progress, any thread */
  atomic_ullong zero_bytes, reused, stored, bytes_read, n_reads, audited;

  /* job's thread until it ends; `disks` is changed on the main thread while the job's waits for it */
  GPtrArray *disks; /* of JobDisk */
  GError *error;
  CbtUuid uuid; /* of the point made, or restored */
  char *reason;
  char *final_kind; /* of the point made */
  guint64 hold_us;
  JsonNode *result; /* (nullable) an object whose members this type of job has beside the common ones */
};

Job *job_new(JobType type, const char *vm, const char *kind, JobFunc func, gpointer data,
             GDestroyNotify free_data);
Job *job_ref(Job *job);
void job_unref(Job *job);
JobDisk *job_add_disk(Job *job, const char *name);
/* It is not part of the job after all. */
void job_remove_disk(Job *job, const char *name);
JobDisk *job_find_disk(const Job *job, const char *name); /* or NULL */
/* No other job that uses VM may run beside this one, and no export of it be started or stopped. */
void job_add_vm_in_use(Job *job, const char *vm);
/* POINT may not be removed before the job has ended. Main thread, as is asking. */
void job_add_point_in_use(Job *job, const CbtUuid *point);
/* The job is done with POINT. */
void job_remove_point_in_use(Job *job, const CbtUuid *point);
gboolean job_uses_point(const Job *job, const CbtUuid *point);
gboolean job_uses_vm(const Job *job, const char *vm);

/* Guests come first where processors are short: the calling thread, and those that it starts, give way. */
void job_give_way(const Daemon *daemon);
const char *job_type_name(JobType type);
const char *job_status_name(JobStatus status);
gboolean job_is_finished(const Job *job);
/* The job as the API shows it. Main thread. */
JsonNode *job_to_json(Job *job);
/* CANCELLED if somebody asked for it. */
gboolean job_check(Job *job, GError **error) G_GNUC_WARN_UNUSED_RESULT;
