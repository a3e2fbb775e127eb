/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The blob table is filled as the original tool fills it: for each config its name and its data, then the
 * names of the devices. Decode takes nothing from the table but by offsets that were checked; an entry of a
 * config or device that points nowhere is damage, one that is all zero is none.
 */
#include <store/vma-format.h>

#include <common/bytes.h>
#include <common/error.h>

static void
config_free(gpointer data)
{
  StoreVmaConfig *config = data;
  g_free(config->name);
  g_free(config->data);
  g_free(config);
}

static void
device_free(gpointer data)
{
  StoreVmaDevice *device = data;
  g_free(device->name);
  g_free(device);
}

StoreVmaHeader *
store_vma_header_new(void)
{
  StoreVmaHeader *header = g_new0(StoreVmaHeader, 1);
  header->configs = g_ptr_array_new_with_free_func(config_free);
  header->devices = g_ptr_array_new_with_free_func(device_free);
  return header;
}

void
store_vma_header_free(StoreVmaHeader *header)
{
  if (!header)
    return;
  g_ptr_array_unref(header->configs);
  g_ptr_array_unref(header->devices);
  g_free(header);
}

void
store_vma_header_add_config(StoreVmaHeader *header, const char *name, const void *data, gsize size)
{
  StoreVmaConfig *config = g_new0(StoreVmaConfig, 1);
  config->name = g_strdup(name);
  config->data = g_memdup2(data, size);
  config->size = size;
  g_ptr_array_add(header->configs, config);
}

static void
add_device(StoreVmaHeader *header, guint8 id, const char *name, guint64 size)
{
  StoreVmaDevice *device = g_new0(StoreVmaDevice, 1);
  *device = (StoreVmaDevice){id, g_strdup(name), size};
  g_ptr_array_add(header->devices, device);
}

guint8
store_vma_header_add_device(StoreVmaHeader *header, const char *name, guint64 size)
{
  if (header->devices->len == STORE_VMA_DEVICE_MAX)
    return 0;
  guint8 id = (guint8) (header->devices->len + 1);
  add_device(header, id, name, size);
  return id;
}

const StoreVmaDevice *
store_vma_header_find_device(const StoreVmaHeader *header, guint8 id)
{
  for (guint i = 0; i < header->devices->len; i++) {
    const StoreVmaDevice *device = header->devices->pdata[i];
    if (device->id == id)
      return device;
  }
  return NULL;
}

gboolean
store_vma_device_is_state(const StoreVmaDevice *device)
{
  return strcmp(device->name, STORE_VMA_STATE_NAME) == 0;
}

/* MD5 of the header's LENGTH bytes with its own field zero. */
static void
sum_header(const guint8 *data, gsize length, guint8 sum[STORE_VMA_MD5_SIZE])
{
  static const guint8 zeros[STORE_VMA_MD5_SIZE];
  gsize sum_length = STORE_VMA_MD5_SIZE;
  g_autoptr(GChecksum) md5 = g_checksum_new(G_CHECKSUM_MD5);
  g_checksum_update(md5, data, STORE_VMA_AT_MD5);
  g_checksum_update(md5, zeros, sizeof zeros);
  g_checksum_update(md5, data + STORE_VMA_AT_BLOBS, (gssize) (length - STORE_VMA_AT_BLOBS));
  g_checksum_get_digest(md5, sum, &sum_length);
}

/* ---- encode ---- */

/* Appends a blob; returns its offset in the table. SIZE was checked. */
static guint32
put_blob(GByteArray *blobs, const void *data, gsize size)
{
  guint16 length = GUINT16_TO_LE((guint16) size);
  guint32 offset = blobs->len;
  g_byte_array_append(blobs, (const guint8 *) &length, sizeof length);
  g_byte_array_append(blobs, data, (guint) size);
  return offset;
}

static gboolean
check_name(const char *what, const char *name, GError **error)
{
  if (*name && strlen(name) < STORE_VMA_BLOB_MAX)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, NULL, "a %s of a VMA archive needs a name of 1 to %u bytes", what,
                STORE_VMA_BLOB_MAX - 1);
  return FALSE;
}

static gboolean
put_configs(const StoreVmaHeader *header, guint8 *fixed, GByteArray *blobs, GError **error)
{
  if (header->configs->len > STORE_VMA_N_CONFIGS) {
    cbt_set_error(error, CBT_ERROR_TOO_LARGE, NULL, "a VMA archive holds at most %u configuration files",
                  STORE_VMA_N_CONFIGS);
    return FALSE;
  }
  for (guint i = 0; i < header->configs->len; i++) {
    const StoreVmaConfig *config = header->configs->pdata[i];
    if (!check_name("configuration file", config->name, error))
      return FALSE;
    if (config->size > STORE_VMA_BLOB_MAX) {
      cbt_set_error(error, CBT_ERROR_TOO_LARGE, NULL,
                    "configuration file '%s' has %zu bytes, a VMA archive takes %u", config->name,
                    config->size, STORE_VMA_BLOB_MAX);
      return FALSE;
    }
    cbt_put_be32(fixed + STORE_VMA_AT_CONFIG_NAMES + 4 * i,
                 put_blob(blobs, config->name, strlen(config->name) + 1));
    cbt_put_be32(fixed + STORE_VMA_AT_CONFIG_DATA + 4 * i, put_blob(blobs, config->data, config->size));
  }
  return TRUE;
}

static gboolean
put_devices(const StoreVmaHeader *header, guint8 *fixed, GByteArray *blobs, GError **error)
{
  for (guint i = 0; i < header->devices->len; i++) {
    const StoreVmaDevice *device = header->devices->pdata[i];
    guint8 *info = fixed + STORE_VMA_AT_DEVICES + device->id * STORE_VMA_DEVICE_SIZE;
    if (!check_name("disk", device->name, error))
      return FALSE;
    if (device->size > STORE_VMA_DISK_SIZE_MAX) {
      cbt_set_error(error, CBT_ERROR_TOO_LARGE, "Use another format.",
                    "disk '%s' has %" G_GUINT64_FORMAT " bytes, a VMA archive takes 2^48", device->name,
                    device->size);
      return FALSE;
    }
    cbt_put_be32(info + STORE_VMA_DEVICE_AT_NAME, put_blob(blobs, device->name, strlen(device->name) + 1));
    cbt_put_be64(info + STORE_VMA_DEVICE_AT_SIZE, cbt_round_up(device->size, 512));
  }
  return TRUE;
}

guint8 *
store_vma_header_encode(const StoreVmaHeader *header, gsize *length, GError **error)
{
  g_autofree guint8 *fixed = g_malloc0(STORE_VMA_HEADER_SIZE_MIN);
  g_autoptr(GByteArray) blobs = g_byte_array_new();
  static const guint8 unused[1];
  g_byte_array_append(blobs, unused, sizeof unused);
  if (header->configs->len + header->devices->len == 0) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "a VMA archive needs a disk or a configuration file");
    return NULL;
  }
  if (!put_configs(header, fixed, blobs, error) || !put_devices(header, fixed, blobs, error))
    return NULL;
  gsize total =
      (gsize) cbt_round_up(STORE_VMA_HEADER_SIZE_MIN + (guint64) blobs->len, STORE_VMA_HEADER_SIZE_UNIT);
  if (total > STORE_VMA_HEADER_SIZE_WRITTEN) {
    cbt_set_error(error, CBT_ERROR_TOO_LARGE, "Leave some configuration files out.",
                  "the header of the VMA archive would have %zu bytes, more than %u", total,
                  STORE_VMA_HEADER_SIZE_WRITTEN);
    return NULL;
  }
  memcpy(fixed, STORE_VMA_MAGIC, STORE_VMA_MAGIC_SIZE);
  cbt_put_be32(fixed + STORE_VMA_AT_VERSION, STORE_VMA_VERSION);
  memcpy(fixed + STORE_VMA_AT_UUID, header->uuid.bytes, sizeof header->uuid.bytes);
  cbt_put_be64(fixed + STORE_VMA_AT_TIME, (guint64) header->time);
  cbt_put_be32(fixed + STORE_VMA_AT_BLOBS, STORE_VMA_HEADER_SIZE_MIN);
  cbt_put_be32(fixed + STORE_VMA_AT_BLOBS_SIZE, blobs->len);
  cbt_put_be32(fixed + STORE_VMA_AT_HEADER_SIZE, (guint32) total);
  guint8 *data = g_malloc0(total);
  memcpy(data, fixed, STORE_VMA_HEADER_SIZE_MIN);
  memcpy(data + STORE_VMA_HEADER_SIZE_MIN, blobs->data, blobs->len);
  sum_header(data, total, data + STORE_VMA_AT_MD5);
  *length = total;
  return data;
}

/* ---- decode ---- */

static gboolean
fail(GError **error, const char *what)
{
  cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "%s", what);
  return FALSE;
}

gsize
store_vma_header_peek(const guint8 *data, GError **error)
{
  guint32 length = cbt_get_be32(data + STORE_VMA_AT_HEADER_SIZE);
  if (memcmp(data, STORE_VMA_MAGIC, STORE_VMA_MAGIC_SIZE) != 0)
    return (gsize) fail(error, "this is no VMA archive");
  if (length <= STORE_VMA_HEADER_SIZE_MIN || length > STORE_VMA_HEADER_SIZE_READ)
    return (gsize) fail(error, "the size of the archive's header is wrong");
  return length;
}

typedef struct {
  const guint8 *data; /* the blob table */
  guint32 size;
} Blobs;

static gboolean
find_blobs(const guint8 *data, gsize length, Blobs *blobs, GError **error)
{
  guint32 offset = cbt_get_be32(data + STORE_VMA_AT_BLOBS);
  blobs->size = cbt_get_be32(data + STORE_VMA_AT_BLOBS_SIZE);
  if (offset < STORE_VMA_HEADER_SIZE_MIN || !cbt_range_fits(offset, blobs->size, length))
    return fail(error, "the archive's blob table lies outside its header");
  blobs->data = data + offset;
  return TRUE;
}

/* NULL if OFFSET leads to no blob. */
static const guint8 *
get_blob(const Blobs *blobs, guint32 offset, gsize *size)
{
  if (offset == 0 || !cbt_range_fits(offset, 2, blobs->size))
    return NULL;
  *size = cbt_get_u16(blobs->data + offset);
  return cbt_range_fits((guint64) offset + 2, *size, blobs->size) ? blobs->data + offset + 2 : NULL;
}

/* A name that ends in its only NUL and is not empty; else NULL. */
static const char *
get_name(const Blobs *blobs, guint32 offset)
{
  gsize size;
  const guint8 *name = get_blob(blobs, offset, &size);
  return name && size > 1 && memchr(name, '\0', size) == name + size - 1 ? (const char *) name : NULL;
}

static gboolean
get_configs(StoreVmaHeader *header, const guint8 *data, const Blobs *blobs, GError **error)
{
  for (guint i = 0; i < STORE_VMA_N_CONFIGS; i++) {
    guint32 name_at = cbt_get_be32(data + STORE_VMA_AT_CONFIG_NAMES + 4 * i);
    guint32 data_at = cbt_get_be32(data + STORE_VMA_AT_CONFIG_DATA + 4 * i);
    if (name_at == 0 && data_at == 0)
      continue;
    gsize size;
    const char *name = get_name(blobs, name_at);
    const guint8 *content = get_blob(blobs, data_at, &size);
    if (!name || !content)
      return fail(error, "the archive's header names a configuration file that is not there");
    store_vma_header_add_config(header, name, content, size);
  }
  return TRUE;
}

static gboolean
check_device(const StoreVmaHeader *header, const char *name, guint64 size, GError **error)
{
  if (!name)
    return fail(error, "the archive's header has a disk without a name");
  if (size > STORE_VMA_DISK_SIZE_MAX)
    return fail(error, "the archive's header has a disk of an impossible size");
  for (guint i = 0; i < header->devices->len; i++)
    if (strcmp(((StoreVmaDevice *) header->devices->pdata[i])->name, name) == 0)
      return fail(error, "the archive's header has two disks of one name");
  return TRUE;
}

static gboolean
get_devices(StoreVmaHeader *header, const guint8 *data, const Blobs *blobs, GError **error)
{
  for (guint id = 1; id <= STORE_VMA_DEVICE_MAX; id++) {
    const guint8 *info = data + STORE_VMA_AT_DEVICES + id * STORE_VMA_DEVICE_SIZE;
    guint32 name_at = cbt_get_be32(info + STORE_VMA_DEVICE_AT_NAME);
    guint64 size = cbt_get_be64(info + STORE_VMA_DEVICE_AT_SIZE);
    if (size == 0) /* as the original does, whatever its name */
      continue;
    const char *name = get_name(blobs, name_at);
    if (!check_device(header, name, size, error))
      return FALSE;
    add_device(header, (guint8) id, name, size);
  }
  return TRUE;
}

static gboolean
check_version(const guint8 *data, GError **error)
{
  guint32 version = cbt_get_be32(data + STORE_VMA_AT_VERSION);
  if (version == STORE_VMA_VERSION)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_UNSUPPORTED, NULL, "the archive has version %u, only %u is known", version,
                STORE_VMA_VERSION);
  return FALSE;
}

StoreVmaHeader *
store_vma_header_decode(const guint8 *data, gsize length, GError **error)
{
  guint8 sum[STORE_VMA_MD5_SIZE];
  Blobs blobs;
  g_assert(length > STORE_VMA_HEADER_SIZE_MIN);
  sum_header(data, length, sum);
  if (memcmp(data + STORE_VMA_AT_MD5, sum, sizeof sum) != 0) {
    fail(error, "the checksum of the archive's header does not fit");
    return NULL;
  }
  g_autoptr(StoreVmaHeader) header = store_vma_header_new();
  memcpy(header->uuid.bytes, data + STORE_VMA_AT_UUID, sizeof header->uuid.bytes);
  header->time = (gint64) cbt_get_be64(data + STORE_VMA_AT_TIME);
  if (!check_version(data, error) || !find_blobs(data, length, &blobs, error) ||
      !get_configs(header, data, &blobs, error) || !get_devices(header, data, &blobs, error))
    return NULL;
  if (header->configs->len + header->devices->len == 0) {
    fail(error, "the archive has neither a disk nor a configuration file");
    return NULL;
  }
  return g_steal_pointer(&header);
}
