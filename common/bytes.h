/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Checked arithmetic, little-endian fields, and big-endian ones.
 *
 * On-disk integers are converted in encode and decode functions only, through these; offsets into the buffer
 * are the caller's named constants.
 */
#pragma once

#include <glib.h>
#include <string.h>

static inline guint64
cbt_div_up(guint64 value, guint64 unit)
{
  return value / unit + (value % unit != 0);
}

/* VALUE up to the next multiple of UNIT; the caller knows that it does not overflow. */
static inline guint64
cbt_round_up(guint64 value, guint64 unit)
{
  return cbt_div_up(value, unit) * unit;
}

static inline guint64
cbt_round_down(guint64 value, guint64 unit)
{
  return value - value % unit;
}

static inline gboolean
cbt_is_power_of_two(guint64 value)
{
  return value != 0 && (value & (value - 1)) == 0;
}

/* TRUE if [offset, offset + length) lies inside [0, size). */
static inline gboolean
cbt_range_fits(guint64 offset, guint64 length, guint64 size)
{
  return offset <= size && length <= size - offset;
}

static inline void
cbt_put_u16(guint8 *at, guint16 value)
{
  guint16 le = GUINT16_TO_LE(value);
  memcpy(at, &le, sizeof le);
}

static inline void
cbt_put_u32(guint8 *at, guint32 value)
{
  guint32 le = GUINT32_TO_LE(value);
  memcpy(at, &le, sizeof le);
}

static inline void
cbt_put_u64(guint8 *at, guint64 value)
{
  guint64 le = GUINT64_TO_LE(value);
  memcpy(at, &le, sizeof le);
}

static inline guint16
cbt_get_u16(const guint8 *at)
{
  guint16 le;
  memcpy(&le, at, sizeof le);
  return GUINT16_FROM_LE(le);
}

static inline guint32
cbt_get_u32(const guint8 *at)
{
  guint32 le;
  memcpy(&le, at, sizeof le);
  return GUINT32_FROM_LE(le);
}

static inline guint64
cbt_get_u64(const guint8 *at)
{
  guint64 le;
  memcpy(&le, at, sizeof le);
  return GUINT64_FROM_LE(le);
}

/* Big-endian, for formats of others. */

static inline void
cbt_put_be16(guint8 *at, guint16 value)
{
  guint16 be = GUINT16_TO_BE(value);
  memcpy(at, &be, sizeof be);
}

static inline guint16
cbt_get_be16(const guint8 *at)
{
  guint16 be;
  memcpy(&be, at, sizeof be);
  return GUINT16_FROM_BE(be);
}

static inline void
cbt_put_be32(guint8 *at, guint32 value)
{
  guint32 be = GUINT32_TO_BE(value);
  memcpy(at, &be, sizeof be);
}

static inline guint32
cbt_get_be32(const guint8 *at)
{
  guint32 be;
  memcpy(&be, at, sizeof be);
  return GUINT32_FROM_BE(be);
}

static inline void
cbt_put_be64(guint8 *at, guint64 value)
{
  guint64 be = GUINT64_TO_BE(value);
  memcpy(at, &be, sizeof be);
}

static inline guint64
cbt_get_be64(const guint8 *at)
{
  guint64 be;
  memcpy(&be, at, sizeof be);
  return GUINT64_FROM_BE(be);
}

/* TRUE if all LENGTH bytes are zero. LENGTH is any number; speed is memory speed for large ones. */
gboolean cbt_is_zero(const void *data, gsize length);
/* XXH3-64 without a secret: the checksum of every on-disk header. It finds damage, not tampering. */
guint64 cbt_checksum64(const void *data, gsize length);
