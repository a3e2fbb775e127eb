/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whether what the file's keys name is there. Only --check-config asks: a daemon that starts may come before
 * a mount, or before who knows the groups, and tells when it needs what is missing.
 */
#include <daemon/config-private.h>

#include <common/error.h>
#include <errno.h>
#include <grp.h>

/* Judges VALUE. What is no mistake, but worth knowing, goes to *note (transfer full). */
typedef gboolean (*CheckFunc)(const char *value, char **note, GError **error);

static gboolean
check_group_exists(const char *value, char **note G_GNUC_UNUSED, GError **error)
{
  errno = 0;
  if (getgrnam(value))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, "Create it with: groupadd --system GROUP",
                "there is no group '%s'%s%s", value, errno ? ": " : "", errno ? g_strerror(errno) : "");
  return FALSE;
}

/* NOTE_MISSING: what it means that there is none. */
static gboolean
check_folder(const char *value, const char *note_missing, char **note, GError **error)
{
  if (g_file_test(value, G_FILE_TEST_IS_DIR))
    return TRUE;
  if (g_file_test(value, G_FILE_TEST_EXISTS)) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "%s is no folder", value);
    return FALSE;
  }
  *note = g_strdup_printf("%s is not there: %s", value, note_missing);
  return TRUE;
}

static gboolean
check_fleece_dir(const char *value, char **note, GError **error)
{
  return check_folder(value, "the daemon makes it", note, error);
}

static gboolean
check_allowed_paths(const char *value, char **note, GError **error)
{
  g_auto(GStrv) paths = g_strsplit(value, ";", -1);
  for (char **path = paths; *path; path++)
    if (**path && !*note && !check_folder(*path, "nobody can name a path below it", note, error))
      return FALSE;
  return TRUE;
}

static gboolean
check_plugin_dir(const char *value, char **note G_GNUC_UNUSED, GError **error)
{
  g_autofree char *plugin = g_build_filename(value, "nbdkit-cbt-plugin.so", NULL);
  if (g_file_test(plugin, G_FILE_TEST_IS_REGULAR))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, "Without the key it is found beside the programs.",
                "there is no %s: no disk could be exported", plugin);
  return FALSE;
}

static gboolean
check_program(const char *value, char **note G_GNUC_UNUSED, GError **error)
{
  if (g_file_test(value, G_FILE_TEST_IS_REGULAR) && g_file_test(value, G_FILE_TEST_IS_EXECUTABLE))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, "Without the key it is found beside the programs.",
                "%s is no program: no guest could be quiesced", value);
  return FALSE;
}

static const struct {
  const char *group, *key;
  CheckFunc func;
} checks[] = {
    {"daemon", "group", check_group_exists},    {"daemon", "allowed-paths", check_allowed_paths},
    {"export", "fleece-dir", check_fleece_dir}, {"export", "plugin-dir", check_plugin_dir},
    {"quiesce", "program", check_program},
};

gboolean
config_check_names(const DaemonConfig *config, GError **error)
{
  for (gsize i = 0; config->file && i < G_N_ELEMENTS(checks); i++) {
    g_autofree char *value = g_key_file_get_string(config->file, checks[i].group, checks[i].key, NULL);
    g_autofree char *note = NULL;
    if (value && !checks[i].func(value, &note, error)) {
      g_prefix_error(error, "%s: [%s] %s: ", config->config_file, checks[i].group, checks[i].key);
      return FALSE;
    }
    if (note)
      g_printerr("cbt-backupd: %s: [%s] %s: %s\n", config->config_file, checks[i].group, checks[i].key, note);
  }
  return TRUE;
}
