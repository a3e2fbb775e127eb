/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How a read becomes whole.
 *
 * Each completion is one of: all there; short, which is continued where it stopped; nothing, which before the
 * end of the disk means that somebody cut the image; EAGAIN or EINTR, which go out again, from a kernel
 * thread that may wait; EINVAL on a direct read, after which the page cache serves this and every later read;
 * any other errno, which is the answer.
 *
 * With nowait, EAGAIN to a direct read means that the page cache serves this one. A direct read of what a
 * guest has just written would wait for its write-back, and keep the inode's lock meanwhile: the guest's next
 * write would wait as long.
 *
 * A direct read needs offset, length and memory aligned. Blocks begin aligned; the last one of a disk need
 * not end so. It is asked for up to the next multiple, the kernel stops at the end of the image, and what
 * came too much (the image grew) is not counted. What cannot be aligned, like the rest of an odd short read,
 * goes through the page cache, where it is always right, only slower.
 *
 * The arena is registered as one buffer and the two descriptors as files, which saves pinning pages and
 * taking references with each read. Where the kernel refuses (RLIMIT_MEMLOCK), plain reads do the same work.
 */
#include <cbt/reader-ring-private.h>

#include <common/bytes.h>
#include <common/error.h>
#include <errno.h>
#include <liburing.h>

#define MAX_RETRIES                                                                                          \
  100 /* a file system that says EAGAIN this often in a row, to a thread that may wait, is broken */

typedef struct {
  CbtReaderEngine base;
  /* Constant after creation. */
  struct io_uring ring;
  int fds[2]; /* [direct]; -1: there is none */
  gboolean fixed_files;
  gboolean fixed_buffers;
  /* Of the thread that reads. */
  gboolean direct; /* until it is refused */
  gboolean nowait; /* a direct read that would have to wait goes through the page cache */
  guint n_in_flight;
  /* Atomic. */
  guint64 n_reads;
} Ring;

static gboolean
init_ring(struct io_uring *ring, guint depth, GError **error)
{
  /* No interrupt of the reading thread for each completion: it looks by itself. One entry more, because
   * kernels before 5.11 wait with a time-out that is an entry of its own. */
  int result = io_uring_queue_init(depth + 1, ring, IORING_SETUP_COOP_TASKRUN);
  if (result == -EINVAL)
    result = io_uring_queue_init(depth + 1, ring, 0);
  if (result == 0)
    return TRUE;
  gboolean unavailable = result == -ENOSYS || result == -EPERM;
  cbt_set_error(error, unavailable ? CBT_ERROR_UNSUPPORTED : cbt_error_code_from_errno(-result),
                unavailable ? "Check 'sysctl kernel.io_uring_disabled' and the container's seccomp profile."
                : result == -ENOMEM ? "Raise the limit of locked memory (LimitMEMLOCK=, ulimit -l)."
                                    : NULL,
                "cannot create an io_uring of %u entries: %s", depth + 1, g_strerror(-result));
  return FALSE;
}

/* Whether the image behind FD takes direct reads of our alignment, as far as the kernel tells beforehand. */
static gboolean
takes_direct(int fd)
{
#ifdef STATX_DIOALIGN
  struct statx stx;
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 && (stx.stx_mask & STATX_DIOALIGN))
    return stx.stx_dio_offset_align != 0 && CBT_READER_ALIGNMENT % stx.stx_dio_offset_align == 0 &&
           stx.stx_dio_mem_align != 0 && CBT_READER_ALIGNMENT % stx.stx_dio_mem_align == 0;
#endif
  return TRUE;
}

static void
ring_free(CbtReaderEngine *engine)
{
  Ring *ring = (Ring *) engine;
  io_uring_queue_exit(&ring->ring);
  g_free(ring);
}

static guint
ring_n_in_flight(const CbtReaderEngine *engine)
{
  const Ring *ring = (const Ring *) engine;
  return ring->n_in_flight;
}

static guint64
ring_n_reads(const CbtReaderEngine *engine)
{
  const Ring *ring = (const Ring *) engine;
  return __atomic_load_n(&ring->n_reads, __ATOMIC_RELAXED);
}

/* Queues what READ still lacks. */
static void
queue(Ring *ring, CbtEngineRead *read)
{
  guint64 offset = read->offset + read->done;
  guint32 length = read->length - read->done;
  guint8 *data = read->data + read->done;
  read->direct = ring->direct && !(ring->nowait && read->n_retries != 0) &&
                 offset % CBT_READER_ALIGNMENT == 0 && (gsize) data % CBT_READER_ALIGNMENT == 0;
  if (read->direct)
    length = (guint32) cbt_round_up(length, CBT_READER_ALIGNMENT);

  struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->ring);
  g_assert(sqe); /* one entry for each read in flight */
  int fd = ring->fixed_files ? read->direct : ring->fds[read->direct];
  if (ring->fixed_buffers)
    io_uring_prep_read_fixed(sqe, fd, data, length, offset, 0);
  else
    io_uring_prep_read(sqe, fd, data, length, offset);
  io_uring_sqe_set_flags(sqe,
                         (ring->fixed_files ? IOSQE_FIXED_FILE : 0) | (read->n_retries ? IOSQE_ASYNC : 0));
  if (ring->nowait && read->direct)
    sqe->rw_flags = RWF_NOWAIT;
  io_uring_sqe_set_data(sqe, read);
  __atomic_fetch_add(&ring->n_reads, 1, __ATOMIC_RELAXED);
}

static void
ring_set_nowait(CbtReaderEngine *engine)
{
  Ring *ring = (Ring *) engine;
  ring->nowait = TRUE;
}

static void
ring_start(CbtReaderEngine *engine, CbtEngineRead *read)
{
  Ring *ring = (Ring *) engine;
  read->done = 0;
  read->n_retries = 0;
  ring->n_in_flight++;
  queue(ring, read);
}

static gboolean
ring_wait(CbtReaderEngine *engine, guint timeout_ms, GError **error)
{
  Ring *ring = (Ring *) engine;
  struct __kernel_timespec timeout = {.tv_nsec = (long long) timeout_ms * 1000000};
  struct io_uring_cqe *cqe;
  int result = io_uring_submit_and_wait_timeout(&ring->ring, &cqe, 1, &timeout, NULL);
  if (result >= 0 || result == -ETIME || result == -EINTR || result == -EAGAIN || result == -EBUSY)
    return TRUE;
  cbt_set_error_errno(error, -result, "cannot wait for reads of the disk image");
  return FALSE;
}

/* Takes what a failed read tells: TRUE if READ can go out again, another way or in another moment. */
static gboolean
can_retry(Ring *ring, CbtEngineRead *read, int errsv)
{
  if (read->direct && (errsv == EINVAL || errsv == EOPNOTSUPP)) {
    ring->direct = FALSE;
    return TRUE;
  }
  return (errsv == EAGAIN || errsv == EINTR) && read->n_retries++ < MAX_RETRIES;
}

/* Takes the RESULT of a completion: TRUE if READ is over, whole or with ERROR set. */
static gboolean
settle(Ring *ring, CbtEngineRead *read, int result, GError **error)
{
  guint64 offset = read->offset + read->done;
  if (result < 0 && !can_retry(ring, read, -result)) {
    /* Always IO: codes of errno values like ENOENT would make the user look for another cause. */
    cbt_set_error(error, CBT_ERROR_IO, "Check the kernel log and the storage of the image.",
                  "cannot read the disk image at offset %" G_GUINT64_FORMAT ": %s", offset,
                  g_strerror(-result));
    return TRUE;
  }
  if (result == 0) {
    cbt_set_error(error, CBT_ERROR_IO, "Something shrank the image while it was read.",
                  "the disk image ended early at offset %" G_GUINT64_FORMAT, offset);
    return TRUE;
  }
  if (result > 0) {
    read->done += MIN((guint32) result, read->length - read->done);
    read->n_retries = 0;
  }
  if (read->done == read->length)
    return TRUE;
  queue(ring, read);
  return FALSE;
}

static CbtEngineRead *
ring_reap(CbtReaderEngine *engine, GError **error)
{
  Ring *ring = (Ring *) engine;
  struct io_uring_cqe *cqe;
  while (io_uring_peek_cqe(&ring->ring, &cqe) == 0) {
    CbtEngineRead *read = io_uring_cqe_get_data(cqe);
    int result = cqe->res;
    io_uring_cqe_seen(&ring->ring, cqe);
    if (settle(ring, read, result, error)) {
      ring->n_in_flight--;
      return read;
    }
  }
  return NULL;
}

static const CbtReaderEngineClass ring_class = {
    .start = ring_start,
    .wait = ring_wait,
    .reap = ring_reap,
    .n_in_flight = ring_n_in_flight,
    .n_reads = ring_n_reads,
    .set_nowait = ring_set_nowait,
    .free = ring_free,
};

CbtReaderEngine *
cbt_reader_ring_new(CbtSource *source, guint8 *arena, gsize arena_size, guint depth, gboolean direct,
                    GError **error)
{
  int fds[2] = {cbt_source_fd(source, FALSE), direct ? cbt_source_fd(source, TRUE) : -1};
  if (fds[0] < 0) {
    cbt_set_error(error, CBT_ERROR_UNSUPPORTED, NULL, "a source of type %s has no descriptor to read from",
                  source->klass->type);
    return NULL;
  }
  g_autofree Ring *ring = g_new0(Ring, 1);
  ring->base.klass = &ring_class;
  if (!init_ring(&ring->ring, depth, error))
    return NULL;
  ring->fds[0] = fds[0];
  ring->fds[1] = fds[1];
  ring->direct = fds[1] >= 0 && takes_direct(fds[1]);
  ring->fixed_files = io_uring_register_files(&ring->ring, fds, G_N_ELEMENTS(fds)) == 0;
  struct iovec whole = {.iov_base = arena, .iov_len = arena_size};
  ring->fixed_buffers = io_uring_register_buffers(&ring->ring, &whole, 1) == 0;
  return &g_steal_pointer(&ring)->base;
}
