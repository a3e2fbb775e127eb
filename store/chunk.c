/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The digest is XXH3-128 with the store's 192 bytes of secret, in its canonical (big-endian) form, so that
 * the leading bytes are the same on every machine. Its last byte gives way to the ordinal.
 */
#include <store/chunk.h>

#include <string.h>
#include <xxhash.h>

#define ORDINAL (STORE_CHUNK_ID_SIZE - 1)

_Static_assert(sizeof(StoreChunkId) == STORE_CHUNK_ID_SIZE, "ids are compared and stored as bytes");
_Static_assert(STORE_SECRET_SIZE >= XXH3_SECRET_SIZE_MIN, "XXH3 asks for this much secret");

StoreChunkId
store_chunk_id(const guint8 secret[STORE_SECRET_SIZE], const void *data, gsize length)
{
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_withSecret(data, length, secret, STORE_SECRET_SIZE));
  StoreChunkId id;
  memcpy(id.bytes, canonical.digest, ORDINAL);
  id.bytes[ORDINAL] = 0;
  if (store_chunk_id_is_zero(&id))
    id.bytes[ORDINAL] = 1;
  return id;
}

gboolean
store_chunk_id_is_zero(const StoreChunkId *id)
{
  static const StoreChunkId zero;
  return store_chunk_id_equal(id, &zero);
}

gboolean
store_chunk_id_equal(const StoreChunkId *a, const StoreChunkId *b)
{
  return memcmp(a->bytes, b->bytes, STORE_CHUNK_ID_SIZE) == 0;
}

const char *
store_chunk_id_format(const StoreChunkId *id, char text[STORE_CHUNK_ID_TEXT_SIZE])
{
  static const char digits[] = "0123456789abcdef";
  for (guint i = 0; i < STORE_CHUNK_ID_SIZE; i++) {
    text[2 * i] = digits[id->bytes[i] >> 4];
    text[2 * i + 1] = digits[id->bytes[i] & 15];
  }
  text[STORE_CHUNK_ID_TEXT_SIZE - 1] = '\0';
  return text;
}

gboolean
store_chunk_id_parse(const char *text, StoreChunkId *id)
{
  if (strlen(text) != STORE_CHUNK_ID_TEXT_SIZE - 1)
    return FALSE;
  for (guint i = 0; i < STORE_CHUNK_ID_SIZE; i++) {
    int high = g_ascii_xdigit_value(text[2 * i]);
    int low = g_ascii_xdigit_value(text[2 * i + 1]);
    if (high < 0 || low < 0)
      return FALSE;
    id->bytes[i] = (guint8) (high << 4 | low);
  }
  return TRUE;
}

guint
store_chunk_id_hash(gconstpointer id)
{
  guint hash;
  memcpy(&hash, id, sizeof hash);
  return hash;
}

gboolean
store_chunk_id_hash_equal(gconstpointer a, gconstpointer b)
{
  return store_chunk_id_equal(a, b);
}
