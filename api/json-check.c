/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A recursive-descent check of the JSON grammar; the depth limit bounds the recursion. It builds nothing. */
#include <api/json-private.h>

#include <common/error.h>
#include <errno.h>
#include <string.h>

typedef struct {
  const char *start;
  const char *at;
  const char *end;
  const char *problem; /* what was wrong at AT */
  guint depth;
} Scan;

static gboolean scan_value(Scan *scan);

static gboolean
fail(Scan *scan, const char *problem)
{
  if (!scan->problem)
    scan->problem = problem;
  return FALSE;
}

static int
peek(const Scan *scan)
{
  return scan->at < scan->end ? (guchar) *scan->at : -1;
}

static gboolean
take(Scan *scan, char c)
{
  if (peek(scan) != c)
    return FALSE;
  scan->at++;
  return TRUE;
}

static void
skip_space(Scan *scan)
{
  while (scan->at < scan->end && memchr(" \t\r\n", *scan->at, 4))
    scan->at++;
}

static gboolean
scan_hex4(Scan *scan, guint *value)
{
  *value = 0;
  for (int i = 0; i < 4; i++) {
    int digit = scan->at < scan->end ? g_ascii_xdigit_value(*scan->at) : -1;
    if (digit < 0)
      return fail(scan, "\\u without four hexadecimal digits");
    *value = *value * 16 + (guint) digit;
    scan->at++;
  }
  return TRUE;
}

/* Behind "\u": one character, which may take two escapes. */
static gboolean
scan_unicode(Scan *scan)
{
  guint high, low;
  if (!scan_hex4(scan, &high))
    return FALSE;
  if (high == 0)
    return fail(scan, "a NUL character in a string");
  if (high < 0xd800 || high > 0xdfff)
    return TRUE;
  if (high > 0xdbff || !take(scan, '\\') || !take(scan, 'u') || !scan_hex4(scan, &low) || low < 0xdc00 ||
      low > 0xdfff)
    return fail(scan, "half of a surrogate pair");
  return TRUE;
}

static gboolean
scan_string(Scan *scan)
{
  if (!take(scan, '"'))
    return fail(scan, "a string was expected");
  while (!take(scan, '"')) {
    int c = peek(scan);
    if (c < 0x20)
      return fail(scan, c < 0 ? "a string without an end" : "a control character in a string");
    scan->at++;
    if (c != '\\')
      continue;
    if (take(scan, 'u')) {
      if (!scan_unicode(scan))
        return FALSE;
    } else if (peek(scan) <= 0 || !strchr("\"\\/bfnrt", peek(scan))) {
      return fail(scan, "an unknown escape in a string");
    } else {
      scan->at++;
    }
  }
  return TRUE;
}

static gboolean
scan_digits(Scan *scan)
{
  const char *before = scan->at;
  while (g_ascii_isdigit(peek(scan)))
    scan->at++;
  return scan->at > before || fail(scan, "a digit was expected");
}

static gboolean
integer_fits(const char *from, const char *to)
{
  g_autofree char *text = g_strndup(from, (gsize) (to - from));
  errno = 0;
  g_ascii_strtoll(text, NULL, 10);
  return errno == 0;
}

static gboolean
scan_number(Scan *scan)
{
  const char *before = scan->at;
  gboolean integer = TRUE;
  take(scan, '-');
  if (!take(scan, '0') && !scan_digits(scan))
    return FALSE;
  if (take(scan, '.')) {
    integer = FALSE;
    if (!scan_digits(scan))
      return FALSE;
  }
  if (take(scan, 'e') || take(scan, 'E')) {
    integer = FALSE;
    if (!take(scan, '+'))
      take(scan, '-');
    if (!scan_digits(scan))
      return FALSE;
  }
  return !integer || integer_fits(before, scan->at) || fail(scan, "a number that is too large");
}

static gboolean
scan_word(Scan *scan, const char *word)
{
  gsize length = strlen(word);
  if ((gsize) (scan->end - scan->at) < length || memcmp(scan->at, word, length) != 0)
    return fail(scan, "a value was expected");
  scan->at += length;
  return TRUE;
}

static gboolean
scan_member(Scan *scan)
{
  if (!scan_string(scan))
    return FALSE;
  skip_space(scan);
  if (!take(scan, ':'))
    return fail(scan, "':' was expected");
  return scan_value(scan);
}

/* The inside of an array or object, whose ITEMs stand between commas, up to CLOSE. */
static gboolean
scan_items(Scan *scan, char close, gboolean (*item)(Scan *scan))
{
  if (++scan->depth > API_JSON_DEPTH_MAX)
    return fail(scan, "too many arrays and objects inside each other");
  scan->at++;
  skip_space(scan);
  if (!take(scan, close)) {
    do {
      skip_space(scan);
      if (!item(scan))
        return FALSE;
      skip_space(scan);
    } while (take(scan, ','));
    if (!take(scan, close))
      return fail(scan, "',' or the end of the array or object was expected");
  }
  scan->depth--;
  return TRUE;
}

static gboolean
scan_value(Scan *scan)
{
  skip_space(scan);
  switch (peek(scan)) {
  case '{':
    return scan_items(scan, '}', scan_member);
  case '[':
    return scan_items(scan, ']', scan_value);
  case '"':
    return scan_string(scan);
  case 't':
    return scan_word(scan, "true");
  case 'f':
    return scan_word(scan, "false");
  case 'n':
    return scan_word(scan, "null");
  case '-':
  case '0' ... '9':
    return scan_number(scan);
  default:
    return fail(scan, "a value was expected");
  }
}

gboolean
api_json_check_text(const char *text, gsize length, GError **error)
{
  const char *bad;
  if (!g_utf8_validate_len(text, length, &bad)) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "Not JSON: not UTF-8 at byte %" G_GSIZE_FORMAT,
                  (gsize) (bad - text));
    return FALSE;
  }
  Scan scan = {.start = text, .at = text, .end = text + length};
  gboolean good = scan_value(&scan);
  if (good) {
    skip_space(&scan);
    good = scan.at == scan.end || fail(&scan, "text behind the value");
  }
  if (!good)
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "Not JSON: %s at byte %" G_GSIZE_FORMAT, scan.problem,
                  (gsize) (scan.at - scan.start));
  return good;
}
