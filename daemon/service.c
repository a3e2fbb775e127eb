/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An export that is started by a service is born in its control group. It is moved when it is up and known:
 * what fails then is a line in the log, and the unit's KillMode=process keeps even such a process alive.
 * systemd is asked on the system bus, or on its private socket where no bus runs (small hosts have none).
 */
#include <daemon/service.h>

#include <common/error.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-login.h>
#include <time.h>
#include <unistd.h>

#define PRIVATE_BUS     "unix:path=/run/systemd/private"
#define STOP_TIMEOUT_US (90 * G_USEC_PER_SEC)

G_DEFINE_AUTOPTR_CLEANUP_FUNC(sd_bus, sd_bus_flush_close_unref)
G_DEFINE_AUTOPTR_CLEANUP_FUNC(sd_bus_message, sd_bus_message_unref)

/* ---- state and watchdog */

void
service_at_work(void)
{
  sd_notify(0, "WATCHDOG=1");
}

static gboolean
on_watchdog(gpointer data G_GNUC_UNUSED)
{
  service_at_work();
  return G_SOURCE_CONTINUE;
}

/* Twice as often as is asked for. A timer of the main loop: one that hangs says nothing. */
static void
start_watchdog(void)
{
  guint64 period_us = 0;
  if (sd_watchdog_enabled(0, &period_us) > 0)
    g_timeout_add((guint) MAX(1, period_us / 2000), on_watchdog, NULL);
}

void
service_ready(void)
{
  sd_notify(0, "READY=1\nSTATUS=Answers");
  start_watchdog();
}

void
service_stopping(void)
{
  sd_notify(0, "STOPPING=1\nSTATUS=Ends its jobs");
}

void
service_reloading(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" G_GINT64_FORMAT,
             (gint64) now.tv_sec * G_USEC_PER_SEC + now.tv_nsec / 1000);
}

void
service_reloaded(void)
{
  sd_notify(0, "READY=1");
}

/* ---- units */

/* Whether the service manager started this very process, and not something above it. */
static gboolean
is_service(void)
{
  const char *pid = g_getenv("SYSTEMD_EXEC_PID");
  return pid && g_ascii_strtoll(pid, NULL, 10) == getpid() && sd_booted() > 0;
}

/* Whether PID is in our control group; *is_user: that of a user's service manager. */
static gboolean
is_in_our_unit(pid_t pid, gboolean *is_user)
{
  char *ours = NULL, *its = NULL;
  *is_user = sd_pid_get_user_unit(0, &ours) >= 0;
  gboolean same = *is_user ? sd_pid_get_user_unit(pid, &its) >= 0
                           : sd_pid_get_unit(0, &ours) >= 0 && sd_pid_get_unit(pid, &its) >= 0;
  same = same && strcmp(ours, its) == 0;
  free(ours);
  free(its);
  return same;
}

static int
open_private_bus(sd_bus **bus)
{
  int result = sd_bus_new(bus);
  if (result >= 0)
    result = sd_bus_set_address(*bus, PRIVATE_BUS);
  return result >= 0 ? sd_bus_start(*bus) : result;
}

static int
open_bus(gboolean is_user, sd_bus **bus)
{
  if (is_user)
    return sd_bus_open_user(bus);
  int result = sd_bus_open_system(bus);
  return result < 0 && geteuid() == 0 ? open_private_bus(bus) : result;
}

/* A name of its own for each start: the unit of a process that has just ended may still be there. ':' is in
 * no name of a vm, and what unit names cannot have is escaped. */
static char *
make_unit_name(const char *vm, const char *disk)
{
  GString *name = g_string_new(NULL);
  g_string_printf(name, "cbt-backup-export-%s:%s-%08x.scope", vm, disk, g_random_int());
  g_string_replace(name, "+", "\\x2b", 0);
  return g_string_free(name, FALSE);
}

/* At shutdown a unit ends after those that it is before: guests are shut down while they have their disks. */
static int
append_properties(sd_bus_message *message, pid_t pid, const char *vm, const char *disk)
{
  g_autofree char *description = g_strdup_printf("Export of disk %s of vm %s", disk, vm);
  int result = sd_bus_message_append(message, "(sv)(sv)(sv)(sv)", "PIDs", "au", 1, (guint32) pid,
                                     "Description", "s", description, "CollectMode", "s",
                                     "inactive-or-failed", "TimeoutStopUSec", "t", (guint64) STOP_TIMEOUT_US);
  if (result >= 0)
    result =
        sd_bus_message_append(message, "(sv)", "Before", "as", 2, "machine.slice", "libvirt-guests.service");
  return result;
}

static int
make_message(sd_bus *bus, pid_t pid, const char *vm, const char *disk, sd_bus_message **message)
{
  g_autofree char *name = make_unit_name(vm, disk);
  int result =
      sd_bus_message_new_method_call(bus, message, "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
                                     "org.freedesktop.systemd1.Manager", "StartTransientUnit");
  if (result >= 0)
    result = sd_bus_message_append(*message, "ss", name, "fail");
  if (result >= 0)
    result = sd_bus_message_open_container(*message, 'a', "(sv)");
  if (result >= 0)
    result = append_properties(*message, pid, vm, disk);
  if (result >= 0)
    result = sd_bus_message_close_container(*message);
  return result >= 0 ? sd_bus_message_append(*message, "a(sa(sv))", 0) : result;
}

gboolean
service_own_process(gint64 pid, const char *vm, const char *disk, GError **error)
{
  gboolean is_user;
  if (!is_service() || !is_in_our_unit((pid_t) pid, &is_user))
    return TRUE;
  g_autoptr(sd_bus) bus = NULL;
  g_autoptr(sd_bus_message) message = NULL;
  sd_bus_error bus_error = SD_BUS_ERROR_NULL;
  int result = open_bus(is_user, &bus);
  if (result >= 0)
    result = make_message(bus, (pid_t) pid, vm, disk, &message);
  if (result >= 0)
    result = sd_bus_call(bus, message, 0, &bus_error, NULL);
  if (result < 0)
    cbt_set_error(error, CBT_ERROR_IO, NULL, "cannot give the export of %s/%s a unit of its own: %s", vm,
                  disk, bus_error.message ? bus_error.message : g_strerror(-result));
  sd_bus_error_free(&bus_error);
  return result >= 0;
}
