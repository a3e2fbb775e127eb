/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How fast the reader is, beside plain pread() and fio on the same file.
 *
 * Without --block-size, --blocks, --direct or --buffered it prints the table that the defaults in
 * cbt/reader.h were chosen from; with any of them, one line for just that. Each figure is the best of some
 * rounds; before each one the file is dropped from the page cache. The processor time says what a figure
 * costs, which counts where workers compress meanwhile.
 */
#include <cbt/reader.h>

#include <common/error.h>
#include <common/fd.h>
#include <common/file-ops.h>
#include <common/size.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#define MIB            (1024 * 1024)
#define SCATTER_STRIDE (3 * CBT_CLUSTER_SIZE) /* every third cluster is read: none can be joined */

typedef struct {
  guint64 bytes;
  guint64 n_reads;
  double seconds;
  double cpu_seconds;
} Result;

typedef struct {
  const char *path;
  gboolean scattered;
  CbtReaderOptions options;
} Case;

/* --- time --- */

static double
cpu_seconds(void)
{
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (double) (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         (double) (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void
start_clock(Result *result)
{
  result->seconds = -(double) g_get_monotonic_time() / 1e6;
  result->cpu_seconds = -cpu_seconds();
}

static void
stop_clock(Result *result)
{
  result->seconds += (double) g_get_monotonic_time() / 1e6;
  result->cpu_seconds += cpu_seconds();
}

static void
print_result(const char *what, const Case *c, const Result *result)
{
  double megabytes = (double) result->bytes / 1e6;
  printf("%-8s %-10s %-8s %5u KiB x %-4u %8.0f MB/s %8" G_GUINT64_FORMAT " reads %6.2f CPU s/GB\n", what,
         c->scattered ? "scattered" : "sequential", c->options.direct ? "direct" : "buffered",
         c->options.block_size / 1024, c->options.n_blocks, megabytes / result->seconds, result->n_reads,
         result->cpu_seconds / megabytes * 1000);
  fflush(stdout);
}

/* --- the file --- */

/* Makes PATH of SIZE bytes that neither compress nor are holes, unless it has that size already. */
static gboolean
make_file(const char *path, guint64 size, GError **error)
{
  struct stat st;
  if (stat(path, &st) == 0 && (S_ISBLK(st.st_mode) || (guint64) st.st_size == size))
    return TRUE;
  CBT_AUTO_FD int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  g_autofree guint32 *data = g_malloc(MIB);
  for (guint64 offset = 0; fd >= 0 && offset < size; offset += MIB) {
    for (guint i = 0; i < MIB / sizeof *data; i++)
      data[i] = g_random_int();
    if (!cbt_pwrite_full(fd, data, MIN(MIB, size - offset), offset))
      break;
  }
  if (fd >= 0 && fsync(fd) == 0 && fstat(fd, &st) == 0 && (guint64) st.st_size == size)
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot make %s", path);
  return FALSE;
}

static void
drop_cache(int fd)
{
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}

/* --- the contestants --- */

typedef struct {
  CbtReader *reader;
  guint64 offset; /* of the next extent */
  guint64 size;
  gboolean scattered;
} Walk;

static gboolean
next_extent(gpointer user_data, CbtExtent *extent, GError **error G_GNUC_UNUSED)
{
  Walk *walk = user_data;
  if (walk->offset >= walk->size)
    return FALSE;
  guint64 length = walk->scattered ? CBT_CLUSTER_SIZE : walk->size;
  *extent = (CbtExtent){walk->offset, MIN(length, walk->size - walk->offset)};
  walk->offset += walk->scattered ? SCATTER_STRIDE : walk->size;
  return TRUE;
}

static void
release(gpointer user_data, CbtReadBlock *block)
{
  Walk *walk = user_data;
  cbt_reader_release(walk->reader, block);
}

static gboolean
run_reader(const Case *c, Result *result, GError **error)
{
  g_autoptr(CbtSource) source = cbt_source_open_file(c->path, error);
  if (!source)
    return FALSE;
  drop_cache(cbt_source_fd(source, FALSE));
  g_autoptr(CbtReader) reader = cbt_reader_new(source, &c->options, error);
  if (!reader)
    return FALSE;
  Walk walk = {.reader = reader, .size = source->size, .scattered = c->scattered};
  start_clock(result);
  gboolean ok = cbt_reader_run(reader, next_extent, release, &walk, NULL, error);
  stop_clock(result);
  result->bytes = cbt_reader_bytes_read(reader);
  result->n_reads = cbt_reader_n_reads(reader);
  return ok;
}

/* What a simple program does: one pread() after the other. */
static gboolean
run_pread(const Case *c, Result *result, GError **error)
{
  g_autoptr(CbtSource) source = cbt_source_open_file(c->path, error);
  if (!source)
    return FALSE;
  int fd = cbt_source_fd(source, c->options.direct);
  drop_cache(cbt_source_fd(source, FALSE));
  gsize length = c->options.block_size;
  guint64 step = c->scattered ? SCATTER_STRIDE : length;
  void *data = NULL;
  g_assert(posix_memalign(&data, 4096, length) == 0);
  gssize n = 0;
  *result = (Result){0};
  start_clock(result);
  for (guint64 offset = 0; offset < source->size && n >= 0; offset += step) {
    n = cbt_pread_full(fd, data, length, offset);
    result->bytes += (guint64) MAX(n, 0);
    result->n_reads++;
  }
  stop_clock(result);
  free(data);
  if (n < 0)
    cbt_set_error_errno(error, errno, "cannot read %s", c->path);
  return n >= 0;
}

/* fio prints one line of fields; the sixth and seventh of them are KiB read and KiB/s. */
static gboolean
run_fio(const Case *c, Result *result, GError **error)
{
  g_autofree char *command = g_strdup_printf(
      "fio --name=r --readonly --filename=%s --rw=%s --bs=%u --iodepth=%u --direct=%d --ioengine=io_uring "
      "--fixedbufs --registerfiles --output-format=terse --invalidate=1 --runtime=30",
      c->path, c->scattered ? "read:128k" : "read",
      c->scattered ? (guint) CBT_CLUSTER_SIZE : c->options.block_size, c->options.n_blocks,
      c->options.direct);
  g_autofree char *output = NULL;
  if (!g_spawn_command_line_sync(command, &output, NULL, NULL, error))
    return FALSE;
  g_auto(GStrv) fields = g_strsplit(output, ";", 0);
  if (g_strv_length(fields) < 100) {
    cbt_set_error(error, CBT_ERROR_FAILED, NULL, "fio says: %s", output);
    return FALSE;
  }
  double kib = g_ascii_strtod(fields[5], NULL), rate = g_ascii_strtod(fields[6], NULL);
  double cpu = g_ascii_strtod(fields[87], NULL) + g_ascii_strtod(fields[88], NULL); /* percent */
  *result =
      (Result){.bytes = (guint64) kib * 1024, .seconds = kib / rate, .cpu_seconds = kib / rate * cpu / 100};
  result->n_reads = result->bytes / c->options.block_size;
  return TRUE;
}

typedef gboolean (*Contestant)(const Case *c, Result *result, GError **error);

static gboolean
best_of(guint rounds, const char *what, Contestant run, const Case *c, GError **error)
{
  Result best = {.seconds = 1e9};
  for (guint i = 0; i < rounds; i++) {
    Result result = {0};
    if (!run(c, &result, error))
      return FALSE;
    if (result.seconds < best.seconds)
      best = result;
  }
  print_result(what, c, &best);
  return TRUE;
}

/* --- the table --- */

static const CbtReaderOptions variants[] = {
    {64 << 10, 16, TRUE},   {64 << 10, 64, TRUE},  {128 << 10, 64, TRUE}, {256 << 10, 4, TRUE},
    {256 << 10, 16, TRUE},  {256 << 10, 32, TRUE}, {256 << 10, 64, TRUE}, {512 << 10, 32, TRUE},
    {1 << 20, 4, TRUE},     {1 << 20, 16, TRUE},   {1 << 20, 64, TRUE},   {4 << 20, 4, TRUE},
    {256 << 10, 64, FALSE},
};

static gboolean
run_table(const char *path, guint rounds, GError **error)
{
  g_autofree char *fio = g_find_program_in_path("fio");
  for (gboolean scattered = FALSE; scattered <= TRUE; scattered++) {
    guint32 single = scattered ? CBT_CLUSTER_SIZE : 1 << 20, deep = scattered ? CBT_CLUSTER_SIZE : 256 << 10;
    const Case buffered = {path, scattered, {single, 1, FALSE}};
    const Case direct = {path, scattered, {single, 1, TRUE}};
    const Case fio_case = {path, scattered, {deep, 64, TRUE}};
    if (!best_of(rounds, "pread", run_pread, &buffered, error) ||
        !best_of(rounds, "pread", run_pread, &direct, error) ||
        (fio && !best_of(rounds, "fio", run_fio, &fio_case, error)))
      return FALSE;
    for (guint i = 0; i < G_N_ELEMENTS(variants); i++) {
      const Case c = {path, scattered, variants[i]};
      if (!best_of(rounds, "reader", run_reader, &c, error))
        return FALSE;
    }
  }
  return TRUE;
}

/* --- main --- */

typedef struct {
  char *size;
  char *block_size;
  int n_blocks;
  int rounds;
  gboolean direct;
  gboolean buffered;
  gboolean scattered;
} Arguments;

static gboolean
run_one(const char *path, const Arguments *arguments, GError **error)
{
  Case c = {path, arguments->scattered, CBT_READER_OPTIONS_DEFAULT};
  guint64 block_size;
  if (arguments->block_size) {
    if (!cbt_size_parse(arguments->block_size, &block_size, error))
      return FALSE;
    c.options.block_size = (guint32) MIN(block_size, G_MAXUINT32);
  }
  if (arguments->n_blocks > 0)
    c.options.n_blocks = (guint) arguments->n_blocks;
  c.options.direct = !arguments->buffered;
  return best_of((guint) arguments->rounds, "reader", run_reader, &c, error);
}

static gboolean
parse(Arguments *arguments, int *argc, char ***argv, GError **error)
{
  const GOptionEntry entries[] = {
      {"size", 0, 0, G_OPTION_ARG_STRING, &arguments->size, "Size of FILE if it must be made (2G)", "SIZE"},
      {"block-size", 0, 0, G_OPTION_ARG_STRING, &arguments->block_size, "Only this block size", "SIZE"},
      {"blocks", 0, 0, G_OPTION_ARG_INT, &arguments->n_blocks, "Only this number of buffers", "N"},
      {"rounds", 0, 0, G_OPTION_ARG_INT, &arguments->rounds, "Best of N rounds (3)", "N"},
      {"direct", 0, 0, G_OPTION_ARG_NONE, &arguments->direct, "Only O_DIRECT", NULL},
      {"buffered", 0, 0, G_OPTION_ARG_NONE, &arguments->buffered, "Only through the page cache", NULL},
      {"scattered", 0, 0, G_OPTION_ARG_NONE, &arguments->scattered, "Only every third cluster", NULL},
      {NULL, 0, 0, 0, NULL, NULL, NULL},
  };
  g_autoptr(GOptionContext) context = g_option_context_new("FILE");
  g_option_context_add_main_entries(context, entries, NULL);
  if (!g_option_context_parse(context, argc, argv, error))
    return FALSE;
  if (*argc == 2 && arguments->rounds > 0)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, NULL, "usage: bench_reader [OPTION...] FILE");
  return FALSE;
}

static gboolean
run(Arguments *arguments, int argc, char **argv, GError **error)
{
  guint64 size;
  if (!parse(arguments, &argc, &argv, error) ||
      !cbt_size_parse(arguments->size ? arguments->size : "2G", &size, error) ||
      !make_file(argv[1], size, error))
    return FALSE;
  gboolean one = arguments->block_size || arguments->n_blocks || arguments->direct || arguments->buffered ||
                 arguments->scattered;
  return one ? run_one(argv[1], arguments, error) : run_table(argv[1], (guint) arguments->rounds, error);
}

int
main(int argc, char **argv)
{
  g_autoptr(GError) error = NULL;
  Arguments arguments = {.rounds = 3};
  gboolean ok = run(&arguments, argc, argv, &error);
  g_free(arguments.size);
  g_free(arguments.block_size);
  if (!ok)
    fprintf(stderr, "bench_reader: %s\n", error->message);
  return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
