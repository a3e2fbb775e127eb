/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* cbt/qemu/quiesce.h for integration scripts: see usage(). It stands for the daemon, so that it may be
 * killed. */
#include <cbt/qemu/qmp.h>
#include <cbt/qemu/qmp-args.h>
#include <cbt/qemu/quiesce.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QMP_TIMEOUT_MS 30000

static int
usage(void)
{
  fputs("usage: quiesce-probe run PROGRAM SOCKET [KEY=VALUE...]   after each step it waits for a line, or "
        "the end\n"
        "         keys: level, budget, connect, script, thaw (ms), pre, post, cancel (ms);\n"
        "         qmp=SOCKET disk=NAME...: of these disks only\n"
        "       quiesce-probe leftover SOCKET TIMEOUT-MS\n",
        stderr);
  return 2;
}

static int
complain(const GError *error)
{
  printf("error: %s\n", error->message);
  return cbt_error_exit_status((int) cbt_error_code(error));
}

/* The disks called DISKS, of all that the QEMU at QMP has. */
static GPtrArray *
find_disks(GPtrArray *all, char **names, GError **error)
{
  g_autoptr(GPtrArray) found = g_ptr_array_new();
  for (guint i = 0; names[i]; i++) {
    QemuDisk *disk = qemu_disks_find(all, names[i], error);
    if (!disk)
      return NULL;
    g_ptr_array_add(found, disk);
  }
  return g_steal_pointer(&found);
}

static void
set_option(QemuQuiesceOptions *options, const char *key, const char *value)
{
  const struct {
    const char *key;
    guint *ms;
  } times[] = {{"budget", &options->budget_ms},
               {"connect", &options->connect_timeout_ms},
               {"script", &options->script_timeout_ms},
               {"thaw", &options->thaw_timeout_ms}};
  for (guint i = 0; i < G_N_ELEMENTS(times); i++)
    if (g_str_equal(key, times[i].key))
      *times[i].ms = (guint) atoi(value);
  if (g_str_equal(key, "level"))
    options->level = g_str_equal(value, "app") ? QEMU_QUIESCE_APP : QEMU_QUIESCE_FS;
  if (g_str_equal(key, "pre"))
    options->pre_script = value;
  if (g_str_equal(key, "post"))
    options->post_script = value;
}

static void
wait_for_line(void)
{
  char line[80];
  fflush(stdout);
  if (!fgets(line, sizeof(line), stdin))
    return;
}

static gpointer
cancel_later(gpointer data)
{
  g_usleep(100000);
  g_cancellable_cancel(data);
  return NULL;
}

static int
print_result(QemuQuiesce *quiesce)
{
  g_auto(QemuQuiesceResult) result = {0};
  qemu_quiesce_thaw(quiesce, &result);
  g_autoptr(JsonNode) node =
      qmp_dict("level", qmp_str(qemu_quiesce_level_name(result.level)), "why", qmp_str(result.why),
               "frozen-ms", qmp_int((gint64) result.frozen_ms), "frozen", qmp_int(result.n_frozen), "thawed",
               qmp_int(result.n_thawed), "left-frozen", qmp_bool(result.is_left_frozen), NULL);
  g_autofree char *text = json_to_string(node, FALSE);
  puts(text);
  return 0;
}

static int
run_steps(const QemuQuiesceOptions *options, gboolean is_cancelled)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(GCancellable) cancellable = g_cancellable_new();
  g_autoptr(GThread) canceller = NULL;
  g_autoptr(QemuQuiesce) quiesce = qemu_quiesce_prepare(options, cancellable, &error);
  if (!quiesce)
    return complain(error);
  printf("prepared: %s\n", qemu_quiesce_note(quiesce) ? qemu_quiesce_note(quiesce) : "");
  wait_for_line();
  if (is_cancelled)
    canceller = g_thread_new("cancel", cancel_later, cancellable);
  if (qemu_quiesce_freeze(quiesce, &error))
    puts("frozen");
  else
    printf("not frozen: %s\n", error->message);
  wait_for_line();
  if (canceller)
    g_thread_join(g_steal_pointer(&canceller));
  return print_result(quiesce);
}

static int
run(int argc, char **argv)
{
  QemuQuiesceOptions options = {.program = argv[0], .socket = argv[1], .level = QEMU_QUIESCE_FS};
  g_autoptr(GStrvBuilder) builder = g_strv_builder_new();
  g_autoptr(GPtrArray) all = NULL, disks = NULL;
  g_autoptr(GError) error = NULL;
  const char *qmp_path = NULL;
  gboolean is_cancelled = FALSE;
  for (int i = 2; i < argc; i++) {
    g_auto(GStrv) pair = g_strsplit(argv[i], "=", 2);
    if (!pair[0] || !pair[1])
      return usage();
    const char *value = strchr(argv[i], '=') + 1;
    set_option(&options, pair[0], value);
    if (g_str_equal(pair[0], "disk"))
      g_strv_builder_add(builder, value);
    if (g_str_equal(pair[0], "qmp"))
      qmp_path = value;
    is_cancelled |= g_str_equal(pair[0], "cancel");
  }
  g_auto(GStrv) names = g_strv_builder_end(builder);
  if (qmp_path) {
    g_autoptr(Qmp) qmp = qmp_open(qmp_path, QMP_TIMEOUT_MS, NULL, &error);
    all = qmp ? qemu_disks_query(qmp, QMP_TIMEOUT_MS, &error) : NULL;
    disks = all ? find_disks(all, names, &error) : NULL;
    if (!disks)
      return complain(error);
    options.disks = disks;
  }
  return run_steps(&options, is_cancelled);
}

static int
thaw_leftover(const char *socket, const char *timeout)
{
  g_autoptr(GError) error = NULL;
  gboolean was_frozen;
  if (!qemu_quiesce_thaw_leftover(socket, (guint) atoi(timeout), &was_frozen, &error))
    return complain(error);
  puts(was_frozen ? "was frozen" : "was not frozen");
  return 0;
}

int
main(int argc, char **argv)
{
  if (argc >= 4 && g_str_equal(argv[1], "run"))
    return run(argc - 2, argv + 2);
  if (argc == 4 && g_str_equal(argv[1], "leftover"))
    return thaw_leftover(argv[2], argv[3]);
  return usage();
}
