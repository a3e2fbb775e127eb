/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A job's bytes count while it runs, by its own counters, and move to the sums when it ends: so no sum ever
 * goes down. */
#include <daemon/metrics.h>

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define N_TYPES    (JOB_GC + 1)
#define N_STATUSES (JOB_CANCELLED + 1)

static const double duration_bounds[] = {1, 5, 15, 60, 300, 900, 3600, 14400, 43200};
static const double hold_bounds[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2};

enum { BYTES_READ, BYTES_STORED, BYTES_REUSED, BYTES_ZERO, N_BYTES };

static const struct {
  const char *name;
  const char *help;
} bytes_families[N_BYTES] = {
    [BYTES_READ] = {"cbt_backup_read_bytes_total", "Bytes that jobs read, of images or of the store."},
    [BYTES_STORED] = {"cbt_backup_stored_bytes_total",
                      "Bytes that jobs wrote: into the store, compressed, or into archives."},
    [BYTES_REUSED] = {"cbt_backup_reused_bytes_total", "Bytes that jobs found in the store already."},
    [BYTES_ZERO] = {"cbt_backup_zero_bytes_total", "Bytes that jobs found to be zero."},
};

struct Metrics {
  guint64 n_jobs[N_TYPES][N_STATUSES];
  guint64 bytes[N_TYPES][N_BYTES];
  ApiHistogram durations[N_TYPES];
  ApiHistogram holds;
};

Metrics *
metrics_new(void)
{
  Metrics *metrics = g_new0(Metrics, 1);
  for (guint i = 0; i < N_TYPES; i++)
    api_histogram_init(&metrics->durations[i], duration_bounds, G_N_ELEMENTS(duration_bounds));
  api_histogram_init(&metrics->holds, hold_bounds, G_N_ELEMENTS(hold_bounds));
  return metrics;
}

void
metrics_free(Metrics *metrics)
{
  for (guint i = 0; i < N_TYPES; i++)
    api_histogram_clear(&metrics->durations[i]);
  api_histogram_clear(&metrics->holds);
  g_free(metrics);
}

static void
add_bytes(guint64 bytes[N_TYPES][N_BYTES], const Job *job)
{
  bytes[job->type][BYTES_READ] += job->bytes_read;
  bytes[job->type][BYTES_STORED] += job->stored;
  bytes[job->type][BYTES_REUSED] += job->reused;
  bytes[job->type][BYTES_ZERO] += job->zero_bytes;
}

void
metrics_note_job(Metrics *metrics, const Job *job)
{
  metrics->n_jobs[job->type][job->status]++;
  add_bytes(metrics->bytes, job);
  if (job->start_time != 0)
    api_histogram_add(&metrics->durations[job->type],
                      (double) MAX(job->end_time - job->start_time, 0) / G_USEC_PER_SEC);
  if (job->hold_us != 0)
    api_histogram_add(&metrics->holds, (double) job->hold_us / G_USEC_PER_SEC);
}

static void
put_results(const Metrics *metrics, ApiPrometheus *text)
{
  api_prometheus_family(text, "cbt_backup_jobs_total", "counter", "Jobs that have ended.");
  for (JobType type = 0; type < N_TYPES; type++)
    for (JobStatus status = JOB_DONE; status < N_STATUSES; status++) {
      const char *const labels[] = {"type", job_type_name(type), "result", job_status_name(status), NULL};
      api_prometheus_sample(text, (double) metrics->n_jobs[type][status], labels);
    }
}

static void
put_bytes(const Metrics *metrics, const GPtrArray *active, ApiPrometheus *text)
{
  guint64 bytes[N_TYPES][N_BYTES];
  memcpy(bytes, metrics->bytes, sizeof bytes);
  for (guint i = 0; i < active->len; i++)
    add_bytes(bytes, g_ptr_array_index(active, i));
  for (guint of = 0; of < N_BYTES; of++) {
    api_prometheus_family(text, bytes_families[of].name, "counter", bytes_families[of].help);
    for (JobType type = 0; type < N_TYPES; type++) {
      const char *const labels[] = {"type", job_type_name(type), NULL};
      api_prometheus_sample(text, (double) bytes[type][of], labels);
    }
  }
}

void
metrics_put_jobs(const Metrics *metrics, const GPtrArray *active, ApiPrometheus *text)
{
  put_results(metrics, text);
  put_bytes(metrics, active, text);
  api_prometheus_family(text, "cbt_backup_job_duration_seconds", "histogram", "How long jobs ran.");
  for (JobType type = 0; type < N_TYPES; type++) {
    const char *const labels[] = {"type", job_type_name(type), NULL};
    api_prometheus_histogram(text, &metrics->durations[type], labels);
  }
  api_prometheus_family(text, "cbt_backup_hold_seconds", "histogram",
                        "For how long a backup held the writes of a guest.");
  api_prometheus_histogram(text, &metrics->holds, NULL);
}

/* ---- the process ---- */

static void
put_value(ApiPrometheus *text, const char *name, const char *type, const char *help, double value)
{
  api_prometheus_family(text, name, type, help);
  api_prometheus_sample(text, value, NULL);
}

static void
put_memory(ApiPrometheus *text)
{
  unsigned long long n_virtual, n_resident;
  FILE *file = fopen("/proc/self/statm", "re");
  gboolean ok = file && fscanf(file, "%llu %llu", &n_virtual, &n_resident) == 2;
  if (file)
    fclose(file);
  if (!ok)
    return;
  double page = (double) sysconf(_SC_PAGESIZE);
  put_value(text, "process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.",
            (double) n_virtual * page);
  put_value(text, "process_resident_memory_bytes", "gauge", "Resident memory size in bytes.",
            (double) n_resident * page);
}

static void
put_descriptors(ApiPrometheus *text)
{
  struct rlimit limit;
  double n = 0;
  g_autoptr(GDir) folder = g_dir_open("/proc/self/fd", 0, NULL);
  while (folder && g_dir_read_name(folder))
    n++;
  if (folder)
    put_value(text, "process_open_fds", "gauge", "Number of open file descriptors.", n - 1);
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
    put_value(text, "process_max_fds", "gauge", "Maximum number of open file descriptors.",
              (double) limit.rlim_cur);
}

static double
seconds_of(const struct timeval *time)
{
  return (double) time->tv_sec + (double) time->tv_usec / G_USEC_PER_SEC;
}

void
metrics_put_process(ApiPrometheus *text)
{
  struct rusage usage;
  put_memory(text);
  put_descriptors(text);
  if (getrusage(RUSAGE_SELF, &usage) == 0)
    put_value(text, "process_cpu_seconds_total", "counter",
              "Total user and system CPU time spent in seconds.",
              seconds_of(&usage.ru_utime) + seconds_of(&usage.ru_stime));
}
