/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Holds the file systems of a guest still for the moment in which a point in time is taken, by its agent. It never
 * stays frozen because of us: a process of its own for each freeze, cbt-quiesce, owns the agent's connection, and thaws
 * when it is told to, when the caller is gone, or when the budget is over, whatever the caller does then. If that
 * process is ended, a thread here thaws by a connection of its own. If all of them are, the mark beside the agent's
 * socket stays, and qemu_quiesce_thaw_leftover() thaws.
 *
 * Lifecycle: prepare, which takes its time and freezes nothing; freeze; the transaction; thaw, which says what the
 * point is worth; free. thaw is also called after a freeze that failed, or instead of it. free thaws if nobody did.
 *
 * docs/quiescing.md tells what scripts in the guest do, and what Windows does: its VSS holds writes for 10 s at most,
 * hence the limit of the budget; its writers take part always, and can be left out by nothing that an agent is told.
 *
 * One thread at a time, any thread.
 */
#pragma once

#include <cbt/qemu/disks.h>

#define QEMU_QUIESCE_MAX_BUDGET_MS   9000
#define QEMU_QUIESCE_MAX_PREPARED_MS 120000 /* prepared and not frozen: then cbt-quiesce gives up */

typedef enum {
  QEMU_QUIESCE_NONE, /* as a result: as after a loss of power */
  QEMU_QUIESCE_FS,   /* file systems need no replay of a journal */
  QEMU_QUIESCE_APP,  /* and the scripts in the guest said that the applications were ready */
} QemuQuiesceLevel;

typedef struct {
  const char *program;         /* path of cbt-quiesce */
  const char *socket;          /* of the agent */
  GPtrArray *disks;            /* QemuDisk: those backed up, whose file systems are frozen; NULL: all file systems */
  QemuQuiesceLevel level;      /* FS or APP */
  guint budget_ms;             /* from freeze to thaw; 0: 5000 */
  guint connect_timeout_ms;    /* 0: 5000 */
  const char *pre_script;      /* paths in the guest, for APP; NULL: /etc/cbt-backup/pre-freeze */
  const char *post_script;     /* NULL: /etc/cbt-backup/post-thaw */
  guint script_timeout_ms;     /* of each; 0: 30000 */
  guint thaw_timeout_ms;       /* how long a thaw is tried again; 0: 60000 */
} QemuQuiesceOptions;

typedef struct {
  QemuQuiesceLevel level;  /* reached */
  guint64 frozen_ms;       /* from before the freeze to after the thaw, so never less than it was */
  char *why;               /* why it is less than was asked, or NULL */
  guint n_frozen, n_thawed; /* the agent's counts */
  gboolean is_left_frozen; /* no thaw was answered: the guest may still be frozen; qemu_quiesce_thaw_leftover() */
} QemuQuiesceResult;
void qemu_quiesce_result_clear(QemuQuiesceResult *result);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(QemuQuiesceResult, qemu_quiesce_result_clear)

typedef struct QemuQuiesce QemuQuiesce;

/* Connects, finds out what is to be frozen, has the guest write out what it has in memory, and for APP runs the
 * script before the freeze. CANCELLABLE, which may be NULL, ends this and the freeze, never a thaw. UNREACHABLE if
 * no agent answers; UNSUPPORTED if it cannot freeze; BUSY if somebody quiesces this guest just now; STATE if it is
 * frozen already; CANCELLED. A point can be taken all the same: it is as after a loss of power. */
QemuQuiesce *qemu_quiesce_prepare(const QemuQuiesceOptions *options, GCancellable *cancellable,
                                  GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* What is worth knowing about what was prepared, e.g. why all file systems are to be frozen; NULL if nothing is. */
const char *qemu_quiesce_note(const QemuQuiesce *quiesce);

/* FALSE unless the guest is known to be still; it is thawed then, or will be: the reason is in the result, too. Call
 * qemu_quiesce_thaw() either way, and soon. */
gboolean qemu_quiesce_freeze(QemuQuiesce *quiesce, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Returns when the guest is thawed and the script after it has ended, or when neither can be had. Fills RESULT, to be
 * cleared, which says what is. Again: the same. */
void qemu_quiesce_thaw(QemuQuiesce *quiesce, QemuQuiesceResult *result);
void qemu_quiesce_free(QemuQuiesce *quiesce);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QemuQuiesce, qemu_quiesce_free)

/* At the daemon's start, and at the next contact: thaws a guest that was left frozen by cbt-quiesce, which the mark
 * tells; one that others froze is left alone. *was_frozen if it was. Without a mark it does nothing, and does not
 * connect. Waits for a cbt-quiesce that is at work. FALSE if it is not known to be thawed: UNREACHABLE, BUSY; try
 * again. */
gboolean qemu_quiesce_thaw_leftover(const char *socket, guint timeout_ms, gboolean *was_frozen,
                                    GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* "none", "fs", "app". */
const char *qemu_quiesce_level_name(QemuQuiesceLevel level);
