/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The caller's side of cbt-quiesce. From the freeze on, a thread (the guard) hears what cbt-quiesce says, so
 * that its end is met with a thaw even while the caller is busy with its transaction. If it falls silent for
 * longer than it should, it is killed: a process that is stopped would keep the agent's connection, and
 * nobody else could thaw. What the guard then finds is judged as cbt-quiesce would: when the caller
 * had asked for the thaw, and as many file systems thaw as were frozen, they were still until then.
 */
#include <cbt/qemu/quiesce.h>

#include <cbt/qemu/channel.h>
#include <cbt/qemu/json.h>
#include <cbt/qemu/qmp-args.h>
#include <cbt/qemu/quiesce-mark.h>
#include <cbt/qemu/quiesce-private.h>
#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define SILENCE_MS   20000 /* more than an attempt to thaw, and the pause after it */
#define LATENESS_MS  3000  /* beyond its budget, until it says that it thaws */
#define SEND_MS      5000
#define PREPARE_MS   60000 /* beside its scripts and its connecting */
#define DEATH_MS     5000
#define LOCK_LOOK_MS 50

typedef enum { PREPARED, FREEZING, FROZEN, NOT_FROZEN, OVER } Phase;

struct QemuQuiesce {
  /* constant after preparing */
  QemuQuiesceRequest request;
  char *note;
  GCancellable *cancellable; /* or NULL */
  pid_t pid;
  int pid_fd, command_fd; /* for what is sent; the channel is the guard's then */
  GThread *guard;         /* of the caller's thread; NULL: not begun, or joined */

  /* owned by the guard while it runs */
  QemuChannel *channel;
  QemuQuiesceFacts facts;
  QemuQuiesceResult result;

  pthread_mutex_t lock;
  pthread_cond_t changed;
  /* protected by lock */
  Phase phase;
  char *freeze_why;     /* why it is not frozen, set before the phase */
  gboolean is_finished; /* the caller has its point, or wants none: it asked for the thaw */
};

static const QemuChannelKind pipe_kind = {.max_bytes = QEMU_QUIESCE_MAX_MESSAGE_BYTES};

static gint64
deadline_after(guint64 ms)
{
  return g_get_monotonic_time() + (gint64) ms * 1000;
}

/* The process */

static gboolean
spawn(QemuQuiesce *self, const char *program, GError **error)
{
  char *argv[] = {(char *) program, self->request.socket,
                  NULL}; /* the socket is for who looks at processes */
  int fds[2];
  g_autoptr(GError) local = NULL;
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
    cbt_set_error_errno(error, errno, "Cannot make a pair of sockets");
    return FALSE;
  }
  self->channel = qemu_channel_adopt(fds[0], "cbt-quiesce", &pipe_kind, self->cancellable);
  CBT_AUTO_FD int theirs = fds[1];
  self->command_fd = fcntl(fds[0], F_DUPFD_CLOEXEC, 0);
  if (!g_spawn_async_with_pipes_and_fds(NULL, (const char *const *) argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD,
                                        NULL, NULL, theirs, theirs, -1, NULL, NULL, 0, &self->pid, NULL, NULL,
                                        NULL, &local)) {
    cbt_set_error(error, cbt_error_code(local), "See whether cbt-backup is installed as a whole.",
                  "Cannot start %s: %s", program, local->message);
    return FALSE;
  }
  self->pid_fd = (int) syscall(SYS_pidfd_open, self->pid, 0);
  return TRUE;
}

static gboolean
has_ended(const QemuQuiesce *self, int timeout_ms)
{
  struct pollfd end = {.fd = self->pid_fd, .events = POLLIN};
  return poll(&end, 1, timeout_ms) > 0;
}

static void
end_process(QemuQuiesce *self)
{
  kill(self->pid, SIGKILL); /* it is our child, and not reaped yet: the id is its own */
  if (!has_ended(self, DEATH_MS))
    g_debug("cbt-quiesce %d does not end", (int) self->pid);
}

static gpointer
reap(gpointer data)
{
  waitpid(GPOINTER_TO_INT(data), NULL, 0);
  return NULL;
}

/* It may have a script to wait for, if it was given up before the freeze. */
static void
let_go(QemuQuiesce *self)
{
  if (self->pid > 0 && waitpid(self->pid, NULL, WNOHANG) == 0)
    g_thread_unref(g_thread_new("reap", reap, GINT_TO_POINTER(self->pid)));
}

static gboolean
set_lost(const GError *cause, GError **error)
{
  g_autofree char *why = cbt_error_message(cause);
  cbt_set_error(error, cbt_error_code(cause), NULL, "cbt-quiesce, which was to freeze the guest: %s", why);
  return FALSE;
}

/* Before the freeze */

static gboolean
take_prepared(QemuQuiesce *self, JsonObject *event, GError **error)
{
  if (g_strcmp0(qemu_json_string(event, "event"), "prepared") != 0) {
    const char *message = qemu_json_string(event, "message"), *code = qemu_json_string(event, "code");
    cbt_set_error(error, code ? cbt_error_code_from_name(code) : CBT_ERROR_CORRUPT,
                  qemu_json_string(event, "hint"), "%s",
                  message ? message : "cbt-quiesce says what cannot be understood");
    return FALSE;
  }
  self->facts.asked = self->request.level;
  self->facts.is_pre_run = qemu_json_bool(event, "pre-script-run");
  self->facts.is_app_ready = qemu_json_bool(event, "app-ready");
  self->facts.app_why = g_strdup(qemu_json_string(event, "app-why"));
  self->note = g_strdup(qemu_json_string(event, "note"));
  return TRUE;
}

static gboolean
await_prepared(QemuQuiesce *self, GError **error)
{
  const QemuQuiesceRequest *request = &self->request;
  guint64 ms = PREPARE_MS + 4 * (guint64) request->connect_timeout_ms + request->script_timeout_ms;
  g_autoptr(GError) local = NULL;
  g_autoptr(JsonObject) event = NULL, message = qemu_quiesce_request_encode(request);
  if (qemu_channel_send_object(self->channel, message, deadline_after(SEND_MS), &local))
    event = qemu_channel_receive(self->channel, deadline_after(ms), &local);
  return event ? take_prepared(self, event, error) : set_lost(local, error);
}

static void
release(QemuQuiesce *self)
{
  qemu_channel_close(self->channel);
  cbt_clear_fd(&self->command_fd);
  let_go(self);
  cbt_clear_fd(&self->pid_fd);
  g_clear_object(&self->cancellable);
  qemu_quiesce_facts_clear(&self->facts);
  qemu_quiesce_result_clear(&self->result);
  qemu_quiesce_request_clear(&self->request);
  pthread_mutex_destroy(&self->lock);
  pthread_cond_destroy(&self->changed);
  g_free(self->freeze_why);
  g_free(self->note);
  g_free(self);
}

QemuQuiesce *
qemu_quiesce_prepare(const QemuQuiesceOptions *options, GCancellable *cancellable, GError **error)
{
  QemuQuiesce *self = g_new0(QemuQuiesce, 1);
  self->pid_fd = self->command_fd = -1;
  self->cancellable = cancellable ? g_object_ref(cancellable) : NULL;
  pthread_mutex_init(&self->lock, NULL);
  pthread_cond_init(&self->changed, NULL);
  if (qemu_quiesce_request_init(&self->request, options, error) && spawn(self, options->program, error) &&
      await_prepared(self, error)) {
    qemu_channel_set_cancellable(self->channel, NULL);
    return self;
  }
  release(self);
  return NULL;
}

const char *
qemu_quiesce_note(const QemuQuiesce *self)
{
  return self->note;
}

/* The guard */

static void
set_phase(QemuQuiesce *self, Phase phase)
{
  pthread_mutex_lock(&self->lock);
  self->phase = phase;
  pthread_cond_broadcast(&self->changed);
  pthread_mutex_unlock(&self->lock);
}

static guint
get_count(JsonObject *event, const char *key)
{
  guint64 count = 0;
  return qemu_json_size(event, key, &count) ? (guint) MIN(count, G_MAXINT) : 0;
}

static void
take_freeze(QemuQuiesce *self, JsonObject *event)
{
  const char *why = qemu_json_string(event, "why");
  gboolean is_frozen = g_strcmp0(qemu_json_string(event, "event"), "frozen") == 0;
  self->facts.n_frozen = get_count(event, "count");
  self->facts.has_filesystems = qemu_json_bool(event, "file-systems");
  self->facts.unfrozen = g_strdup(qemu_json_string(event, "unfrozen"));
  if (!is_frozen)
    qemu_quiesce_facts_break(&self->facts, "%s", why ? why : "the freeze failed");
  self->freeze_why = g_strdup(self->facts.broken);
  set_phase(self, is_frozen ? FROZEN : NOT_FROZEN);
}

static void
take_result(QemuQuiesce *self, JsonObject *event)
{
  const char *level = qemu_json_string(event, "level");
  guint64 frozen_ms = 0;
  qemu_json_size(event, "frozen-ms", &frozen_ms);
  self->result = (QemuQuiesceResult){
      .level = g_strcmp0(level, "app") == 0  ? QEMU_QUIESCE_APP
               : g_strcmp0(level, "fs") == 0 ? QEMU_QUIESCE_FS
                                             : QEMU_QUIESCE_NONE,
      .why = g_strdup(qemu_json_string(event, "why")),
      .frozen_ms = frozen_ms,
      .n_frozen = get_count(event, "frozen"),
      .n_thawed = get_count(event, "thawed"),
      .is_left_frozen = qemu_json_bool(event, "left-frozen"),
  };
}

/* How long it may take until the next event after NAME. */
static guint64
patience_after(const QemuQuiesce *self, const char *name)
{
  const QemuQuiesceRequest *request = &self->request;
  if (g_str_equal(name, "thawed"))
    return SILENCE_MS + request->connect_timeout_ms + (guint64) request->script_timeout_ms;
  if (g_str_equal(name, "freezing") || g_str_equal(name, "frozen"))
    return LATENESS_MS + (guint64) request->budget_ms;
  return SILENCE_MS;
}

/* TRUE if it told its result. *is_thawed if it thawed. */
static gboolean
listen_to(QemuQuiesce *self, gboolean *is_thawed, GError **error)
{
  gint64 deadline_us = deadline_after(SILENCE_MS + 2 * (guint64) self->request.connect_timeout_ms);
  for (;;) {
    g_autoptr(JsonObject) event = qemu_channel_receive(self->channel, deadline_us, error);
    if (!event)
      return FALSE;
    const char *name = qemu_json_string(event, "event");
    name = name ? name : "";
    if (g_str_equal(name, "freezing"))
      self->facts.begin_us = g_get_monotonic_time();
    else if (g_str_equal(name, "frozen") || g_str_equal(name, "not-frozen"))
      take_freeze(self, event);
    else if (g_str_equal(name, "thawed")) {
      self->facts.n_thawed = get_count(event, "count");
      self->facts.is_left_frozen = qemu_json_bool(event, "left-frozen");
      self->facts.end_us = g_get_monotonic_time();
      *is_thawed = !self->facts.is_left_frozen;
    } else if (g_str_equal(name, "result")) {
      take_result(self, event);
      return TRUE;
    }
    deadline_us = deadline_after(patience_after(self, name));
  }
}

/* Its lock goes with the process, but not at once. */
static void
take_mark(QemuQuiesce *self, QemuQuiesceMark *mark)
{
  gint64 deadline_us = deadline_after(DEATH_MS);
  for (;;) {
    g_autoptr(GError) error = NULL;
    if (qemu_quiesce_mark_open(mark, self->request.socket, FALSE, &error) ||
        g_get_monotonic_time() > deadline_us)
      return;
    g_usleep(LOCK_LOOK_MS * 1000);
  }
}

static void
thaw_ourselves(QemuQuiesce *self, Qga **qga)
{
  QemuQuiesceFacts *facts = &self->facts;
  g_autoptr(GError) error = NULL;
  QemuQuiesceMark mark = {.fd = -1};
  take_mark(self, &mark);
  facts->n_thawed = 0;
  facts->is_left_frozen = !qemu_quiesce_thaw_until(qga, self->request.socket, self->request.thaw_timeout_ms,
                                                   NULL, NULL, &facts->n_thawed, &error);
  facts->end_us = g_get_monotonic_time();
  if (facts->is_left_frozen)
    qemu_quiesce_mark_close(&mark);
  else
    qemu_quiesce_mark_remove(&mark);
}

/* A thaw that the caller did not ask for may come before its point is taken. */
static void
check_finished(QemuQuiesce *self)
{
  pthread_mutex_lock(&self->lock);
  gboolean is_frozen = self->phase == FROZEN, is_finished = self->is_finished;
  pthread_mutex_unlock(&self->lock);
  if (self->facts.begin_us && !is_frozen)
    qemu_quiesce_facts_break(&self->facts, "cbt-quiesce ended before it said that the guest is frozen");
  if (!is_finished)
    qemu_quiesce_facts_break(&self->facts, "cbt-quiesce ended while the point was being taken");
}

static void
replace_process(QemuQuiesce *self, gboolean is_thawed, const GError *cause)
{
  QemuQuiesceFacts *facts = &self->facts;
  g_autoptr(Qga) qga = NULL;
  end_process(self);
  g_message("%s: cbt-quiesce: %s; thawing without it", self->request.socket, cause->message);
  check_finished(self);
  if (facts->begin_us && !is_thawed)
    thaw_ourselves(self, &qga);
  if (!is_thawed && !facts->is_left_frozen && facts->is_pre_run) {
    g_autoptr(GError) ignored = NULL;
    if (!qga)
      qga = qga_open(self->request.socket, self->request.connect_timeout_ms, NULL, &ignored);
    qemu_quiesce_run_post_script(qga, &self->request, facts);
  } else if (is_thawed && facts->is_pre_run) {
    facts->is_app_ready = FALSE; /* the script may have run, or not */
    facts->app_why = facts->app_why
                         ? facts->app_why
                         : g_strdup("cbt-quiesce ended before it said what the script after it did");
  }
  qemu_quiesce_facts_judge(facts, &self->result);
}

static gpointer
guard(gpointer data)
{
  QemuQuiesce *self = data;
  g_autoptr(GError) error = NULL;
  gboolean is_thawed = FALSE;
  if (!listen_to(self, &is_thawed, &error))
    replace_process(self, is_thawed, error);
  set_phase(self, OVER);
  return NULL;
}

/* The caller's thread */

static void
tell(QemuQuiesce *self, const char *command)
{
  g_autofree char *line = g_strdup_printf("{\"command\":\"%s\"}\n", command);
  if (send(self->command_fd, line, strlen(line), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
    g_debug("cbt-quiesce does not hear: %s", g_strerror(errno)); /* the guard meets its end */
}

static void
on_cancelled(GCancellable *cancellable, QemuQuiesce *self)
{
  (void) cancellable;
  pthread_mutex_lock(&self->lock);
  pthread_cond_broadcast(&self->changed);
  pthread_mutex_unlock(&self->lock);
}

static Phase
await_freeze(QemuQuiesce *self)
{
  gulong handler =
      self->cancellable ? g_cancellable_connect(self->cancellable, G_CALLBACK(on_cancelled), self, NULL) : 0;
  pthread_mutex_lock(&self->lock);
  while (self->phase == FREEZING && !g_cancellable_is_cancelled(self->cancellable))
    pthread_cond_wait(&self->changed, &self->lock);
  Phase phase = self->phase;
  pthread_mutex_unlock(&self->lock);
  if (handler)
    g_cancellable_disconnect(self->cancellable, handler);
  return phase;
}

static gboolean
set_cancelled(const QemuQuiesce *self, GError **error)
{
  cbt_set_error(error, CBT_ERROR_CANCELLED, NULL, "The freeze of the guest behind %s was cancelled",
                self->request.socket);
  return FALSE;
}

gboolean
qemu_quiesce_freeze(QemuQuiesce *self, GError **error)
{
  g_return_val_if_fail(!self->guard && self->phase == PREPARED, FALSE);
  if (g_cancellable_is_cancelled(self->cancellable))
    return set_cancelled(self, error);
  self->phase = FREEZING;
  tell(self, "freeze");
  self->guard = g_thread_new("quiesce", guard, self);
  Phase phase = await_freeze(self);
  if (phase == FROZEN)
    return TRUE;
  if (phase == FREEZING)
    return set_cancelled(self, error);
  cbt_set_error(error, CBT_ERROR_FAILED, NULL, "The guest behind %s is not frozen: %s", self->request.socket,
                phase == NOT_FROZEN ? self->freeze_why : self->result.why);
  return FALSE;
}

void
qemu_quiesce_thaw(QemuQuiesce *self, QemuQuiesceResult *result)
{
  pthread_mutex_lock(&self->lock);
  gboolean is_idle = !self->guard && self->phase == PREPARED;
  self->is_finished = TRUE;
  pthread_mutex_unlock(&self->lock);
  if (is_idle || self->guard)
    tell(self, "thaw");
  if (is_idle)
    self->guard = g_thread_new("quiesce", guard, self);
  if (self->guard)
    g_thread_join(g_steal_pointer(&self->guard));
  *result = self->result;
  result->why = g_strdup(self->result.why);
}

void
qemu_quiesce_free(QemuQuiesce *self)
{
  if (!self)
    return;
  g_auto(QemuQuiesceResult) result = {0};
  qemu_quiesce_thaw(self, &result);
  release(self);
}
