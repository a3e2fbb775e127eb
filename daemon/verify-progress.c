/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One file a scope, `STATE/verify/DIGEST.progress`: the points that were found good, and how far the one
 * after them was read without finding damage. So whatever was damaged is read and named again by the run that
 * goes on.
 */
#include <daemon/verify-private.h>

#include <common/file-ops.h>
#include <errno.h>
#include <unistd.h>

#define GROUP         "verify"
#define VALID_US      (24 * 3600 * (gint64) G_USEC_PER_SEC)
#define SAVE_EVERY_US (1 * (gint64) G_USEC_PER_SEC)
#define LENGTH_MAX    (64u << 20)

static GKeyFile *
load_file(const char *path)
{
  gsize length;
  g_autofree char *text = cbt_file_read(cbt_file_ops_default(), path, LENGTH_MAX, &length, NULL);
  g_autoptr(GKeyFile) file = g_key_file_new();
  return text && g_key_file_load_from_data(file, text, length, G_KEY_FILE_NONE, NULL) ? g_steal_pointer(&file)
                                                                                      : NULL;
}

/* It is of this scope, and of the last day. */
static gboolean
is_of_use(GKeyFile *file, const char *scope)
{
  g_autofree char *of = g_key_file_get_string(file, GROUP, "scope", NULL);
  gint64 age = g_get_real_time() - g_key_file_get_int64(file, GROUP, "saved", NULL);
  return g_strcmp0(of, scope) == 0 && age >= 0 && age < VALID_US;
}

static void
take_file(VerifyProgress *progress, GKeyFile *file)
{
  CbtUuid uuid;
  g_auto(GStrv) finished = g_key_file_get_string_list(file, GROUP, "finished", NULL, NULL);
  for (char **text = finished; text && *text; text++)
    if (cbt_uuid_parse(*text, &uuid))
      verify_progress_finish(progress, &uuid);
  progress->started = g_key_file_get_int64(file, GROUP, "started", NULL);
  progress->point = g_key_file_get_string(file, GROUP, "point", NULL);
  progress->place.disk = (guint) CLAMP(g_key_file_get_integer(file, GROUP, "disk", NULL), 0, G_MAXINT);
  progress->place.cluster = g_key_file_get_uint64(file, GROUP, "cluster", NULL);
}

void
verify_progress_load(VerifyProgress *progress, const char *state_dir, const char *scope, gboolean restart)
{
  *progress = (VerifyProgress){.scope = g_strdup(scope), .saved = g_get_monotonic_time()};
  g_autofree char *digest = g_compute_checksum_for_string(G_CHECKSUM_SHA256, scope, -1);
  digest[16] = '\0';
  g_autofree char *name = g_strconcat(digest, ".progress", NULL);
  progress->path = g_build_filename(state_dir, "verify", name, NULL);
  progress->finished = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  g_autoptr(GKeyFile) file = restart ? NULL : load_file(progress->path);
  if (file && is_of_use(file, scope))
    take_file(progress, file);
  if (progress->started <= 0)
    progress->started = g_get_real_time();
}

static char *
encode(const VerifyProgress *progress, gsize *length)
{
  g_autoptr(GKeyFile) file = g_key_file_new();
  guint n;
  g_autofree gpointer *finished = g_hash_table_get_keys_as_array(progress->finished, &n);
  g_key_file_set_string(file, GROUP, "scope", progress->scope);
  g_key_file_set_int64(file, GROUP, "started", progress->started);
  g_key_file_set_int64(file, GROUP, "saved", g_get_real_time());
  g_key_file_set_string_list(file, GROUP, "finished", (const char *const *) finished, n);
  if (progress->point) {
    g_key_file_set_string(file, GROUP, "point", progress->point);
    g_key_file_set_integer(file, GROUP, "disk", (gint) progress->place.disk);
    g_key_file_set_uint64(file, GROUP, "cluster", progress->place.cluster);
  }
  return g_key_file_to_data(file, length, NULL);
}

void
verify_progress_save(VerifyProgress *progress, gboolean now)
{
  gint64 time = g_get_monotonic_time();
  if (!now && time - progress->saved < SAVE_EVERY_US)
    return;
  progress->saved = time;
  progress->saved_point = progress->point != NULL;
  gsize length;
  g_autoptr(GError) error = NULL;
  g_autofree char *text = encode(progress, &length);
  g_autofree char *folder = g_path_get_dirname(progress->path);
  if (g_mkdir_with_parents(folder, 0700) != 0)
    g_warning("cannot make %s: %s", folder, g_strerror(errno));
  else if (!cbt_file_replace(cbt_file_ops_default(), progress->path, text, length, 0600, &error))
    g_warning("the progress of a verify was not noted: %s", error->message);
}

void
verify_progress_remove(const VerifyProgress *progress)
{
  if (unlink(progress->path) != 0 && errno != ENOENT)
    g_warning("cannot remove %s: %s", progress->path, g_strerror(errno));
}

void
verify_progress_clear(VerifyProgress *progress)
{
  g_free(progress->path);
  g_free(progress->scope);
  g_free(progress->point);
  g_hash_table_unref(progress->finished);
}

gboolean
verify_progress_has_finished(const VerifyProgress *progress, const CbtUuid *point)
{
  char text[CBT_UUID_TEXT_SIZE];
  return g_hash_table_contains(progress->finished, cbt_uuid_format(point, text));
}

void
verify_progress_finish(VerifyProgress *progress, const CbtUuid *point)
{
  char text[CBT_UUID_TEXT_SIZE];
  g_hash_table_add(progress->finished, g_strdup(cbt_uuid_format(point, text)));
  g_clear_pointer(&progress->point, g_free);
}
