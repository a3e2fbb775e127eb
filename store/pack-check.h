/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Examining one pack file from end to end: each record with its checksum, whatever the table says, and then whether the
 * table agrees. Reads only. Decompression and digests are not looked at.
 */
#pragma once

#include <store/pack.h>

/* A stretch in front of a good record, or of the table, that is no good record. */
typedef struct {
  guint64 offset; /* bytes */
  guint64 length;
} StorePackGap;

/* A record that should stand in a gap, as the table has it, or else what is left of its own header. */
typedef struct {
  StoreRecordInfo info;
  StoreLocation location;
} StorePackLost;

typedef struct {
  guint64 size;             /* of the file, bytes */
  gboolean header_is_sound;
  gboolean is_sealed;       /* it ends in a footer, sound or not */
  const char *table_error;  /* NULL: none, or it is no sealed pack */
  guint64 n_records;        /* good ones; of a group each chunk */
  GArray *gaps;             /* of StorePackGap */
  GArray *lost;             /* of StorePackLost */
  guint64 n_padding;        /* records with something else than zeros behind them */
  guint64 padding;          /* offset of the first such padding, bytes */
  guint64 torn;             /* bytes behind the last good record of a pack that is not sealed */
} StorePackCheck;

void store_pack_check_clear(StorePackCheck *check);
/* FUNC is called with each good record. Fails with NOT_FOUND or IO; CHECK is to be cleared in any case. */
gboolean store_pack_check(StorePackSet *set, guint32 number, StoreRecordFunc func, gpointer user_data,
                          StorePackCheck *check, GError **error) G_GNUC_WARN_UNUSED_RESULT;
