/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Command line first, for it names the file; what the command line says wins over the file. */
#include <daemon/config.h>

#include <cbt/qemu/instant.h>
#include <common/duration.h>
#include <common/error.h>
#include <common/fd.h>
#include <common/size.h>
#include <daemon/store-reserve.h>
#include <limits.h>
#include <string.h>

#define QUIESCE_BUDGET_MAX_S 9

static void
set_default_dirs(DaemonConfig *config)
{
  gboolean root = geteuid() == 0;
  if (!config->state_dir)
    config->state_dir =
        root ? g_strdup("/var/lib/cbt-backup") : g_build_filename(g_get_user_data_dir(), "cbt-backup", NULL);
  if (!config->runtime_dir)
    config->runtime_dir =
        root ? g_strdup("/run/cbt-backup") : g_build_filename(g_get_user_runtime_dir(), "cbt-backup", NULL);
  if (!config->fleece_dir)
    config->fleece_dir = g_build_filename(config->state_dir, "fleece", NULL);
}

/* The plugin stands beside the programs in a build tree, and in the installed library folder else. */
static char *
find_plugin_dir(void)
{
  g_autofree char *exe = g_file_read_link("/proc/self/exe", NULL);
  g_autofree char *bin = exe ? g_path_get_dirname(exe) : g_strdup(".");
  const char *candidates[] = {"../lib", "../" CBT_LIBDIR "/cbt-backup"};
  for (gsize i = 0; i < G_N_ELEMENTS(candidates); i++) {
    g_autofree char *dir = g_build_filename(bin, candidates[i], NULL);
    g_autofree char *plugin = g_build_filename(dir, "nbdkit-cbt-plugin.so", NULL);
    if (g_file_test(plugin, G_FILE_TEST_IS_REGULAR))
      return g_canonicalize_filename(dir, NULL);
  }
  return g_strdup(CBT_FULL_LIBDIR "/cbt-backup");
}

/* So does cbt-quiesce. */
static char *
find_quiesce_program(void)
{
  g_autofree char *exe = g_file_read_link("/proc/self/exe", NULL);
  g_autofree char *bin = exe ? g_path_get_dirname(exe) : g_strdup(".");
  const char *const candidates[] = {"cbt-quiesce", "../" CBT_LIBEXECDIR "/cbt-backup/cbt-quiesce"};
  for (gsize i = 0; i < G_N_ELEMENTS(candidates); i++) {
    g_autofree char *path = g_build_filename(bin, candidates[i], NULL);
    if (g_file_test(path, G_FILE_TEST_IS_EXECUTABLE))
      return g_canonicalize_filename(path, NULL);
  }
  return g_strdup(CBT_FULL_LIBEXECDIR "/cbt-backup/cbt-quiesce");
}

static void
make_absolute(char **path)
{
  char *absolute = g_canonicalize_filename(*path, NULL);
  g_free(*path);
  *path = absolute;
}

/* One configuration key: where its value goes, and how it is read. */
typedef enum { KEY_STRING, KEY_PATHS, KEY_SIZE, KEY_DURATION, KEY_BOOL, KEY_UINT, KEY_COUNT, KEY_NICE } KeyType;

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
  gsize offset; /* in DaemonConfig */
} ConfigKey;

static const ConfigKey config_keys[] = {
    {"backup", "audit", KEY_COUNT, G_STRUCT_OFFSET(DaemonConfig, audit)},
    {"backup", "nice", KEY_NICE, G_STRUCT_OFFSET(DaemonConfig, nice)},
    {"daemon", "allowed-paths", KEY_PATHS, G_STRUCT_OFFSET(DaemonConfig, allowed_paths)},
    {"daemon", "group", KEY_STRING, G_STRUCT_OFFSET(DaemonConfig, group)},
    {"daemon", "max-jobs", KEY_UINT, G_STRUCT_OFFSET(DaemonConfig, max_jobs)},
    {"daemon", "workers", KEY_UINT, G_STRUCT_OFFSET(DaemonConfig, workers)},
    {"qemu", "way", KEY_STRING, G_STRUCT_OFFSET(DaemonConfig, qemu_way)},
    {"quiesce", "budget", KEY_DURATION, G_STRUCT_OFFSET(DaemonConfig, quiesce_budget)},
    {"quiesce", "pre-script", KEY_STRING, G_STRUCT_OFFSET(DaemonConfig, quiesce_pre_script)},
    {"quiesce", "post-script", KEY_STRING, G_STRUCT_OFFSET(DaemonConfig, quiesce_post_script)},
    {"quiesce", "program", KEY_STRING, G_STRUCT_OFFSET(DaemonConfig, quiesce_program)},
    {"scheduler", "jitter", KEY_DURATION, G_STRUCT_OFFSET(DaemonConfig, jitter)},
    {"store", "dedup-verify", KEY_BOOL, G_STRUCT_OFFSET(DaemonConfig, dedup_verify)},
    {"store", "reserve", KEY_SIZE, G_STRUCT_OFFSET(DaemonConfig, store_reserve)},
    {"export", "fleece-dir", KEY_STRING, G_STRUCT_OFFSET(DaemonConfig, fleece_dir)},
    {"export", "fleece-limit", KEY_SIZE, G_STRUCT_OFFSET(DaemonConfig, fleece_limit)},
    {"export", "plugin-dir", KEY_STRING, G_STRUCT_OFFSET(DaemonConfig, plugin_dir)},
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
load_file(DaemonConfig *config, GError **error)
{
  if (!config->config_file)
    return TRUE;
  g_autoptr(GKeyFile) file = g_key_file_new();
  if (!g_key_file_load_from_file(file, config->config_file, G_KEY_FILE_NONE, error)) {
    g_prefix_error(error, "%s: ", config->config_file);
    return FALSE;
  }
  g_auto(GStrv) groups = g_key_file_get_groups(file, NULL);
  for (char **group = groups; *group; group++)
    if (!load_group(config, file, *group, error))
      return FALSE;
  return TRUE;
}

static gboolean
check_log_level(const DaemonConfig *config, GError **error)
{
  static const char *const levels[] = {"debug", "info", "warning", NULL};
  if (g_strv_contains(levels, config->log_level))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, "Use debug, info or warning.", "unknown log level '%s'",
                config->log_level);
  return FALSE;
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

/* What the command line says wins. */
static gboolean
set_option(DaemonConfig *config, const ConfigKey *key, const char *option, const char *text, GError **error)
{
  if (!text || set_value(config, key, text, error))
    return TRUE;
  g_prefix_error(error, "%s: ", option);
  return FALSE;
}

static gboolean
set_options(DaemonConfig *config, const char *reserve, const char *max_parallel, GError **error)
{
  return set_option(config, find_key("store", "reserve"), "--store-reserve", reserve, error) &&
         set_option(config, find_key("daemon", "max-jobs"), "--max-parallel", max_parallel, error);
}

DaemonConfig *
daemon_config_new(int *argc, char ***argv, gboolean *done, GError **error)
{
  g_autoptr(DaemonConfig) config = g_new0(DaemonConfig, 1);
  gboolean version = FALSE;
  g_autofree char *reserve = NULL, *max_parallel = NULL;
  GOptionEntry entries[] = {
      {"state-dir", 0, 0, G_OPTION_ARG_FILENAME, &config->state_dir,
       "Catalogue, bitmaps and store (root: /var/lib/cbt-backup)", "DIR"},
      {"runtime-dir", 0, 0, G_OPTION_ARG_FILENAME, &config->runtime_dir,
       "API socket and exports' sockets (root: /run/cbt-backup)", "DIR"},
      {"config", 0, 0, G_OPTION_ARG_FILENAME, &config->config_file, "Configuration file", "FILE"},
      {"log-level", 0, 0, G_OPTION_ARG_STRING, &config->log_level, "debug, info or warning", "LEVEL"},
      {"store-reserve", 0, 0, G_OPTION_ARG_STRING, &reserve,
       "What backups leave free on the store's file system (1 GiB or a hundredth of it)", "SIZE"},
      {"max-parallel", 0, 0, G_OPTION_ARG_STRING, &max_parallel,
       "How many jobs, each of a vm, run at once (4)", "N"},
      {"rebuild-catalogue", 0, 0, G_OPTION_ARG_NONE, &config->rebuild_catalogue,
       "Set the catalogue aside, and make it again from the store", NULL},
      {"version", 0, 0, G_OPTION_ARG_NONE, &version, "Print the version", NULL},
      {NULL},
  };
  config->workers = (guint) MAX(1, g_get_num_processors());
  config->max_jobs = 4;
  config->audit = 256;
  config->nice = 10;
  config->jitter = 300;
  config->dedup_verify = TRUE;
  config->store_reserve = STORE_RESERVE_DEFAULT;
  config->plugin_dir = find_plugin_dir();
  config->qemu_way = g_strdup("auto");
  config->quiesce_program = find_quiesce_program();
  config->quiesce_budget = 5;

  g_autoptr(GOptionContext) context = g_option_context_new("- the backup service for QEMU/KVM disks");
  g_option_context_set_summary(
      context, "Runs in the foreground and answers on RUNTIME-DIR/api.sock. Talk to it with cbt-backup.");
  g_option_context_set_description(
      context,
      "No configuration is needed. To try it out, with all that it keeps below one folder:\n"
      "  cbt-backupd --state-dir /tmp/try/state --runtime-dir /tmp/try/run &\n"
      "  CBT_BACKUP_SOCKET=/tmp/try/run/api.sock cbt-backup status\n\n"
      "Exit status: 0 told to end, 1 failed, 2 wrong option or configuration, 4 another one uses the\n"
      "state directory, 6 damaged data found. See cbt-backupd(8), cbt-backup.conf(5).");
  g_option_context_add_main_entries(context, entries, NULL);
  if (!g_option_context_parse(context, argc, argv, error))
    return NULL;
  if (*argc > 1) {
    cbt_set_error(error, CBT_ERROR_INVALID, "See cbt-backupd --help.", "unexpected argument '%s'",
                  (*argv)[1]);
    return NULL;
  }
  *done = version;
  if (version)
    g_print("cbt-backupd %s\n", CBT_VERSION);
  if (!config->log_level)
    config->log_level = g_strdup("info");
  if (!check_log_level(config, error) || !load_file(config, error) || !check_qemu(config, error) ||
      !set_options(config, reserve, max_parallel, error))
    return NULL;
  set_default_dirs(config);
  make_absolute(&config->state_dir);
  make_absolute(&config->runtime_dir);
  make_absolute(&config->fleece_dir);
  return g_steal_pointer(&config);
}

void
daemon_config_free(DaemonConfig *config)
{
  g_free(config->state_dir);
  g_free(config->runtime_dir);
  g_free(config->config_file);
  g_free(config->log_level);
  g_free(config->group);
  g_strfreev(config->allowed_paths);
  g_free(config->fleece_dir);
  g_free(config->plugin_dir);
  g_free(config->qemu_way);
  g_free(config->quiesce_program);
  g_free(config->quiesce_pre_script);
  g_free(config->quiesce_post_script);
  g_free(config);
}

char *
daemon_config_store_dir(const DaemonConfig *config)
{
  return g_build_filename(config->state_dir, "store", NULL);
}

char *
daemon_config_bitmap_dir(const DaemonConfig *config, const char *vm, const char *disk)
{
  return g_build_filename(config->state_dir, "bitmaps", vm, disk, NULL);
}

char *
daemon_config_export_dir(const DaemonConfig *config, const char *vm)
{
  return g_build_filename(config->runtime_dir, "exports", vm, NULL);
}

char *
daemon_config_witness_dir(const DaemonConfig *config)
{
  return g_build_filename(config->runtime_dir, "witness", NULL);
}
