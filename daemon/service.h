/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the daemon and the service manager (systemd) tell each other. Without one all of it does nothing.
 *
 * Threads: main, but for service_own_process().
 */
#pragma once

#include <glib.h>

/* Started and ready; from now on the watchdog, if the unit asks for one, hears from the main loop. */
void service_ready(void);
void service_stopping(void);
/* The main thread is at something that takes long, and not hanging. */
void service_at_work(void);
/* Around what SIGHUP does. */
void service_reloading(void);
void service_reloaded(void);

/*
 * Takes process PID, which serves DISK of VM, out of the daemon's own service into a scope unit of its own,
 * so that it is ended by nothing that is done to the service, and counted by itself. Does nothing where this
 * daemon is no service, or PID is outside of it already. IO: then the process is where it was. Any thread;
 * blocks.
 */
gboolean service_own_process(gint64 pid, const char *vm, const char *disk,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
