/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A path is resolved as far as it is there, and compared with the allowed folders after that. The folders on
 * the way are judged last: who is refused learns nothing of what lies outside. */
#include <daemon/paths.h>

#include <common/error.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Says no more than that: whether something is there is not everybody's to know. */
static char *
deny(const char *path, GError **error)
{
  cbt_set_error(
      error, CBT_ERROR_DENIED,
      "Name one below a folder of [daemon] allowed-paths in the daemon's configuration, or ask root.",
      "path '%s' is not yours to name", path);
  return NULL;
}

static gboolean
has_dots(const char *path)
{
  g_auto(GStrv) parts = g_strsplit(path, "/", -1);
  return g_strv_contains((const char *const *) parts, "..");
}

/* PATH without links, of which the last parts need not be there; NULL if that cannot be told. *there
 * (transfer full) is what of it is there. */
static char *
real_path(const char *path, char **there)
{
  g_autofree char *prefix = g_canonicalize_filename(path, "/");
  g_autofree char *whole = g_strdup(prefix);
  struct stat st;
  while (lstat(prefix, &st) != 0) {
    char *slash = strrchr(prefix, '/');
    slash[slash == prefix] = '\0';
  }
  char *real = realpath(prefix, NULL);
  if (!real) /* a link that leads nowhere */
    return NULL;
  *there = real;
  const char *rest = whole + strlen(prefix);
  return *rest ? g_build_filename(real, rest, NULL) : g_strdup(real);
}

static gboolean
is_below(const char *path, const char *folder)
{
  gsize length = strlen(folder);
  if (strncmp(path, folder, length) != 0)
    return FALSE;
  return path[length] == '\0' || path[length] == '/' || (length > 0 && folder[length - 1] == '/');
}

/* Whether only root and the daemon's user can change what PATH has in it; what is no folder has nothing. */
static gboolean
is_guarded(const char *path)
{
  struct stat st;
  if (lstat(path, &st) != 0)
    return FALSE;
  if (!S_ISDIR(st.st_mode))
    return TRUE;
  return (st.st_uid == 0 || st.st_uid == geteuid()) && (st.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

static gboolean
check_guarded(const char *there, const char *folder, const char *path, GError **error)
{
  g_autofree char *at = g_strdup(there);
  while (is_below(at, folder)) {
    if (!is_guarded(at)) {
      cbt_set_error(
          error, CBT_ERROR_DENIED,
          "Have it belong to root, and nobody else write to it; then nobody can have it lead elsewhere.",
          "path '%s': others than root can change what is in %s", path, at);
      return FALSE;
    }
    if (strcmp(at, "/") == 0)
      break;
    char *parent = g_path_get_dirname(at);
    g_free(at);
    at = parent;
  }
  return TRUE;
}

char *
paths_take(const DaemonConfig *config, gboolean trusted, const char *path, GError **error)
{
  g_autofree char *there = NULL;
  if (!g_path_is_absolute(path)) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "path '%s' is not absolute", path);
    return NULL;
  }
  if (trusted)
    return g_strdup(path);
  g_autofree char *real = has_dots(path) ? NULL : real_path(path, &there);
  for (char **allowed = config->allowed_paths; real && allowed && *allowed; allowed++) {
    g_autofree char *folder = realpath(*allowed, NULL);
    if (!folder || !is_below(real, folder) || !is_below(there, folder))
      continue;
    return check_guarded(there, folder, path, error) ? g_steal_pointer(&real) : NULL;
  }
  return deny(path, error);
}
