/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Unseal checks in this order: checksum, syntax, first group, version; so that only text that was written by
 * this program, or by somebody who can compute the checksum, reaches the parser.
 */
#include <store/keyfile.h>

#include <common/bytes.h>
#include <common/error.h>
#include <dirent.h>
#include <errno.h>
#include <string.h>

#define CHECKSUM_PREFIX "# xxh3-64: "
#define CHECKSUM_LENGTH (sizeof CHECKSUM_PREFIX - 1 + 16 + 1) /* with the newline */

/* ---- text ---- */

char *
store_keyfile_seal(const StoreKeyfileKind *kind, GKeyFile *file, gsize *length)
{
  g_autofree char *body = g_key_file_to_data(file, NULL, NULL);
  GString *text = g_string_new(kind->heading);
  g_string_append(text, body);
  g_string_append_printf(text, CHECKSUM_PREFIX "%016" G_GINT64_MODIFIER "x\n",
                         cbt_checksum64(text->str, text->len));
  *length = text->len;
  return g_string_free(text, FALSE);
}

/* TRUE if TEXT ends in a checksum line that fits; *body_length gets the bytes before it. */
static gboolean
check_sum(const char *text, gsize length, gsize *body_length)
{
  if (length < CHECKSUM_LENGTH)
    return FALSE;
  char expected[CHECKSUM_LENGTH + 1];
  *body_length = length - CHECKSUM_LENGTH;
  g_snprintf(expected, sizeof expected, CHECKSUM_PREFIX "%016" G_GINT64_MODIFIER "x\n",
             cbt_checksum64(text, *body_length));
  return memcmp(text + *body_length, expected, CHECKSUM_LENGTH) == 0;
}

static GKeyFile *
parse(const StoreKeyfileKind *kind, const char *text, gsize length, GError **error)
{
  gsize body_length;
  if (length > kind->length_max || !check_sum(text, length, &body_length)) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "the checksum of the %s does not fit its text", kind->what);
    return NULL;
  }
  g_autoptr(GKeyFile) file = g_key_file_new();
  g_autofree char *first = NULL;
  if (!memchr(text, '\0', body_length) &&
      g_key_file_load_from_data(file, text, body_length, G_KEY_FILE_NONE, NULL))
    first = g_key_file_get_start_group(file);
  if (g_strcmp0(first, kind->group) != 0) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "the %s is no key file that begins with [%s]", kind->what,
                  kind->group);
    return NULL;
  }
  return g_steal_pointer(&file);
}

GKeyFile *
store_keyfile_unseal(const StoreKeyfileKind *kind, const char *text, gsize length, GError **error)
{
  guint64 version;
  g_autoptr(GKeyFile) file = parse(kind, text, length, error);
  if (!file || !store_keyfile_get_u64(file, kind->group, "format", TRUE, &version, error))
    return NULL;
  if (version == kind->version)
    return g_steal_pointer(&file);
  cbt_set_error(error, CBT_ERROR_UNSUPPORTED, "Use the release of cbt-backup that wrote it, or a later one.",
                "the %s has format %" G_GUINT64_FORMAT ", this release reads %" G_GUINT64_FORMAT, kind->what,
                version, kind->version);
  return NULL;
}

/* ---- values ---- */

void
store_keyfile_put_text(GKeyFile *file, const char *group, const char *key, const char *value)
{
  if (!value)
    return;
  g_autofree char *valid = g_utf8_make_valid(value, -1);
  g_key_file_set_string(file, group, key, valid);
}

void
store_keyfile_put_uuid(GKeyFile *file, const char *group, const char *key, const CbtUuid *uuid)
{
  char text[CBT_UUID_TEXT_SIZE];
  if (!cbt_uuid_is_nil(uuid))
    g_key_file_set_value(file, group, key, cbt_uuid_format(uuid, text));
}

void
store_keyfile_put_chunk(GKeyFile *file, const char *group, const char *key, const StoreChunkId *id)
{
  char text[STORE_CHUNK_ID_TEXT_SIZE];
  g_key_file_set_value(file, group, key, store_chunk_id_format(id, text));
}

gboolean
store_keyfile_wrong_value(const char *group, const char *key, GError **error)
{
  g_autofree char *shown = g_strescape(group, NULL);
  cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "key '%s' of group [%s] is missing or wrong", key, shown);
  return FALSE;
}

gboolean
store_keyfile_get_u64(GKeyFile *file, const char *group, const char *key, gboolean required, guint64 *value,
                      GError **error)
{
  g_autofree char *text = g_key_file_get_value(file, group, key, NULL);
  if (!text && !required)
    return TRUE;
  if (text && g_ascii_string_to_unsigned(text, 10, 0, G_MAXINT64, value, NULL))
    return TRUE;
  return store_keyfile_wrong_value(group, key, error);
}

gboolean
store_keyfile_get_time(GKeyFile *file, const char *group, const char *key, gboolean required, gint64 *value,
                       GError **error)
{
  guint64 number = 0;
  if (!store_keyfile_get_u64(file, group, key, required, &number, error))
    return FALSE;
  *value = (gint64) number;
  return TRUE;
}

gboolean
store_keyfile_get_text(GKeyFile *file, const char *group, const char *key, gboolean required, char **value,
                       GError **error)
{
  g_autoptr(GError) wrong = NULL; /* an escape that is none gives both a text and an error */
  gboolean there = g_key_file_has_key(file, group, key, NULL);
  g_free(*value);
  *value = there ? g_key_file_get_string(file, group, key, &wrong) : NULL;
  return !wrong && (there || !required) ? TRUE : store_keyfile_wrong_value(group, key, error);
}

gboolean
store_keyfile_get_uuid(GKeyFile *file, const char *group, const char *key, gboolean required, CbtUuid *uuid,
                       GError **error)
{
  g_autofree char *text = g_key_file_get_value(file, group, key, NULL);
  if (!text && !required)
    return TRUE;
  return text && cbt_uuid_parse(text, uuid) ? TRUE : store_keyfile_wrong_value(group, key, error);
}

gboolean
store_keyfile_get_chunk(GKeyFile *file, const char *group, const char *key, StoreChunkId *id, GError **error)
{
  g_autofree char *text = g_key_file_get_value(file, group, key, NULL);
  return text && store_chunk_id_parse(text, id) ? TRUE : store_keyfile_wrong_value(group, key, error);
}

gboolean
store_keyfile_get_choice(GKeyFile *file, const char *group, const char *key, const char *if_true,
                         const char *if_false, gboolean *value, GError **error)
{
  g_autofree char *text = g_key_file_get_value(file, group, key, NULL);
  *value = g_strcmp0(text, if_true) == 0;
  return *value || g_strcmp0(text, if_false) == 0 ? TRUE : store_keyfile_wrong_value(group, key, error);
}

/* ---- files ---- */

char *
store_keyfile_path(const StoreKeyfileKind *kind, const char *folder, const char *name)
{
  return g_strdup_printf("%s/%s%s", folder, name, kind->suffix);
}

gboolean
store_keyfile_save(const StoreKeyfileKind *kind, const CbtFileOps *ops, const char *path, const char *text,
                   gsize length, const char *hint, GError **error)
{
  if (length <= kind->length_max)
    return cbt_file_replace(ops, path, text, length, 0600, error);
  cbt_set_error(error, CBT_ERROR_TOO_LARGE, hint, "the file of the %s would have %zu bytes", kind->what,
                length);
  return FALSE;
}

gboolean
store_keyfile_remove(const CbtFileOps *ops, const char *folder, const char *path, GError **error)
{
  if (ops->unlink(ops, path) == 0 && ops->fsync_dir(ops, folder) == 0)
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot remove %s", path);
  return FALSE;
}

gboolean
store_keyfile_set_aside(const CbtFileOps *ops, const char *folder, const char *path, char **to,
                        GError **error)
{
  *to = g_strdup_printf("%s.damaged-%" G_GINT64_FORMAT, path, g_get_real_time());
  if (ops->rename(ops, path, *to) == 0 && ops->fsync_dir(ops, folder) == 0)
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot rename %s", path);
  g_clear_pointer(to, g_free);
  return FALSE;
}

GPtrArray *
store_keyfile_list(const StoreKeyfileKind *kind, const char *folder, GError **error)
{
  DIR *directory = opendir(folder);
  if (!directory) {
    cbt_set_error_errno(error, errno, "cannot list the files of each %s in %s", kind->what, folder);
    return NULL;
  }
  g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
  const struct dirent *entry;
  for (errno = 0; (entry = readdir(directory)); errno = 0)
    if (g_str_has_suffix(entry->d_name, kind->suffix))
      g_ptr_array_add(names, g_strndup(entry->d_name, strlen(entry->d_name) - strlen(kind->suffix)));
  int errsv = errno;
  closedir(directory);
  if (errsv) {
    cbt_set_error_errno(error, errsv, "cannot list the files of each %s in %s", kind->what, folder);
    return NULL;
  }
  return g_steal_pointer(&names);
}
