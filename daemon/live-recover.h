/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a daemon that died may have left in the guest of a vm, and in the QEMU of a live one: at the start of the next one.
 *
 * Threads: any but the main one.
 */
#pragma once

#include <daemon/daemon.h>

/* Thaws the guest of VM if we left it frozen. If the journal names VM, takes what is left out of its QEMU, which may
 * stand still because of us. What cannot be done is logged; the next backup tries again. TRUE if the vm's bitmaps
 * can be looked at now. */
gboolean live_recover(Daemon *daemon, const CatalogueVm *vm);
