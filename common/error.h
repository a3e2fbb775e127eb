/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The errors of the whole product: one domain, and codes that say what a caller can do about it.
 *
 * One domain serves all modules, because a code crosses them unchanged on its way to an HTTP status or an
 * exit code, and one table (error.c) maps it to both. A message names the object and the operation. What the
 * user can do next is the hint; it travels inside the GError message and is split off again where errors are
 * shown.
 */
#pragma once

#include <glib.h>

typedef enum {
  CBT_ERROR_FAILED,       /* anything without a more telling code */
  CBT_ERROR_INVALID,      /* an argument, name, key or number that cannot be taken */
  CBT_ERROR_NOT_FOUND,    /* the named object does not exist */
  CBT_ERROR_EXISTS,       /* the name or the image is already taken */
  CBT_ERROR_BUSY,         /* somebody else is using the object just now */
  CBT_ERROR_STATE,        /* the object's state does not allow this */
  CBT_ERROR_INCONSISTENT, /* a change map that may miss changes */
  CBT_ERROR_CORRUPT,      /* stored bytes fail their check */
  CBT_ERROR_NO_SPACE,     /* file system, fleece or quota is full */
  CBT_ERROR_IO,           /* a read or write failed */
  CBT_ERROR_UNSUPPORTED,  /* a newer format, or an ability that is missing here */
  CBT_ERROR_CANCELLED,    /* stopped by request */
  CBT_ERROR_DENIED,       /* the peer or a permission does not allow it */
  CBT_ERROR_TOO_LARGE,    /* a request or an object above its limit */
  CBT_ERROR_UNREACHABLE,  /* the daemon, or an export, does not answer */
  CBT_N_ERRORS
} CbtErrorCode;

#define CBT_ERROR (cbt_error_quark())
GQuark cbt_error_quark(void);

/* The stable text of CODE as shown in JSON, for example "not-found". */
const char *cbt_error_code_name(int code);
/* The code behind NAME; CBT_ERROR_FAILED for a text that is no code. */
CbtErrorCode cbt_error_code_from_name(const char *name);
/* Status of an HTTP answer, and exit status of a program, for CODE. */
int cbt_error_http_status(int code);
int cbt_error_exit_status(int code);

/* Sets ERROR to CODE with a message and a HINT: what the user can do next. */
void cbt_set_error(GError **error, CbtErrorCode code, const char *hint, const char *format, ...)
    G_GNUC_PRINTF(4, 5);
/* Sets ERROR from the errno value ERRSV; the message gets ": strerror" appended. */
void cbt_set_error_errno(GError **error, int errsv, const char *format, ...) G_GNUC_PRINTF(3, 4);
/* The code for an errno value: ENOSPC and EDQUOT give NO_SPACE, ENOENT gives NOT_FOUND, and so on. */
CbtErrorCode cbt_error_code_from_errno(int errsv);

/* The code of ERROR; errors of foreign domains (GIO, GLib) are mapped where they have a counterpart. */
CbtErrorCode cbt_error_code(const GError *error);
/* MESSAGE without its hint, and the hint or NULL (both transfer full). */
char *cbt_error_message(const GError *error);
char *cbt_error_hint(const GError *error);
