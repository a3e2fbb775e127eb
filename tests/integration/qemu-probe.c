/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* cbt/qemu for integration scripts: see usage(). The exit status is that of the error's code. */
#include "qemu-probe-instant.h"

#include <cbt/qemu/disks.h>
#include <cbt/qemu/nbd-map.h>
#include <cbt/qemu/nbd-source.h>
#include <cbt/qemu/offline.h>
#include <cbt/qemu/qga.h>
#include <cbt/qemu/qmp.h>
#include <cbt/reader.h>
#include <common/fd.h>
#include <common/file-ops.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static guint
timeout_ms(void)
{
  const char *text = g_getenv("PROBE_TIMEOUT_MS");
  return text ? (guint) atoi(text) : 30000;
}

static int
usage(void)
{
  fputs("usage: qemu-probe qmp SOCKET COMMAND [ARGUMENTS]    prints the answer\n"
        "       qemu-probe event SOCKET EVENT COMMAND        prints the event's data that comes of it\n"
        "       qemu-probe version SOCKET\n"
        "       qemu-probe disks SOCKET [NAME]               one a line, as JSON\n" PROBE_INSTANT_USAGE
        "       qemu-probe map URI [BITMAP [WINDOW IN-FLIGHT]]   lines of offset, length, clean|zero|data\n"
        "       qemu-probe copy URI BITMAP FILE              what of it is wanted; BITMAP '': all that is "
        "allocated\n"
        "       qemu-probe offline bitmaps PATH FORMAT       size; lines of depth, name, granularity, flags\n"
        "       qemu-probe offline change PATH FORMAT BITMAP OPTION...\n"
        "       qemu-probe offline serve PATH FORMAT BITMAP RUNTIME-DIR   prints the URI; until standard "
        "input ends\n"
        "       qemu-probe qga SOCKET info|status|freeze [MOUNTPOINT...]|thaw|fsinfo|disks\n"
        "       qemu-probe qga SOCKET exec PATH [ARGUMENT...]\n"
        "       qemu-probe qga SOCKET call COMMAND           prints the answer as it is\n"
        "       qemu-probe qga SOCKET late AGENT-PID PATH    after a command that was given up\n",
        stderr);
  return 2;
}

static void
print_node(JsonNode *node)
{
  g_autofree char *text = json_to_string(node, FALSE);
  puts(text);
}

/* QMP */

static gboolean
parse_arguments(const char *text, JsonObject **arguments, GError **error)
{
  *arguments = NULL;
  if (!text || !*text)
    return TRUE;
  g_autoptr(JsonNode) node = json_from_string(text, error);
  if (node)
    *arguments = json_object_ref(json_node_get_object(node));
  return node != NULL;
}

static gboolean
run_qmp(Qmp *qmp, char **argv, GError **error)
{
  JsonObject *arguments;
  g_autoptr(JsonNode) answer = NULL;
  if (!parse_arguments(argv[1], &arguments, error) ||
      !qmp_call(qmp, argv[0], arguments, timeout_ms(), &answer, error))
    return FALSE;
  print_node(answer);
  return TRUE;
}

static gboolean
run_event(Qmp *qmp, char **argv, GError **error)
{
  g_autoptr(JsonObject) data = NULL;
  if (!argv[1] || !qmp_call(qmp, argv[1], NULL, timeout_ms(), NULL, error) ||
      !qmp_wait_event(qmp, argv[0], NULL, NULL, timeout_ms(), &data, error))
    return FALSE;
  g_autoptr(JsonNode) node = qmp_obj(g_steal_pointer(&data));
  if (node)
    print_node(node);
  return TRUE;
}

static gboolean
run_version(Qmp *qmp, char **argv, GError **error)
{
  (void) argv;
  (void) error;
  printf("%u.%u.%u\n", qmp_version(qmp)->major, qmp_version(qmp)->minor, qmp_version(qmp)->micro);
  return TRUE;
}

static void
print_disk(const QemuDisk *disk)
{
  g_autofree char *pci = g_strdup_printf("%s:%02x.%x", disk->pci_bus, disk->pci_slot, disk->pci_function);
  g_autoptr(JsonNode) node =
      qmp_dict("name", qmp_str(qemu_disk_lasting_name(disk)), "node", qmp_str(disk->node), "drive",
               qmp_str(disk->drive), "format", qmp_str(disk->format), "file", qmp_str(disk->filename), "size",
               qmp_int((gint64) disk->size_bytes), "serial", qmp_str(disk->serial), "iothread",
               qmp_str(disk->iothread), "left-out", qmp_str(disk->left_out), "pci",
               qmp_str(disk->has_pci ? pci : NULL), "bitmaps", qmp_int(disk->bitmaps->len), NULL);
  print_node(node);
}

static gboolean
run_qemu_disks(Qmp *qmp, char **argv, GError **error)
{
  g_autoptr(GPtrArray) disks = qemu_disks_query(qmp, timeout_ms(), error);
  if (!disks)
    return FALSE;
  const QemuDisk *only = argv[0] ? qemu_disks_find(disks, argv[0], error) : NULL;
  if (argv[0] && !only)
    return FALSE;
  for (guint i = 0; i < disks->len; i++)
    if (!only || only == disks->pdata[i])
      print_disk(disks->pdata[i]);
  return TRUE;
}

/* The guest agent */

static gboolean
run_info(Qga *qga, char **argv, GError **error)
{
  (void) argv;
  (void) error;
  printf("%s%s\n", qga_version(qga), qga_supports(qga, "guest-fsfreeze-freeze-list") ? " freeze-list" : "");
  return TRUE;
}

static gboolean
run_status(Qga *qga, char **argv, GError **error)
{
  gboolean is_frozen;
  (void) argv;
  if (!qga_fsfreeze_status(qga, timeout_ms(), &is_frozen, error))
    return FALSE;
  puts(is_frozen ? "frozen" : "thawed");
  return TRUE;
}

static gboolean
run_freeze(Qga *qga, char **argv, GError **error)
{
  guint count;
  if (!qga_fsfreeze_freeze(qga, argv[0] ? (const char *const *) argv : NULL, timeout_ms(), &count, error))
    return FALSE;
  printf("%u\n", count);
  return TRUE;
}

static gboolean
run_thaw(Qga *qga, char **argv, GError **error)
{
  guint count;
  (void) argv;
  if (!qga_fsfreeze_thaw(qga, timeout_ms(), &count, error))
    return FALSE;
  printf("%u\n", count);
  return TRUE;
}

static void
print_address(const QgaDiskAddress *address)
{
  printf(" %s serial=%s dev=%s", address->bus_type, address->serial ? address->serial : "-",
         address->device ? address->device : "-");
  if (address->has_pci)
    printf(" pci=%02x:%02x.%x", address->pci_bus, address->pci_slot, address->pci_function);
}

static gboolean
run_fsinfo(Qga *qga, char **argv, GError **error)
{
  (void) argv;
  g_autoptr(GPtrArray) list = qga_get_fsinfo(qga, timeout_ms(), error);
  for (guint i = 0; list && i < list->len; i++) {
    const QgaFilesystem *filesystem = list->pdata[i];
    printf("%s %s %s", filesystem->mountpoint, filesystem->type, filesystem->name);
    for (guint k = 0; k < filesystem->disks->len; k++)
      print_address(filesystem->disks->pdata[k]);
    puts("");
  }
  return list != NULL;
}

static gboolean
run_disks(Qga *qga, char **argv, GError **error)
{
  (void) argv;
  g_autoptr(GPtrArray) list = qga_get_disks(qga, timeout_ms(), error);
  for (guint i = 0; list && i < list->len; i++) {
    const QgaDisk *disk = list->pdata[i];
    printf("%s", disk->name);
    if (disk->address)
      print_address(disk->address);
    puts("");
  }
  return list != NULL;
}

static gboolean
run_call(Qga *qga, char **argv, GError **error)
{
  g_autoptr(JsonNode) answer = NULL;
  if (!argv[0] || !qga_call(qga, argv[0], NULL, timeout_ms(), &answer, error))
    return FALSE;
  print_node(answer);
  return TRUE;
}

static gboolean
run_exec(Qga *qga, char **argv, GError **error)
{
  g_auto(QgaExecResult) result = {0};
  if (!argv[0] || !qga_exec(qga, (const char *const *) argv, timeout_ms(), &result, error))
    return FALSE;
  fputs(result.out, stdout);
  fputs(result.err, stderr);
  if (result.exit_status != 0)
    cbt_set_error(error, CBT_ERROR_FAILED, NULL, "it ended with %d", (int) result.exit_status);
  return result.exit_status == 0;
}

/* A command that is given up while the agent is stopped, then another one: what comes must be the other's
 * answer. */
static gboolean
run_late(Qga *qga, char **argv, GError **error)
{
  g_autoptr(GError) late = NULL;
  pid_t agent = argv[0] ? atoi(argv[0]) : 0;
  if (agent <= 1 || kill(agent, SIGSTOP) != 0)
    return FALSE;
  gboolean is_answered = qga_call(qga, "guest-get-fsinfo", NULL, 100, NULL, &late);
  kill(agent, SIGCONT);
  if (!is_answered && cbt_error_code(late) == CBT_ERROR_UNREACHABLE)
    return run_exec(qga, argv + 1, error);
  cbt_set_error(error, CBT_ERROR_FAILED, NULL, "the first command was answered");
  return FALSE;
}

/* NBD */

static gboolean
print_range(const CbtExtent *range, QemuRangeKind kind, gpointer user_data)
{
  static const char *const names[] = {"clean", "zero", "data"};
  (void) user_data;
  printf("%" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT " %s\n", range->offset, range->length, names[kind]);
  return TRUE;
}

static gboolean
print_map(int argc, char **argv, GError **error)
{
  guint64 size_bytes;
  QemuNbdMapRequest request = {.uri = argv[0], .timeout_ms = timeout_ms()};
  request.bitmap = argc > 1 && *argv[1] ? argv[1] : NULL;
  request.window_bytes = argc > 2 ? g_ascii_strtoull(argv[2], NULL, 10) : 0;
  request.n_in_flight = argc > 3 ? (guint) atoi(argv[3]) : 0;
  return qemu_nbd_map_read(&request, print_range, NULL, &size_bytes, NULL, error);
}

/* Of what is set and no hole, as a backup reads it; all else is left a hole. */

typedef struct {
  CbtSource *source;
  CbtReader *reader;
  guint64 at;
  int fd;
  int errsv; /* of a write */
} Copy;

static gboolean
next_wanted(gpointer user_data, CbtExtent *extent, GError **error)
{
  Copy *copy = user_data;
  const CbtBitmap *changes = qemu_nbd_source_changes(copy->source);
  gboolean hole = TRUE;
  while (hole && copy->at < copy->source->size) {
    CbtExtent run = {copy->at, copy->source->size - copy->at};
    if (changes && !cbt_bitmap_next_dirty(changes, copy->at, G_MAXUINT64, &run))
      return FALSE;
    if (!cbt_source_next_extent(copy->source, run.offset, run.length, extent, &hole, error))
      return FALSE;
    copy->at = extent->offset + extent->length;
  }
  return !hole;
}

static void
write_block(gpointer user_data, CbtReadBlock *block)
{
  Copy *copy = user_data;
  if (!cbt_pwrite_full(copy->fd, block->data, block->length, block->offset))
    copy->errsv = errno;
  cbt_reader_release(copy->reader, block);
}

static gboolean
copy_export(char **argv, GError **error)
{
  const QemuNbdSourceOptions options = {
      .uri = argv[0], .bitmap = *argv[1] ? argv[1] : NULL, .timeout_ms = timeout_ms()};
  const CbtReaderOptions reader_options = CBT_READER_OPTIONS_DEFAULT;
  g_autoptr(CbtSource) source = qemu_nbd_source_open(&options, NULL, error);
  g_autoptr(CbtReader) reader = source ? cbt_reader_new(source, &reader_options, error) : NULL;
  if (!reader)
    return FALSE;
  CBT_AUTO_FD int fd = open(argv[2], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  Copy copy = {.source = source, .reader = reader, .fd = fd};
  if (fd < 0 || ftruncate(fd, (off_t) source->size) != 0)
    copy.errsv = errno;
  else if (!cbt_reader_run(reader, next_wanted, write_block, &copy, NULL, error))
    return FALSE;
  if (copy.errsv != 0)
    cbt_set_error_errno(error, copy.errsv, "cannot write %s", argv[2]);
  return copy.errsv == 0;
}

/* Images at rest */

static gboolean
print_offline_bitmaps(char **argv, GError **error)
{
  guint64 size_bytes;
  g_autoptr(GPtrArray) bitmaps = qemu_offline_bitmaps(argv[0], argv[1], &size_bytes, error);
  if (!bitmaps)
    return FALSE;
  printf("%" G_GUINT64_FORMAT "\n", size_bytes);
  for (guint i = 0; i < bitmaps->len; i++) {
    const QemuBitmap *bitmap = bitmaps->pdata[i];
    printf("%u %s %" G_GUINT64_FORMAT "%s%s\n", bitmap->depth, bitmap->name, bitmap->granularity,
           bitmap->is_recording ? " recording" : "", bitmap->is_inconsistent ? " inconsistent" : "");
  }
  return TRUE;
}

typedef struct {
  char **argv;
  QemuOffline *offline;
  GError *error;
} Serving;

/* In a thread that ends at once: the server stays. */
static void *
serve_in_thread(void *user_data)
{
  Serving *serving = user_data;
  char **argv = serving->argv;
  serving->offline =
      qemu_offline_serve(argv[0], argv[1], *argv[2] ? argv[2] : NULL, argv[3], NULL, &serving->error);
  return NULL;
}

static gboolean
serve_offline(char **argv, GError **error)
{
  Serving serving = {.argv = argv};
  gboolean changed = FALSE;
  pthread_t thread;
  if (pthread_create(&thread, NULL, serve_in_thread, &serving) != 0 || pthread_join(thread, NULL) != 0)
    return FALSE;
  g_autoptr(QemuOffline) offline = serving.offline;
  if (!offline) {
    g_propagate_error(error, serving.error);
    return FALSE;
  }
  puts(qemu_offline_uri(offline));
  fflush(stdout);
  while (getchar() != EOF)
    continue;
  if (!qemu_offline_check_changed(offline, &changed, error))
    return FALSE;
  puts(changed ? "changed" : "unchanged");
  return TRUE;
}

static gboolean
run_offline(int argc, char **argv, gboolean *is_known, GError **error)
{
  *is_known = TRUE;
  if (argc == 3 && g_str_equal(argv[0], "bitmaps"))
    return print_offline_bitmaps(argv + 1, error);
  if (argc >= 4 && g_str_equal(argv[0], "change"))
    return qemu_offline_bitmap_change(argv[1], argv[2], argv[3], (const char *const *) argv + 4, error);
  if (argc == 5 && g_str_equal(argv[0], "serve"))
    return serve_offline(argv + 1, error);
  *is_known = FALSE;
  return FALSE;
}

typedef gboolean (*QmpRun)(Qmp *qmp, char **argv, GError **error);
typedef gboolean (*QgaRun)(Qga *qga, char **argv, GError **error);

static const struct {
  const char *name;
  QmpRun run;
} qmp_runs[] = {{"qmp", run_qmp}, {"event", run_event}, {"version", run_version}, {"disks", run_qemu_disks}};

static const struct {
  const char *name;
  QgaRun run;
} qga_runs[] = {{"info", run_info}, {"status", run_status}, {"freeze", run_freeze},
                {"thaw", run_thaw}, {"fsinfo", run_fsinfo}, {"disks", run_disks},
                {"exec", run_exec}, {"call", run_call},     {"late", run_late}};

static gboolean
with_qmp(QmpRun run, const char *socket_path, char **argv, GError **error)
{
  g_autoptr(Qmp) qmp = qmp_open(socket_path, timeout_ms(), NULL, error);
  return qmp && run(qmp, argv, error);
}

static gboolean
with_qga(QgaRun run, const char *socket_path, char **argv, GError **error)
{
  g_autoptr(Qga) qga = qga_open(socket_path, timeout_ms(), NULL, error);
  return qga && run(qga, argv, error);
}

int
main(int argc, char **argv)
{
  g_autoptr(GError) error = NULL;
  gboolean is_done = FALSE, is_known = FALSE;
  for (guint i = 0; argc >= 3 && !is_known && i < G_N_ELEMENTS(qmp_runs); i++)
    if ((is_known = g_str_equal(argv[1], qmp_runs[i].name)))
      is_done = with_qmp(qmp_runs[i].run, argv[2], argv + 3, &error);
  for (guint i = 0; argc >= 4 && !is_known && i < G_N_ELEMENTS(qga_runs); i++)
    if (g_str_equal(argv[1], "qga") && (is_known = g_str_equal(argv[3], qga_runs[i].name)))
      is_done = with_qga(qga_runs[i].run, argv[2], argv + 4, &error);
  if (argc >= 3 && g_str_equal(argv[1], "map")) {
    is_known = TRUE;
    is_done = print_map(argc - 2, argv + 2, &error);
  }
  if (argc >= 3 && g_str_equal(argv[1], "offline"))
    is_done = run_offline(argc - 2, argv + 2, &is_known, &error);
  if (argc == 5 && g_str_equal(argv[1], "copy")) {
    is_known = TRUE;
    is_done = copy_export(argv + 2, &error);
  }
  if (argc >= 3 && !is_known)
    is_done = probe_instant(argv[1], argv[2], argv + 3, timeout_ms(), &is_known, &error);
  if (!is_known)
    return usage();
  if (!is_done)
    fprintf(stderr, "qemu-probe: %s\n", error ? error->message : "an argument is missing");
  return is_done ? 0 : error ? cbt_error_exit_status((int) cbt_error_code(error)) : 2;
}
