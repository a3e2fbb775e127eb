/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A thaw that was not answered in time may be carried out all the same, or be lost with an agent that was
 * started again. So it is sent again, on a stream that was synchronised anew; the agent takes one command
 * after the other, and nothing is harmed by two. It is believed when the status afterwards is thawed.
 */
#include <cbt/qemu/quiesce-private.h>

#include <cbt/qemu/quiesce-mark.h>

#define FIRST_PAUSE_MS        100
#define LONGEST_PAUSE_MS      2000
#define ATTEMPTS_A_CONNECTION 3

static gboolean
attempt(Qga **qga, const char *socket, guint *count, GError **error)
{
  guint n = 0;
  gboolean is_frozen;
  if (!*qga)
    *qga = qga_open(socket, QEMU_QUIESCE_THAW_ATTEMPT_MS, NULL, error);
  if (!*qga || !qga_fsfreeze_thaw(*qga, QEMU_QUIESCE_THAW_ATTEMPT_MS, &n, error))
    return FALSE;
  *count += n;
  if (!qga_fsfreeze_status(*qga, QEMU_QUIESCE_THAW_ATTEMPT_MS, &is_frozen, error))
    return FALSE;
  if (is_frozen)
    cbt_set_error(error, CBT_ERROR_FAILED, NULL, "The guest agent on %s thawed %u, and is frozen still",
                  socket, n);
  return !is_frozen;
}

gboolean
qemu_quiesce_thaw_until(Qga **qga, const char *socket, guint timeout_ms, QemuQuiesceRetryFunc retry,
                        gpointer user_data, guint *count, GError **error)
{
  gint64 deadline_us = g_get_monotonic_time() + (gint64) timeout_ms * 1000;
  guint pause_ms = FIRST_PAUSE_MS;
  for (guint i = 1;; i++) {
    g_autoptr(GError) local = NULL;
    if (attempt(qga, socket, count, &local))
      return TRUE;
    if (g_get_monotonic_time() + (gint64) pause_ms * 1000 >= deadline_us) {
      g_propagate_error(error, g_steal_pointer(&local));
      return FALSE;
    }
    if (retry)
      retry(i, local, user_data);
    if (*qga && (!qga_is_open(*qga) || i % ATTEMPTS_A_CONNECTION == 0))
      g_clear_pointer(qga, qga_close);
    g_usleep(pause_ms * 1000);
    pause_ms = MIN(2 * pause_ms, LONGEST_PAUSE_MS);
  }
}

/* What was left */

static gboolean
open_mark(QemuQuiesceMark *mark, const char *socket, gint64 deadline_us, GError **error)
{
  for (;;) {
    g_autoptr(GError) local = NULL;
    if (qemu_quiesce_mark_open(mark, socket, FALSE, &local))
      return TRUE;
    if (g_get_monotonic_time() >= deadline_us) {
      g_propagate_error(error, g_steal_pointer(&local));
      return FALSE;
    }
    g_usleep(FIRST_PAUSE_MS * 1000);
  }
}

static gboolean
thaw_marked(const char *socket, gint64 deadline_us, gboolean *was_frozen, GError **error)
{
  guint left_ms = (guint) CLAMP((deadline_us - g_get_monotonic_time()) / 1000, 1, G_MAXINT), count = 0;
  g_autoptr(Qga) qga = qga_open(socket, left_ms, NULL, error);
  if (!qga || !qga_fsfreeze_status(qga, left_ms, was_frozen, error))
    return FALSE;
  return !*was_frozen || qemu_quiesce_thaw_until(&qga, socket, left_ms, NULL, NULL, &count, error);
}

gboolean
qemu_quiesce_thaw_leftover(const char *socket, guint timeout_ms, gboolean *was_frozen, GError **error)
{
  gint64 deadline_us = g_get_monotonic_time() + (gint64) timeout_ms * 1000;
  QemuQuiesceMark mark;
  *was_frozen = FALSE;
  if (!open_mark(&mark, socket, deadline_us, error))
    return FALSE;
  if (qemu_quiesce_mark_is_set(&mark) && !thaw_marked(socket, deadline_us, was_frozen, error)) {
    qemu_quiesce_mark_close(&mark);
    return FALSE;
  }
  qemu_quiesce_mark_remove(&mark);
  return TRUE;
}
