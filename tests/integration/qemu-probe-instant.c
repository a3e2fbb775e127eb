/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "qemu-probe-instant.h"

#include <cbt/qemu/instant.h>
#include <cbt/qemu/leftovers.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#define READY_PAUSE_US 20000
#define GRANULARITY    65536

typedef struct {
  const char *socket_path;
  guint timeout_ms;
  guint n_steps;
  GArray *wanted;   /* QemuInstantDisk */
  GPtrArray *disks; /* of QemuDisk */
} Probe;

static guint64
number_of(const char *variable)
{
  const char *text = g_getenv(variable);
  return text ? g_ascii_strtoull(text, NULL, 10) : 0;
}

static void
die_in(guint64 us)
{
  struct itimerval timer = {
      .it_value = {.tv_sec = (time_t) (us / 1000000), .tv_usec = (suseconds_t) (us % 1000000)}};
  if (us == 0)
    raise(SIGKILL);
  setitimer(ITIMER_REAL, &timer, NULL); /* the signal's own action ends the process */
}

static gboolean
note_step(const char *step, gpointer user_data, GError **error)
{
  Probe *probe = user_data;
  probe->n_steps++;
  fprintf(stderr, "step %u: %s\n", probe->n_steps, step);
  if (probe->n_steps == number_of("PROBE_DIE_AT"))
    die_in(number_of("PROBE_DIE_US"));
  if (probe->n_steps != number_of("PROBE_REFUSE_AT"))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_FAILED, NULL, "refused at step %u", probe->n_steps);
  return FALSE;
}

static Qmp *
connect_to(const Probe *probe, GError **error)
{
  return qmp_open(probe->socket_path, probe->timeout_ms, NULL, error);
}

static gboolean
parse_disks(Probe *probe, char **argv, GError **error)
{
  for (guint i = 0; argv[i]; i += 3) {
    if (!argv[i + 1] || !argv[i + 2])
      return FALSE;
    QemuInstantDisk disk = {.disk = qemu_disks_find(probe->disks, argv[i], error),
                            .changes_of = g_str_equal(argv[i + 1], "-") ? NULL : argv[i + 1],
                            .recorder = argv[i + 2],
                            .granularity = GRANULARITY};
    if (!disk.disk)
      return FALSE;
    g_array_append_val(probe->wanted, disk);
  }
  return TRUE;
}

/* WAY FOLDER PREFIX DISKS... */
static QemuInstant *
prepare(Probe *probe, char **argv, GError **error)
{
  QemuInstantOptions options = {.scratch_dir = argv[1],
                                .prefix = argv[2],
                                .scratch_limit = number_of("PROBE_LIMIT"),
                                .timeout_ms = probe->timeout_ms,
                                .step = note_step,
                                .user_data = probe};
  g_autoptr(Qmp) qmp = qemu_way_parse(argv[0], &options.way, error) ? connect_to(probe, error) : NULL;
  probe->disks = qmp ? qemu_disks_query(qmp, probe->timeout_ms, error) : NULL;
  if (!probe->disks || !parse_disks(probe, argv + 3, error))
    return NULL;
  return qemu_instant_prepare(qmp, (QemuInstantDisk *) (void *) probe->wanted->data, probe->wanted->len,
                              &options, error);
}

static gboolean
take(Probe *probe, QemuInstant *instant, GError **error)
{
  g_autoptr(Qmp) qmp = connect_to(probe, error);
  return qmp && qemu_instant_take(instant, qmp, error);
}

static gboolean
wait_ready(Probe *probe, QemuInstant *instant, GError **error)
{
  gboolean is_ready = FALSE;
  while (!is_ready) {
    g_autoptr(Qmp) qmp = connect_to(probe, error);
    if (!qmp || !qemu_instant_ready(instant, qmp, &is_ready, NULL, NULL, error))
      return FALSE;
    g_clear_pointer(&qmp, qmp_close);
    if (!is_ready)
      g_usleep(READY_PAUSE_US);
  }
  return TRUE;
}

static gboolean
offer(Probe *probe, QemuInstant *instant, GError **error)
{
  g_autoptr(Qmp) qmp = connect_to(probe, error);
  if (!qmp || !qemu_instant_offer(instant, qmp, error))
    return FALSE;
  g_clear_pointer(&qmp, qmp_close);
  return wait_ready(probe, instant, error);
}

static gboolean
end(Probe *probe, QemuInstant *instant, GError **error)
{
  g_autoptr(Qmp) qmp = connect_to(probe, error);
  return qmp && qemu_instant_end(instant, qmp, error);
}

static void
print_offer(Probe *probe, const QemuInstant *instant, char **argv)
{
  printf("%s; stood still for %" G_GINT64_FORMAT " us\n", qemu_instant_why(instant),
         qemu_instant_pause_us(instant));
  for (guint i = 0; i < probe->wanted->len; i++) {
    const char *bitmap = qemu_instant_bitmap(instant, i);
    printf("%s %s %s\n", argv[3 + 3 * i], qemu_instant_uri(instant, i), bitmap ? bitmap : "");
  }
  puts("ready");
  fflush(stdout);
}

static void
wait_for_end_of_input(void)
{
  char bytes[64];
  while (read(STDIN_FILENO, bytes, sizeof(bytes)) > 0)
    ;
}

static gboolean
run(Probe *probe, QemuInstant *instant, char **argv, GError **error)
{
  if (!take(probe, instant, error))
    return FALSE;
  gboolean is_offered = offer(probe, instant, error);
  if (is_offered) {
    print_offer(probe, instant, argv);
    wait_for_end_of_input();
  }
  return end(probe, instant, is_offered ? error : NULL) && is_offered;
}

static gboolean
run_instant(Probe *probe, char **argv, GError **error)
{
  if (g_strv_length(argv) < 6)
    return FALSE;
  probe->wanted = g_array_new(FALSE, FALSE, sizeof(QemuInstantDisk));
  g_autoptr(QemuInstant) instant = prepare(probe, argv, error);
  gboolean is_done = instant && run(probe, instant, argv, error);
  g_array_unref(probe->wanted);
  g_clear_pointer(&probe->disks, g_ptr_array_unref);
  if (is_done)
    printf("ended after %u steps\n", probe->n_steps);
  return is_done;
}

static gboolean
run_leftovers(Probe *probe, char **argv, GError **error)
{
  g_autoptr(GPtrArray) found = g_ptr_array_new_with_free_func(g_free);
  g_autoptr(Qmp) qmp = argv[0] ? connect_to(probe, error) : NULL;
  gboolean is_done = qmp && qemu_leftovers_clear(qmp, argv[0], probe->timeout_ms, found, error);
  for (guint i = 0; i < found->len; i++)
    puts(found->pdata[i]);
  return is_done;
}

gboolean
probe_instant(const char *command, const char *socket_path, char **argv, guint timeout_ms, gboolean *is_known,
              GError **error)
{
  Probe probe = {.socket_path = socket_path, .timeout_ms = timeout_ms};
  *is_known = TRUE;
  if (g_str_equal(command, "instant"))
    return run_instant(&probe, argv, error);
  if (g_str_equal(command, "leftovers"))
    return run_leftovers(&probe, argv, error);
  *is_known = FALSE;
  return FALSE;
}
