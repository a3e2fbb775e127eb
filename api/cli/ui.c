/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ui: a page that shows, on loopback, until it is interrupted. */
#include "cli.h"

#include "ui-server.h"

#include <glib-unix.h>
#include <stdio.h>

static const CliOption options[] = {
    {"port", "PORT", FALSE, "listen there; any that is free if not given"},
    {0},
};

static gboolean
read_port(Cli *cli, guint *port, GError **error)
{
  const char *text = cli_option(cli, "port");
  guint64 number = 0;
  if (text && !g_ascii_string_to_unsigned(text, 10, 1, 65535, &number, NULL)) {
    cli_set_usage(error, "--port: '%s' is no number from 1 to 65535", text);
    return FALSE;
  }
  *port = (guint) number;
  return TRUE;
}

static gboolean
on_signal(gpointer loop)
{
  g_main_loop_quit(loop);
  return G_SOURCE_CONTINUE;
}

static void
print_url(Cli *cli, const char *url)
{
  if (cli->json) {
    JsonNode *node = json_node_new(JSON_NODE_OBJECT);
    JsonObject *object = json_object_new();
    json_object_set_string_member(object, "url", url);
    json_node_take_object(node, object);
    cli_print_json(cli, node);
    json_node_unref(node);
  } else {
    puts(url);
    if (!cli->quiet)
      puts("The address works once, in one browser. End with Ctrl-C.");
  }
  fflush(stdout);
}

static gboolean
ui(Cli *cli, GError **error)
{
  guint port;
  g_autoptr(JsonNode) status =
      read_port(cli, &port, error) ? cli_call(cli, "GET", "/v1/status", NULL, error) : NULL;
  UiServer *server = status ? ui_server_new(port, cli->socket_path, error) : NULL;
  if (!server)
    return FALSE;
  g_autoptr(GMainLoop) loop = g_main_loop_new(NULL, FALSE);
  g_autofree char *url = ui_server_url(server);
  g_unix_signal_add(SIGINT, on_signal, loop);
  g_unix_signal_add(SIGTERM, on_signal, loop);
  print_url(cli, url);
  g_main_loop_run(loop);
  ui_server_free(server);
  return TRUE;
}

const CliCommand cli_ui_commands[] = {
    {"ui", "[--port PORT]",
     "Show vms, recovery points, changes and jobs in a browser on this host, until interrupted", 0, 0, options,
     ui,
     "cbt-backup ui\n"
     "cbt-backup ui --port 8080"},
    {0},
};
