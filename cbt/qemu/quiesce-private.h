/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What cbt-quiesce and its caller share: what they say to each other, how a guest is thawed, and how what happened is
 * judged.
 *
 * They speak JSON objects, one a line. The caller first sends what qemu_quiesce_request_encode() makes, then
 * {"command": "freeze"} and {"command": "thaw"}; its end of the stream means thaw. cbt-quiesce answers with an "event"
 * each: "prepared", or "failed", which is the end; "freezing", then "frozen" or "not-frozen"; "thawing", and "retry"
 * for each thaw that was not answered; "thawed"; "result", which is the end.
 */
#pragma once

#include <cbt/qemu/qga.h>
#include <cbt/qemu/quiesce.h>

#define QEMU_QUIESCE_MAX_MESSAGE_BYTES (4u << 20)
#define QEMU_QUIESCE_THAW_ATTEMPT_MS   5000 /* the hook scripts of a guest run within */

/* What is wanted: QemuQuiesceOptions with their defaults. */
typedef struct {
  char *socket;
  GPtrArray *disks; /* QemuDisk: name, serial and PCI address; or NULL */
  QemuQuiesceLevel level;
  guint budget_ms, connect_timeout_ms, script_timeout_ms, thaw_timeout_ms;
  char *pre_script, *post_script;
} QemuQuiesceRequest;

/* INVALID if OPTIONS cannot be. REQUEST is to be cleared. */
gboolean qemu_quiesce_request_init(QemuQuiesceRequest *request, const QemuQuiesceOptions *options,
                                   GError **error) G_GNUC_WARN_UNUSED_RESULT;
void qemu_quiesce_request_clear(QemuQuiesceRequest *request);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(QemuQuiesceRequest, qemu_quiesce_request_clear)
JsonObject *qemu_quiesce_request_encode(const QemuQuiesceRequest *request);
/* INVALID. */
gboolean qemu_quiesce_request_decode(QemuQuiesceRequest *request, JsonObject *object,
                                     GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* What happened. */
typedef struct {
  QemuQuiesceLevel asked;
  gboolean is_pre_run;         /* the script before the freeze was begun, so that the one after the thaw is to run */
  gboolean is_app_ready;
  char *app_why;               /* why not, or NULL */
  gboolean has_filesystems;    /* there is something to freeze */
  char *unfrozen;              /* what of it cannot be frozen, or NULL */
  char *broken;                /* why the point is as after a loss of power, or NULL; the first reason stays */
  gint64 begin_us, end_us;     /* before the freeze, after the thaw; 0: not yet */
  guint n_frozen, n_thawed;
  gboolean is_left_frozen;
} QemuQuiesceFacts;
void qemu_quiesce_facts_clear(QemuQuiesceFacts *facts);
void qemu_quiesce_facts_break(QemuQuiesceFacts *facts, const char *format, ...) G_GNUC_PRINTF(2, 3);
void qemu_quiesce_facts_judge(const QemuQuiesceFacts *facts, QemuQuiesceResult *result);

/* Thaws, again and again, until the agent says that it is thawed, or TIMEOUT_MS are over. *qga is the connection, or
 * NULL; it is replaced when need be. *count is raised by what was thawed. RETRY, which may be NULL, is called after
 * each failure. */
typedef void (*QemuQuiesceRetryFunc)(guint attempt, const GError *error, gpointer user_data);
gboolean qemu_quiesce_thaw_until(Qga **qga, const char *socket, guint timeout_ms, QemuQuiesceRetryFunc retry,
                                 gpointer user_data, guint *count, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Runs a script in the guest, with ACTION as its argument. FALSE unless it ended with 0 and, if a MARKER is given,
 * printed that as a line; *why (transfer full) is the reason then. */
gboolean qemu_quiesce_run_script(Qga *qga, const char *path, const char *action, const char *marker,
                                 guint timeout_ms, char **why) G_GNUC_WARN_UNUSED_RESULT;
/* The script after the thaw; what it says goes into FACTS. */
void qemu_quiesce_run_post_script(Qga *qga, const QemuQuiesceRequest *request, QemuQuiesceFacts *facts);
