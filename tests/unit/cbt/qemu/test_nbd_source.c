/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Disks over NBD as the backup reads them, from real servers: nbdkit, whose filters count and spoil, and
 * qemu-nbd. */
#include "../reader-fixture.h"

#include <cbt/qemu/nbd-source.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define TIMEOUT_MS 20000 /* where nothing is meant to hang */

/* --- servers --- */

typedef struct {
  GPid pid;
  char *directory; /* of the fixture */
  char *uri;
} Server;

static char *
file_in(const char *directory, const char *name)
{
  return g_build_filename(directory, name, NULL);
}

/* In a group of its own, so that its scripts end with it, and never longer than this program. */
static void
setup_server(gpointer user_data G_GNUC_UNUSED)
{
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
}

/* Runs PROGRAM with the rest of ARGV as its last arguments, until it listens. */
static Server
start_server(const Fixture *fixture, const char *program, const char *const *arguments)
{
  Server server = {.directory = fixture->directory};
  g_autofree char *socket = file_in(fixture->directory, "nbd.sock"),
                  *pid = file_in(fixture->directory, "pid");
  gboolean is_nbdkit = g_str_equal(program, "nbdkit");
  g_autoptr(GPtrArray) argv = g_ptr_array_new();
  const char *const nbdkit[] = {"nbdkit", "-f", "-U", socket, "-P", pid, NULL};
  const char *const qemu_nbd[] = {"qemu-nbd", "-r", "-t", "-e", "8", "-k", socket, "--pid-file", pid, NULL};
  for (const char *const *word = is_nbdkit ? nbdkit : qemu_nbd; *word; word++)
    g_ptr_array_add(argv, (char *) *word);
  for (; *arguments; arguments++)
    g_ptr_array_add(argv, (char *) *arguments);
  g_ptr_array_add(argv, NULL);
  g_auto(GStrv) environment = g_environ_unsetenv(g_get_environ(), "G_DEBUG");
  g_autoptr(GError) error = NULL;
  if (!g_spawn_async(fixture->directory, (char **) argv->pdata, environment,
                     G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD, setup_server, NULL, &server.pid,
                     &error))
    fail_msg("%s", error->message);
  while (!g_file_test(pid, G_FILE_TEST_EXISTS)) {
    if (waitpid(server.pid, NULL, WNOHANG) == server.pid)
      fail_msg("%s does not start", program);
    g_usleep(1000);
  }
  server.uri = g_strdup_printf("nbd+unix:///?socket=%s", socket);
  return server;
}

#define START(fixture, program, ...) start_server(fixture, program, (const char *const[]){__VA_ARGS__, NULL})

static void
kill_server(Server *server)
{
  if (server->pid == 0)
    return;
  kill(-server->pid, SIGKILL);
  waitpid(server->pid, NULL, 0);
  server->pid = 0;
}

static void
stop_server(Server *server)
{
  static const char *const names[] = {"nbd.sock", "pid", "log"};
  kill_server(server);
  for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
    g_autofree char *path = file_in(server->directory, names[i]);
    g_unlink(path);
  }
  g_free(server->uri);
}

/* How often nbdkit's log filter noted TEXT. */
static guint
n_logged(const Server *server, const char *text)
{
  g_autofree char *path = file_in(server->directory, "log"), *log = NULL;
  guint n = 0;
  assert_true(g_file_get_contents(path, &log, NULL, NULL));
  for (const char *at = log; (at = strstr(at, text)); at += strlen(text))
    n++;
  return n;
}

#define LOGGED "--filter=log", "file"
#define LOG    "logfile=log"

/* --- sources --- */

static QemuNbdSourceOptions
options_of(const Server *server)
{
  return (QemuNbdSourceOptions){.uri = server->uri, .timeout_ms = TIMEOUT_MS};
}

static CbtSource *
open_nbd(const QemuNbdSourceOptions *options)
{
  g_autoptr(GError) error = NULL;
  CbtSource *source = qemu_nbd_source_open(options, NULL, &error);
  if (!source)
    fail_msg("%s", error->message);
  return source;
}

static void
expect_no_source(const QemuNbdSourceOptions *options, CbtErrorCode code, const char *text)
{
  g_autoptr(GError) error = NULL;
  assert_null(qemu_nbd_source_open(options, NULL, &error));
  assert_int_equal(cbt_error_code(error), code);
  if (!strstr(error->message, text))
    fail_msg("should say '%s': %s", text, error->message);
}

/* What of SOURCE a backup would read. (transfer full) */
static GArray *
wanted(CbtSource *source)
{
  GArray *extents = g_array_new(FALSE, FALSE, sizeof(CbtExtent));
  const CbtBitmap *changes = qemu_nbd_source_changes(source);
  CbtExtent extent;
  gboolean hole;
  for (guint64 at = 0; at < source->size; at = extent.offset + extent.length) {
    assert_true(cbt_source_next_extent(source, at, source->size - at, &extent, &hole, NULL));
    if (!hole && (!changes || cbt_bitmap_get(changes, at)))
      g_array_append_val(extents, extent);
  }
  return extents;
}

static guint64
n_bytes_of(const GArray *extents)
{
  guint64 n = 0;
  for (guint i = 0; i < extents->len; i++)
    n += g_array_index(extents, CbtExtent, i).length;
  return n;
}

/* Reads what is wanted of SOURCE; all of it must equal the image at PATH. Returns the number of requests. */
static guint64
read_wanted(CbtSource *source, const char *path, CbtReaderOptions options, guint n_threads)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(GArray) extents = wanted(source);
  g_autoptr(CbtReader) reader = new_reader(source, options);
  CBT_AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
  Collector collector = {.n_threads = n_threads, .fd = fd};
  if (!collect(&collector, reader, source, options, (const CbtExtent *) extents->data, extents->len, NULL,
               &error))
    fail_msg("%s", error->message);
  assert_int_equal(collector.n_bad, 0);
  assert_int_equal(collector.n_bytes, n_bytes_of(extents));
  assert_int_equal(cbt_reader_bytes_read(reader), n_bytes_of(extents));
  return cbt_reader_n_reads(reader);
}

static void
run_tool(const char *format, ...)
{
  g_autofree char *output = NULL, *errors = NULL;
  int status;
  va_list arguments;
  va_start(arguments, format);
  g_autofree char *command = g_strdup_vprintf(format, arguments);
  va_end(arguments);
  assert_true(g_spawn_command_line_sync(command, &output, &errors, &status, NULL));
  if (status != 0)
    fail_msg("%s: %s%s", command, output, errors);
}

/* --- reading right --- */

static void
test_every_byte_arrives_over_several_connections(void **state)
{
  const Fixture *fixture = *state;
  make_image(fixture->path, 8 * MIB);
  Server server = START(fixture, "nbdkit", LOGGED, fixture->path, LOG);
  QemuNbdSourceOptions options = options_of(&server);
  g_autoptr(CbtSource) source = open_nbd(&options);
  assert_int_equal(source->size, 8 * MIB);
  assert_int_equal(cbt_source_fd(source, FALSE), -1);
  assert_null(qemu_nbd_source_changes(source));
  assert_int_equal(read_wanted(source, fixture->path, SMALL, 0), 128);
  assert_int_equal(n_logged(&server, " Read id="), 128);
  assert_int_equal(n_logged(&server, "Connect export"), 1 + 4);
  /* Deep, large blocks, consumers in threads; the same source once more. */
  assert_int_equal(read_wanted(source, fixture->path, CBT_READER_OPTIONS_DEFAULT, MAX_THREADS), 32);
  stop_server(&server);
}

static void
test_a_server_without_multi_conn_gets_one_connection(void **state)
{
  const Fixture *fixture = *state;
  make_image(fixture->path, 2 * MIB);
  Server server =
      START(fixture, "nbdkit", "--filter=multi-conn", LOGGED, fixture->path, LOG, "multi-conn-mode=disable");
  QemuNbdSourceOptions options = options_of(&server);
  options.n_connections = 3;
  g_autoptr(CbtSource) source = open_nbd(&options);
  read_wanted(source, fixture->path, SMALL, 0);
  assert_int_equal(n_logged(&server, "Connect export"), 1 + 1);
  stop_server(&server);
}

static void
test_the_number_of_connections_can_be_chosen(void **state)
{
  const Fixture *fixture = *state;
  make_image(fixture->path, 2 * MIB);
  Server server = START(fixture, "nbdkit", LOGGED, fixture->path, LOG);
  QemuNbdSourceOptions options = options_of(&server);
  options.n_connections = 2;
  g_autoptr(CbtSource) source = open_nbd(&options);
  read_wanted(source, fixture->path, SMALL, 0);
  assert_int_equal(n_logged(&server, "Connect export"), 1 + 2);
  stop_server(&server);
}

static void
test_holes_are_never_read(void **state)
{
  const Fixture *fixture = *state;
  make_image(fixture->path, 1 * MIB);
  assert_int_equal(truncate(fixture->path, 100 * MIB), 0);
  CBT_AUTO_FD int fd = open(fixture->path, O_RDWR | O_CLOEXEC);
  assert_true(cbt_pwrite_full(fd, "data", 4, 50 * MIB + 12345));
  Server server = START(fixture, "nbdkit", LOGGED, fixture->path, LOG);
  QemuNbdSourceOptions options = options_of(&server);
  g_autoptr(CbtSource) source = open_nbd(&options);
  CbtExtent extent;
  gboolean hole;
  assert_true(cbt_source_next_extent(source, 5 * MIB + 7, 90 * MIB, &extent, &hole, NULL));
  assert_true(hole);
  assert_int_equal(extent.offset, 5 * MIB + 7);
  assert_int_equal(extent.offset + extent.length, 50 * MIB);
  assert_true(cbt_source_next_extent(source, 50 * MIB, 4096, &extent, &hole, NULL));
  assert_false(hole);
  assert_int_equal(extent.length, 4096);
  assert_int_equal(read_wanted(source, fixture->path, SMALL, 0), 16 + 1);
  assert_int_equal(n_logged(&server, " Read id="), 16 + 1);
  stop_server(&server);
}

static void
test_tails_of_any_size_are_read_and_zeros_follow(void **state)
{
  static const guint64 sizes[] = {
      8, 504, 512, 4096 + 8, 64 * 1024 - 8, 64 * 1024 + 512, 1024 * 1024 + 65536 + 1000};
  const Fixture *fixture = *state;
  for (guint i = 0; i < G_N_ELEMENTS(sizes); i++) {
    make_image(fixture->path, sizes[i]);
    Server server = START(fixture, "nbdkit", "file", fixture->path);
    QemuNbdSourceOptions options = options_of(&server);
    g_autoptr(CbtSource) source = open_nbd(&options);
    assert_int_equal(source->size, sizes[i]);
    read_wanted(source, fixture->path, SMALL, 0);
    stop_server(&server);
  }
}

static void
test_a_read_above_the_servers_maximum_goes_out_in_pieces(void **state)
{
  const Fixture *fixture = *state;
  const CbtReaderOptions large = {.block_size = 1 << 20, .n_blocks = 3};
  make_image(fixture->path, 4 * MIB + 100 * KIB);
  Server server =
      START(fixture, "nbdkit", "--filter=blocksize-policy", LOGGED, fixture->path, LOG, "blocksize-minimum=1",
            "blocksize-preferred=4K", "blocksize-maximum=96K", "blocksize-error-policy=error");
  QemuNbdSourceOptions options = options_of(&server);
  g_autoptr(CbtSource) source = open_nbd(&options);
  assert_int_equal(read_wanted(source, fixture->path, large, 2), 4 * 11 + 2);
  stop_server(&server);
}

static void
test_what_the_server_retries_is_right(void **state)
{
  const Fixture *fixture = *state;
  make_image(fixture->path, 2 * MIB);
  Server server = START(fixture, "nbdkit", "--filter=retry-request", "--filter=error", "--filter=delay",
                        "file", fixture->path, "error-pread-rate=10%", "retry-request-retries=100",
                        "retry-request-delay=1", "rdelay=1ms");
  QemuNbdSourceOptions options = options_of(&server);
  g_autoptr(CbtSource) source = open_nbd(&options);
  assert_int_equal(read_wanted(source, fixture->path, SMALL, 1), 32);
  stop_server(&server);
}

/* --- bitmaps --- */

static guint64
count_set(const CbtBitmap *bitmap)
{
  return bitmap ? cbt_bitmap_n_dirty(bitmap) : 0;
}

static void
test_a_bitmap_says_what_is_read_and_zeros_of_it_are_not(void **state)
{
  const Fixture *fixture = *state;
  g_autofree char *qcow2 = file_in(fixture->directory, "disk.qcow2");
  run_tool("qemu-img create -q -f qcow2 %s 65032K", qcow2);
  run_tool("qemu-io -f qcow2 -c 'write -P 1 0 32M' %s", qcow2);
  run_tool("qemu-img bitmap --add -g 4096 %s b0", qcow2);
  /* Part of a cluster; a whole one; discarded; part of one zeroed; the tail, 8 KiB. */
  run_tool("qemu-io -f qcow2 -d unmap -c 'write -P 2 1028k 4k' -c 'write -P 3 2m 64k' -c 'discard 4m 1m'"
           " -c 'write -z 6148k 8k' -c 'write -P 4 65024k 8k' %s",
           qcow2);
  run_tool("qemu-img convert -f qcow2 -O raw %s %s", qcow2, fixture->path);
  Server server = START(fixture, "qemu-nbd", "-f", "qcow2", "-B", "b0", qcow2);
  QemuNbdSourceOptions options = options_of(&server);
  options.bitmap = "b0";
  g_autoptr(CbtSource) source = open_nbd(&options);
  const CbtBitmap *changes = qemu_nbd_source_changes(source);
  assert_int_equal(count_set(changes), 1 + 1 + 16 + 1 + 1);
  g_autoptr(GArray) extents = wanted(source);
  assert_int_equal(n_bytes_of(extents), 3 * 64 * KIB + 8 * KIB);
  read_wanted(source, fixture->path, SMALL, 0);
  /* Not dirty: neither a hole nor anything else that is known. */
  CbtExtent extent;
  gboolean hole;
  assert_true(cbt_source_next_extent(source, 40 * MIB, 10 * MIB, &extent, &hole, NULL));
  assert_false(hole);
  assert_int_equal(extent.length, 10 * MIB);
  assert_true(cbt_source_next_extent(source, 4 * MIB + 100, 10 * MIB, &extent, &hole, NULL));
  assert_true(hole);
  assert_int_equal(extent.length, MIB - 100);
  stop_server(&server);
  g_unlink(qcow2);
}

static void
test_what_cannot_be_opened_says_why(void **state)
{
  const Fixture *fixture = *state;
  make_image(fixture->path, MIB);
  Server server = START(fixture, "qemu-nbd", "-f", "raw", fixture->path);
  QemuNbdSourceOptions options = options_of(&server);
  options.bitmap = "b0";
  expect_no_source(&options, CBT_ERROR_NOT_FOUND, "no dirty bitmap b0");
  options.bitmap = NULL;
  kill_server(&server);
  expect_no_source(&options, CBT_ERROR_UNREACHABLE, "connecting");
  stop_server(&server);
  server = START(fixture, "nbdkit", "null");
  options.uri = server.uri;
  expect_no_source(&options, CBT_ERROR_INVALID, "is empty");
  stop_server(&server);
  server = START(fixture, "nbdkit", "null", "size=2P");
  options.uri = server.uri;
  expect_no_source(&options, CBT_ERROR_INVALID, "too large");
  stop_server(&server);
}

/* --- what goes wrong --- */

/* Reads all of SOURCE and expects that to fail with CODE and TEXT. ACT is done with the first block. */
static void
expect_no_read(CbtSource *source, void (*act)(gpointer user_data), gpointer act_data,
               GCancellable *cancellable, CbtErrorCode code, const char *text)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(CbtReader) reader = new_reader(source, SMALL);
  const CbtExtent all = {0, source->size};
  CBT_AUTO_FD int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  Collector collector = {.act_at = 1, .act = act, .act_data = act_data, .fd = fd};
  gint64 start_us = g_get_monotonic_time();
  assert_false(collect(&collector, reader, source, SMALL, &all, 1, cancellable, &error));
  assert_true(g_get_monotonic_time() - start_us < (gint64) TIMEOUT_MS * 1000);
  assert_int_equal(collector.n_bad, 0);
  assert_int_equal(cbt_error_code(error), code);
  if (!strstr(error->message, text))
    fail_msg("should say '%s': %s", text, error->message);
}

/* 1 MiB of zeros; a read of the third cluster does what SCRIPT says. */
static Server
start_scripted(const Fixture *fixture, const char *script)
{
  g_autofree char *pread =
      g_strdup_printf("pread=[ $4 -ne 131072 ] || { %s; }; head -c $3 /dev/zero", script);
  return START(fixture, "nbdkit", "eval", "get_size=echo 1M", "thread_model=echo parallel",
               "can_multi_conn=exit 0", pread);
}

static void
test_a_failed_read_names_offset_and_errno(void **state)
{
  Server server = start_scripted(*state, "echo EIO spoilt >&2; exit 1");
  QemuNbdSourceOptions options = options_of(&server);
  g_autoptr(CbtSource) source = open_nbd(&options);
  expect_no_read(source, NULL, NULL, NULL, CBT_ERROR_IO,
                 "reading at offset 131072: Input/output error (errno 5)");
  stop_server(&server);
  server = start_scripted(*state, "echo EINVAL broken >&2; exit 1");
  expect_no_read(source, NULL, NULL, NULL, CBT_ERROR_IO,
                 "(errno 22)\nA snapshot of QEMU answers so when it broke");
  stop_server(&server);
  server = start_scripted(*state, "echo ESHUTDOWN away >&2; exit 1");
  expect_no_read(source, NULL, NULL, NULL, CBT_ERROR_UNREACHABLE, "reading at offset 131072");
  stop_server(&server);
}

static void
test_one_read_that_hangs_ends_the_run_in_time(void **state)
{
  Server server = start_scripted(*state, "sleep 600");
  QemuNbdSourceOptions options = options_of(&server);
  options.timeout_ms = 500;
  g_autoptr(CbtSource) source = open_nbd(&options);
  expect_no_read(source, NULL, NULL, NULL, CBT_ERROR_UNREACHABLE, "the server does not answer");
  stop_server(&server);
}

static void
cancel(gpointer user_data)
{
  g_cancellable_cancel(user_data);
}

static void
test_a_cancel_does_not_wait_for_the_server(void **state)
{
  Server server = start_scripted(*state, "sleep 600");
  QemuNbdSourceOptions options = options_of(&server);
  g_autoptr(GCancellable) cancellable = g_cancellable_new();
  g_autoptr(CbtSource) source = open_nbd(&options);
  options.timeout_ms = 10 * TIMEOUT_MS;
  expect_no_read(source, cancel, cancellable, cancellable, CBT_ERROR_CANCELLED, "cancelled");
  stop_server(&server);
}

static void
test_opening_can_be_cancelled(void **state)
{
  Server server = START(*state, "nbdkit", "--filter=delay", "memory", "1M", "delay-open=600");
  QemuNbdSourceOptions options = options_of(&server);
  g_autoptr(GError) error = NULL;
  g_autoptr(GCancellable) cancellable = g_cancellable_new();
  g_cancellable_cancel(cancellable);
  assert_null(qemu_nbd_source_open(&options, cancellable, &error));
  assert_int_equal(cbt_error_code(error), CBT_ERROR_CANCELLED);
  options.timeout_ms = 300;
  expect_no_source(&options, CBT_ERROR_UNREACHABLE, "does not answer");
  stop_server(&server);
}

static void
kill_it(gpointer user_data)
{
  kill_server(user_data);
}

static void
test_a_killed_server_is_unreachable(void **state)
{
  Server server = start_scripted(*state, "sleep 600");
  QemuNbdSourceOptions options = options_of(&server);
  g_autoptr(CbtSource) source = open_nbd(&options);
  expect_no_read(source, kill_it, &server, NULL, CBT_ERROR_UNREACHABLE, "the server went away");
  /* The source is still there; a reader of it needs the server. */
  g_autoptr(GError) error = NULL;
  CbtReaderOptions reader_options = SMALL;
  assert_null(cbt_reader_new(source, &reader_options, &error));
  assert_int_equal(cbt_error_code(error), CBT_ERROR_UNREACHABLE);
  stop_server(&server);
}

static void
test_another_size_than_before_is_refused(void **state)
{
  const Fixture *fixture = *state;
  Server server = START(fixture, "nbdkit", "memory", "1M");
  QemuNbdSourceOptions options = options_of(&server);
  g_autoptr(CbtSource) source = open_nbd(&options);
  stop_server(&server);
  server = START(fixture, "nbdkit", "memory", "2M");
  g_autoptr(GError) error = NULL;
  CbtReaderOptions reader_options = SMALL;
  assert_null(cbt_reader_new(source, &reader_options, &error));
  assert_int_equal(cbt_error_code(error), CBT_ERROR_CORRUPT);
  stop_server(&server);
}

int
main(void)
{
  g_autofree char *nbdkit = g_find_program_in_path("nbdkit"), *qemu_nbd = g_find_program_in_path("qemu-nbd");
  if (!nbdkit || !qemu_nbd) {
    puts("skipped: needs nbdkit and qemu-nbd; scripts/install-packages brings them");
    return 77;
  }
  const struct CMUnitTest tests[] = {
      TEST(test_every_byte_arrives_over_several_connections),
      TEST(test_a_server_without_multi_conn_gets_one_connection),
      TEST(test_the_number_of_connections_can_be_chosen),
      TEST(test_holes_are_never_read),
      TEST(test_tails_of_any_size_are_read_and_zeros_follow),
      TEST(test_a_read_above_the_servers_maximum_goes_out_in_pieces),
      TEST(test_what_the_server_retries_is_right),
      TEST(test_a_bitmap_says_what_is_read_and_zeros_of_it_are_not),
      TEST(test_what_cannot_be_opened_says_why),
      TEST(test_a_failed_read_names_offset_and_errno),
      TEST(test_one_read_that_hangs_ends_the_run_in_time),
      TEST(test_a_cancel_does_not_wait_for_the_server),
      TEST(test_opening_can_be_cancelled),
      TEST(test_a_killed_server_is_unreachable),
      TEST(test_another_size_than_before_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
