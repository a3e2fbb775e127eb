/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reads over several connections to one export, all in the thread that waits.
 *
 * A request is in one list at a time: idle, queued, flying, over. Callbacks of libnbd come while it holds the
 * connection's lock, so they only note what came and move the request; all that is asked of libnbd is asked
 * from engine_wait(). A read that is larger than what the server takes in one piece goes out piece by piece.
 *
 * A failed read is that read's error. What happens to a connection fails the engine, once and for all: every
 * connection is closed, which is how libnbd lets go of the buffers, and all requests are over. Giving up is
 * the same. Each connection that has requests has a deadline, which moves with whatever comes from it, so
 * that a connection that hangs is found though others go on.
 */
#include <cbt/qemu/nbd-engine-private.h>

#include <cbt/qemu/nbd-link.h>
#include <errno.h>
#include <poll.h>

#define MAX_CONNECTIONS  64
#define AUTO_CONNECTIONS 4
#define EXTRA_TIMEOUT_MS 3000u /* what more connections may cost, where a server takes fewer than it says */
#define DEFAULT_PIECE    (32u << 20) /* what the protocol lets a client send unasked */

typedef struct {
  struct nbd_handle *nbd; /* NULL: closed */
  guint n_flying;
  gint64 deadline_us; /* while n_flying > 0 */
} Connection;

typedef struct Engine Engine;

typedef struct {
  Engine *engine;
  CbtEngineRead *read;
  Connection *connection; /* while it is flying */
  guint32 length;         /* of the piece */
  int errsv;              /* what the server answered */
  GList link;
} Request;

struct Engine {
  CbtReaderEngine base;
  const QemuNbdEngineOptions *options;
  guint32 max_piece;
  guint n_connections;
  Connection connections[MAX_CONNECTIONS];
  Request *requests;
  GQueue idle, queued, flying, over;
  CbtErrorCode failure; /* valid if failed_by is set */
  char *failed_by;      /* why nothing can be read any more */
  guint64 n_reads;      /* atomic */
};

static void
move(GQueue *from, GQueue *to, Request *request)
{
  g_queue_unlink(from, &request->link);
  g_queue_push_tail_link(to, &request->link);
}

/* Failing */

static void
move_all(GQueue *from, GQueue *to)
{
  while (from->head)
    move(from, to, from->head->data);
}

static void
fail_engine(Engine *engine, CbtErrorCode code, const char *why)
{
  if (engine->failed_by)
    return;
  engine->failure = code;
  engine->failed_by = g_strdup(why);
  for (guint i = 0; i < engine->n_connections; i++)
    qemu_nbd_disconnect(&engine->connections[i].nbd);
  move_all(&engine->queued, &engine->over);
  move_all(&engine->flying, &engine->over);
}

/* Sending */

static int
take_end(void *user_data, int *error)
{
  Request *request = user_data;
  Engine *engine = request->engine;
  request->connection->n_flying--;
  request->errsv = *error;
  if (*error == 0)
    request->read->done += request->length;
  move(&engine->flying,
       *error != 0 || request->read->done == request->read->length ? &engine->over : &engine->queued,
       request);
  return 1; /* libnbd forgets the command */
}

static Connection *
least_busy(Engine *engine)
{
  Connection *found = &engine->connections[0];
  for (guint i = 1; i < engine->n_connections; i++)
    if (engine->connections[i].n_flying < found->n_flying)
      found = &engine->connections[i];
  return found;
}

static void
note_progress(const Engine *engine, Connection *connection)
{
  connection->deadline_us = g_get_monotonic_time() + (gint64) engine->options->timeout_ms * 1000;
}

/* FALSE, the engine having failed, if CONNECTION is over; RESULT is what libnbd just said of it. */
static gboolean
check_connection(Engine *engine, const Connection *connection, gint64 result)
{
  if (result >= 0 && nbd_aio_is_dead(connection->nbd) == 0 && nbd_aio_is_closed(connection->nbd) == 0)
    return TRUE;
  const char *error = result < 0 ? nbd_get_error() : NULL;
  g_autofree char *why = g_strdup_printf("the server went away (%s)", error ? error : "connection closed");
  fail_engine(engine, CBT_ERROR_UNREACHABLE, why);
  return FALSE;
}

static void
send_request(Engine *engine, Request *request)
{
  const CbtEngineRead *read = request->read;
  Connection *connection = least_busy(engine);
  nbd_completion_callback on_end = {.callback = take_end, .user_data = request};
  if (connection->n_flying++ == 0)
    note_progress(engine, connection);
  request->connection = connection;
  request->length = MIN(read->length - read->done, engine->max_piece);
  move(&engine->queued, &engine->flying, request);
  __atomic_fetch_add(&engine->n_reads, 1, __ATOMIC_RELAXED);
  gint64 cookie = nbd_aio_pread(connection->nbd, read->data + read->done, request->length,
                                read->offset + read->done, on_end, 0);
  check_connection(engine, connection, cookie);
}

static void
send_queued(Engine *engine)
{
  while (engine->queued.head)
    send_request(engine, engine->queued.head->data);
}

/* Receiving */

static short
poll_events(Connection *connection)
{
  unsigned direction = nbd_aio_get_direction(connection->nbd);
  return (short) ((direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
                  (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
}

/* As nbd_poll() does it. FALSE if the connection is over. */
static gboolean
serve(Engine *engine, Connection *connection, short events, short revents)
{
  if (revents == 0)
    return TRUE;
  note_progress(engine, connection);
  gboolean can_read = (events & POLLIN) && (revents & (POLLIN | POLLHUP | POLLERR));
  return check_connection(engine, connection,
                          can_read ? nbd_aio_notify_read(connection->nbd)
                                   : nbd_aio_notify_write(connection->nbd));
}

static void
check_deadlines(Engine *engine)
{
  gint64 now_us = g_get_monotonic_time();
  for (guint i = 0; i < engine->n_connections && !engine->failed_by; i++)
    if (engine->connections[i].n_flying > 0 && engine->connections[i].deadline_us < now_us)
      fail_engine(engine, CBT_ERROR_UNREACHABLE, "the server does not answer");
}

static gboolean
engine_wait(CbtReaderEngine *base, guint timeout_ms, GError **error G_GNUC_UNUSED)
{
  Engine *engine = (Engine *) base;
  struct pollfd fds[MAX_CONNECTIONS];
  send_queued(engine);
  if (engine->over.head)
    return TRUE;
  for (guint i = 0; i < engine->n_connections; i++)
    fds[i] = (struct pollfd){.fd = nbd_aio_get_fd(engine->connections[i].nbd),
                             .events = poll_events(&engine->connections[i])};
  int n_ready = poll(fds, engine->n_connections, (int) timeout_ms);
  for (guint i = 0; n_ready > 0 && i < engine->n_connections; i++)
    if (!serve(engine, &engine->connections[i], fds[i].events, fds[i].revents))
      return TRUE;
  check_deadlines(engine);
  send_queued(engine);
  return TRUE;
}

/* The engine's table */

static void
engine_start(CbtReaderEngine *base, CbtEngineRead *read)
{
  Engine *engine = (Engine *) base;
  g_assert(engine->idle.head); /* one for each read in flight */
  Request *request = engine->idle.head->data;
  request->read = read;
  request->errsv = 0;
  read->done = 0;
  move(&engine->idle, engine->failed_by ? &engine->over : &engine->queued, request);
}

/* Where REQUEST's read got to. */
static guint64
offset_of(const Request *request)
{
  return request->read->offset + request->read->done;
}

static CbtEngineRead *
engine_reap(CbtReaderEngine *base, GError **error)
{
  Engine *engine = (Engine *) base;
  if (!engine->over.head)
    return NULL;
  Request *request = engine->over.head->data;
  const char *uri = engine->options->uri;
  move(&engine->over, &engine->idle, request);
  if (request->read->done == request->read->length)
    return request->read;
  if (engine->failed_by)
    cbt_set_error(error, engine->failure, NULL, "NBD export %s, reading at offset %" G_GUINT64_FORMAT ": %s",
                  uri, offset_of(request), engine->failed_by);
  else
    qemu_nbd_set_answer_error(error, uri, "reading", offset_of(request), request->errsv);
  return request->read;
}

static guint
engine_n_in_flight(const CbtReaderEngine *base)
{
  const Engine *engine = (const Engine *) base;
  return engine->queued.length + engine->flying.length + engine->over.length;
}

static guint64
engine_n_reads(const CbtReaderEngine *base)
{
  const Engine *engine = (const Engine *) base;
  return __atomic_load_n(&engine->n_reads, __ATOMIC_RELAXED);
}

/* Whoever serves the export has its own rules about who waits. */
static void
engine_set_nowait(CbtReaderEngine *base G_GNUC_UNUSED)
{
}

static void
engine_stop(CbtReaderEngine *base)
{
  fail_engine((Engine *) base, CBT_ERROR_CANCELLED, "given up");
}

static void
engine_free(CbtReaderEngine *base)
{
  Engine *engine = (Engine *) base;
  for (guint i = 0; i < engine->n_connections; i++)
    qemu_nbd_disconnect(&engine->connections[i].nbd);
  g_free(engine->failed_by);
  g_free(engine->requests);
  g_free(engine);
}

static const CbtReaderEngineClass engine_class = {
    .start = engine_start,
    .wait = engine_wait,
    .reap = engine_reap,
    .n_in_flight = engine_n_in_flight,
    .n_reads = engine_n_reads,
    .set_nowait = engine_set_nowait,
    .stop = engine_stop,
    .free = engine_free,
};

/* Creation */

static gboolean
connect_one(Engine *engine, guint timeout_ms, GError **error)
{
  struct nbd_handle *nbd =
      qemu_nbd_connect(engine->options->uri, NULL, timeout_ms, engine->options->cancellable, error);
  if (!nbd)
    return FALSE;
  /* Every byte of a buffer is written before it is used. */
  nbd_set_pread_initialize(nbd, false);
  engine->connections[engine->n_connections++].nbd = nbd;
  return TRUE;
}

/* The first connection tells what the server can do. */
static gboolean
connect_first(Engine *engine, guint64 size_bytes, GError **error)
{
  if (!connect_one(engine, engine->options->timeout_ms, error))
    return FALSE;
  struct nbd_handle *nbd = engine->connections[0].nbd;
  int64_t size = nbd_get_size(nbd), piece = nbd_get_block_size(nbd, LIBNBD_SIZE_MAXIMUM);
  engine->max_piece = piece > 0 ? (guint32) MIN(piece, DEFAULT_PIECE) : DEFAULT_PIECE;
  if (size >= 0 && (guint64) size == size_bytes)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_CORRUPT, NULL,
                "NBD export %s: its size changed from %" G_GUINT64_FORMAT " to %" G_GINT64_FORMAT,
                engine->options->uri, size_bytes, (gint64) size);
  return FALSE;
}

/* What cannot be had is done without. */
static void
connect_more(Engine *engine)
{
  guint n = engine->options->n_connections ? MIN(engine->options->n_connections, MAX_CONNECTIONS)
                                           : AUTO_CONNECTIONS;
  g_autoptr(GError) error = NULL;
  if (nbd_can_multi_conn(engine->connections[0].nbd) <= 0)
    return;
  while (engine->n_connections < n &&
         connect_one(engine, MIN(engine->options->timeout_ms, EXTRA_TIMEOUT_MS), &error))
    continue;
  if (error)
    g_debug("%u connections instead of %u: %s", engine->n_connections, n, error->message);
}

CbtReaderEngine *
qemu_nbd_engine_new(const QemuNbdEngineOptions *options, guint64 size_bytes, guint depth, GError **error)
{
  Engine *engine = g_new0(Engine, 1);
  engine->base.klass = &engine_class;
  engine->options = options;
  engine->requests = g_new0(Request, depth);
  for (guint i = 0; i < depth; i++) {
    Request *request = &engine->requests[i];
    request->engine = engine;
    request->link.data = request;
    g_queue_push_tail_link(&engine->idle, &request->link);
  }
  if (connect_first(engine, size_bytes, error)) {
    connect_more(engine);
    return &engine->base;
  }
  engine_free(&engine->base);
  return NULL;
}
