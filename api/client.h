/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A client of the API: one JSON call at a time over the Unix socket. Blocking; one thread. */
#pragma once

#include <common/error.h>
#include <json-glib/json-glib.h>

typedef struct ApiClient ApiClient;

/* Makes no connection yet. */
ApiClient *api_client_new(const char *socket_path);
void api_client_free(ApiClient *client);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ApiClient, api_client_free)

/*
 * METHOD and PATH ("/v1/..." with its query, already escaped); BODY (transfer none) may be NULL. Returns the
 * answer's JSON (transfer full; a null node for 204). An error answer becomes a GError with the code, message
 * and hint that the daemon gave; UNREACHABLE if there is no daemon, naming the socket and how to start one.
 */
JsonNode *api_client_call(ApiClient *client, const char *method, const char *path, JsonNode *body,
                          GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* GET PATH, whose answer is no JSON: its bytes go to FD as they come. Errors as above; IO if FD cannot take
 * them, or the answer was cut off. */
gboolean api_client_stream(ApiClient *client, const char *path, int fd,
                           GError **error) G_GNUC_WARN_UNUSED_RESULT;
