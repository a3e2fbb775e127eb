/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <common/uuid.h>

#include <string.h>
#include <uuid/uuid.h>

CbtUuid
cbt_uuid_generate(void)
{
  CbtUuid uuid;
  uuid_generate(uuid.bytes);
  return uuid;
}

gboolean
cbt_uuid_parse(const char *text, CbtUuid *uuid)
{
  return uuid_parse(text, uuid->bytes) == 0;
}

const char *
cbt_uuid_format(const CbtUuid *uuid, char text[CBT_UUID_TEXT_SIZE])
{
  uuid_unparse_lower(uuid->bytes, text);
  return text;
}

gboolean
cbt_uuid_equal(const CbtUuid *a, const CbtUuid *b)
{
  return memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

gboolean
cbt_uuid_is_nil(const CbtUuid *uuid)
{
  return uuid_is_null(uuid->bytes) != 0;
}
