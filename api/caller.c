/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The address is one of the internet: libsoup needs that for HTTP/1.0. */
#include <api/caller-private.h>

#define KEY "api-caller"

struct ApiCaller {
  GSocket *socket;
  gboolean trusted;
  GSource *deadline; /* (nullable) */
};

static void
caller_free(gpointer data)
{
  ApiCaller *caller = data;
  api_caller_set_deadline(caller, 0);
  g_object_unref(caller->socket);
  g_free(caller);
}

GSocketAddress *
api_caller_new(GSocketConnection *connection, gboolean trusted, guint seconds)
{
  GSocketAddress *address = g_inet_socket_address_new_from_string("127.0.0.1", 80);
  ApiCaller *caller = g_new0(ApiCaller, 1);
  caller->socket = g_object_ref(g_socket_connection_get_socket(connection));
  caller->trusted = trusted;
  g_object_set_data_full(G_OBJECT(address), KEY, caller, caller_free);
  api_caller_set_deadline(caller, seconds);
  return address;
}

ApiCaller *
api_caller_of(SoupServerMessage *message)
{
  return g_object_get_data(G_OBJECT(soup_server_message_get_remote_address(message)), KEY);
}

gboolean
api_caller_is_trusted(const ApiCaller *caller)
{
  return caller->trusted;
}

/* libsoup finds the connection closed, and lets go of it. */
static gboolean
on_deadline(gpointer data)
{
  ApiCaller *caller = data;
  g_clear_pointer(&caller->deadline, g_source_unref);
  g_socket_shutdown(caller->socket, TRUE, TRUE, NULL);
  return G_SOURCE_REMOVE;
}

void
api_caller_set_deadline(ApiCaller *caller, guint seconds)
{
  if (caller->deadline)
    g_source_destroy(caller->deadline);
  g_clear_pointer(&caller->deadline, g_source_unref);
  if (seconds == 0)
    return;
  caller->deadline = g_timeout_source_new_seconds(seconds);
  g_source_set_callback(caller->deadline, on_deadline, caller, NULL);
  g_source_attach(caller->deadline, g_main_context_get_thread_default());
}
