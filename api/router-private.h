/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For api/ and its tests: which route a method and a path mean. Pure; no I/O. */
#pragma once

#include <api/server.h>

/* What a request failed with before a handler saw it; the texts behind it are static or the problem's. */
typedef struct {
  guint status;
  const char *code;
  char *message;
  const char *hint; /* (nullable) */
  char *allow;      /* (nullable) the methods of a 405 */
} ApiProblem;

void api_problem_clear(ApiProblem *problem);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ApiProblem, api_problem_clear)
void api_problem_set(ApiProblem *problem, guint status, const char *code, const char *hint,
                     const char *format, ...) G_GNUC_PRINTF(5, 6);

/*
 * The route of ROUTES for METHOD and the still escaped PATH, and the values of its {names}, unescaped. A
 * segment without braces wins over one with them. NULL with PROBLEM set: 404 for no such path (an empty
 * segment matches nothing), 405 with the path's methods, 400 for a bad escape.
 */
const ApiRoute *api_router_find(const ApiRoute *routes, const char *method, const char *path,
                                GHashTable *params, ApiProblem *problem) G_GNUC_WARN_UNUSED_RESULT;

/* Takes QUERY ("a=1&b=2", escaped; nullable) apart into VALUES. FALSE with PROBLEM (400) for a bad escape, a
 * parameter given twice, or one that is not in the space-separated ALLOWED (nullable). A '+' is a plus sign.
 */
gboolean api_router_parse_query(const char *query, const char *allowed, GHashTable *values,
                                ApiProblem *problem) G_GNUC_WARN_UNUSED_RESULT;
