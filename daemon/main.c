/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* cbt-backupd: builds the objects in order, runs the main loop, and takes them down in the reverse order. */
#include <common/fd.h>
#include <common/file-ops.h>
#include <daemon/daemon.h>
#include <daemon/disks.h>
#include <daemon/durable.h>
#include <daemon/engine.h>
#include <daemon/exports.h>
#include <daemon/gauges.h>
#include <daemon/handlers.h>
#include <daemon/job-events.h>
#include <daemon/leases.h>
#include <daemon/live-retry.h>
#include <daemon/metrics.h>
#include <daemon/monitors.h>
#include <daemon/recover.h>
#include <daemon/scheduler.h>
#include <daemon/service.h>
#include <daemon/task.h>
#include <daemon/threads.h>
#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <glib/gstdio.h>
#include <malloc.h>
#include <signal.h>
#include <store/catalogue-rebuild.h>
#include <sys/file.h>
#include <unistd.h>

#define HEAP_KEEPS_BYTES (256 << 10) /* larger buffers, and what is more at its end, the kernel gets back */

static gboolean
make_folders(const DaemonConfig *config, GError **error)
{
  const char *const folders[] = {config->state_dir, config->runtime_dir, config->fleece_dir};
  const int modes[] = {0700, 0755, 0700};
  for (gsize i = 0; i < G_N_ELEMENTS(folders); i++)
    if (g_mkdir_with_parents(folders[i], modes[i]) != 0) {
      cbt_set_error_errno(error, errno, "cannot make %s", folders[i]);
      return FALSE;
    }
  return TRUE;
}

/* One daemon a state directory. The lock goes with the process. */
static int
lock_state_dir(const DaemonConfig *config, GError **error)
{
  g_autofree char *path = g_build_filename(config->state_dir, "lock", NULL);
  CBT_AUTO_FD int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) {
    cbt_set_error_errno(error, errno, "cannot open %s", path);
    return -1;
  }
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    cbt_set_error(error, CBT_ERROR_BUSY, "Stop it first, or give this one another --state-dir.",
                  "another cbt-backupd uses %s", config->state_dir);
    return -1;
  }
  return cbt_steal_fd(&fd);
}

/* It is made again when the empty one is found. */
static gboolean
set_catalogue_aside(const char *path, GError **error)
{
  g_autofree char *to = NULL;
  if (!catalogue_set_aside(path, &to, error))
    return FALSE;
  if (to)
    g_message("%s was set aside as %s", path, to);
  return TRUE;
}

static gboolean
open_data(Daemon *daemon, GError **error)
{
  const DaemonConfig *config = daemon->config;
  g_autofree char *catalogue = g_build_filename(config->state_dir, "catalogue.sqlite", NULL);
  g_autofree char *store = daemon_config_store_dir(config);
  StoreOptions options = STORE_OPTIONS_DEFAULT;
  options.dedup_verify = config->dedup_verify;
  if (config->rebuild_catalogue && !set_catalogue_aside(catalogue, error))
    return FALSE;
  daemon->catalogue = catalogue_open(catalogue, error);
  if (daemon->catalogue)
    daemon->store = store_open(store, &options, error);
  return daemon->store != NULL;
}

/* Its prefix tells what several stores make in one QEMU apart. */
static Monitors *
make_monitors(const Store *store)
{
  char uuid[CBT_UUID_TEXT_SIZE];
  g_autofree char *prefix = g_strdup_printf("cbt-%.8s", cbt_uuid_format(store_uuid(store), uuid));
  return monitors_new(prefix);
}

static gboolean
start(Daemon *daemon, GError **error)
{
  g_autofree char *socket = g_build_filename(daemon->config->runtime_dir, "api.sock", NULL);
  const ApiServerOptions options = {.socket_path = socket, .group = daemon->config->group};
  if (!open_data(daemon, error))
    return FALSE;
  daemon->store_space = free_space_new(store_directory(daemon->store));
  daemon->store_reserve =
      store_reserve_new(daemon->store_space, daemon->store, daemon->config->store_reserve);
  daemon->queue = main_queue_new();
  daemon->threads = threads_new();
  daemon->tasks = tasks_new();
  daemon->durable = durable_new(daemon);
  daemon->exports = exports_new(daemon->config);
  daemon->monitors = make_monitors(daemon->store);
  daemon->disks = disks_new(daemon->config, daemon->exports, daemon->monitors);
  daemon->leases = leases_new(daemon);
  daemon->live_retry = live_retry_new(daemon);
  daemon->job_events = job_events_new();
  daemon->gauges = gauges_new(daemon);
  daemon->metrics = metrics_new();
  daemon->status_cache = status_cache_new();
  daemon->engine = engine_new(daemon);
  daemon->scheduler = scheduler_new(daemon);
  if (!recover(daemon, error))
    return FALSE;
  leases_start(daemon->leases);
  live_retry_start(daemon->live_retry);
  daemon->routes = api_routes_new(api_openapi_text(), daemon_operations, error);
  if (!daemon->routes)
    return FALSE;
  daemon->server = api_server_new(&options, api_routes_table(daemon->routes), daemon, error);
  if (daemon->server)
    scheduler_start(daemon->scheduler);
  return daemon->server != NULL;
}

static void
stop(Daemon *daemon)
{
  if (daemon->scheduler)
    scheduler_stop(daemon->scheduler);
  if (daemon->leases)
    leases_stop(daemon->leases);
  if (daemon->live_retry)
    live_retry_stop(daemon->live_retry);
  /* Both run the main loop, and requests come in until the server is gone. */
  if (daemon->engine)
    engine_stop(daemon->engine);
  if (daemon->durable)
    durable_stop(daemon->durable);
  if (daemon->tasks)
    tasks_stop(daemon->tasks);
  if (daemon->gauges)
    gauges_stop(daemon->gauges);
  g_clear_pointer(&daemon->job_events, job_events_free);
  g_clear_pointer(&daemon->server, api_server_free);
  g_clear_pointer(&daemon->routes, api_routes_free);
  g_clear_pointer(&daemon->tasks, tasks_free);
  g_clear_pointer(&daemon->durable, durable_free);
  g_clear_pointer(&daemon->engine, engine_free);
  g_clear_pointer(&daemon->threads, threads_free);
  g_clear_pointer(&daemon->scheduler, scheduler_free);
  g_clear_pointer(&daemon->leases, leases_free);
  g_clear_pointer(&daemon->live_retry, live_retry_free);
  g_clear_pointer(&daemon->status_cache, status_cache_free);
  g_clear_pointer(&daemon->metrics, metrics_free);
  g_clear_pointer(&daemon->gauges, gauges_free);
  g_clear_pointer(&daemon->disks, disks_free);
  g_clear_pointer(&daemon->monitors, monitors_free);
  g_clear_pointer(&daemon->exports, exports_free);
  g_clear_pointer(&daemon->queue, main_queue_free);
  g_clear_pointer(&daemon->store_reserve, store_reserve_free);
  g_clear_pointer(&daemon->store_space, free_space_free);
  g_clear_pointer(&daemon->store, store_close);
  g_clear_pointer(&daemon->catalogue, catalogue_close);
}

/* Stays, so that a second signal does not kill a stop that takes its time. */
static gboolean
on_signal(gpointer loop)
{
  g_main_loop_quit(loop);
  return G_SOURCE_CONTINUE;
}

/*
 * Where the kernel groups threads by session (autogroup, sched(7)), niceness counts only within one: against
 * guests and exports, which lead sessions of their own, the one of the daemon has to give way as a whole. A
 * session that somebody else leads, like a shell, is left as it is; so is a kernel that does not group.
 */
static void
give_way_as_session(const DaemonConfig *config)
{
  if (getsid(0) != getpid())
    return;
  g_autofree char *nice = g_strdup_printf("%u", config->nice);
  CBT_AUTO_FD int fd = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);
  if (fd < 0 || !cbt_write_full(fd, nice, strlen(nice)))
    g_debug("cannot set the priority of the session: %s", g_strerror(errno));
}

typedef struct {
  DaemonConfig *config;
  const Daemon *daemon;
} Reload;

static gboolean
on_reload(gpointer data)
{
  const Reload *reload = data;
  DaemonConfig *config = reload->config;
  g_autoptr(GError) error = NULL;
  service_reloading();
  g_autoptr(GPtrArray) later = daemon_config_reload(config, &error);
  if (!later)
    g_warning("the configuration stays as it was: %s", error->message);
  else if (!config->config_file)
    g_message("there is no configuration file to read again");
  else
    g_message("%s was read again", config->config_file);
  for (guint i = 0; later && i < later->len; i++)
    g_warning("%s changes with the next start of the daemon", (const char *) later->pdata[i]);
  if (later && reload->daemon->engine)
    engine_start_queued(reload->daemon->engine);
  service_reloaded();
  return G_SOURCE_CONTINUE;
}

static gboolean
run(DaemonConfig *config, GError **error)
{
  give_way_as_session(config);
  if (!make_folders(config, error))
    return FALSE;
  CBT_AUTO_FD int lock = lock_state_dir(config, error);
  if (lock < 0)
    return FALSE;
  Daemon daemon = {.config = config, .started = g_get_real_time()};
  Reload reload = {config, &daemon};
  g_autoptr(GMainLoop) loop = g_main_loop_new(NULL, FALSE);
  gboolean ok = start(&daemon, error);
  if (ok) {
    g_unix_signal_add(SIGTERM, on_signal, loop);
    g_unix_signal_add(SIGINT, on_signal, loop);
    g_unix_signal_add(SIGHUP, on_reload, &reload);
    service_ready();
    g_message("cbt-backupd %s answers on %s/api.sock", CBT_VERSION, config->runtime_dir);
    g_main_loop_run(loop);
    service_stopping();
  }
  stop(&daemon);
  return ok;
}

/* Messages go to standard error, or to the journal with their fields where that is what standard error is. */
static GLogWriterOutput
write_log(GLogLevelFlags level, const GLogField *fields, gsize n_fields, gpointer data)
{
  DaemonConfig *config = data;
  if ((gint) (level & G_LOG_LEVEL_MASK) > g_atomic_int_get(&config->log_level))
    return G_LOG_WRITER_HANDLED;
  if (g_log_writer_is_journald(STDERR_FILENO))
    return g_log_writer_journald(level, fields, n_fields, NULL);
  g_autofree char *line = g_log_writer_format_fields(level, fields, n_fields, FALSE);
  g_printerr("%s\n", line);
  /* A critical is a broken invariant: tests (G_DEBUG=fatal-warnings) stop there. */
  if ((level & G_LOG_LEVEL_CRITICAL) && g_getenv("G_DEBUG"))
    abort();
  return G_LOG_WRITER_HANDLED;
}

/*
 * By itself the allocator adapts to the large buffers of jobs: once one was freed, the next come from the
 * heap of the thread that asks, and each heap keeps twice as much free at its end. There are up to eight
 * heaps a processor.
 */
static void
give_memory_back(void)
{
  mallopt(M_MMAP_THRESHOLD, HEAP_KEEPS_BYTES);
  mallopt(M_TRIM_THRESHOLD, HEAP_KEEPS_BYTES);
}

int
main(int argc, char **argv)
{
  g_autoptr(GError) error = NULL;
  gboolean done = FALSE;
  give_memory_back();
  signal(SIGPIPE, SIG_IGN);
  g_autoptr(DaemonConfig) config = daemon_config_new(&argc, &argv, &done, &error);
  if (config && done)
    return 0;
  if (config)
    g_log_set_writer_func(write_log, config, NULL);
  if (config && run(config, &error))
    return 0;
  g_autofree char *message = cbt_error_message(error);
  g_autofree char *hint = cbt_error_hint(error);
  g_printerr("cbt-backupd: %s%s%s\n", message, hint ? "\n" : "", hint ? hint : "");
  return config ? cbt_error_exit_status(cbt_error_code(error)) : 2;
}
