/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Commands carry growing ids. QEMU answers in order, and what a client left undone it answers to the next
 * one, after the greeting of that; an event, too, may slip in before the greeting. So ids begin at a random
 * number: an answer with another id than that of the last command is that of a call which gave up, or of a
 * client before us, and is dropped. What is read is either an answer or an event; events are shown to the
 * callback and queued, whoever reads them.
 */
#include <cbt/qemu/qmp.h>

#include <cbt/qemu/channel.h>
#include <cbt/qemu/json.h>
#include <string.h>
#include <sys/socket.h>

static const QemuChannelKind qmp_kind = {.max_bytes = QMP_MAX_MESSAGE_BYTES};

#define ID_BITS 20 /* for the commands of a connection */

struct Qmp {
  QemuChannel *channel;
  QmpVersion version;
  gint64 last_id;
  gboolean is_confused; /* it sent what is no QMP */
  GQueue events;        /* JsonObject as read, oldest first */
  QmpEventFunc event_func;
  gpointer event_data;
};

/* QEMU's error classes: qapi/error.json. */
static const struct {
  const char *name;
  CbtErrorCode code;
} classes[] = {
    {"CommandNotFound", CBT_ERROR_UNSUPPORTED},
    {"DeviceNotFound", CBT_ERROR_NOT_FOUND},
    {"DeviceNotActive", CBT_ERROR_STATE},
    {"KVMMissingCap", CBT_ERROR_UNSUPPORTED},
};

static gint64
deadline_after(guint timeout_ms)
{
  return g_get_monotonic_time() + (gint64) timeout_ms * 1000;
}

/* Sets ERROR from CAUSE, with what was being done. */
static gboolean
fail(Qmp *self, const GError *cause, const char *doing, const char *hint, GError **error)
{
  g_autofree char *why = cbt_error_message(cause);
  g_autofree char *cause_hint = cbt_error_hint(cause);
  cbt_set_error(error, cbt_error_code(cause), hint ? hint : cause_hint, "QEMU on %s, %s: %s",
                qemu_channel_path(self->channel), doing, why);
  return FALSE;
}

static gboolean
set_nonsense(Qmp *self, const char *doing, const char *what, GError **error)
{
  self->is_confused = TRUE;
  cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "QEMU on %s, %s: %s", qemu_channel_path(self->channel), doing,
                what);
  return FALSE;
}

/* The greeting */

static gboolean
set_not_greeted(Qmp *self, const GError *cause, guint timeout_ms, GError **error)
{
  static const char *const whys[] = {
      [QEMU_SILENCE_UNKNOWN] = "it hangs, or somebody else is connected to it",
      [QEMU_SILENCE_TAKEN] = "somebody else is connected to it",
      [QEMU_SILENCE_HANGING] = "QEMU takes no connections; it is stopped, or hangs",
  };
  if (cbt_error_code(cause) == CBT_ERROR_CORRUPT)
    cbt_set_error(error, CBT_ERROR_CORRUPT,
                  "Name the socket of a QMP monitor: -qmp unix:PATH,server=on,wait=off.",
                  "%s is not the socket of a QMP monitor", qemu_channel_path(self->channel));
  else if (cbt_error_code(cause) != CBT_ERROR_UNREACHABLE || !qemu_channel_is_sound(self->channel))
    return fail(self, cause, "waiting for its greeting", NULL, error);
  else
    cbt_set_error(
        error, CBT_ERROR_UNREACHABLE,
        "QEMU serves one client a socket: give the backup a monitor of its own with a second -qmp option.",
        "The QMP socket %s did not greet within %.1f s: %s", qemu_channel_path(self->channel),
        timeout_ms / 1000.0, whys[qemu_channel_explain_silence(self->channel)]);
  return FALSE;
}

static guint
version_part(JsonObject *qemu, const char *key)
{
  gint64 value = 0;
  return qemu_json_int(qemu, key, &value) ? (guint) CLAMP(value, 0, 100000) : 0;
}

static gboolean
take_greeting(Qmp *self, JsonObject *message, GError **error)
{
  JsonObject *version = qemu_json_object(qemu_json_object(message, "QMP"), "version");
  JsonObject *qemu = qemu_json_object(version, "qemu");
  const char *package = qemu_json_string(version, "package");
  if (!qemu) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "no greeting");
    return FALSE;
  }
  self->version.major = version_part(qemu, "major");
  self->version.minor = version_part(qemu, "minor");
  self->version.micro = version_part(qemu, "micro");
  g_strlcpy(self->version.package, package ? package : "", sizeof(self->version.package));
  return TRUE;
}

static gboolean
is_for_client_before(JsonObject *message)
{
  return qemu_json_string(message, "event") || json_object_has_member(message, "return") ||
         qemu_json_object(message, "error");
}

static gboolean
greet(Qmp *self, guint timeout_ms, gint64 deadline_us, GError **error)
{
  g_autoptr(GError) local = NULL;
  g_autoptr(JsonObject) message = NULL;
  do {
    g_clear_pointer(&message, json_object_unref);
    message = qemu_channel_receive(self->channel, deadline_us, &local);
  } while (message && is_for_client_before(message));
  if (!message || !take_greeting(self, message, &local))
    return set_not_greeted(self, local, timeout_ms, error);
  guint left_ms = (guint) MAX(0, (deadline_us - g_get_monotonic_time()) / 1000);
  return qmp_call(self, "qmp_capabilities", NULL, left_ms, NULL, error);
}

Qmp *
qmp_open(const char *socket_path, guint timeout_ms, GCancellable *cancellable, GError **error)
{
  gint64 deadline_us = deadline_after(timeout_ms);
  QemuChannel *channel = qemu_channel_open(socket_path, &qmp_kind, deadline_us, cancellable, error);
  if (!channel)
    return NULL;
  g_autoptr(Qmp) self = g_new0(Qmp, 1);
  self->channel = channel;
  self->last_id = (gint64) g_random_int() << ID_BITS;
  g_queue_init(&self->events);
  return greet(self, timeout_ms, deadline_us, error) ? g_steal_pointer(&self) : NULL;
}

void
qmp_close(Qmp *self)
{
  if (!self)
    return;
  qmp_clear_events(self);
  qemu_channel_close(self->channel);
  g_free(self);
}

void
qmp_drop(Qmp *self)
{
  qemu_channel_drop(self->channel);
}

gboolean
qmp_is_open(const Qmp *self)
{
  return !self->is_confused && qemu_channel_is_sound(self->channel);
}

const char *
qmp_socket_path(const Qmp *self)
{
  return qemu_channel_path(self->channel);
}

char *
qmp_instance(const Qmp *self)
{
  struct ucred peer;
  socklen_t length = sizeof peer;
  g_autofree char *boot = NULL, *stat = NULL;
  if (getsockopt(qmp_fd(self), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 || peer.pid <= 0)
    return NULL;
  g_autofree char *path = g_strdup_printf("/proc/%d/stat", (int) peer.pid);
  if (!g_file_get_contents("/proc/sys/kernel/random/boot_id", &boot, NULL, NULL) ||
      !g_file_get_contents(path, &stat, NULL, NULL))
    return NULL;
  /* Behind the name, which may hold anything: state is field 3, the time of the start field 22. */
  const char *rest = strrchr(stat, ')');
  g_auto(GStrv) fields = g_strsplit(rest ? rest + 2 : "", " ", -1);
  if (g_strv_length(fields) < 20)
    return NULL;
  return g_strdup_printf("%s/%d/%s", g_strchomp(boot), (int) peer.pid, fields[19]);
}

int
qmp_fd(const Qmp *self)
{
  return qemu_channel_fd(self->channel);
}

const QmpVersion *
qmp_version(const Qmp *self)
{
  return &self->version;
}

gboolean
qmp_version_is_at_least(const Qmp *self, guint major, guint minor)
{
  return self->version.major > major || (self->version.major == major && self->version.minor >= minor);
}

void
qmp_ignore_cancel(Qmp *self, gboolean ignore)
{
  qemu_channel_ignore_cancel(self->channel, ignore);
}

/* Events */

static QmpEvent
view_event(JsonObject *message)
{
  JsonObject *time = qemu_json_object(message, "timestamp");
  QmpEvent event = {.name = qemu_json_string(message, "event"),
                    .data = qemu_json_object(message, "data"),
                    .seconds = -1,
                    .microseconds = -1};
  qemu_json_int(time, "seconds", &event.seconds);
  qemu_json_int(time, "microseconds", &event.microseconds);
  return event;
}

static void
queue_event(Qmp *self, JsonObject *message)
{
  if (self->events.length >= QMP_MAX_EVENTS)
    json_object_unref(g_queue_pop_head(&self->events));
  g_queue_push_tail(&self->events, json_object_ref(message));
  QmpEvent event = view_event(message);
  if (self->event_func)
    self->event_func(&event, self->event_data);
}

void
qmp_set_event_func(Qmp *self, QmpEventFunc func, gpointer user_data)
{
  self->event_func = func;
  self->event_data = user_data;
}

void
qmp_clear_events(Qmp *self)
{
  JsonObject *message;
  while ((message = g_queue_pop_head(&self->events)))
    json_object_unref(message);
}

/* Takes the event out of the queue that is waited for; NULL if it is not there. */
static JsonObject *
pick_event(Qmp *self, const char *name, QmpEventPredicate predicate, gpointer user_data)
{
  for (GList *link = self->events.head; link; link = link->next) {
    QmpEvent event = view_event(link->data);
    if (g_str_equal(event.name, name) && (!predicate || predicate(&event, user_data))) {
      JsonObject *message = link->data;
      g_queue_delete_link(&self->events, link);
      return message;
    }
  }
  return NULL;
}

/* Reads one message: an event is queued and *answer is NULL, else it is an answer (transfer full). */
static gboolean
read_message(Qmp *self, gint64 deadline_us, JsonObject **answer, GError **error)
{
  *answer = NULL;
  g_autoptr(JsonObject) message = qemu_channel_receive(self->channel, deadline_us, error);
  if (!message)
    return FALSE;
  if (qemu_json_string(message, "event"))
    queue_event(self, message);
  else
    *answer = g_steal_pointer(&message);
  return TRUE;
}

gboolean
qmp_wait_event(Qmp *self, const char *name, QmpEventPredicate predicate, gpointer user_data, guint timeout_ms,
               JsonObject **data, GError **error)
{
  gint64 deadline_us = deadline_after(timeout_ms);
  g_autoptr(GError) local = NULL;
  g_autoptr(JsonObject) message = NULL;
  while (!(message = pick_event(self, name, predicate, user_data))) {
    g_autoptr(JsonObject) late_answer = NULL;
    if (!read_message(self, deadline_us, &late_answer, &local)) {
      g_autofree char *doing = g_strdup_printf("waiting for %s", name);
      return fail(self, local, doing, NULL, error);
    }
  }
  JsonObject *found = qemu_json_object(message, "data");
  if (data)
    *data = found ? json_object_ref(found) : NULL;
  return TRUE;
}

gboolean
qmp_pause(Qmp *self, guint ms, GError **error)
{
  return qemu_channel_pause(self->channel, deadline_after(ms), error);
}

/* Commands */

static gboolean
send_command(Qmp *self, const char *command, JsonObject *arguments, int fd, gint64 deadline_us,
             GError **error)
{
  g_autoptr(JsonObject) message = qmp_args("execute", qmp_str(command), "arguments", qmp_obj(arguments), "id",
                                           qmp_int(++self->last_id), NULL);
  return qemu_channel_send_object_with_fd(self->channel, message, fd, deadline_us, error);
}

static gboolean
set_refused(Qmp *self, const char *command, JsonObject *details, GError **error)
{
  const char *class = qemu_json_string(details, "class");
  const char *desc = qemu_json_string(details, "desc");
  CbtErrorCode code = CBT_ERROR_FAILED;
  for (guint i = 0; i < G_N_ELEMENTS(classes); i++)
    if (g_strcmp0(classes[i].name, class) == 0)
      code = classes[i].code;
  cbt_set_error(error, code, NULL, "QEMU on %s refused %s: %s (%s)", qemu_channel_path(self->channel),
                command, desc ? desc : "without a reason", class ? class : "no class");
  return FALSE;
}

/* Whether ANSWER is that of the last command; others are dropped. CORRUPT for what is no answer. */
static gboolean
is_answer(Qmp *self, JsonObject *answer, const char *command, gboolean *is_ours, GError **error)
{
  gint64 id = 0;
  JsonObject *refusal = qemu_json_object(answer, "error");
  if (!refusal && !json_object_has_member(answer, "return"))
    return set_nonsense(self, command, "a message is neither answer nor event", error);
  *is_ours = TRUE;
  if (refusal && !json_object_has_member(answer, "id"))
    return TRUE; /* QEMU could not make out what it was sent */
  *is_ours = qemu_json_int(answer, "id", &id) && id == self->last_id;
  return TRUE;
}

static gboolean
receive_answer(Qmp *self, const char *command, gint64 deadline_us, JsonObject **answer, GError **error)
{
  g_autoptr(GError) local = NULL;
  g_autoptr(JsonObject) message = NULL;
  gboolean is_ours = FALSE;
  while (!is_ours) {
    g_clear_pointer(&message, json_object_unref);
    if (!read_message(self, deadline_us, &message, &local)) {
      gboolean is_late = cbt_error_code(local) == CBT_ERROR_UNREACHABLE && qmp_is_open(self);
      return fail(self, local, command, is_late ? "QEMU may still carry it out." : NULL, error);
    }
    if (message && !is_answer(self, message, command, &is_ours, error))
      return FALSE;
  }
  *answer = g_steal_pointer(&message);
  return TRUE;
}

gboolean
qmp_call_with_fd(Qmp *self, const char *command, JsonObject *arguments, int fd, guint timeout_ms,
                 JsonNode **answer, GError **error)
{
  gint64 deadline_us = deadline_after(timeout_ms);
  g_autoptr(GError) local = NULL;
  g_autoptr(JsonObject) message = NULL;
  if (!send_command(self, command, arguments, fd, deadline_us, &local))
    return fail(self, local, command, NULL, error);
  if (!receive_answer(self, command, deadline_us, &message, error))
    return FALSE;
  JsonObject *refusal = qemu_json_object(message, "error");
  if (refusal)
    return set_refused(self, command, refusal, error);
  if (answer)
    *answer = json_node_copy(json_object_get_member(message, "return"));
  return TRUE;
}

gboolean
qmp_call(Qmp *self, const char *command, JsonObject *arguments, guint timeout_ms, JsonNode **answer,
         GError **error)
{
  return qmp_call_with_fd(self, command, arguments, -1, timeout_ms, answer, error);
}
