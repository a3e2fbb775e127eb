/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The text of a point file (docs/formats/point.md): a key file, then a checksum line over every byte before
 * it.
 *
 * Encode writes groups and keys in one fixed order, and leaves out what is nil, NULL or has its default, so
 * equal points have equal texts. Decode checks in this order: checksum, syntax, format version, values, and
 * at last what store_point_check() demands. Keys it does not know are ignored: a later release may add some
 * within one version.
 */
#include <store/point.h>

#include <common/bytes.h>
#include <common/error.h>
#include <string.h>

#define FORMAT_VERSION  1
#define HEADING         "# cbt-backup recovery point\n"
#define CHECKSUM_PREFIX "# xxh3-64: "
#define CHECKSUM_LENGTH (sizeof CHECKSUM_PREFIX - 1 + 16 + 1) /* with the newline */
#define DISK_PREFIX     "disk "
#define CONFIG_PREFIX   "config "

/* ---- encode ---- */

static void
put_text(GKeyFile *file, const char *group, const char *key, const char *value)
{
  if (!value)
    return;
  g_autofree char *valid = g_utf8_make_valid(value, -1);
  g_key_file_set_string(file, group, key, valid);
}

static void
put_uuid(GKeyFile *file, const char *group, const char *key, const CbtUuid *uuid)
{
  char text[CBT_UUID_TEXT_SIZE];
  if (!cbt_uuid_is_nil(uuid))
    g_key_file_set_value(file, group, key, cbt_uuid_format(uuid, text));
}

static void
put_chunk(GKeyFile *file, const char *group, const char *key, const StoreChunkId *id)
{
  char text[STORE_CHUNK_ID_TEXT_SIZE];
  g_key_file_set_value(file, group, key, store_chunk_id_format(id, text));
}

static void
put_point(GKeyFile *file, const StorePoint *point)
{
  const char *group = "point";
  g_key_file_set_integer(file, group, "format", FORMAT_VERSION);
  put_uuid(file, group, "uuid", &point->uuid);
  put_text(file, group, "vm", point->vm);
  put_text(file, group, "kind", point->incremental ? "incremental" : "full");
  put_uuid(file, group, "parent", &point->parent);
  g_key_file_set_int64(file, group, "time", point->time);
  put_text(file, group, "reason", point->reason);
  put_text(file, group, "note", point->note);
  put_text(file, group, "protected", point->is_protected ? "true" : "false");
  if (point->verified)
    g_key_file_set_int64(file, group, "verified", point->verified);
  if (point->damaged)
    g_key_file_set_int64(file, group, "damaged", point->damaged);
}

static void
put_disk(GKeyFile *file, const StorePointDisk *disk)
{
  g_autofree char *group = g_strconcat(DISK_PREFIX, disk->name, NULL);
  put_uuid(file, group, "id", &disk->disk_id);
  put_text(file, group, "path", disk->path ? disk->path : "");
  put_text(file, group, "bitmap", disk->bitmap ? disk->bitmap : "");
  g_key_file_set_uint64(file, group, "size", disk->manifest.size);
  put_chunk(file, group, "root", &disk->manifest.root);
  put_uuid(file, group, "parent", &disk->parent);
  put_text(file, group, "reason", disk->reason);
  g_key_file_set_uint64(file, group, "dirty", disk->dirty);
  g_key_file_set_uint64(file, group, "zero", disk->zero);
  g_key_file_set_uint64(file, group, "reused", disk->reused);
  g_key_file_set_uint64(file, group, "stored", disk->stored);
}

static void
put_config(GKeyFile *file, const StorePointConfig *config)
{
  g_autofree char *group = g_strconcat(CONFIG_PREFIX, config->name, NULL);
  put_chunk(file, group, "chunk", &config->id);
  g_key_file_set_uint64(file, group, "size", config->size);
}

char *
store_point_encode(const StorePoint *point, gsize *length)
{
  g_autoptr(GKeyFile) file = g_key_file_new();
  put_point(file, point);
  for (guint i = 0; i < point->disks->len; i++)
    put_disk(file, point->disks->pdata[i]);
  for (guint i = 0; i < point->configs->len; i++)
    put_config(file, point->configs->pdata[i]);
  g_autofree char *body = g_key_file_to_data(file, NULL, NULL);
  GString *text = g_string_new(HEADING);
  g_string_append(text, body);
  g_string_append_printf(text, CHECKSUM_PREFIX "%016" G_GINT64_MODIFIER "x\n",
                         cbt_checksum64(text->str, text->len));
  *length = text->len;
  return g_string_free(text, FALSE);
}

/* ---- decode: each getter names group and key in its error ---- */

static gboolean
wrong_value(const char *group, const char *key, GError **error)
{
  g_autofree char *shown = g_strescape(group, NULL);
  cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "key '%s' of group [%s] is missing or wrong", key, shown);
  return FALSE;
}

static gboolean
get_u64(GKeyFile *file, const char *group, const char *key, gboolean required, guint64 *value, GError **error)
{
  g_autofree char *text = g_key_file_get_value(file, group, key, NULL);
  if (!text && !required)
    return TRUE;
  if (text && g_ascii_string_to_unsigned(text, 10, 0, G_MAXINT64, value, NULL))
    return TRUE;
  return wrong_value(group, key, error);
}

static gboolean
get_time(GKeyFile *file, const char *group, const char *key, gboolean required, gint64 *value, GError **error)
{
  guint64 number = 0;
  if (!get_u64(file, group, key, required, &number, error))
    return FALSE;
  *value = (gint64) number;
  return TRUE;
}

static gboolean
get_text(GKeyFile *file, const char *group, const char *key, gboolean required, char **value, GError **error)
{
  g_autoptr(GError) wrong = NULL; /* an escape that is none gives both a text and an error */
  gboolean there = g_key_file_has_key(file, group, key, NULL);
  g_free(*value);
  *value = there ? g_key_file_get_string(file, group, key, &wrong) : NULL;
  return !wrong && (there || !required) ? TRUE : wrong_value(group, key, error);
}

static gboolean
get_uuid(GKeyFile *file, const char *group, const char *key, gboolean required, CbtUuid *uuid, GError **error)
{
  g_autofree char *text = g_key_file_get_value(file, group, key, NULL);
  if (!text && !required)
    return TRUE;
  return text && cbt_uuid_parse(text, uuid) ? TRUE : wrong_value(group, key, error);
}

static gboolean
get_chunk(GKeyFile *file, const char *group, const char *key, StoreChunkId *id, GError **error)
{
  g_autofree char *text = g_key_file_get_value(file, group, key, NULL);
  return text && store_chunk_id_parse(text, id) ? TRUE : wrong_value(group, key, error);
}

/* One of two words; *value is TRUE for the first. */
static gboolean
get_choice(GKeyFile *file, const char *group, const char *key, const char *if_true, const char *if_false,
           gboolean *value, GError **error)
{
  g_autofree char *text = g_key_file_get_value(file, group, key, NULL);
  *value = g_strcmp0(text, if_true) == 0;
  return *value || g_strcmp0(text, if_false) == 0 ? TRUE : wrong_value(group, key, error);
}

static gboolean
get_point(GKeyFile *file, StorePoint *point, GError **error)
{
  const char *group = "point";
  return get_uuid(file, group, "uuid", TRUE, &point->uuid, error) &&
         get_text(file, group, "vm", TRUE, &point->vm, error) &&
         get_choice(file, group, "kind", "incremental", "full", &point->incremental, error) &&
         get_uuid(file, group, "parent", FALSE, &point->parent, error) &&
         get_time(file, group, "time", TRUE, &point->time, error) &&
         get_text(file, group, "reason", FALSE, &point->reason, error) &&
         get_text(file, group, "note", FALSE, &point->note, error) &&
         get_choice(file, group, "protected", "true", "false", &point->is_protected, error) &&
         get_time(file, group, "verified", FALSE, &point->verified, error) &&
         get_time(file, group, "damaged", FALSE, &point->damaged, error);
}

static gboolean
get_disk(GKeyFile *file, const char *group, StorePoint *point, GError **error)
{
  StorePointDisk *disk = store_point_add_disk(point, group + strlen(DISK_PREFIX));
  return get_uuid(file, group, "id", FALSE, &disk->disk_id, error) &&
         get_text(file, group, "path", TRUE, &disk->path, error) &&
         get_text(file, group, "bitmap", TRUE, &disk->bitmap, error) &&
         get_u64(file, group, "size", TRUE, &disk->manifest.size, error) &&
         get_chunk(file, group, "root", &disk->manifest.root, error) &&
         get_uuid(file, group, "parent", FALSE, &disk->parent, error) &&
         get_text(file, group, "reason", FALSE, &disk->reason, error) &&
         get_u64(file, group, "dirty", TRUE, &disk->dirty, error) &&
         get_u64(file, group, "zero", TRUE, &disk->zero, error) &&
         get_u64(file, group, "reused", TRUE, &disk->reused, error) &&
         get_u64(file, group, "stored", TRUE, &disk->stored, error);
}

static gboolean
get_config(GKeyFile *file, const char *group, StorePoint *point, GError **error)
{
  StorePointConfig *config = store_point_add_config(point, group + strlen(CONFIG_PREFIX));
  return get_chunk(file, group, "chunk", &config->id, error) &&
         get_u64(file, group, "size", TRUE, &config->size, error);
}

static gboolean
get_groups(GKeyFile *file, StorePoint *point, GError **error)
{
  g_auto(GStrv) groups = g_key_file_get_groups(file, NULL);
  for (char **group = groups; *group; group++) {
    if (g_str_has_prefix(*group, DISK_PREFIX) && !get_disk(file, *group, point, error))
      return FALSE;
    if (g_str_has_prefix(*group, CONFIG_PREFIX) && !get_config(file, *group, point, error))
      return FALSE;
  }
  return TRUE;
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
load_key_file(const char *text, gsize length, GError **error)
{
  gsize body_length;
  if (length > STORE_POINT_LENGTH_MAX || !check_sum(text, length, &body_length)) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "the checksum of the recovery point does not fit its text");
    return NULL;
  }
  g_autoptr(GKeyFile) file = g_key_file_new();
  g_autofree char *first = NULL;
  if (!memchr(text, '\0', body_length) &&
      g_key_file_load_from_data(file, text, body_length, G_KEY_FILE_NONE, NULL))
    first = g_key_file_get_start_group(file);
  if (g_strcmp0(first, "point") != 0) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL,
                  "the recovery point is no key file that begins with [point]");
    return NULL;
  }
  return g_steal_pointer(&file);
}

static gboolean
check_version(GKeyFile *file, GError **error)
{
  guint64 version;
  if (!get_u64(file, "point", "format", TRUE, &version, error))
    return FALSE;
  if (version == FORMAT_VERSION)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_UNSUPPORTED, "Use the release of cbt-backup that wrote it, or a later one.",
                "the recovery point has format %" G_GUINT64_FORMAT ", this release reads %d", version,
                FORMAT_VERSION);
  return FALSE;
}

StorePoint *
store_point_decode(const char *text, gsize length, GError **error)
{
  g_autoptr(GKeyFile) file = load_key_file(text, length, error);
  if (!file || !check_version(file, error))
    return NULL;
  g_autoptr(StorePoint) point = store_point_new();
  g_autoptr(GError) reason = NULL;
  if (!get_point(file, point, error) || !get_groups(file, point, error))
    return NULL;
  if (!store_point_check(point, &reason)) {
    g_autofree char *message = cbt_error_message(reason);
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "%s", message);
    return NULL;
  }
  return g_steal_pointer(&point);
}
