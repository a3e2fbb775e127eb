/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "qemu-probe-instant.h"

#include <cbt/qemu/instant.h>
#include <cbt/qemu/leftovers.h>
#include <cbt/qemu/nbd-map.h>
#include <errno.h>
#include <fcntl.h>
#include <libnbd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#define READY_PAUSE_US 20000
#define GRANULARITY    65536
#define CHUNK_BYTES    65536u

typedef struct {
  const char *socket_path;
  guint timeout_ms;
  guint n_steps;
  Qmp *taking;      /* the connection that the instant is taken by, or NULL */
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
  if (probe->n_steps == number_of("PROBE_DROP_AT") && probe->taking)
    qmp_drop(probe->taking);
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
                            .frozen = g_str_equal(argv[i + 1], "-") ? NULL : argv[i + 1],
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
  g_autoptr(Qmp) qmp = probe->taking = connect_to(probe, error);
  gboolean is_taken = qmp && qemu_instant_take(instant, qmp, error);
  probe->taking = NULL;
  return is_taken;
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

/* Reading */

typedef struct {
  struct nbd_handle *nbd;
  int fd;
  GArray *ranges;   /* CbtExtent */
  GArray *are_zero; /* gboolean */
  guint64 n_read, n_zero;
} Reading;

static gboolean
note_range(const CbtExtent *range, QemuRangeKind kind, gpointer user_data)
{
  Reading *self = user_data;
  gboolean is_zero = kind == QEMU_RANGE_ZERO;
  if (kind == QEMU_RANGE_CLEAN)
    return TRUE;
  g_array_append_val(self->ranges, *range);
  g_array_append_val(self->are_zero, is_zero);
  return TRUE;
}

/* COUNT bytes, at most CHUNK_BYTES, from the export to the file. */
static gboolean
copy_chunk(Reading *self, guint64 offset, gsize count, gboolean is_zero, GError **error)
{
  g_autofree guint8 *bytes = g_malloc0(count);
  if (!is_zero && nbd_pread(self->nbd, bytes, count, offset, 0) != 0) {
    cbt_set_error(error, CBT_ERROR_IO, NULL, "reading at %" G_GUINT64_FORMAT ": %s", offset, nbd_get_error());
    return FALSE;
  }
  if (pwrite(self->fd, bytes, count, (off_t) offset) == (ssize_t) count)
    return TRUE;
  cbt_set_error_errno(error, errno, "writing the file");
  return FALSE;
}

static gboolean
copy_ranges(Reading *self, GError **error)
{
  for (guint i = 0; i < self->ranges->len; i++) {
    const CbtExtent *range = &g_array_index(self->ranges, CbtExtent, i);
    gboolean is_zero = g_array_index(self->are_zero, gboolean, i);
    for (guint64 done = 0; done < range->length; done += CHUNK_BYTES)
      if (!copy_chunk(self, range->offset + done, (gsize) MIN(CHUNK_BYTES, range->length - done), is_zero,
                      error))
        return FALSE;
    *(is_zero ? &self->n_zero : &self->n_read) += range->length;
  }
  return TRUE;
}

static gboolean
open_both(Reading *self, const char *uri, const char *path, guint64 size_bytes, GError **error)
{
  self->nbd = nbd_create();
  self->fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (self->nbd && self->fd >= 0 && ftruncate(self->fd, (off_t) size_bytes) == 0 &&
      nbd_connect_uri(self->nbd, uri) == 0)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_IO, NULL, "cannot open %s or %s", uri, path);
  return FALSE;
}

/* BITMAP|- FILE: writes what is marked into the file. */
static gboolean
run_read(const char *uri, char **argv, guint timeout_ms, GError **error)
{
  guint64 size_bytes;
  Reading self = {.fd = -1};
  if (!argv[0] || !argv[1])
    return FALSE;
  QemuNbdMapRequest request = {.uri = uri, .timeout_ms = timeout_ms};
  request.bitmap = g_str_equal(argv[0], "-") ? NULL : argv[0];
  self.ranges = g_array_new(FALSE, FALSE, sizeof(CbtExtent));
  self.are_zero = g_array_new(FALSE, FALSE, sizeof(gboolean));
  gboolean is_done = qemu_nbd_map_read(&request, note_range, &self, &size_bytes, NULL, error) &&
                     open_both(&self, uri, argv[1], size_bytes, error) && copy_ranges(&self, error);
  if (is_done)
    printf("%" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT "\n", self.n_read, self.n_zero);
  if (self.fd >= 0)
    close(self.fd);
  g_clear_pointer(&self.nbd, nbd_close);
  g_array_unref(self.ranges);
  g_array_unref(self.are_zero);
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
  if (g_str_equal(command, "read"))
    return run_read(socket_path, argv, timeout_ms, error);
  *is_known = FALSE;
  return FALSE;
}
