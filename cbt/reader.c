/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Extents in, filled buffers out.
 *
 * Three parts, each without knowledge of the others: the cutter joins and cuts extents into blocks; the pool
 * hands out buffers and takes them back from any thread; the engine (cbt/reader-engine.h) reads. The loop in
 * cbt_reader_run() ties them: give every free buffer a block, submit, wait, deliver what is whole.
 *
 * The cutter joins no further than the end of the block that it cuts, so a fully dirty disk neither waits for
 * the whole list of extents nor keeps it in memory.
 *
 * The loop waits in the engine while reads are in flight, and on the pool's condition only when there are
 * none, that is, when all buffers are out. A buffer that comes back while a read is in flight is used after
 * that read: it costs at most one read's time, and the consumers have work meanwhile. A run that is slowed
 * waits in the same way: in the engine for as long as anything is in flight, and only then for the time. All
 * waits end after POLL_MS to look at the cancellable.
 *
 * After the first error nothing is started any more, and the reads in flight are waited for, unless the
 * engine can give them up: the kernel writes into the buffers until then.
 */
#include <cbt/reader.h>

#include <cbt/reader-ring-private.h>
#include <common/bytes.h>
#include <common/error.h>
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <time.h>

#define POLL_MS        100
#define BLOCK_SIZE_MIN ((guint32) CBT_CLUSTER_SIZE)
#define BLOCK_SIZE_MAX (4u << 20)
#define ARENA_SIZE_MAX (G_GUINT64_CONSTANT(1) << 30) /* the kernel registers no larger buffer */
#define HUGE_PAGE_SIZE (G_GUINT64_CONSTANT(2) << 20)

typedef struct {
  CbtReadBlock block;
  CbtEngineRead read;
} Slot;

struct CbtReader {
  /* Constant after creation. */
  CbtSource *source;
  CbtReaderOptions options;
  CbtPaceFunc pace; /* or NULL */
  gpointer pace_data;
  CbtReaderEngine *engine; /* itself of the thread that runs */
  guint8 *mapping;
  gsize mapping_size;
  Slot *slots; /* n_blocks */
  /* Protected by lock. */
  pthread_mutex_t lock;
  pthread_cond_t released; /* n_free went up */
  guint *free;             /* a stack of slot indices */
  guint n_free;
  /* Of the thread that runs. */
  gboolean engine_failed; /* the kernel may write to the buffers for ever */
  /* Atomic. */
  guint64 bytes_read;
};

/* --- the pool --- */

static Slot *
take_slot(CbtReader *reader)
{
  pthread_mutex_lock(&reader->lock);
  Slot *slot = reader->n_free > 0 ? &reader->slots[reader->free[--reader->n_free]] : NULL;
  pthread_mutex_unlock(&reader->lock);
  return slot;
}

static void
give_slot(CbtReader *reader, const Slot *slot)
{
  pthread_mutex_lock(&reader->lock);
  g_assert(reader->n_free < reader->options.n_blocks);
  reader->free[reader->n_free++] = slot->block.index;
  pthread_cond_signal(&reader->released);
  pthread_mutex_unlock(&reader->lock);
}

void
cbt_reader_release(CbtReader *reader, CbtReadBlock *block)
{
  g_assert(block->index < reader->options.n_blocks && block == &reader->slots[block->index].block);
  give_slot(reader, &reader->slots[block->index]);
}

/* Waits until a buffer is free, at most POLL_MS. */
static void
wait_for_slot(CbtReader *reader)
{
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  until.tv_nsec += POLL_MS * 1000000L;
  if (until.tv_nsec >= 1000000000L) {
    until.tv_nsec -= 1000000000L;
    until.tv_sec++;
  }
  pthread_mutex_lock(&reader->lock);
  int result = 0;
  while (reader->n_free == 0 && result == 0)
    result = pthread_cond_timedwait(&reader->released, &reader->lock, &until);
  pthread_mutex_unlock(&reader->lock);
}

/* --- creation --- */

static gboolean
check_options(const CbtReaderOptions *options, GError **error)
{
  if (cbt_is_power_of_two(options->block_size) && options->block_size >= BLOCK_SIZE_MIN &&
      options->block_size <= BLOCK_SIZE_MAX && options->n_blocks > 0 &&
      options->n_blocks <= ARENA_SIZE_MAX / options->block_size)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID,
                "Blocks are a power of two from 64K to 4M, and all of them together at most 1G.",
                "cannot read with %u blocks of %u bytes", options->n_blocks, options->block_size);
  return FALSE;
}

/* Maps the buffers, in huge pages where there are some: pages are pinned and mapped for the device one by
 * one. */
static guint8 *
map_arena(CbtReader *reader, gsize size, GError **error)
{
  reader->mapping_size = size + HUGE_PAGE_SIZE;
  void *mapping =
      mmap(NULL, reader->mapping_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) {
    cbt_set_error_errno(error, errno, "cannot map %zu bytes of read buffers", reader->mapping_size);
    return NULL;
  }
  reader->mapping = mapping;
  guint8 *arena = (guint8 *) (gsize) cbt_round_up((gsize) mapping, HUGE_PAGE_SIZE);
  madvise(arena, size, MADV_HUGEPAGE);
  return arena;
}

static void
init_slots(CbtReader *reader, guint8 *arena)
{
  guint n = reader->options.n_blocks;
  reader->slots = g_new0(Slot, n);
  reader->free = g_new(guint, n);
  for (guint i = 0; i < n; i++) {
    reader->slots[i].block.index = i;
    reader->slots[i].block.data = arena + (gsize) i * reader->options.block_size;
    reader->free[i] = n - 1 - i;
  }
  reader->n_free = n;
}

static void
init_lock(CbtReader *reader)
{
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_mutex_init(&reader->lock, NULL);
  pthread_cond_init(&reader->released, &attributes);
  pthread_condattr_destroy(&attributes);
}

CbtReader *
cbt_reader_new(CbtSource *source, const CbtReaderOptions *options, GError **error)
{
  if (!check_options(options, error))
    return NULL;
  g_autoptr(CbtReader) reader = g_new0(CbtReader, 1);
  reader->source = source;
  reader->options = *options;
  init_lock(reader);
  gsize size = (gsize) options->n_blocks * options->block_size;
  guint8 *arena = map_arena(reader, size, error);
  if (!arena)
    return NULL;
  init_slots(reader, arena);
  reader->engine =
      source->klass->new_engine
          ? source->klass->new_engine(source, arena, size, options->n_blocks, options->direct, error)
          : cbt_reader_ring_new(source, arena, size, options->n_blocks, options->direct, error);
  return reader->engine ? g_steal_pointer(&reader) : NULL;
}

void
cbt_reader_set_nowait(CbtReader *reader)
{
  reader->engine->klass->set_nowait(reader->engine);
}

void
cbt_reader_set_pace(CbtReader *reader, CbtPaceFunc pace, gpointer user_data)
{
  reader->pace = pace;
  reader->pace_data = user_data;
}

void
cbt_reader_free(CbtReader *reader)
{
  if (!reader)
    return;
  g_assert(!reader->slots || reader->engine_failed || reader->n_free == reader->options.n_blocks);
  if (reader->engine)
    reader->engine->klass->free(reader->engine);
  /* Memory that the kernel may still write to is given up for good rather than used again for something else.
   */
  if (reader->mapping && !reader->engine_failed)
    munmap(reader->mapping, reader->mapping_size);
  if (!reader->engine_failed)
    g_free(reader->slots);
  pthread_cond_destroy(&reader->released);
  pthread_mutex_destroy(&reader->lock);
  g_free(reader->free);
  g_free(reader);
}

guint64
cbt_reader_bytes_read(const CbtReader *reader)
{
  return __atomic_load_n(&reader->bytes_read, __ATOMIC_RELAXED);
}

guint64
cbt_reader_n_reads(const CbtReader *reader)
{
  return reader->engine->klass->n_reads(reader->engine);
}

/* --- the cutter --- */

typedef struct {
  CbtNextExtentFunc next;
  gpointer user_data;
  guint64 disk_size;
  guint32 block_size;
  CbtExtent current; /* what is left of the extent that is being cut */
  CbtExtent ahead;   /* the one behind it; length 0: not fetched, or none */
  guint64 end;       /* of the extents fetched so far */
  gboolean at_end;   /* next() has no more */
} Cutter;

/* Fetches the extent behind the current one, if there is one. */
static gboolean
look_ahead(Cutter *cutter, GError **error)
{
  CbtExtent *ahead = &cutter->ahead;
  while (ahead->length == 0 && !cutter->at_end) {
    GError *next_error = NULL;
    if (!cutter->next(cutter->user_data, ahead, &next_error)) {
      cutter->at_end = TRUE;
      ahead->length = 0;
      if (!next_error)
        return TRUE;
      g_propagate_error(error, next_error);
      return FALSE;
    }
    if (ahead->offset < cutter->end || !cbt_range_fits(ahead->offset, ahead->length, cutter->disk_size)) {
      cbt_set_error(error, CBT_ERROR_INVALID, NULL,
                    "the extent at offset %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT
                    " bytes is out of order or outside the disk",
                    ahead->offset, ahead->length);
      return FALSE;
    }
    cutter->end = ahead->offset + ahead->length;
  }
  return TRUE;
}

/* Sets *block to the next block; its length is 0 at the end. */
static gboolean
cut_block(Cutter *cutter, CbtExtent *block, GError **error)
{
  CbtExtent *current = &cutter->current, *ahead = &cutter->ahead;
  if (!look_ahead(cutter, error))
    return FALSE;
  if (current->length == 0) {
    *current = *ahead;
    ahead->length = 0;
  }
  guint64 limit = cbt_round_down(current->offset, cutter->block_size) + cutter->block_size;
  while (current->offset + current->length < limit) {
    if (!look_ahead(cutter, error))
      return FALSE;
    if (ahead->length == 0 || ahead->offset != current->offset + current->length)
      break;
    current->length += ahead->length;
    ahead->length = 0;
  }
  *block = (CbtExtent){.offset = current->offset, .length = MIN(current->length, limit - current->offset)};
  current->offset += block->length;
  current->length -= block->length;
  return TRUE;
}

/* --- the run --- */

typedef struct {
  CbtReader *reader;
  CbtReaderEngine *engine; /* of the reader */
  CbtBlockFunc deliver;
  gpointer user_data;
  Cutter cutter;
  guint64 sequence;
  gint64 not_before_us; /* when the next block may be started */
  gboolean more;        /* the cutter may have blocks left */
  GError *error;        /* the first one */
} Run;

/* Keeps ERROR (transfer full) if it is the first, and starts nothing more. */
static void
fail(Run *run, GError *error)
{
  run->more = FALSE;
  if (run->error) {
    g_error_free(error);
    return;
  }
  run->error = error;
  if (run->engine->klass->stop)
    run->engine->klass->stop(run->engine);
}

static void
start_block(Run *run, Slot *slot, const CbtExtent *extent)
{
  slot->block.sequence = run->sequence++;
  slot->block.offset = extent->offset;
  slot->block.length = (guint32) extent->length;
  slot->read =
      (CbtEngineRead){.offset = extent->offset, .length = (guint32) extent->length, .data = slot->block.data};
  run->engine->klass->start(run->engine, &slot->read);
  if (run->reader->pace)
    run->not_before_us = run->reader->pace(run->reader->pace_data, slot->read.length);
  __atomic_fetch_add(&run->reader->bytes_read, extent->length, __ATOMIC_RELAXED);
}

/* For how long no block may be started, at most POLL_MS. */
static guint
held_back_ms(const Run *run)
{
  gint64 left_us = run->more && run->not_before_us ? run->not_before_us - g_get_monotonic_time() : 0;
  return left_us > 0 ? (guint) MIN(left_us / 1000 + 1, POLL_MS) : 0;
}

/* Gives every free buffer a block. */
static void
start_blocks(Run *run)
{
  Slot *slot;
  while (run->more && held_back_ms(run) == 0 && (slot = take_slot(run->reader))) {
    CbtExtent extent;
    GError *error = NULL;
    if (cut_block(&run->cutter, &extent, &error) && extent.length > 0) {
      start_block(run, slot, &extent);
      continue;
    }
    give_slot(run->reader, slot);
    run->more = FALSE;
    if (error)
      fail(run, error);
  }
}

/* Zeros behind the data up to the disk's next cluster boundary, which the buffer has room for: it ends at
 * one. */
static void
zero_tail(const CbtReadBlock *block)
{
  guint64 end = block->offset + block->length;
  memset(block->data + block->length, 0, cbt_round_up(end, CBT_CLUSTER_SIZE) - end);
}

static void
finish_blocks(Run *run)
{
  CbtEngineRead *read;
  GError *error = NULL;
  while ((read = run->engine->klass->reap(run->engine, &error))) {
    Slot *slot = (Slot *) ((guint8 *) read - G_STRUCT_OFFSET(Slot, read));
    if (error)
      fail(run, g_steal_pointer(&error));
    if (run->error) {
      give_slot(run->reader, slot);
    } else {
      zero_tail(&slot->block);
      run->deliver(run->user_data, &slot->block);
    }
  }
}

/* Waits for whatever lets the run go on. */
static void
wait_for_something(Run *run)
{
  GError *error = NULL;
  guint left_ms = held_back_ms(run);
  if (run->engine->klass->n_in_flight(run->engine) == 0) {
    if (left_ms > 0)
      g_usleep(left_ms * 1000);
    else
      wait_for_slot(run->reader);
  } else if (!run->engine->klass->wait(run->engine, left_ms > 0 ? left_ms : POLL_MS, &error)) {
    run->reader->engine_failed = TRUE;
    fail(run, error);
  }
}

static void
check_cancelled(Run *run, GCancellable *cancellable)
{
  if (!run->error && g_cancellable_is_cancelled(cancellable))
    fail(run, g_error_new_literal(CBT_ERROR, CBT_ERROR_CANCELLED, "reading was cancelled"));
}

gboolean
cbt_reader_run(CbtReader *reader, CbtNextExtentFunc next, CbtBlockFunc deliver, gpointer user_data,
               GCancellable *cancellable, GError **error)
{
  Run run = {
      .reader = reader,
      .engine = reader->engine,
      .deliver = deliver,
      .user_data = user_data,
      .cutter = {.next = next,
                 .user_data = user_data,
                 .disk_size = reader->source->size,
                 .block_size = reader->options.block_size},
      .more = TRUE,
  };
  g_assert(!reader->engine_failed);
  for (;;) {
    check_cancelled(&run, cancellable);
    start_blocks(&run);
    if (!run.more && run.engine->klass->n_in_flight(run.engine) == 0)
      break;
    wait_for_something(&run);
    if (reader->engine_failed)
      break;
    finish_blocks(&run);
  }
  if (!run.error)
    return TRUE;
  g_propagate_error(error, run.error);
  return FALSE;
}
