/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <common/bytes.h>

#include <xxhash.h>

gboolean
cbt_is_zero(const void *data, gsize length)
{
  const char *bytes = data;
  if (length < 16) {
    for (gsize i = 0; i < length; i++)
      if (bytes[i] != 0)
        return FALSE;
    return TRUE;
  }
  /* If the first 16 bytes are zero and the rest equals what stands 16 bytes before it, all are: memcmp is the
   * fastest vector loop there is. Most non-zero clusters are told in the first bytes. */
  guint64 head[2];
  memcpy(head, bytes, sizeof head);
  return (head[0] | head[1]) == 0 && memcmp(bytes, bytes + 16, length - 16) == 0;
}

guint64
cbt_checksum64(const void *data, gsize length)
{
  return XXH3_64bits(data, length);
}
