/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The agent's answers bear no id that all versions know, so order is all there is. From the moment a command
 * is sent until its answer was read the stream is out of step; so it is, too, when something is there to be
 * read that nobody asked for. Out of step, the next call begins with guest-sync-delimited: 0xFF, for the
 * agent to forget half a request, and a random id; all that comes is dropped up to 0xFF followed by just this
 * id.
 */
#include <cbt/qemu/qga.h>

#include <cbt/qemu/channel.h>
#include <cbt/qemu/json.h>
#include <cbt/qemu/qmp-args.h>
#include <string.h>

static const QemuChannelKind qga_kind = {.max_bytes = QGA_MAX_MESSAGE_BYTES, .has_markers = TRUE};

struct Qga {
  QemuChannel *channel;
  char *version;
  GHashTable *commands; /* names of those that are enabled */
  gboolean is_in_step;
};

static gint64
deadline_after(guint timeout_ms)
{
  return g_get_monotonic_time() + (gint64) timeout_ms * 1000;
}

static guint
ms_until(gint64 deadline_us)
{
  return (guint) CLAMP((deadline_us - g_get_monotonic_time()) / 1000, 0, G_MAXINT);
}

static gboolean
fail(Qga *self, const GError *cause, const char *doing, const char *hint, GError **error)
{
  g_autofree char *why = cbt_error_message(cause);
  cbt_set_error(error, cbt_error_code(cause), hint, "The guest agent on %s, %s: %s",
                qemu_channel_path(self->channel), doing, why);
  return FALSE;
}

/* Being in step */

static gboolean
send_sync(Qga *self, gint64 id, gint64 deadline_us, GError **error)
{
  g_autofree char *line = g_strdup_printf(
      "\xff{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":%" G_GINT64_FORMAT "}}\n", id);
  qemu_channel_skip(self->channel);
  return qemu_channel_send(self->channel, line, strlen(line), deadline_us, error);
}

/* Reads until the answer to the sync with ID. */
static gboolean
await_sync(Qga *self, gint64 id, gint64 deadline_us, GError **error)
{
  for (;;) {
    g_autoptr(GError) local = NULL;
    gint64 answer;
    g_autoptr(JsonObject) message = qemu_channel_receive(self->channel, deadline_us, &local);
    if (message && qemu_json_int(message, "return", &answer) && answer == id)
      return TRUE;
    gboolean is_garbage = message || g_error_matches(local, CBT_ERROR, CBT_ERROR_CORRUPT) ||
                          g_error_matches(local, CBT_ERROR, CBT_ERROR_TOO_LARGE);
    if (!is_garbage) {
      g_propagate_error(error, g_steal_pointer(&local));
      return FALSE;
    }
    qemu_channel_skip(self->channel);
  }
}

static gboolean
set_silent(Qga *self, const GError *cause, GError **error)
{
  if (cbt_error_code(cause) != CBT_ERROR_UNREACHABLE || !qga_is_open(self))
    return fail(self, cause, "synchronising", NULL, error);
  if (qemu_channel_explain_silence(self->channel) == QEMU_SILENCE_TAKEN)
    cbt_set_error(error, CBT_ERROR_UNREACHABLE,
                  "QEMU serves one client a socket: give the backup an agent's channel of its own.",
                  "No guest agent answers on %s: somebody else is connected to it",
                  qemu_channel_path(self->channel));
  else
    cbt_set_error(error, CBT_ERROR_UNREACHABLE, "See whether qemu-guest-agent runs in the guest.",
                  "No guest agent answers on %s", qemu_channel_path(self->channel));
  return FALSE;
}

static gboolean
get_in_step(Qga *self, gint64 deadline_us, GError **error)
{
  g_autoptr(GError) local = NULL;
  gint64 id = (gint64) (((guint64) g_random_int() << 20) ^ g_random_int()) + 1; /* exact in any JSON reader */
  self->is_in_step = FALSE;
  if (!send_sync(self, id, deadline_us, &local) || !await_sync(self, id, deadline_us, &local))
    return set_silent(self, local, error);
  self->is_in_step = TRUE;
  return TRUE;
}

gboolean
qga_sync(Qga *self, guint timeout_ms, GError **error)
{
  return get_in_step(self, deadline_after(timeout_ms), error);
}

/* Commands */

static gboolean
set_refused(Qga *self, const char *command, JsonObject *details, GError **error)
{
  const char *class = qemu_json_string(details, "class");
  const char *desc = qemu_json_string(details, "desc");
  gboolean is_unknown = g_strcmp0(class, "CommandNotFound") == 0;
  cbt_set_error(error, is_unknown ? CBT_ERROR_UNSUPPORTED : CBT_ERROR_FAILED, NULL,
                "The guest agent on %s refused %s: %s (%s)", qemu_channel_path(self->channel), command,
                desc ? desc : "without a reason", class ? class : "no class");
  return FALSE;
}

static gboolean
send_and_receive(Qga *self, const char *command, JsonObject *request, gint64 deadline_us,
                 JsonObject **message, GError **error)
{
  g_autoptr(GError) local = NULL;
  self->is_in_step = FALSE;
  *message = NULL;
  if (qemu_channel_send_object(self->channel, request, deadline_us, &local))
    *message = qemu_channel_receive(self->channel, deadline_us, &local);
  if (*message)
    return TRUE;
  gboolean is_late = cbt_error_code(local) == CBT_ERROR_UNREACHABLE && qga_is_open(self);
  return fail(self, local, command, is_late ? "It may still carry it out." : NULL, error);
}

gboolean
qga_call(Qga *self, const char *command, JsonObject *arguments, guint timeout_ms, JsonNode **answer,
         GError **error)
{
  gint64 deadline_us = deadline_after(timeout_ms);
  g_autoptr(JsonObject) request =
      qmp_args("execute", qmp_str(command), "arguments", qmp_obj(arguments), NULL);
  g_autoptr(JsonObject) message = NULL;
  gboolean is_in_step = self->is_in_step && !qemu_channel_has_input(self->channel);
  if (!is_in_step && !get_in_step(self, deadline_us, error))
    return FALSE;
  if (!send_and_receive(self, command, request, deadline_us, &message, error))
    return FALSE;
  JsonObject *refusal = qemu_json_object(message, "error");
  if (!refusal && !json_object_has_member(message, "return")) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "The guest agent on %s, %s: a message is no answer",
                  qemu_channel_path(self->channel), command);
    return FALSE;
  }
  self->is_in_step = TRUE;
  if (refusal)
    return set_refused(self, command, refusal, error);
  if (answer)
    *answer = json_node_copy(json_object_get_member(message, "return"));
  return TRUE;
}

/* The connection */

static gboolean
load_info(Qga *self, gint64 deadline_us, GError **error)
{
  g_autoptr(JsonNode) answer = NULL;
  if (!qga_call(self, "guest-info", NULL, ms_until(deadline_us), &answer, error))
    return FALSE;
  JsonObject *info = qemu_json_node_object(answer);
  JsonArray *commands = qemu_json_array(info, "supported_commands");
  const char *version = qemu_json_string(info, "version");
  self->version = g_strdup(version ? version : "");
  for (guint i = 0; commands && i < json_array_get_length(commands); i++) {
    JsonObject *command = qemu_json_item(commands, i);
    const char *name = qemu_json_string(command, "name");
    if (name && qemu_json_bool(command, "enabled"))
      g_hash_table_add(self->commands, g_strdup(name));
  }
  return TRUE;
}

Qga *
qga_open(const char *socket_path, guint timeout_ms, GCancellable *cancellable, GError **error)
{
  gint64 deadline_us = deadline_after(timeout_ms);
  QemuChannel *channel = qemu_channel_open(socket_path, &qga_kind, deadline_us, cancellable, error);
  if (!channel)
    return NULL;
  g_autoptr(Qga) self = g_new0(Qga, 1);
  self->channel = channel;
  self->commands = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  return load_info(self, deadline_us, error) ? g_steal_pointer(&self) : NULL;
}

void
qga_close(Qga *self)
{
  if (!self)
    return;
  qemu_channel_close(self->channel);
  g_hash_table_unref(self->commands);
  g_free(self->version);
  g_free(self);
}

gboolean
qga_is_open(const Qga *self)
{
  return qemu_channel_is_sound(self->channel);
}

const char *
qga_version(const Qga *self)
{
  return self->version;
}

gboolean
qga_supports(const Qga *self, const char *command)
{
  return g_hash_table_contains(self->commands, command);
}

/* Programs in the guest */

#define EXEC_FIRST_LOOK_MS   5
#define EXEC_LONGEST_LOOK_MS 500

void
qga_exec_result_clear(QgaExecResult *result)
{
  g_clear_pointer(&result->out, g_free);
  g_clear_pointer(&result->err, g_free);
}

static char *
decode_text(const char *base64)
{
  gsize length = 0;
  g_autofree guchar *bytes = base64 ? g_base64_decode(base64, &length) : NULL;
  return g_utf8_make_valid(bytes ? (const char *) bytes : "", (gssize) length);
}

static void
take_result(JsonObject *status, QgaExecResult *result)
{
  *result = (QgaExecResult){.exit_status = -1};
  qemu_json_int(status, "exitcode", &result->exit_status);
  qemu_json_int(status, "signal", &result->signal);
  result->out = decode_text(qemu_json_string(status, "out-data"));
  result->err = decode_text(qemu_json_string(status, "err-data"));
  result->is_cut = qemu_json_bool(status, "out-truncated") || qemu_json_bool(status, "err-truncated");
}

static gboolean
await_exit(Qga *self, gint64 pid, gint64 deadline_us, QgaExecResult *result, GError **error)
{
  for (gint64 ms = EXEC_FIRST_LOOK_MS; g_get_monotonic_time() < deadline_us;
       ms = MIN(2 * ms, EXEC_LONGEST_LOOK_MS)) {
    g_autoptr(JsonNode) answer = NULL;
    if (!qga_call(self, "guest-exec-status", qmp_args("pid", qmp_int(pid), NULL), ms_until(deadline_us),
                  &answer, error))
      return FALSE;
    JsonObject *status = qemu_json_node_object(answer);
    if (qemu_json_bool(status, "exited")) {
      take_result(status, result);
      return TRUE;
    }
    if (!qemu_channel_pause(self->channel, MIN(g_get_monotonic_time() + ms * 1000, deadline_us), error))
      return FALSE;
  }
  cbt_set_error(error, CBT_ERROR_UNREACHABLE, "It still runs.",
                "The program with id %" G_GINT64_FORMAT " in the guest on %s did not end in time", pid,
                qemu_channel_path(self->channel));
  return FALSE;
}

gboolean
qga_exec(Qga *self, const char *const *argv, guint timeout_ms, QgaExecResult *result, GError **error)
{
  gint64 deadline_us = deadline_after(timeout_ms), pid;
  g_autoptr(JsonNode) answer = NULL;
  JsonNode *args = json_node_new(JSON_NODE_ARRAY);
  json_node_take_array(args, json_array_new());
  for (guint i = 1; argv[i]; i++)
    json_array_add_string_element(json_node_get_array(args), argv[i]);
  if (!qga_call(self, "guest-exec",
                qmp_args("path", qmp_str(argv[0]), "arg", args, "capture-output", qmp_bool(TRUE), NULL),
                timeout_ms, &answer, error))
    return FALSE;
  if (!qemu_json_int(qemu_json_node_object(answer), "pid", &pid)) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "The guest agent on %s started %s, but did not say as what",
                  qemu_channel_path(self->channel), argv[0]);
    return FALSE;
  }
  return await_exit(self, pid, deadline_us, result, error);
}
