/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Accepting is done here rather than by libsoup, which gives up for ever after one failed accept(), takes any
 * number of connections, and would parse the requests of peers that have nothing to say here.
 *
 * A connection counts against CONNECTIONS_MAX until its GSocketConnection is finalized, or it is sent away.
 */
#include <api/listener-private.h>

#include <api/connection-private.h>
#include <api/json.h>
#include <api/json-private.h>
#include <api/peer-private.h>
#include <errno.h>
#include <gio/gunixsocketaddress.h>
#include <libsoup/soup.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define CONNECTIONS_MAX  256
#define MEMBERS_MAX      192 /* of them, as long as the peer is but a member of the group: root gets through */
#define IDLE_TIMEOUT_S   30  /* without a byte from or to the peer; a pending request may last longer */
#define DRAIN_TIMEOUT_S  5
#define DRAINS_MAX       64 /* at a time; who comes beyond that is closed at once */
#define ACCEPT_RETRY_MS  100
#define DRAIN_BLOCK      65536
#define DRAIN_BLOCKS_MAX 16 /* read in one go of the main loop */

struct ApiListener {
  /* constant after creation */
  char *path;
  GSocket *socket;
  gid_t group;          /* API_NO_GROUP: none */
  struct stat identity; /* of the socket file, so that only ours is removed */
  ApiAcceptFunc accepted;
  gpointer user_data;
  /* owned by the main-loop thread */
  GSource *source;      /* of accepting, or of the pause after a failure */
  GHashTable *open;     /* GSocketConnection, not owned */
  GHashTable *draining; /* Drain, owned */
};

typedef struct {
  ApiListener *listener;
  GSocketConnection *connection;
  GSource *source;
  gint64 until_us;
} Drain;

/* Taking the path */

static gboolean
is_answered(GSocketAddress *address, GError **error)
{
  g_autoptr(GError) local = NULL;
  g_autoptr(GSocket) probe =
      g_socket_new(G_SOCKET_FAMILY_UNIX, G_SOCKET_TYPE_STREAM, G_SOCKET_PROTOCOL_DEFAULT, error);
  if (!probe)
    return TRUE;
  g_socket_set_blocking(probe, FALSE); /* a full backlog is an answer, too */
  if (!g_socket_connect(probe, address, NULL, &local) &&
      g_error_matches(local, G_IO_ERROR, G_IO_ERROR_CONNECTION_REFUSED))
    return FALSE;
  const char *path = g_unix_socket_address_get_path(G_UNIX_SOCKET_ADDRESS(address));
  if (g_error_matches(local, G_IO_ERROR, G_IO_ERROR_PERMISSION_DENIED))
    cbt_set_error(error, CBT_ERROR_DENIED, NULL, "The socket %s belongs to somebody else", path);
  else
    cbt_set_error(error, CBT_ERROR_BUSY, "Stop the other daemon first, or choose another runtime directory.",
                  "Another daemon answers on %s", path);
  return TRUE;
}

/* Removes what a daemon that is gone left at PATH. */
static gboolean
remove_stale(const char *path, GSocketAddress *address, GError **error)
{
  struct stat st;
  if (lstat(path, &st) != 0) {
    if (errno == ENOENT)
      return TRUE;
    cbt_set_error_errno(error, errno, "Cannot look at %s", path);
    return FALSE;
  }
  if (!S_ISSOCK(st.st_mode)) {
    cbt_set_error(error, CBT_ERROR_EXISTS, "Move it away, or choose another runtime directory.",
                  "%s exists and is not a socket", path);
    return FALSE;
  }
  if (is_answered(address, error))
    return FALSE;
  if (unlink(path) != 0 && errno != ENOENT) {
    cbt_set_error_errno(error, errno, "Cannot remove the stale socket %s", path);
    return FALSE;
  }
  return TRUE;
}

static gboolean
fail_gio(const char *doing, const char *path, GError *gio_error, GError **error)
{
  CbtErrorCode code =
      g_error_matches(gio_error, G_IO_ERROR, G_IO_ERROR_PERMISSION_DENIED) ? CBT_ERROR_DENIED : CBT_ERROR_IO;
  cbt_set_error(error, code, NULL, "Cannot %s on %s: %s", doing, path, gio_error->message);
  g_error_free(gio_error);
  return FALSE;
}

/* Gives the bound socket to its group. The file is 0600 from its first moment, for bind() takes the mode of
 * the descriptor. */
static gboolean
set_access(ApiListener *self, GError **error)
{
  if (self->group != API_NO_GROUP &&
      (chown(self->path, (uid_t) -1, self->group) != 0 || chmod(self->path, 0660) != 0)) {
    cbt_set_error_errno(error, errno, "Cannot give %s to its group", self->path);
    return FALSE;
  }
  if (lstat(self->path, &self->identity) != 0) {
    cbt_set_error_errno(error, errno, "Cannot look at %s", self->path);
    return FALSE;
  }
  return TRUE;
}

static gboolean
bind_path(ApiListener *self, GError **error)
{
  if (strlen(self->path) >= sizeof(((struct sockaddr_un *) NULL)->sun_path)) {
    cbt_set_error(error, CBT_ERROR_INVALID, "Choose a shorter runtime directory.",
                  "The path of the socket %s is too long", self->path);
    return FALSE;
  }
  GError *local = NULL;
  g_autoptr(GSocketAddress) address = g_unix_socket_address_new(self->path);
  if (!remove_stale(self->path, address, error))
    return FALSE;
  self->socket = g_socket_new(G_SOCKET_FAMILY_UNIX, G_SOCKET_TYPE_STREAM, G_SOCKET_PROTOCOL_DEFAULT, &local);
  if (!self->socket)
    return fail_gio("open a socket", self->path, local, error);
  g_socket_set_blocking(self->socket, FALSE);
  g_socket_set_listen_backlog(self->socket, 128);
  fchmod(g_socket_get_fd(self->socket), 0600);
  if (!g_socket_bind(self->socket, address, FALSE, &local))
    return fail_gio("bind", self->path, local, error);
  if (!set_access(self, error))
    return FALSE;
  return g_socket_listen(self->socket, &local) || fail_gio("listen", self->path, local, error);
}

/* Sending away */

static void
drain_free(Drain *drain)
{
  g_source_destroy(drain->source);
  g_source_unref(drain->source);
  g_io_stream_close(G_IO_STREAM(drain->connection), NULL, NULL);
  g_object_unref(drain->connection);
  g_free(drain);
}

static gboolean
drain_some(GSocket *socket, GIOCondition condition, gpointer user_data)
{
  (void) condition;
  Drain *drain = user_data;
  char nowhere[DRAIN_BLOCK];
  gssize got = 1;
  g_autoptr(GError) error = NULL;
  for (int i = 0; i < DRAIN_BLOCKS_MAX && got > 0; i++)
    got = g_socket_receive_with_blocking(socket, nowhere, sizeof nowhere, FALSE, NULL, &error);
  gboolean more = got > 0 || g_error_matches(error, G_IO_ERROR, G_IO_ERROR_WOULD_BLOCK);
  if (more && g_get_monotonic_time() < drain->until_us)
    return G_SOURCE_CONTINUE;
  g_hash_table_remove(drain->listener->draining, drain);
  return G_SOURCE_REMOVE;
}

static void
on_closed(gpointer user_data, GObject *connection)
{
  ApiListener *self = user_data;
  g_hash_table_remove(self->open, connection);
}

static void
stop_counting(ApiListener *self, GSocketConnection *connection)
{
  if (g_hash_table_remove(self->open, connection))
    g_object_weak_unref(G_OBJECT(connection), on_closed, self);
}

static void
drain_start(ApiListener *self, GSocketConnection *connection)
{
  GSocket *socket = g_socket_connection_get_socket(connection);
  Drain *drain = g_new0(Drain, 1);
  drain->listener = self;
  drain->connection = g_object_ref(connection);
  drain->until_us = g_get_monotonic_time() + DRAIN_TIMEOUT_S * G_USEC_PER_SEC;
  g_socket_set_timeout(socket, DRAIN_TIMEOUT_S);
  drain->source = g_socket_create_source(socket, G_IO_IN, NULL);
  g_source_set_callback(drain->source, G_SOURCE_FUNC(drain_some), drain, NULL);
  g_source_attach(drain->source, g_main_context_get_thread_default());
  g_hash_table_add(self->draining, drain);
}

char *
api_error_to_http(guint status, JsonNode *error)
{
  g_autofree char *json = api_json_to_text(error);
  return g_strdup_printf(
      "HTTP/1.1 %u %s\r\nContent-Type: application/json\r\nContent-Length: %" G_GSIZE_FORMAT
      "\r\nConnection: close\r\n\r\n%s\n",
      status, soup_status_get_phrase(status), strlen(json) + 1, json);
}

void
api_listener_refuse(ApiListener *self, GSocketConnection *connection, const ApiProblem *problem)
{
  GSocket *socket = g_socket_connection_get_socket(connection);
  g_autoptr(JsonNode) node = api_json_new_error(problem->code, problem->message, problem->hint);
  g_autofree char *answer = api_error_to_http(problem->status, node);
  /* The send buffer of a connection that got no answer yet is empty: this fits, or the peer has left. */
  g_socket_send_with_blocking(socket, answer, strlen(answer), FALSE, NULL, NULL);
  g_socket_shutdown(socket, FALSE, TRUE, NULL);
  stop_counting(self, connection);
  if (g_hash_table_size(self->draining) < DRAINS_MAX)
    drain_start(self, connection);
  else
    g_io_stream_close(G_IO_STREAM(connection), NULL, NULL);
}

/* Accepting */

/* FALSE with PROBLEM set if PEER, who it is at SOCKET, must go. */
static gboolean
may_speak(ApiListener *self, GSocket *socket, ApiPeer *peer, ApiProblem *problem)
{
  if (!api_peer_get(socket, peer) || !api_peer_is_allowed(socket, peer, self->group)) {
    g_message("Refused a connection of user %u", (guint) peer->uid);
    api_problem_set(problem, 403, cbt_error_code_name(CBT_ERROR_DENIED),
                    "Only root, the daemon's own user and members of the configured group may.",
                    "User %u may not talk to this daemon", (guint) peer->uid);
    return FALSE;
  }
  guint max = api_peer_is_trusted(peer) ? CONNECTIONS_MAX : MEMBERS_MAX;
  if (g_hash_table_size(self->open) > max) {
    api_problem_set(problem, 503, cbt_error_code_name(CBT_ERROR_BUSY), "Try again later.",
                    "The daemon has %u connections already", max);
    return FALSE;
  }
  return TRUE;
}

static void
welcome(ApiListener *self, GSocket *socket)
{
  ApiPeer peer = {.uid = (uid_t) -1};
  g_auto(ApiProblem) problem = {0};
  g_autoptr(GSocketConnection) connection = api_connection_new(socket);
  g_socket_set_timeout(socket, IDLE_TIMEOUT_S);
  g_hash_table_add(self->open, connection);
  g_object_weak_ref(G_OBJECT(connection), on_closed, self);
  if (may_speak(self, socket, &peer, &problem))
    self->accepted(connection, api_peer_is_trusted(&peer), self->user_data);
  else
    api_listener_refuse(self, connection, &problem);
}

static void watch(ApiListener *self, guint delay_ms);

static gboolean
on_retry(gpointer user_data)
{
  watch(user_data, 0);
  return G_SOURCE_REMOVE;
}

static gboolean
on_incoming(GSocket *listening, GIOCondition condition, gpointer user_data)
{
  (void) condition;
  ApiListener *self = user_data;
  g_autoptr(GError) error = NULL;
  g_autoptr(GSocket) socket = g_socket_accept(listening, NULL, &error);
  if (socket) {
    welcome(self, socket);
  } else if (!g_error_matches(error, G_IO_ERROR, G_IO_ERROR_WOULD_BLOCK)) {
    /* Out of descriptors, as a rule: the connection stays in the backlog, so pause instead of spinning. */
    g_warning("Cannot accept a connection on %s: %s", self->path, error->message);
    watch(self, ACCEPT_RETRY_MS);
    return G_SOURCE_REMOVE;
  }
  return G_SOURCE_CONTINUE;
}

static void
unwatch(ApiListener *self)
{
  if (self->source)
    g_source_destroy(self->source);
  g_clear_pointer(&self->source, g_source_unref);
}

/* Waits for connections, from DELAY_MS on. */
static void
watch(ApiListener *self, guint delay_ms)
{
  unwatch(self);
  if (delay_ms > 0) {
    self->source = g_timeout_source_new(delay_ms);
    g_source_set_callback(self->source, on_retry, self, NULL);
  } else {
    self->source = g_socket_create_source(self->socket, G_IO_IN, NULL);
    g_source_set_callback(self->source, G_SOURCE_FUNC(on_incoming), self, NULL);
  }
  g_source_attach(self->source, g_main_context_get_thread_default());
}

/* Life */

ApiListener *
api_listener_new(const ApiServerOptions *options, ApiAcceptFunc accepted, gpointer user_data, GError **error)
{
  g_autoptr(ApiListener) self = g_new0(ApiListener, 1);
  self->path = g_strdup(options->socket_path);
  self->group = API_NO_GROUP;
  self->accepted = accepted;
  self->user_data = user_data;
  self->open = g_hash_table_new(NULL, NULL);
  self->draining = g_hash_table_new_full(NULL, NULL, (GDestroyNotify) drain_free, NULL);
  if (options->group && !api_peer_find_group(options->group, &self->group, error))
    return NULL;
  if (!bind_path(self, error))
    return NULL;
  watch(self, 0);
  return g_steal_pointer(&self);
}

static void
remove_socket_file(ApiListener *self)
{
  struct stat now;
  if (self->identity.st_ino != 0 && lstat(self->path, &now) == 0 && now.st_ino == self->identity.st_ino &&
      now.st_dev == self->identity.st_dev)
    unlink(self->path);
}

void
api_listener_free(ApiListener *self)
{
  if (!self)
    return;
  unwatch(self);
  remove_socket_file(self);
  g_clear_pointer(&self->draining, g_hash_table_unref);
  GHashTableIter iter;
  gpointer connection;
  g_hash_table_iter_init(&iter, self->open);
  while (g_hash_table_iter_next(&iter, &connection, NULL))
    g_object_weak_unref(G_OBJECT(connection), on_closed, self);
  g_hash_table_unref(self->open);
  g_clear_object(&self->socket);
  g_free(self->path);
  g_free(self);
}
