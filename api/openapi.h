/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The document of the API (openapi.json, OpenAPI 3.1) and the routes that it names: what is not documented is
 * not served, and keys and parameters that it does not name are refused.
 *
 * Threads: any; the document is constant.
 */
#pragma once

#include <api/server.h>

/* What does an operation, by its operationId. */
typedef struct {
  const char *id;
  ApiHandler handler;
} ApiOperation;

typedef struct ApiRoutes ApiRoutes;

/* The document's text. */
const char *api_openapi_text(void);
/* The routes of DOCUMENT. OPERATIONS end with a NULL id; INVALID if they are not those that the document has,
 * each once. */
ApiRoutes *api_routes_new(const char *document, const ApiOperation *operations,
                          GError **error) G_GNUC_WARN_UNUSED_RESULT;
void api_routes_free(ApiRoutes *routes);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(ApiRoutes, api_routes_free)
/* The table for api_server_new(), as long as ROUTES lives. */
const ApiRoute *api_routes_table(const ApiRoutes *routes);
