/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Command line first, for it names the file; what the command line says wins over the file. */
#include <daemon/config-private.h>

#include <common/error.h>
#include <daemon/store-reserve.h>

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

DaemonConfig *
config_new_default(void)
{
  DaemonConfig *config = g_new0(DaemonConfig, 1);
  config->log_level = G_LOG_LEVEL_INFO;
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
  return config;
}

DaemonConfig *
daemon_config_new(int *argc, char ***argv, gboolean *done, GError **error)
{
  g_autoptr(DaemonConfig) config = config_new_default();
  gboolean version = FALSE, check = FALSE;
  g_autofree char *reserve = NULL, *max_parallel = NULL, *level = NULL;
  GOptionEntry entries[] = {
      {"state-dir", 0, 0, G_OPTION_ARG_FILENAME, &config->state_dir,
       "Catalogue, bitmaps and store (root: /var/lib/cbt-backup)", "DIR"},
      {"runtime-dir", 0, 0, G_OPTION_ARG_FILENAME, &config->runtime_dir,
       "API socket and exports' sockets (root: /run/cbt-backup)", "DIR"},
      {"config", 0, 0, G_OPTION_ARG_FILENAME, &config->config_file, "Configuration file", "FILE"},
      {"log-level", 0, 0, G_OPTION_ARG_STRING, &level, "debug, info or warning", "LEVEL"},
      {"store-reserve", 0, 0, G_OPTION_ARG_STRING, &reserve,
       "What backups leave free on the store's file system (1 GiB or a hundredth of it)", "SIZE"},
      {"max-parallel", 0, 0, G_OPTION_ARG_STRING, &max_parallel,
       "How many jobs, each of a vm, run at once (4)", "N"},
      {"rebuild-catalogue", 0, 0, G_OPTION_ARG_NONE, &config->rebuild_catalogue,
       "Set the catalogue aside, and make it again from the store", NULL},
      {"check-config", 0, 0, G_OPTION_ARG_NONE, &check,
       "Only say what is wrong with options and configuration", NULL},
      {"version", 0, 0, G_OPTION_ARG_NONE, &version, "Print the version", NULL},
      {NULL},
  };
  g_autoptr(GOptionContext) context = g_option_context_new("- the backup service for QEMU/KVM disks");
  g_option_context_set_summary(
      context, "Runs in the foreground and answers on RUNTIME-DIR/api.sock. Talk to it with cbt-backup.");
  g_option_context_set_description(
      context,
      "No configuration is needed. To try it out, with all that it keeps below one folder:\n"
      "  cbt-backupd --state-dir /tmp/try/state --runtime-dir /tmp/try/run &\n"
      "  CBT_BACKUP_SOCKET=/tmp/try/run/api.sock cbt-backup status\n\n"
      "Exit status: 0 told to end, 1 failed, 2 wrong option or configuration, 3 the group is not\n"
      "there, 4 another one uses the state directory, 6 damaged data found. See cbt-backupd(8), cbt-backup.conf(5).");
  g_option_context_add_main_entries(context, entries, NULL);
  if (!g_option_context_parse(context, argc, argv, error))
    return NULL;
  if (*argc > 1) {
    cbt_set_error(error, CBT_ERROR_INVALID, "See cbt-backupd --help.", "unexpected argument '%s'",
                  (*argv)[1]);
    return NULL;
  }
  *done = version || check;
  if (version)
    g_print("cbt-backupd %s\n", CBT_VERSION);
  if (!config_file_load(config, error) ||
      !config_option_set(config, "daemon", "log-level", "--log-level", level, error) ||
      !config_option_set(config, "store", "reserve", "--store-reserve", reserve, error) ||
      !config_option_set(config, "daemon", "max-jobs", "--max-parallel", max_parallel, error) ||
      (check && !config_check_names(config, error)))
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
  g_free(config->group);
  g_strfreev(config->allowed_paths);
  g_free(config->fleece_dir);
  g_free(config->plugin_dir);
  g_free(config->qemu_way);
  g_free(config->quiesce_program);
  g_free(config->quiesce_pre_script);
  g_free(config->quiesce_post_script);
  g_clear_pointer(&config->file, g_key_file_unref);
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
