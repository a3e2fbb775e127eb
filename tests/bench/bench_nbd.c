/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reads what a dirty bitmap of an NBD export marks, as a backup does, and throws it away. One line a run:
 * milliseconds for the map, for all, bytes, requests. tests/bench/run-nbd compares it with nbdcopy.
 */
#include <cbt/qemu/nbd-source.h>
#include <cbt/reader.h>
#include <common/error.h>
#include <common/size.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct {
  CbtSource *source;
  CbtReader *reader;
  guint64 at;
} Walk;

static gboolean
next_extent(gpointer user_data, CbtExtent *extent, GError **error)
{
  Walk *walk = user_data;
  const CbtBitmap *changes = qemu_nbd_source_changes(walk->source);
  gboolean hole = TRUE;
  while (walk->at < walk->source->size) {
    CbtExtent run = {walk->at, walk->source->size - walk->at};
    if (changes && !cbt_bitmap_next_dirty(changes, walk->at, G_MAXUINT64, &run))
      return FALSE;
    if (!cbt_source_next_extent(walk->source, run.offset, run.length, extent, &hole, error))
      return FALSE;
    walk->at = extent->offset + extent->length;
    if (!hole)
      return TRUE;
  }
  return FALSE;
}

static void
release(gpointer user_data, CbtReadBlock *block)
{
  const Walk *walk = user_data;
  cbt_reader_release(walk->reader, block);
}

static gboolean
run(const QemuNbdSourceOptions *options, const CbtReaderOptions *reader_options, GError **error)
{
  gint64 start_us = g_get_monotonic_time();
  g_autoptr(CbtSource) source = qemu_nbd_source_open(options, NULL, error);
  if (!source)
    return FALSE;
  gint64 mapped_us = g_get_monotonic_time();
  g_autoptr(CbtReader) reader = cbt_reader_new(source, reader_options, error);
  Walk walk = {.source = source, .reader = reader};
  if (!reader || !cbt_reader_run(reader, next_extent, release, &walk, NULL, error))
    return FALSE;
  printf("%.1f %.1f %" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT "\n", (double) (mapped_us - start_us) / 1e3,
         (double) (g_get_monotonic_time() - start_us) / 1e3, cbt_reader_bytes_read(reader),
         cbt_reader_n_reads(reader));
  fflush(stdout);
  return TRUE;
}

typedef struct {
  char *bitmap;
  char *block_size;
  int n_blocks;
  int n_connections;
  int rounds;
} Arguments;

static gboolean
parse(Arguments *arguments, int *argc, char ***argv, GError **error)
{
  const GOptionEntry entries[] = {
      {"bitmap", 0, 0, G_OPTION_ARG_STRING, &arguments->bitmap, "Only what this bitmap marks", "NAME"},
      {"block-size", 0, 0, G_OPTION_ARG_STRING, &arguments->block_size, "Of the reader", "SIZE"},
      {"blocks", 0, 0, G_OPTION_ARG_INT, &arguments->n_blocks, "Of the reader", "N"},
      {"connections", 0, 0, G_OPTION_ARG_INT, &arguments->n_connections, "0: as the source chooses", "N"},
      {"rounds", 0, 0, G_OPTION_ARG_INT, &arguments->rounds, "Runs (1)", "N"},
      {NULL, 0, 0, 0, NULL, NULL, NULL},
  };
  g_autoptr(GOptionContext) context = g_option_context_new("URI");
  g_option_context_add_main_entries(context, entries, NULL);
  if (!g_option_context_parse(context, argc, argv, error))
    return FALSE;
  if (*argc == 2)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, NULL, "usage: bench_nbd [OPTION...] URI");
  return FALSE;
}

static gboolean
run_all(Arguments *arguments, int argc, char **argv, GError **error)
{
  CbtReaderOptions reader_options = CBT_READER_OPTIONS_DEFAULT;
  guint64 block_size = reader_options.block_size;
  if (!parse(arguments, &argc, &argv, error) ||
      (arguments->block_size && !cbt_size_parse(arguments->block_size, &block_size, error)))
    return FALSE;
  reader_options.block_size = (guint32) MIN(block_size, G_MAXUINT32);
  if (arguments->n_blocks > 0)
    reader_options.n_blocks = (guint) arguments->n_blocks;
  const QemuNbdSourceOptions options = {.uri = argv[1],
                                        .bitmap = arguments->bitmap,
                                        .timeout_ms = 30000,
                                        .n_connections = (guint) MAX(arguments->n_connections, 0)};
  for (int i = 0; i < arguments->rounds; i++)
    if (!run(&options, &reader_options, error))
      return FALSE;
  return TRUE;
}

int
main(int argc, char **argv)
{
  g_autoptr(GError) error = NULL;
  Arguments arguments = {.rounds = 1};
  gboolean ok = run_all(&arguments, argc, argv, &error);
  g_free(arguments.bitmap);
  g_free(arguments.block_size);
  if (!ok)
    fprintf(stderr, "bench_nbd: %s\n", error->message);
  return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
