/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Freezes a guest when it is told to, and thaws it when it is told to, when nobody is left to tell it, or
 * when the budget is over: see cbt/qemu/quiesce-private.h for what it hears and says. It is of no session but
 * its own, and no signal that can be ignored ends it; each wait has its bound, so that it always ends by
 * itself. While the guest is frozen it writes nothing but its few events: a log may be stuck behind somebody
 * who is stopped.
 */
#include <cbt/qemu/frame.h>
#include <cbt/qemu/json.h>
#include <cbt/qemu/qmp-args.h>
#include <cbt/qemu/quiesce-guest.h>
#include <common/json-text.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#define REQUEST_TIMEOUT_MS 10000

typedef enum { HEARD_NOTHING, HEARD_MESSAGE, HEARD_END } Heard;

/* Standard input and output */

static void
say(JsonObject *event)
{
  g_autoptr(JsonNode) node = qmp_obj(event);
  g_autofree char *text = cbt_json_escape(json_to_string(node, FALSE));
  g_autofree char *line = g_strconcat(text, "\n", NULL);
  gsize length = strlen(line), done = 0;
  while (done < length) {
    ssize_t n = write(STDOUT_FILENO, line + done, length - done);
    if (n < 0 && errno != EINTR)
      return; /* nobody is there; that is met at the next reading */
    done += n > 0 ? (gsize) n : 0;
  }
}

static gboolean
is_readable(gint64 deadline_us)
{
  struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
  for (;;) {
    gint64 left_ms = (deadline_us - g_get_monotonic_time() + 999) / 1000;
    int n = poll(&input, 1, (int) CLAMP(left_ms, 0, G_MAXINT));
    if (n >= 0)
      return n > 0;
    if (errno != EINTR)
      return TRUE;
  }
}

/* What cannot be understood is the end, too. */
static Heard
hear(QemuFrame *frame, gint64 deadline_us, JsonObject **message)
{
  guint8 bytes[4096];
  for (;;) {
    g_autoptr(GError) error = NULL;
    if (!qemu_frame_next(frame, message, &error))
      return HEARD_END;
    if (*message)
      return HEARD_MESSAGE;
    if (!is_readable(deadline_us))
      return HEARD_NOTHING;
    ssize_t n = read(STDIN_FILENO, bytes, sizeof(bytes));
    if (n == 0 || (n < 0 && errno != EINTR))
      return HEARD_END;
    if (n > 0)
      qemu_frame_feed(frame, bytes, (gsize) n);
  }
}

/* Whether COMMAND was heard in time; *why (transfer none) if not. */
static gboolean
is_told(QemuFrame *frame, const char *command, gint64 deadline_us, const char **why)
{
  g_autoptr(JsonObject) message = NULL;
  Heard heard = hear(frame, deadline_us, &message);
  if (heard == HEARD_MESSAGE && g_strcmp0(qemu_json_string(message, "command"), command) == 0)
    return TRUE;
  *why = heard == HEARD_NOTHING   ? "the point was not taken in time"
         : heard == HEARD_MESSAGE ? "the point was given up"
                                  : "the program that asked for the freeze is gone";
  return FALSE;
}

/* Events */

static void
say_plain(const char *event)
{
  say(qmp_args("event", qmp_str(event), NULL));
}

static void
say_failed(const GError *error)
{
  g_autofree char *message = cbt_error_message(error), *hint = cbt_error_hint(error);
  say(qmp_args("event", qmp_str("failed"), "code", qmp_str(cbt_error_code_name((int) cbt_error_code(error))),
               "message", qmp_str(message), "hint", qmp_str(hint), NULL));
}

static void
say_prepared(QemuQuiesceGuest *guest)
{
  const QemuQuiesceFacts *facts = qemu_quiesce_guest_facts(guest);
  say(qmp_args("event", qmp_str("prepared"), "pre-script-run", qmp_bool(facts->is_pre_run), "app-ready",
               qmp_bool(facts->is_app_ready), "app-why", qmp_str(facts->app_why), "note",
               qmp_str(qemu_quiesce_guest_note(guest)), NULL));
}

static void
say_frozen(QemuQuiesceGuest *guest, gboolean is_frozen)
{
  const QemuQuiesceFacts *facts = qemu_quiesce_guest_facts(guest);
  say(qmp_args("event", qmp_str(is_frozen ? "frozen" : "not-frozen"), "count", qmp_int(facts->n_frozen),
               "file-systems", qmp_bool(facts->has_filesystems), "unfrozen", qmp_str(facts->unfrozen), "why",
               qmp_str(facts->broken), NULL));
}

static void
say_retry(guint attempt, const GError *error, gpointer user_data)
{
  (void) user_data;
  say(qmp_args("event", qmp_str("retry"), "attempt", qmp_int(attempt), "message", qmp_str(error->message),
               NULL));
}

static void
say_thawed(QemuQuiesceGuest *guest)
{
  const QemuQuiesceFacts *facts = qemu_quiesce_guest_facts(guest);
  say(qmp_args("event", qmp_str("thawed"), "count", qmp_int(facts->n_thawed), "left-frozen",
               qmp_bool(facts->is_left_frozen), NULL));
}

static gboolean
say_result(QemuQuiesceGuest *guest, const char *socket)
{
  g_auto(QemuQuiesceResult) result = {0};
  qemu_quiesce_facts_judge(qemu_quiesce_guest_facts(guest), &result);
  say(qmp_args("event", qmp_str("result"), "level", qmp_str(qemu_quiesce_level_name(result.level)), "why",
               qmp_str(result.why), "frozen-ms", qmp_int((gint64) result.frozen_ms), "frozen",
               qmp_int(result.n_frozen), "thawed", qmp_int(result.n_thawed), "left-frozen",
               qmp_bool(result.is_left_frozen), NULL));
  g_message("%s: %s, %u file systems frozen and %u thawed in %" G_GUINT64_FORMAT " ms%s%s", socket,
            qemu_quiesce_level_name(result.level), result.n_frozen, result.n_thawed, result.frozen_ms,
            result.why ? ": " : "", result.why ? result.why : "");
  return !result.is_left_frozen;
}

/* The whole of it */

static void
hold(QemuQuiesceGuest *guest, QemuFrame *frame)
{
  const char *why = NULL;
  gboolean is_frozen = FALSE;
  if (qemu_quiesce_guest_look(guest)) {
    say_plain("freezing");
    is_frozen = qemu_quiesce_guest_freeze(guest);
  }
  say_frozen(guest, is_frozen);
  if (is_frozen && !is_told(frame, "thaw", qemu_quiesce_guest_deadline_us(guest), &why))
    qemu_quiesce_guest_break(guest, why);
}

static gboolean
work(const QemuQuiesceRequest *request, QemuFrame *frame)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(QemuQuiesceGuest) guest = qemu_quiesce_guest_open(request, &error);
  const char *why = NULL;
  if (!guest) {
    say_failed(error);
    return FALSE;
  }
  say_prepared(guest);
  gint64 deadline_us = g_get_monotonic_time() + QEMU_QUIESCE_MAX_PREPARED_MS * G_GINT64_CONSTANT(1000);
  if (is_told(frame, "freeze", deadline_us, &why))
    hold(guest, frame);
  else
    qemu_quiesce_guest_break(guest, why);
  say_plain("thawing");
  qemu_quiesce_guest_thaw(guest, say_retry, NULL);
  say_thawed(guest);
  qemu_quiesce_guest_finish(guest);
  return say_result(guest, request->socket);
}

static void
detach(void)
{
  static const int signals[] = {SIGHUP,  SIGINT,  SIGQUIT, SIGTERM, SIGPIPE, SIGALRM, SIGUSR1,
                                SIGUSR2, SIGTSTP, SIGTTIN, SIGTTOU, SIGXCPU, SIGXFSZ};
  for (guint i = 0; i < G_N_ELEMENTS(signals); i++)
    signal(signals[i], SIG_IGN);
  if (setsid() < 0)
    g_debug("is the first of its process group already");
}

int
main(void)
{
  g_autoptr(QemuFrame) frame = qemu_frame_new(QEMU_QUIESCE_MAX_MESSAGE_BYTES, FALSE);
  g_autoptr(JsonObject) message = NULL;
  g_autoptr(GError) error = NULL;
  g_auto(QemuQuiesceRequest) request = {0};
  detach();
  gint64 deadline_us = g_get_monotonic_time() + REQUEST_TIMEOUT_MS * G_GINT64_CONSTANT(1000);
  if (hear(frame, deadline_us, &message) != HEARD_MESSAGE) {
    g_printerr("cbt-quiesce is started by cbt-backupd, which tells it on standard input what to do.\n");
    return 2;
  }
  if (!qemu_quiesce_request_decode(&request, message, &error)) {
    say_failed(error);
    return 2;
  }
  return work(&request, frame) ? 0 : 1;
}
