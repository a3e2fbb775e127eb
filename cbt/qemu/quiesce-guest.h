/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The steps of cbt-quiesce with one guest: open, freeze, thaw, close; see cbt/qemu/quiesce.h for what they mean. One
 * thread, which blocks; each step has its bound.
 */
#pragma once

#include <cbt/qemu/quiesce-private.h>

typedef struct QemuQuiesceGuest QemuQuiesceGuest;

/* Everything up to the freeze. REQUEST outlives the guest. */
QemuQuiesceGuest *qemu_quiesce_guest_open(const QemuQuiesceRequest *request, GError **error) G_GNUC_WARN_UNUSED_RESULT;
const QemuQuiesceFacts *qemu_quiesce_guest_facts(const QemuQuiesceGuest *guest);
const char *qemu_quiesce_guest_note(const QemuQuiesceGuest *guest); /* or NULL */

/* Finds out once more what is to be frozen. */
gboolean qemu_quiesce_guest_look(QemuQuiesceGuest *guest) G_GNUC_WARN_UNUSED_RESULT;
/* FALSE if it is not known to be still; the reason is in the facts. Look first. */
gboolean qemu_quiesce_guest_freeze(QemuQuiesceGuest *guest) G_GNUC_WARN_UNUSED_RESULT;
/* When it is to be thawed, on the monotonic clock. */
gint64 qemu_quiesce_guest_deadline_us(const QemuQuiesceGuest *guest);
/* Why the point is worth nothing more than after a loss of power, beside what the facts say. */
void qemu_quiesce_guest_break(QemuQuiesceGuest *guest, const char *reason);
/* Thaws, if a freeze was sent. */
void qemu_quiesce_guest_thaw(QemuQuiesceGuest *guest, QemuQuiesceRetryFunc retry, gpointer user_data);
/* The script after the thaw, if the one before was begun. */
void qemu_quiesce_guest_finish(QemuQuiesceGuest *guest);
void qemu_quiesce_guest_close(QemuQuiesceGuest *guest);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QemuQuiesceGuest, qemu_quiesce_guest_close)
