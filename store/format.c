/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Validity rule: magic, then version (a newer file is refused by its version, whatever else it holds), then
 * size and checksum. Write order: the file is replaced as a whole before the first pack is made, so packs
 * never stand without it; and before the first group is appended to a store of version 1.
 */
#include <store/format.h>

#include <common/bytes.h>
#include <common/error.h>
#include <string.h>
#include <errno.h>
#include <sys/random.h>

static const char damaged_hint[] =
    "Put the store's format file back from a copy; without its secret the chunks cannot be recognised.";

gboolean
store_format_generate(StoreFormat *format, GError **error)
{
  format->version = STORE_FORMAT_VERSION;
  format->uuid = cbt_uuid_generate();
  format->created = g_get_real_time();
  /* Up to 256 bytes come whole or not at all. */
  if (getrandom(format->secret, sizeof format->secret, 0) == (ssize_t) sizeof format->secret)
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot get random bytes for the store's secret");
  return FALSE;
}

void
store_format_encode(const StoreFormat *format, guint8 bytes[STORE_FORMAT_SIZE])
{
  memset(bytes, 0, STORE_FORMAT_SIZE);
  memcpy(bytes, STORE_FORMAT_MAGIC, STORE_FORMAT_AT_VERSION);
  cbt_put_u32(bytes + STORE_FORMAT_AT_VERSION, format->version);
  cbt_put_u32(bytes + STORE_FORMAT_AT_SIZE, STORE_FORMAT_SIZE);
  memcpy(bytes + STORE_FORMAT_AT_UUID, format->uuid.bytes, sizeof format->uuid.bytes);
  cbt_put_u64(bytes + STORE_FORMAT_AT_CREATED, (guint64) format->created);
  memcpy(bytes + STORE_FORMAT_AT_SECRET, format->secret, STORE_SECRET_SIZE);
  cbt_put_u64(bytes + STORE_FORMAT_AT_CHECKSUM, cbt_checksum64(bytes, STORE_FORMAT_AT_CHECKSUM));
}

static gboolean
bytes_are_sound(const guint8 *bytes, gsize length)
{
  return length == STORE_FORMAT_SIZE && cbt_get_u32(bytes + STORE_FORMAT_AT_VERSION) > 0 &&
         cbt_get_u32(bytes + STORE_FORMAT_AT_SIZE) == STORE_FORMAT_SIZE &&
         cbt_get_u64(bytes + STORE_FORMAT_AT_CHECKSUM) == cbt_checksum64(bytes, STORE_FORMAT_AT_CHECKSUM);
}

gboolean
store_format_decode(const guint8 *bytes, gsize length, const char *path, StoreFormat *format, GError **error)
{
  if (length < STORE_FORMAT_AT_SIZE || memcmp(bytes, STORE_FORMAT_MAGIC, STORE_FORMAT_AT_VERSION) != 0) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, damaged_hint, "%s is not a store's format file", path);
    return FALSE;
  }
  guint32 version = cbt_get_u32(bytes + STORE_FORMAT_AT_VERSION);
  if (version > STORE_FORMAT_VERSION) {
    cbt_set_error(
        error, CBT_ERROR_UNSUPPORTED, "Upgrade cbt-backup to a version that knows this store format.",
        "%s has store format version %u; this version reads up to %u", path, version, STORE_FORMAT_VERSION);
    return FALSE;
  }
  if (!bytes_are_sound(bytes, length)) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, damaged_hint, "%s is damaged", path);
    return FALSE;
  }
  format->version = version;
  memcpy(format->uuid.bytes, bytes + STORE_FORMAT_AT_UUID, sizeof format->uuid.bytes);
  format->created = (gint64) cbt_get_u64(bytes + STORE_FORMAT_AT_CREATED);
  memcpy(format->secret, bytes + STORE_FORMAT_AT_SECRET, STORE_SECRET_SIZE);
  return TRUE;
}

gboolean
store_format_save(const CbtFileOps *ops, const char *path, const StoreFormat *format, GError **error)
{
  guint8 bytes[STORE_FORMAT_SIZE];
  store_format_encode(format, bytes);
  return cbt_file_replace(ops, path, bytes, sizeof bytes, 0600, error);
}

gboolean
store_format_load(const CbtFileOps *ops, const char *path, StoreFormat *format, GError **error)
{
  gsize length = 0;
  g_autofree char *bytes = cbt_file_read(ops, path, 1 << 20, &length, error);
  return bytes && store_format_decode((const guint8 *) bytes, length, path, format, error);
}
