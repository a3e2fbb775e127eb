/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A table says where the value of each key goes, how it is read, and whether a reload may change it. A reload
 * reads into a configuration of its own, so that a file with a mistake changes nothing; strings stay as they
 * are, for threads look at them.
 */
#include <daemon/config-private.h>

#include <cbt/qemu/instant.h>
#include <common/duration.h>
#include <common/error.h>
#include <common/size.h>
#include <string.h>

#define QUIESCE_BUDGET_MAX_S 9

static gboolean
parse_level(const char *text, gint *level, GError **error)
{
  static const struct {
    const char *name;
    GLogLevelFlags level;
  } levels[] = {{"debug", G_LOG_LEVEL_DEBUG}, {"info", G_LOG_LEVEL_INFO}, {"warning", G_LOG_LEVEL_WARNING}};
  for (gsize i = 0; i < G_N_ELEMENTS(levels); i++)
    if (strcmp(levels[i].name, text) == 0) {
      g_atomic_int_set(level, levels[i].level);
      return TRUE;
    }
  cbt_set_error(error, CBT_ERROR_INVALID, "Use debug, info or warning.", "unknown log level '%s'", text);
  return FALSE;
}

/* One configuration key: where its value goes, and how it is read. */
typedef enum {
  KEY_STRING,
  KEY_PATHS,
  KEY_SIZE,
  KEY_DURATION,
  KEY_BOOL,
  KEY_LEVEL,
  KEY_UINT,
  KEY_COUNT,
  KEY_NICE
} KeyType;

/* Least and greatest value of the types that are whole numbers. */
static const guint64 number_limits[][2] = {
    [KEY_UINT] = {1, 1024},
    [KEY_COUNT] = {0, BACKUP_AUDIT_MAX},
    [KEY_NICE] = {0, 19},
};

typedef struct {
  const char *group;
  const char *key;
  KeyType type;
  gsize offset;  /* in DaemonConfig */
  gboolean live; /* a reload changes it: guint, guint64 or level, read on the main thread or atomic */
} ConfigKey;

static const ConfigKey config_keys[] = {
    {"backup", "audit", KEY_COUNT, G_STRUCT_OFFSET(DaemonConfig, audit), TRUE},
    {"backup", "nice", KEY_NICE, G_STRUCT_OFFSET(DaemonConfig, nice), FALSE},
    {"daemon", "allowed-paths", KEY_PATHS, G_STRUCT_OFFSET(DaemonConfig, allowed_paths), FALSE},
    {"daemon", "group", KEY_STRING, G_STRUCT_OFFSET(DaemonConfig, group), FALSE},
    {"daemon", "log-level", KEY_LEVEL, G_STRUCT_OFFSET(DaemonConfig, log_level), TRUE},
    {"daemon", "max-jobs", KEY_UINT, G_STRUCT_OFFSET(DaemonConfig, max_jobs), TRUE},
    {"daemon", "workers", KEY_UINT, G_STRUCT_OFFSET(DaemonConfig, workers), FALSE},
    {"qemu", "way", KEY_STRING, G_STRUCT_OFFSET(DaemonConfig, qemu_way), FALSE},
    {"quiesce", "budget", KEY_DURATION, G_STRUCT_OFFSET(DaemonConfig, quiesce_budget), FALSE},
    {"quiesce", "pre-script", KEY_STRING, G_STRUCT_OFFSET(DaemonConfig, quiesce_pre_script), FALSE},
    {"quiesce", "post-script", KEY_STRING, G_STRUCT_OFFSET(DaemonConfig, quiesce_post_script), FALSE},
    {"quiesce", "program", KEY_STRING, G_STRUCT_OFFSET(DaemonConfig, quiesce_program), FALSE},
    {"scheduler", "jitter", KEY_DURATION, G_STRUCT_OFFSET(DaemonConfig, jitter), TRUE},
    {"store", "dedup-verify", KEY_BOOL, G_STRUCT_OFFSET(DaemonConfig, dedup_verify), FALSE},
    {"store", "reserve", KEY_SIZE, G_STRUCT_OFFSET(DaemonConfig, store_reserve), FALSE},
    {"export", "fleece-dir", KEY_STRING, G_STRUCT_OFFSET(DaemonConfig, fleece_dir), FALSE},
    {"export", "fleece-limit", KEY_SIZE, G_STRUCT_OFFSET(DaemonConfig, fleece_limit), FALSE},
    {"export", "plugin-dir", KEY_STRING, G_STRUCT_OFFSET(DaemonConfig, plugin_dir), FALSE},
};

static const ConfigKey *
find_key(const char *group, const char *key)
{
  for (gsize i = 0; i < G_N_ELEMENTS(config_keys); i++)
    if (strcmp(config_keys[i].group, group) == 0 && strcmp(config_keys[i].key, key) == 0)
      return &config_keys[i];
  return NULL;
}

static gboolean
set_bool(DaemonConfig *config, GKeyFile *file, const ConfigKey *key, GError **error)
{
  g_autoptr(GError) local = NULL;
  gboolean value = g_key_file_get_boolean(file, key->group, key->key, &local);
  if (local) {
    g_propagate_error(error, g_steal_pointer(&local));
    return FALSE;
  }
  *(gboolean *) ((char *) config + key->offset) = value;
  return TRUE;
}

static gboolean
set_paths(char ***field, const char *text, GError **error)
{
  g_auto(GStrv) paths = g_strsplit(text, ";", -1);
  for (char **path = paths; *path; path++)
    if (!g_path_is_absolute(*path) && (**path || path[1])) { /* the last may have its ';', too */
      cbt_set_error(error, CBT_ERROR_INVALID, NULL, "'%s' is not an absolute path", *path);
      return FALSE;
    }
  g_strfreev(*field);
  *field = g_steal_pointer(&paths);
  return TRUE;
}

static gboolean
set_value(DaemonConfig *config, const ConfigKey *key, const char *text, GError **error)
{
  gpointer field = (char *) config + key->offset;
  if (key->type == KEY_STRING) {
    g_free(*(char **) field);
    *(char **) field = g_strdup(text);
    return TRUE;
  }
  if (key->type == KEY_PATHS)
    return set_paths(field, text, error);
  if (key->type == KEY_SIZE)
    return cbt_size_parse(text, field, error);
  if (key->type == KEY_DURATION)
    return cbt_duration_parse(text, field, error);
  if (key->type == KEY_LEVEL)
    return parse_level(text, field, error);
  guint64 number = 0;
  const guint64 *limits = number_limits[key->type];
  if (!g_ascii_string_to_unsigned(text, 10, limits[0], limits[1], &number, error))
    return FALSE;
  *(guint *) field = (guint) number;
  return TRUE;
}

/* "The groups are: [backup] ...", or the keys of GROUP (transfer full). */
static char *
list_known(const char *group)
{
  GString *text = g_string_new(group ? "Its keys are:" : "The groups are:");
  const char *last = "";
  for (gsize i = 0; i < G_N_ELEMENTS(config_keys); i++) {
    const ConfigKey *key = &config_keys[i];
    if (group && strcmp(group, key->group) == 0)
      g_string_append_printf(text, " %s", key->key);
    else if (!group && strcmp(last, key->group) != 0)
      g_string_append_printf(text, " [%s]", key->group);
    last = key->group;
  }
  return g_string_free(text, FALSE);
}

static gboolean
set_key(DaemonConfig *config, GKeyFile *file, const ConfigKey *key, GError **error)
{
  if (key->type == KEY_BOOL)
    return set_bool(config, file, key, error);
  g_autofree char *text = g_key_file_get_string(file, key->group, key->key, error);
  return text && set_value(config, key, text, error);
}

static gboolean
check_group(const DaemonConfig *config, const char *group, GError **error)
{
  for (gsize i = 0; i < G_N_ELEMENTS(config_keys); i++)
    if (strcmp(config_keys[i].group, group) == 0)
      return TRUE;
  g_autofree char *known = list_known(NULL);
  cbt_set_error(error, CBT_ERROR_INVALID, known, "%s: unknown group [%s]", config->config_file, group);
  return FALSE;
}

static gboolean
load_key(DaemonConfig *config, GKeyFile *file, const char *group, const char *name, GError **error)
{
  const ConfigKey *key = find_key(group, name);
  g_autoptr(GError) local = NULL;
  if (!key) {
    g_autofree char *known = list_known(group);
    cbt_set_error(error, CBT_ERROR_INVALID, known, "%s: unknown key '%s' in [%s]", config->config_file, name,
                  group);
  } else if (!set_key(config, file, key, &local)) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "%s: [%s] %s: %s", config->config_file, group, name,
                  local->message);
  }
  return key && !local;
}

static gboolean
load_group(DaemonConfig *config, GKeyFile *file, const char *group, GError **error)
{
  if (!check_group(config, group, error))
    return FALSE;
  g_auto(GStrv) keys = g_key_file_get_keys(file, group, NULL, error);
  for (char **key = keys; key && *key; key++)
    if (!load_key(config, file, group, *key, error))
      return FALSE;
  return keys != NULL;
}

static gboolean
check_qemu(const DaemonConfig *config, GError **error)
{
  QemuWay way;
  if (!qemu_way_parse(config->qemu_way, &way, error))
    return FALSE;
  if (config->quiesce_budget >= 1 && config->quiesce_budget <= QUIESCE_BUDGET_MAX_S)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, "Windows holds writes for 10 seconds at most.",
                "[quiesce] budget: a guest may be frozen for 1 to %d seconds", QUIESCE_BUDGET_MAX_S);
  return FALSE;
}

static GKeyFile *
read_file(const char *path, GError **error)
{
  g_autoptr(GKeyFile) file = g_key_file_new();
  if (g_key_file_load_from_file(file, path, G_KEY_FILE_NONE, error))
    return g_steal_pointer(&file);
  g_prefix_error(error, "%s: ", path);
  return NULL;
}

static gboolean
take_file(DaemonConfig *config, GKeyFile *file, GError **error)
{
  g_auto(GStrv) groups = g_key_file_get_groups(file, NULL);
  for (char **group = groups; *group; group++)
    if (!load_group(config, file, *group, error))
      return FALSE;
  return check_qemu(config, error);
}

gboolean
config_file_load(DaemonConfig *config, GError **error)
{
  if (!config->config_file)
    return check_qemu(config, error);
  config->file = read_file(config->config_file, error);
  return config->file && take_file(config, config->file, error);
}

static guint64
bit_of(const ConfigKey *key)
{
  G_STATIC_ASSERT(G_N_ELEMENTS(config_keys) <= 64);
  return G_GUINT64_CONSTANT(1) << (key - config_keys);
}

gboolean
config_option_set(DaemonConfig *config, const char *group, const char *name, const char *option,
                  const char *text, GError **error)
{
  const ConfigKey *key = find_key(group, name);
  if (!text)
    return TRUE;
  config->given |= bit_of(key);
  if (set_value(config, key, text, error))
    return TRUE;
  g_prefix_error(error, "%s: ", option);
  return FALSE;
}

static void
take_live(DaemonConfig *config, const DaemonConfig *fresh, const ConfigKey *key)
{
  gpointer to = (char *) config + key->offset;
  gconstpointer from = (const char *) fresh + key->offset;
  if (key->type == KEY_DURATION)
    *(guint64 *) to = *(const guint64 *) from;
  else if (key->type != KEY_LEVEL)
    *(guint *) to = *(const guint *) from;
  else
    g_atomic_int_set((gint *) to, *(const gint *) from);
}

static gboolean
is_changed(const ConfigKey *key, GKeyFile *before, GKeyFile *now)
{
  g_autofree char *old = g_key_file_get_string(before, key->group, key->key, NULL);
  g_autofree char *new = g_key_file_get_string(now, key->group, key->key, NULL);
  return g_strcmp0(old, new) != 0;
}

GPtrArray *
daemon_config_reload(DaemonConfig *config, GError **error)
{
  g_autoptr(GPtrArray) later = g_ptr_array_new_with_free_func(g_free);
  if (!config->file)
    return g_steal_pointer(&later);
  g_autoptr(DaemonConfig) fresh = config_new_default();
  g_autoptr(GKeyFile) file = read_file(config->config_file, error);
  fresh->config_file = g_strdup(config->config_file);
  if (!file || !take_file(fresh, file, error))
    return NULL;
  for (gsize i = 0; i < G_N_ELEMENTS(config_keys); i++) {
    const ConfigKey *key = &config_keys[i];
    if (config->given & bit_of(key))
      continue;
    if (key->live)
      take_live(config, fresh, key);
    else if (is_changed(key, config->file, file))
      g_ptr_array_add(later, g_strdup_printf("[%s] %s", key->group, key->key));
  }
  return g_steal_pointer(&later);
}
