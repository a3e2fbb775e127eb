/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* UUIDs as a struct type; the nil UUID means "none". */
#pragma once

#include <glib.h>

typedef struct {
  guint8 bytes[16];
} CbtUuid;

#define CBT_UUID_TEXT_SIZE 37 /* with the NUL */

CbtUuid cbt_uuid_generate(void);
/* FALSE if TEXT is no UUID in its usual form. */
gboolean cbt_uuid_parse(const char *text, CbtUuid *uuid);
/* Writes the lower-case form into TEXT and returns TEXT. */
const char *cbt_uuid_format(const CbtUuid *uuid, char text[CBT_UUID_TEXT_SIZE]);
gboolean cbt_uuid_equal(const CbtUuid *a, const CbtUuid *b);
gboolean cbt_uuid_is_nil(const CbtUuid *uuid);
