/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One supervisor thread polls the pidfd of every process, whether this daemon started it or found it. One
 * that ends without having been told to is started again at once; five deaths in a minute, and it is left for
 * the operator; a start that fails is tried again after 1 s, then 2, 4, 8, 10. Identity of a process found:
 * who answers HELLO on the control socket, and that pid's pidfd. An Export is made once for each disk and
 * lives as long as the daemon: `wanted` says whether a process belongs to it.
 */
#include <daemon/exports.h>

#include <cbt/disk.h>
#include <cbt/export.h>
#include <cbt/image-use.h>
#include <common/fd.h>
#include <daemon/service.h>
#include <errno.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/un.h>

#define START_TIMEOUT_MS 10000
#define START_TIMEOUT    "10" /* seconds, for the timeout program: nbdkit must be in the background by then */
#define STOP_TIMEOUT_MS  10000
#define MAX_DEATHS       5
#define DEATH_WINDOW_US  (60 * G_USEC_PER_SEC)
#define EXPORT_THREADS   "16"
#define RETRY_MAX_US     (10 * G_USEC_PER_SEC)

typedef struct {
  Exports *exports;
  char *vm; /* constant, up to plugin_dir */
  char *disk;
  char *image;
  char *bitmap_dir;
  char disk_id[CBT_UUID_TEXT_SIZE];
  char *socket;
  char *control;
  /* changed under both locks of Exports, read under either */
  gboolean wanted;
  gint64 pid; /* 0: not running */
  int pid_fd;
  gint64 retry_at; /* monotonic time; 0: it is not waited for another start */
  /* under `change` */
  gint64 retry_delay_us;     /* after the next start that fails */
  gint64 deaths[MAX_DEATHS]; /* ring of monotonic times */
  guint n_deaths;
} Export;

struct Exports {
  const DaemonConfig *config;
  pthread_t supervisor;
  int wake_fd;            /* eventfd: look at the list again */
  pthread_mutex_t change; /* held by start, stop and restart, whole */
  pthread_mutex_t lock;   /* after change; never held while blocking */
  GPtrArray *all;         /* of Export */
  gboolean stopping;      /* under lock */
};

static void
export_free(Export *export)
{
  cbt_clear_fd(&export->pid_fd);
  g_free(export->vm);
  g_free(export->disk);
  g_free(export->image);
  g_free(export->bitmap_dir);
  g_free(export->socket);
  g_free(export->control);
  g_free(export);
}

void
export_info_free(ExportInfo *info)
{
  g_free(info->vm);
  g_free(info->disk);
  g_free(info->socket);
  g_free(info->control);
  g_free(info);
}

static Export *
export_new(Exports *exports, const CatalogueVm *vm, const CatalogueDisk *disk)
{
  g_autofree char *folder = daemon_config_export_dir(exports->config, vm->name);
  Export *export = g_new0(Export, 1);
  export->exports = exports;
  export->vm = g_strdup(vm->name);
  export->disk = g_strdup(disk->name);
  export->image = g_strdup(disk->path);
  export->bitmap_dir = daemon_config_bitmap_dir(exports->config, vm->name, disk->name);
  cbt_uuid_format(&disk->id, export->disk_id);
  export->socket = g_strdup_printf("%s/%s.nbd", folder, disk->name);
  export->control = g_strdup_printf("%s/%s.ctl", folder, disk->name);
  export->pid_fd = -1;
  return export;
}

/* ---- the process
 * ---------------------------------------------------------------------------------------------- */

static void
setup_child(gpointer data G_GNUC_UNUSED)
{
  setsid();
}

/* nbdkit's last error is why it did not start; or its last words, if it has none. */
static void
set_error_from_messages(const Export *export, char *messages, GError **error)
{
  g_strchomp(messages);
  char *prefix = g_strrstr(messages, "error: ");
  char *newline = prefix ? strchr(prefix, '\n') : NULL;
  if (newline)
    *newline = '\0';
  const char *last = strrchr(messages, '\n');
  last = last ? last + 1 : messages;
  cbt_set_error(error, CBT_ERROR_FAILED, NULL, "the export of %s/%s did not start: %s", export->vm,
                export->disk,
                prefix  ? prefix + strlen("error: ")
                : *last ? last
                        : "it was not ready in " START_TIMEOUT " s");
}

/* nbdkit goes into the background by itself when it is ready. It must: in the foreground it asks to be killed
 * with the thread that started it (PR_SET_PDEATHSIG), and an export has to outlive the daemon. */
static gboolean
spawn_process(Export *export, GError **error)
{
  g_autofree char *plugin =
      g_build_filename(export->exports->config->plugin_dir, "nbdkit-cbt-plugin.so", NULL);
  g_autofree char *image = g_strconcat("image=", export->image, NULL);
  g_autofree char *bitmaps = g_strconcat("bitmaps=", export->bitmap_dir, NULL);
  g_autofree char *disk_id = g_strconcat("disk-id=", export->disk_id, NULL);
  g_autofree char *control = g_strconcat("control=", export->control, NULL);
  g_autofree char *witness_dir = daemon_config_witness_dir(export->exports->config);
  g_autofree char *witness = g_strconcat("witness=", witness_dir, NULL);
  char *argv[] = {"timeout",      "--kill-after=1", START_TIMEOUT,  "nbdkit", "--unix",
                  export->socket, "--threads",      EXPORT_THREADS, plugin,   image,
                  bitmaps,        disk_id,          control,        witness,  NULL};
  g_auto(GStrv) environment = g_get_environ();
#ifdef CBT_PLUGIN_PRELOAD
  environment = g_environ_setenv(environment, "LD_PRELOAD", CBT_PLUGIN_PRELOAD, TRUE);
#endif
  g_autofree char *messages = NULL;
  int status = 0;
  g_unlink(export->socket);
  if (!g_spawn_sync("/", argv, environment, G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL, setup_child,
                    NULL, NULL, &messages, &status, error)) {
    g_prefix_error(error, "cannot start nbdkit for %s/%s: ", export->vm, export->disk);
    return FALSE;
  }
  if (status == 0)
    return TRUE;
  set_error_from_messages(export, messages, error);
  return FALSE;
}

/* Whether some process listens on the control socket, however slow it may be to answer. */
static gboolean
is_listening(const Export *export)
{
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  gboolean fits =
      g_strlcpy(address.sun_path, export->control, sizeof address.sun_path) < sizeof address.sun_path;
  CBT_AUTO_FD int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  return fits && fd >= 0 &&
         (connect(fd, (const struct sockaddr *) &address, sizeof address) == 0 || errno == EAGAIN);
}

/* Who answers on the control socket in time, and serves our disk; else 0. */
static gint64
ask_pid(const Export *export, GError **error)
{
  char disk_id[CBT_UUID_TEXT_SIZE];
  g_autoptr(CbtDisk) disk = cbt_disk_connect(export->control, START_TIMEOUT_MS, error);
  if (!disk)
    return 0;
  if (strcmp(cbt_uuid_format(&cbt_disk_identity(disk)->disk_id, disk_id), export->disk_id) == 0)
    return cbt_disk_owner_pid(disk);
  cbt_set_error(error, CBT_ERROR_BUSY, "End that process.",
                "process %" G_GINT64_FORMAT " serves another disk at %s", cbt_disk_owner_pid(disk),
                export->control);
  return 0;
}

static gboolean
has_ended(int pid_fd, int timeout_ms)
{
  struct pollfd poll_fd = {.fd = pid_fd, .events = POLLIN};
  return poll(&poll_fd, 1, timeout_ms) > 0;
}

static void
wake_supervisor(Exports *exports)
{
  guint64 one = 1;
  while (write(exports->wake_fd, &one, sizeof one) < 0 && errno == EINTR)
    continue;
}

static void
set_process(Export *export, gint64 pid, int pid_fd)
{
  pthread_mutex_lock(&export->exports->lock);
  cbt_clear_fd(&export->pid_fd);
  export->pid = pid;
  export->pid_fd = pid_fd;
  pthread_mutex_unlock(&export->exports->lock);
  wake_supervisor(export->exports);
}

static gboolean
end_process(const Export *export, GError **error)
{
  if (export->pid == 0)
    return TRUE;
  pidfd_send_signal(export->pid_fd, SIGTERM, NULL, 0);
  if (!has_ended(export->pid_fd, STOP_TIMEOUT_MS)) {
    cbt_set_error(error, CBT_ERROR_BUSY, "A client may still be writing: disconnect it, or end the process.",
                  "the export of %s/%s (process %" G_GINT64_FORMAT ") did not end in %d s", export->vm,
                  export->disk, export->pid, STOP_TIMEOUT_MS / 1000);
    return FALSE;
  }
  return TRUE;
}

/* It may be ended together with the daemon where that fails, so it is tried again by each daemon that finds it. */
static void
give_unit(const Export *export, gint64 pid)
{
  g_autoptr(GError) error = NULL;
  if (!service_own_process(pid, export->vm, export->disk, &error))
    g_warning("%s", error->message);
}

/* Takes over the process that answers. */
static gboolean
find_process(Export *export, GError **error)
{
  gint64 pid = ask_pid(export, error);
  if (pid == 0)
    return FALSE;
  CBT_AUTO_FD int pid_fd = pidfd_open((pid_t) pid, 0);
  if (pid_fd < 0) {
    cbt_set_error_errno(error, errno, "cannot watch process %" G_GINT64_FORMAT, pid);
    return FALSE;
  }
  if (ask_pid(export, error) != pid) {
    if (error && !*error)
      cbt_set_error(error, CBT_ERROR_BUSY, "Try again.", "the export of %s/%s was just replaced", export->vm,
                    export->disk);
    return FALSE;
  }
  give_unit(export, pid);
  set_process(export, pid, cbt_steal_fd(&pid_fd));
  g_info("export of %s/%s runs as process %" G_GINT64_FORMAT, export->vm, export->disk, pid);
  return TRUE;
}

/* The process finds out by itself who else uses the image, but cannot tell us more than a message. */
static gboolean
check_image_free(const Export *export, GError **error)
{
  CBT_AUTO_FD int fd = cbt_image_open(export->image, CBT_IMAGE_EXPORT, CBT_EXPORT_BUSY_HINT, error);
  return fd >= 0;
}

static gboolean
start_process(Export *export, GError **error)
{
  return check_image_free(export, error) && spawn_process(export, error) && find_process(export, error);
}

/* ---- supervision
 * ---------------------------------------------------------------------------------------------- */

static gboolean
may_start_again(Export *export)
{
  gint64 now = g_get_monotonic_time();
  gint64 oldest = export->deaths[export->n_deaths % MAX_DEATHS];
  export->deaths[export->n_deaths++ % MAX_DEATHS] = now;
  return oldest == 0 || now - oldest > DEATH_WINDOW_US;
}

static void
set_retry(Export *export, gint64 at)
{
  pthread_mutex_lock(&export->exports->lock);
  export->retry_at = at;
  pthread_mutex_unlock(&export->exports->lock);
}

/* A guest waits for its disk: what keeps it from starting may go away by itself. Under `change`. */
static void
start_again(Export *export)
{
  g_autoptr(GError) error = NULL;
  set_retry(export, 0);
  if (start_process(export, &error)) {
    export->retry_delay_us = 0;
    return;
  }
  export->retry_delay_us = CLAMP(export->retry_delay_us * 2, G_USEC_PER_SEC, RETRY_MAX_US);
  g_warning("%s; it is tried again in %d s", error->message, (int) (export->retry_delay_us / G_USEC_PER_SEC));
  set_retry(export, g_get_monotonic_time() + export->retry_delay_us);
}

static void
retry_export(Export *export)
{
  if (!export->wanted || export->pid != 0)
    set_retry(export, 0);
  else if (export->retry_at != 0 && g_get_monotonic_time() >= export->retry_at)
    start_again(export);
}

/* Under `change`, for a process that was seen to end: unless it was stopped meanwhile, it is started again.
 */
static void
restart_export(Export *export)
{
  if (!export->wanted || export->pid == 0 || !has_ended(export->pid_fd, 0))
    return;
  g_warning("the export of %s/%s (process %" G_GINT64_FORMAT ") ended unexpectedly", export->vm, export->disk,
            export->pid);
  set_process(export, 0, -1);
  if (!may_start_again(export))
    g_warning("the export of %s/%s ended %d times in a minute: it stays down until it is stopped and started "
              "by hand",
              export->vm, export->disk, MAX_DEATHS);
  else
    start_again(export);
}

/* Milliseconds until EXPORT is to be started again, or TIMEOUT if that is sooner (-1: for ever). Under
 * `lock`. */
static int
sooner(const Export *export, int timeout)
{
  if (export->retry_at == 0)
    return timeout;
  gint64 left = (export->retry_at - g_get_monotonic_time()) / 1000 + 1;
  int left_ms = (int) CLAMP(left, 0, G_MAXINT);
  return timeout < 0 ? left_ms : MIN(timeout, left_ms);
}

/* The pidfds of all running processes behind the wake-up, which WATCHED gets in the same order; then those
 * that are to be started again. */
static GArray *
collect_poll_fds(Exports *exports, GPtrArray *watched, GPtrArray *down, int *timeout, gboolean *stopping)
{
  GArray *fds = g_array_new(FALSE, FALSE, sizeof(struct pollfd));
  struct pollfd wake = {.fd = exports->wake_fd, .events = POLLIN};
  g_array_append_val(fds, wake);
  pthread_mutex_lock(&exports->lock);
  *stopping = exports->stopping;
  *timeout = -1;
  for (guint i = 0; i < exports->all->len; i++) {
    Export *export = g_ptr_array_index(exports->all, i);
    struct pollfd poll_fd = {.fd = export->pid_fd, .events = POLLIN};
    *timeout = sooner(export, *timeout);
    if (export->retry_at != 0)
      g_ptr_array_add(down, export);
    if (export->pid_fd < 0)
      continue;
    g_array_append_val(fds, poll_fd);
    g_ptr_array_add(watched, export);
  }
  pthread_mutex_unlock(&exports->lock);
  return fds;
}

static gboolean
supervise_once(Exports *exports)
{
  gboolean stopping;
  int timeout;
  g_autoptr(GPtrArray) watched = g_ptr_array_new();
  g_autoptr(GPtrArray) down = g_ptr_array_new();
  g_autoptr(GArray) fds = collect_poll_fds(exports, watched, down, &timeout, &stopping);
  if (stopping)
    return FALSE;
  if (poll((struct pollfd *) (void *) fds->data, fds->len, timeout) < 0)
    return TRUE;
  guint64 count;
  if (g_array_index(fds, struct pollfd, 0).revents && read(exports->wake_fd, &count, sizeof count) < 0)
    g_debug("spurious wake-up");
  for (guint i = 0; i < watched->len; i++) {
    if (!g_array_index(fds, struct pollfd, i + 1).revents)
      continue;
    pthread_mutex_lock(&exports->change);
    restart_export(g_ptr_array_index(watched, i));
    pthread_mutex_unlock(&exports->change);
  }
  for (guint i = 0; i < down->len; i++) {
    pthread_mutex_lock(&exports->change);
    retry_export(g_ptr_array_index(down, i));
    pthread_mutex_unlock(&exports->change);
  }
  return TRUE;
}

static void *
supervisor_thread(void *data)
{
  while (supervise_once(data))
    continue;
  return NULL;
}

Exports *
exports_new(const DaemonConfig *config)
{
  Exports *exports = g_new0(Exports, 1);
  exports->config = config;
  exports->all = g_ptr_array_new_with_free_func((GDestroyNotify) export_free);
  exports->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  pthread_mutex_init(&exports->change, NULL);
  pthread_mutex_init(&exports->lock, NULL);
  int failed = pthread_create(&exports->supervisor, NULL, supervisor_thread, exports);
  if (failed != 0)
    g_error("cannot start a thread: %s", g_strerror(failed));
  return exports;
}

void
exports_free(Exports *exports)
{
  pthread_mutex_lock(&exports->lock);
  exports->stopping = TRUE;
  pthread_mutex_unlock(&exports->lock);
  wake_supervisor(exports);
  pthread_join(exports->supervisor, NULL);
  g_ptr_array_unref(exports->all);
  cbt_clear_fd(&exports->wake_fd);
  pthread_mutex_destroy(&exports->change);
  pthread_mutex_destroy(&exports->lock);
  g_free(exports);
}

/* ---- what callers see
 * ----------------------------------------------------------------------------------------- */

/* The Export of a disk, made if there is none yet. Under `change`. */
static Export *
ensure_export(Exports *exports, const CatalogueVm *vm, const CatalogueDisk *disk)
{
  Export *fresh = export_new(exports, vm, disk);
  pthread_mutex_lock(&exports->lock);
  for (guint i = 0; i < exports->all->len; i++) {
    Export *export = g_ptr_array_index(exports->all, i);
    if (strcmp(export->disk_id, fresh->disk_id) == 0) {
      pthread_mutex_unlock(&exports->lock);
      export_free(fresh);
      return export;
    }
  }
  g_ptr_array_add(exports->all, fresh);
  pthread_mutex_unlock(&exports->lock);
  return fresh;
}

static void
set_wanted(Export *export, gboolean wanted)
{
  pthread_mutex_lock(&export->exports->lock);
  export->wanted = wanted;
  pthread_mutex_unlock(&export->exports->lock);
}

static gboolean
stop_export(Export *export, GError **error)
{
  if (!export->wanted)
    return TRUE;
  if (!end_process(export, error))
    return FALSE;
  set_wanted(export, FALSE);
  set_process(export, 0, -1);
  g_unlink(export->socket);
  g_unlink(export->control);
  return TRUE;
}

static gboolean
check_socket_path(const Export *export, GError **error)
{
  if (strlen(export->socket) < sizeof((struct sockaddr_un *) NULL)->sun_path)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, "Give cbt-backupd a shorter --runtime-dir.",
                "the socket path %s is longer than Unix sockets allow", export->socket);
  return FALSE;
}

static gboolean
is_running(const Export *export)
{
  return export->wanted && export->pid != 0 && !has_ended(export->pid_fd, 0);
}

static void
begin_supervising(Export *export)
{
  export->n_deaths = 0;
  memset(export->deaths, 0, sizeof export->deaths);
  set_wanted(export, TRUE);
}

/* Takes over a process that runs unknown to us: an earlier daemon's, with clients perhaps. */
static gboolean
adopt_export(Export *export, GError **error)
{
  if (is_running(export) || !is_listening(export))
    return TRUE;
  if (!find_process(export, error))
    return FALSE;
  begin_supervising(export);
  return TRUE;
}

/* *started: whether there was no process before. */
static gboolean
start_export(Export *export, gboolean *started, GError **error)
{
  *started = FALSE;
  if (is_running(export))
    return TRUE;
  if (!check_socket_path(export, error) || !start_process(export, error))
    return FALSE;
  *started = TRUE;
  begin_supervising(export);
  return TRUE;
}

static void
stop_started(GPtrArray *started)
{
  for (guint i = 0; i < started->len; i++) {
    const Export *export = g_ptr_array_index(started, i);
    if (!stop_export(g_ptr_array_index(started, i), NULL))
      g_warning("the export of %s/%s is left running", export->vm, export->disk);
  }
}

static gboolean
start_all(Exports *exports, const CatalogueVm *vm, GError **error)
{
  g_autofree char *folder = daemon_config_export_dir(exports->config, vm->name);
  g_autoptr(GPtrArray) started = g_ptr_array_new();
  if (g_mkdir_with_parents(folder, 0755) != 0) {
    cbt_set_error_errno(error, errno, "cannot make %s", folder);
    return FALSE;
  }
  for (guint i = 0; i < vm->disks->len; i++)
    if (!adopt_export(ensure_export(exports, vm, g_ptr_array_index(vm->disks, i)), error))
      return FALSE;
  for (guint i = 0; i < vm->disks->len; i++) {
    Export *export = ensure_export(exports, vm, g_ptr_array_index(vm->disks, i));
    gboolean is_new;
    if (!start_export(export, &is_new, error)) {
      stop_started(started);
      return FALSE;
    }
    if (is_new)
      g_ptr_array_add(started, export);
  }
  return TRUE;
}

gboolean
exports_start(Exports *exports, const CatalogueVm *vm, GError **error)
{
  pthread_mutex_lock(&exports->change);
  gboolean ok = start_all(exports, vm, error);
  pthread_mutex_unlock(&exports->change);
  return ok;
}

gboolean
exports_stop(Exports *exports, const char *vm, GError **error)
{
  gboolean found = FALSE, ok = TRUE;
  pthread_mutex_lock(&exports->change);
  for (guint i = 0; ok && i < exports->all->len; i++) {
    Export *export = g_ptr_array_index(exports->all, i);
    if (strcmp(export->vm, vm) != 0 || !export->wanted)
      continue;
    found = TRUE;
    ok = stop_export(export, error);
  }
  pthread_mutex_unlock(&exports->change);
  if (found)
    return ok;
  g_autofree char *hint = g_strdup_printf("Start it with: cbt-backup export start %s", vm);
  cbt_set_error(error, CBT_ERROR_NOT_FOUND, hint, "vm '%s' is not exported", vm);
  return FALSE;
}

GPtrArray *
exports_list(Exports *exports, const char *vm_or_null)
{
  GPtrArray *list = g_ptr_array_new_with_free_func((GDestroyNotify) export_info_free);
  pthread_mutex_lock(&exports->lock);
  for (guint i = 0; i < exports->all->len; i++) {
    const Export *export = g_ptr_array_index(exports->all, i);
    if (!export->wanted || (vm_or_null && strcmp(export->vm, vm_or_null) != 0))
      continue;
    ExportInfo *info = g_new0(ExportInfo, 1);
    *info = (ExportInfo){
        g_strdup(export->vm), g_strdup(export->disk), g_strdup(export->socket), g_strdup(export->control),
        export->pid,          export->pid != 0};
    g_ptr_array_add(list, info);
  }
  pthread_mutex_unlock(&exports->lock);
  return list;
}

gboolean
exports_has(Exports *exports, const char *vm)
{
  g_autoptr(GPtrArray) list = exports_list(exports, vm);
  return list->len > 0;
}

char *
exports_control_socket(Exports *exports, const char *vm, const char *disk)
{
  g_autoptr(GPtrArray) list = exports_list(exports, vm);
  for (guint i = 0; i < list->len; i++) {
    const ExportInfo *info = g_ptr_array_index(list, i);
    if (strcmp(info->disk, disk) == 0)
      return g_strdup(info->control);
  }
  return NULL;
}

gboolean
exports_are_listening(Exports *exports, const CatalogueVm *vm)
{
  gboolean found = FALSE;
  for (guint i = 0; i < vm->disks->len && !found; i++) {
    Export *export = export_new(exports, vm, g_ptr_array_index(vm->disks, i));
    found = is_listening(export);
    export_free(export);
  }
  return found;
}
