/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * "KEY=VALUE; KEY=VALUE; ...": neither a schedule nor a name has a semicolon in it. Numbers that are 0 are
 * left out, all else is always there: a text that lost its end is no other policy.
 *
 * Keys may come in any order. One that is unknown is an error, and not passed by: it may be a rule by which
 * points would be kept that this release does not know of, and so would remove.
 */
#include <store/policy.h>

#include <common/error.h>
#include <common/name.h>
#include <string.h>

#define SEPARATOR "; "

static const char *const required[] = {"schedule", "bitmap", "gc", "enabled"};

/* ---- keys ---- */

/* The number that KEY stands for; NULL if it stands for none. */
static guint64 *
find_number(StorePolicy *policy, const char *key)
{
  for (guint i = 0; i < STORE_RETENTION_N_NUMBERS; i++)
    if (strcmp(key, store_retention_rule_name(i)) == 0)
      return &policy->retention.numbers[i];
  if (strcmp(key, "speed") == 0)
    return &policy->speed;
  return strcmp(key, "verify-share") == 0 ? &policy->verify_share : NULL;
}

static gboolean *
find_flag(StorePolicy *policy, const char *key)
{
  if (strcmp(key, "gc") == 0)
    return &policy->gc;
  return strcmp(key, "enabled") == 0 ? &policy->enabled : NULL;
}

/* ---- encode ---- */

static void
put_number(GString *text, const char *key, guint64 number)
{
  if (number > 0)
    g_string_append_printf(text, SEPARATOR "%s=%" G_GUINT64_FORMAT, key, number);
}

static void
put_flag(GString *text, const char *key, gboolean flag)
{
  g_string_append_printf(text, SEPARATOR "%s=%s", key, flag ? "yes" : "no");
}

char *
store_policy_encode(const StorePolicy *policy)
{
  g_autofree char *schedule = store_schedule_format(&policy->schedule);
  GString *text = g_string_new(NULL);
  g_string_append_printf(text, "schedule=%s" SEPARATOR "bitmap=%s", schedule, policy->bitmap);
  for (guint i = 0; i < STORE_RETENTION_N_NUMBERS; i++)
    put_number(text, store_retention_rule_name(i), policy->retention.numbers[i]);
  put_number(text, "speed", policy->speed);
  put_number(text, "verify-share", policy->verify_share);
  put_flag(text, "gc", policy->gc);
  put_flag(text, "enabled", policy->enabled);
  return g_string_free(text, FALSE);
}

/* ---- decode ---- */

static gboolean G_GNUC_PRINTF(2, 3) corrupt(GError **error, const char *format, ...)
{
  va_list args;
  va_start(args, format);
  g_autofree char *problem = g_strdup_vprintf(format, args);
  va_end(args);
  cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "policy: %s", problem);
  return FALSE;
}

/* FALSE for a value that KEY cannot have; *is_known becomes FALSE for a key that there is not. */
static gboolean
take_value(StorePolicy *policy, const char *key, const char *value, gboolean *is_known)
{
  guint64 *number = find_number(policy, key);
  gboolean *flag = find_flag(policy, key);
  *is_known = TRUE;
  if (number)
    return g_ascii_string_to_unsigned(value, 10, 0, STORE_POLICY_COUNT_MAX, number, NULL);
  if (flag) {
    *flag = strcmp(value, "yes") == 0;
    return *flag || strcmp(value, "no") == 0;
  }
  if (strcmp(key, "schedule") == 0)
    return store_schedule_parse(value, &policy->schedule, NULL);
  *is_known = strcmp(key, "bitmap") == 0;
  if (*is_known) {
    g_free(policy->bitmap);
    policy->bitmap = g_strdup(value);
  }
  return TRUE; /* checked with all the rest */
}

/* ITEM is "KEY=VALUE", and is cut in two. SEEN are the keys before it. */
static gboolean
take_item(StorePolicy *policy, char *item, GHashTable *seen, GError **error)
{
  gboolean is_known;
  char *equals = strchr(item, '=');
  if (equals)
    *equals = '\0';
  g_autofree char *key = cbt_printable(item);
  if (!equals)
    return corrupt(error, "'%s' has no value", key);
  if (!g_hash_table_add(seen, item))
    return corrupt(error, "key '%s' is there twice", key);
  gboolean ok = take_value(policy, item, equals + 1, &is_known);
  if (!is_known)
    return corrupt(error, "key '%s' is unknown", key);
  g_autofree char *value = cbt_printable(equals + 1);
  return ok || corrupt(error, "key '%s' cannot be '%s'", key, value);
}

StorePolicy *
store_policy_decode(const char *vm, const char *text, GError **error)
{
  if (strlen(text) > STORE_POLICY_TEXT_MAX) {
    corrupt(error, "it has %zu bytes, which is more than any has", strlen(text));
    return NULL;
  }
  g_auto(GStrv) items = g_strsplit(text, SEPARATOR, -1);
  g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
  g_autoptr(StorePolicy) policy = store_policy_new(vm);
  for (char **item = items; *item; item++)
    if (!take_item(policy, *item, seen, error))
      return NULL;
  for (guint i = 0; i < G_N_ELEMENTS(required); i++)
    if (!g_hash_table_contains(seen, required[i])) {
      corrupt(error, "key '%s' is missing", required[i]);
      return NULL;
    }
  if (store_policy_check(policy, error))
    return g_steal_pointer(&policy);
  g_prefix_error(error, "policy: ");
  return NULL;
}
