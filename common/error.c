/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The hint stands behind the first newline of the GError message: GError has no room of its own for it. */
#include <common/error.h>

#include <errno.h>
#include <gio/gio.h>
#include <string.h>

static const struct {
  const char *name;
  int http_status;
  int exit_status;
} codes[CBT_N_ERRORS] = {
    [CBT_ERROR_FAILED] = {"failed", 500, 1},
    [CBT_ERROR_INVALID] = {"invalid", 400, 1},
    [CBT_ERROR_NOT_FOUND] = {"not-found", 404, 3},
    [CBT_ERROR_EXISTS] = {"exists", 409, 4},
    [CBT_ERROR_BUSY] = {"busy", 409, 4},
    [CBT_ERROR_STATE] = {"state", 409, 4},
    [CBT_ERROR_INCONSISTENT] = {"inconsistent", 409, 4},
    [CBT_ERROR_CORRUPT] = {"corrupt", 500, 6},
    [CBT_ERROR_NO_SPACE] = {"no-space", 507, 1},
    [CBT_ERROR_IO] = {"io", 500, 1},
    [CBT_ERROR_UNSUPPORTED] = {"unsupported", 500, 1},
    [CBT_ERROR_CANCELLED] = {"cancelled", 409, 1},
    [CBT_ERROR_DENIED] = {"denied", 403, 1},
    [CBT_ERROR_TOO_LARGE] = {"too-large", 413, 1},
    [CBT_ERROR_UNREACHABLE] = {"unreachable", 503, 5},
};

G_DEFINE_QUARK(cbt - error, cbt_error)

static int
checked(int code)
{
  return code >= 0 && code < CBT_N_ERRORS ? code : CBT_ERROR_FAILED;
}

const char *
cbt_error_code_name(int code)
{
  return codes[checked(code)].name;
}

CbtErrorCode
cbt_error_code_from_name(const char *name)
{
  for (int i = 0; i < CBT_N_ERRORS; i++)
    if (g_strcmp0(codes[i].name, name) == 0)
      return (CbtErrorCode) i;
  return CBT_ERROR_FAILED;
}

int
cbt_error_http_status(int code)
{
  return codes[checked(code)].http_status;
}

int
cbt_error_exit_status(int code)
{
  return codes[checked(code)].exit_status;
}

void
cbt_set_error(GError **error, CbtErrorCode code, const char *hint, const char *format, ...)
{
  va_list args;
  va_start(args, format);
  g_autofree char *message = g_strdup_vprintf(format, args);
  va_end(args);
  g_set_error(error, CBT_ERROR, (int) code, "%s%s%s", message, hint ? "\n" : "", hint ? hint : "");
}

CbtErrorCode
cbt_error_code_from_errno(int errsv)
{
  switch (errsv) {
  case ENOSPC:
  case EDQUOT:
    return CBT_ERROR_NO_SPACE;
  case ENOENT:
  case ENXIO:
    return CBT_ERROR_NOT_FOUND;
  case EEXIST:
    return CBT_ERROR_EXISTS;
  case EBUSY:
  case EAGAIN:
  case ETXTBSY:
    return CBT_ERROR_BUSY;
  case EACCES:
  case EPERM:
  case EROFS:
    return CBT_ERROR_DENIED;
  case EINVAL:
  case ENAMETOOLONG:
  case EISDIR:
  case ENOTDIR:
  case ELOOP:
    return CBT_ERROR_INVALID;
  case EOPNOTSUPP:
  case ENOSYS:
    return CBT_ERROR_UNSUPPORTED;
  case ECANCELED:
    return CBT_ERROR_CANCELLED;
  case ECONNREFUSED:
  case ECONNRESET:
  case EPIPE:
  case ETIMEDOUT:
    return CBT_ERROR_UNREACHABLE;
  default:
    return CBT_ERROR_IO;
  }
}

void
cbt_set_error_errno(GError **error, int errsv, const char *format, ...)
{
  va_list args;
  va_start(args, format);
  g_autofree char *message = g_strdup_vprintf(format, args);
  va_end(args);
  CbtErrorCode code = cbt_error_code_from_errno(errsv);
  cbt_set_error(error, code,
                code == CBT_ERROR_NO_SPACE ? "Make room there, or raise the quota, and try again." : NULL,
                "%s: %s", message, g_strerror(errsv));
}

CbtErrorCode
cbt_error_code(const GError *error)
{
  if (error->domain == CBT_ERROR)
    return (CbtErrorCode) checked(error->code);
  if (g_error_matches(error, G_IO_ERROR, G_IO_ERROR_CANCELLED))
    return CBT_ERROR_CANCELLED;
  if (g_error_matches(error, G_IO_ERROR, G_IO_ERROR_NOT_FOUND) ||
      g_error_matches(error, G_FILE_ERROR, G_FILE_ERROR_NOENT))
    return CBT_ERROR_NOT_FOUND;
  if (g_error_matches(error, G_IO_ERROR, G_IO_ERROR_NO_SPACE) ||
      g_error_matches(error, G_FILE_ERROR, G_FILE_ERROR_NOSPC))
    return CBT_ERROR_NO_SPACE;
  return CBT_ERROR_FAILED;
}

char *
cbt_error_message(const GError *error)
{
  const char *newline = strchr(error->message, '\n');
  return newline ? g_strndup(error->message, (gsize) (newline - error->message)) : g_strdup(error->message);
}

char *
cbt_error_hint(const GError *error)
{
  const char *newline = strchr(error->message, '\n');
  return newline ? g_strdup(newline + 1) : NULL;
}
