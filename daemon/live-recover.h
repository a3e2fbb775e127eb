/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a daemon that died may have left in the guest of a vm, and in the QEMU of a live one: at the start of the next one,
 * and what a backup left that could not end well (daemon/live-retry.h).
 *
 * Threads: any but the main one.
 */
#pragma once

#include <daemon/daemon.h>

/* Thaws the guest of VM if we left it frozen. If the journal names VM, takes what is left out of its QEMU, which may
 * stand still because of us. What cannot be done is logged, and tried again (daemon/live-retry.h). TRUE if the vm's bitmaps
 * can be looked at now. */
gboolean live_recover(Daemon *daemon, const CatalogueVm *vm);
/* Takes what is left out of the QEMU of VM, which is live and in the journal, and the vm out of that. Nobody uses the vm
 * meanwhile (engine_hold()). CANCELLED; errors of monitors_open() and qemu_leftovers_clear_within(). */
gboolean live_recover_again(Daemon *daemon, const CatalogueVm *vm, GCancellable *cancellable,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;
