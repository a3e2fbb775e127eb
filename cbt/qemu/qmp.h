/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A connection to the QMP monitor of a running QEMU: one command at a time, each with a bound on its time, and the
 * events that come meanwhile. It knows nothing of disks and backups; arguments are built with cbt/qemu/qmp-args.h.
 *
 * Lifecycle: qmp_open(), calls, qmp_close(). After UNREACHABLE or CORRUPT look at qmp_is_open(): a call that took too
 * long leaves the connection usable (its answer is dropped when it comes), all else ends it. A socket serves one client:
 * be short, or have a socket of your own.
 *
 * One thread at a time, any thread. Whoever cancels the cancellable ends a wait, from any thread.
 * Protocol: QEMU's docs/interop/qmp-spec.
 */
#pragma once

#include <cbt/qemu/qmp-args.h>
#include <common/error.h>
#include <gio/gio.h>

#define QMP_MAX_MESSAGE_BYTES (64u << 20)
#define QMP_MAX_EVENTS        1024u

typedef struct Qmp Qmp;

typedef struct {
  guint major, minor, micro;
  char package[128]; /* the distribution's name for it */
} QmpVersion;

/*
 * Connects to SOCKET_PATH and waits for the greeting for at most TIMEOUT_MS. UNREACHABLE if nobody listens, if somebody
 * else is connected (QEMU greets one client only), or if QEMU hangs: the message says which; CORRUPT if it is no QMP
 * socket; DENIED; CANCELLED. CANCELLABLE may be NULL, and serves all later calls.
 */
Qmp *qmp_open(const char *socket_path, guint timeout_ms, GCancellable *cancellable,
              GError **error) G_GNUC_WARN_UNUSED_RESULT;
void qmp_close(Qmp *qmp);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qmp, qmp_close)

/* Ends the connection, so that QEMU takes another one; calls fail from now on. */
void qmp_drop(Qmp *qmp);
gboolean qmp_is_open(const Qmp *qmp);
const char *qmp_socket_path(const Qmp *qmp);
/* Names the process at the other end: another one for another QEMU, also after a boot. (transfer full); NULL if that cannot be
 * found out. */
char *qmp_instance(const Qmp *qmp);
/* The socket (transfer none), for who stands in when this process cannot. */
int qmp_fd(const Qmp *qmp);
const QmpVersion *qmp_version(const Qmp *qmp);
gboolean qmp_version_is_at_least(const Qmp *qmp, guint major, guint minor);

/*
 * Carries out COMMAND with ARGUMENTS (transfer full; NULL for none). *answer (transfer full) is what it returned; ANSWER
 * may be NULL. The message of an error names the command, and has QEMU's words.
 *   UNSUPPORTED  QEMU does not know the command (CommandNotFound)
 *   NOT_FOUND    no such device or node (DeviceNotFound)
 *   STATE        the device is not active (DeviceNotActive)
 *   FAILED       QEMU refused for any other reason (GenericError)
 *   UNREACHABLE  no answer in TIMEOUT_MS: the command may be carried out all the same; or the connection ended
 *   CORRUPT, TOO_LARGE, CANCELLED
 */
gboolean qmp_call(Qmp *qmp, const char *command, JsonObject *arguments, guint timeout_ms, JsonNode **answer,
                  GError **error) G_GNUC_WARN_UNUSED_RESULT;

/*
 * As qmp_call(), and QEMU gets a duplicate of FD with it, for `add-fd` and `getfd`: what it could not open itself, as
 * another user or under AppArmor. FD stays the caller's.
 */
gboolean qmp_call_with_fd(Qmp *qmp, const char *command, JsonObject *arguments, int fd, guint timeout_ms,
                          JsonNode **answer, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* While TRUE, calls are not ended by the cancellable: for what must be finished, such as having a guest go on. */
void qmp_ignore_cancel(Qmp *qmp, gboolean ignore);

/* What QEMU told by itself. DATA (transfer none) may be NULL. */
typedef struct {
  const char *name;
  JsonObject *data;
  gint64 seconds, microseconds; /* QEMU's wall clock; -1 if it could not tell */
} QmpEvent;

/* Is shown each event as it is read, which happens within qmp_call() and qmp_wait_event(); must not use the connection. */
typedef void (*QmpEventFunc)(const QmpEvent *event, gpointer user_data);
void qmp_set_event_func(Qmp *qmp, QmpEventFunc func, gpointer user_data);

/*
 * Whether it is the event that is waited for. It may be a name that was used before: an event of an earlier job waits in
 * the queue just the same, so look at the id in its data.
 */
typedef gboolean (*QmpEventPredicate)(const QmpEvent *event, gpointer user_data);
/*
 * Takes the first event NAME for which PREDICATE (NULL: any) holds out of those that came, or waits for it. *data
 * (transfer full) may be NULL, as may DATA. UNREACHABLE if it does not come in time: the queue holds QMP_MAX_EVENTS, and
 * drops the oldest, so ask for the state then.
 */
gboolean qmp_wait_event(Qmp *qmp, const char *name, QmpEventPredicate predicate, gpointer user_data, guint timeout_ms,
                        JsonObject **data, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Drops the events that came so far. */
void qmp_clear_events(Qmp *qmp);
/* Waits, but no longer than for the cancellable: between two looks at a state. CANCELLED. */
gboolean qmp_pause(Qmp *qmp, guint ms, GError **error) G_GNUC_WARN_UNUSED_RESULT;
