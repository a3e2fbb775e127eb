/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Header slots of a bitmap file to bytes and back. No I/O; every field from outside is checked here, once. */
#include <cbt/bitmap-format.h>

#include <common/bytes.h>
#include <common/error.h>

static guint64
take(guint64 *at, guint64 size)
{
  guint64 offset = *at;
  *at += cbt_round_up(size, CBT_BITMAP_PAGE);
  return offset;
}

void
cbt_bitmap_layout_init(CbtBitmapLayout *layout, guint64 size, guint64 granularity)
{
  guint64 at = CBT_BITMAP_N_SLOTS * CBT_BITMAP_PAGE;
  guint64 n_regions = cbt_div_up(size, CBT_BITMAP_REGION_SIZE);
  layout->words_size = cbt_bitmap_n_words(size, granularity) * sizeof(guint64);
  layout->summary_size = cbt_bitmap_n_summary_words(size, granularity) * sizeof(guint64);
  layout->regions_size = cbt_div_up(n_regions, 64) * sizeof(guint64);
  for (guint i = 0; i < 2; i++)
    layout->words[i] = take(&at, layout->words_size);
  for (guint i = 0; i < 2; i++)
    layout->summary[i] = take(&at, layout->summary_size);
  layout->regions = take(&at, layout->regions_size);
  layout->file_size = at;
}

static void
encode_layout(const CbtBitmapHeader *header, guint8 *page)
{
  CbtBitmapLayout layout;
  cbt_bitmap_layout_init(&layout, header->disk.size, header->granularity);
  for (guint i = 0; i < 2; i++) {
    cbt_put_u64(page + CBT_BITMAP_AT_WORDS + 8 * i, layout.words[i]);
    cbt_put_u64(page + CBT_BITMAP_AT_SUMMARY + 8 * i, layout.summary[i]);
  }
  cbt_put_u64(page + CBT_BITMAP_AT_WORDS_SIZE, layout.words_size);
  cbt_put_u64(page + CBT_BITMAP_AT_SUMMARY_SIZE, layout.summary_size);
  cbt_put_u64(page + CBT_BITMAP_AT_REGIONS, layout.regions);
  cbt_put_u64(page + CBT_BITMAP_AT_REGIONS_SIZE, layout.regions_size);
  cbt_put_u64(page + CBT_BITMAP_AT_FILE_SIZE, layout.file_size);
}

static void
encode_identity(const CbtBitmapHeader *header, guint8 *page)
{
  memcpy(page + CBT_BITMAP_AT_BOOT_ID, header->boot_id.bytes, sizeof header->boot_id.bytes);
  memcpy(page + CBT_BITMAP_AT_LOG_ID, header->log_id.bytes, sizeof header->log_id.bytes);
  memcpy(page + CBT_BITMAP_AT_FILE_ID, header->file_id.bytes, sizeof header->file_id.bytes);
  memcpy(page + CBT_BITMAP_AT_DISK_ID, header->disk.disk_id.bytes, sizeof header->disk.disk_id.bytes);
  cbt_put_u64(page + CBT_BITMAP_AT_DISK_SIZE, header->disk.size);
  cbt_put_u64(page + CBT_BITMAP_AT_DEVICE, header->disk.device);
  cbt_put_u64(page + CBT_BITMAP_AT_INODE, header->disk.inode);
  cbt_put_u64(page + CBT_BITMAP_AT_MTIME, (guint64) header->disk.mtime_ns);
  cbt_put_u64(page + CBT_BITMAP_AT_CTIME, (guint64) header->disk.ctime_ns);
}

void
cbt_bitmap_header_encode(const CbtBitmapHeader *header, guint8 page[CBT_BITMAP_PAGE])
{
  memset(page, 0, CBT_BITMAP_PAGE);
  memcpy(page + CBT_BITMAP_AT_MAGIC, CBT_BITMAP_MAGIC, 8);
  cbt_put_u32(page + CBT_BITMAP_AT_VERSION, CBT_BITMAP_VERSION);
  cbt_put_u32(page + CBT_BITMAP_AT_HEADER_SIZE, CBT_BITMAP_PAGE);
  cbt_put_u64(page + CBT_BITMAP_AT_SEQUENCE, header->sequence);
  cbt_put_u64(page + CBT_BITMAP_AT_GENERATION, header->generation);
  cbt_put_u32(page + CBT_BITMAP_AT_STATE, (guint32) header->state);
  cbt_put_u32(page + CBT_BITMAP_AT_FLAGS,
              (header->clean ? CBT_BITMAP_FLAG_CLEAN : 0) |
                  (header->inconsistent_base ? CBT_BITMAP_FLAG_INCONSISTENT_BASE : 0));
  cbt_put_u32(page + CBT_BITMAP_AT_PARENT, header->parent);
  cbt_put_u64(page + CBT_BITMAP_AT_GRANULARITY, header->granularity);
  cbt_put_u64(page + CBT_BITMAP_AT_REGION_SIZE, CBT_BITMAP_REGION_SIZE);
  encode_identity(header, page);
  memcpy(page + CBT_BITMAP_AT_BASE, header->base.bytes, sizeof header->base.bytes);
  memcpy(page + CBT_BITMAP_AT_PENDING, header->pending.bytes, sizeof header->pending.bytes);
  g_strlcpy((char *) page + CBT_BITMAP_AT_NAME, header->name, sizeof header->name);
  g_strlcpy((char *) page + CBT_BITMAP_AT_REASON, header->reason, sizeof header->reason);
  encode_layout(header, page);
  cbt_put_u64(page + CBT_BITMAP_AT_CHECKSUM, cbt_checksum64(page, CBT_BITMAP_AT_CHECKSUM));
}

/* Copies a NUL-padded field: nothing but NUL may stand behind the first one. */
static gboolean
decode_text(const guint8 *at, gsize size, char *text)
{
  gsize length = strnlen((const char *) at, size);
  if (length == size || !cbt_is_zero(at + length, size - length))
    return FALSE;
  memcpy(text, at, size);
  return g_utf8_validate(text, (gssize) length, NULL);
}

static void
decode_identity(const guint8 *page, CbtBitmapHeader *header)
{
  memcpy(header->boot_id.bytes, page + CBT_BITMAP_AT_BOOT_ID, sizeof header->boot_id.bytes);
  memcpy(header->log_id.bytes, page + CBT_BITMAP_AT_LOG_ID, sizeof header->log_id.bytes);
  memcpy(header->file_id.bytes, page + CBT_BITMAP_AT_FILE_ID, sizeof header->file_id.bytes);
  memcpy(header->disk.disk_id.bytes, page + CBT_BITMAP_AT_DISK_ID, sizeof header->disk.disk_id.bytes);
  header->disk.size = cbt_get_u64(page + CBT_BITMAP_AT_DISK_SIZE);
  header->disk.device = cbt_get_u64(page + CBT_BITMAP_AT_DEVICE);
  header->disk.inode = cbt_get_u64(page + CBT_BITMAP_AT_INODE);
  header->disk.mtime_ns = (gint64) cbt_get_u64(page + CBT_BITMAP_AT_MTIME);
  header->disk.ctime_ns = (gint64) cbt_get_u64(page + CBT_BITMAP_AT_CTIME);
}

/* NULL, or what is wrong with the numbers. */
static const char *
decode_numbers(const guint8 *page, CbtBitmapHeader *header)
{
  guint32 state = cbt_get_u32(page + CBT_BITMAP_AT_STATE);
  guint32 flags = cbt_get_u32(page + CBT_BITMAP_AT_FLAGS);
  header->sequence = cbt_get_u64(page + CBT_BITMAP_AT_SEQUENCE);
  header->generation = cbt_get_u64(page + CBT_BITMAP_AT_GENERATION);
  header->parent = cbt_get_u32(page + CBT_BITMAP_AT_PARENT);
  header->granularity = cbt_get_u64(page + CBT_BITMAP_AT_GRANULARITY);
  decode_identity(page, header);
  if (header->sequence > G_MAXINT64 || header->generation > G_MAXINT64)
    return "sequence";
  if (state >= CBT_N_BITMAP_STATES)
    return "state";
  if ((flags & ~CBT_BITMAP_FLAGS_KNOWN) != 0)
    return "flags";
  if (header->parent > 1)
    return "parent";
  if (!cbt_granularity_is_valid(header->granularity))
    return "granularity";
  if (header->disk.size == 0 || header->disk.size > CBT_DISK_SIZE_MAX)
    return "disk size";
  header->state = (CbtBitmapState) state;
  header->clean = (flags & CBT_BITMAP_FLAG_CLEAN) != 0;
  header->inconsistent_base = (flags & CBT_BITMAP_FLAG_INCONSISTENT_BASE) != 0;
  return NULL;
}

/* NULL, or what does not go together. */
static const char *
check_meaning(const CbtBitmapHeader *header)
{
  gboolean frozen = header->state == CBT_BITMAP_FROZEN;
  if (!frozen && (header->inconsistent_base || !cbt_uuid_is_nil(&header->pending)))
    return "pending point";
  gboolean baseless = header->state == CBT_BITMAP_DISABLED || header->state == CBT_BITMAP_INCONSISTENT ||
                      header->inconsistent_base;
  if (baseless && !cbt_uuid_is_nil(&header->base))
    return "base point";
  return NULL;
}

static const char *
decode_fields(const guint8 *page, CbtBitmapHeader *header)
{
  const char *wrong = decode_numbers(page, header);
  if (wrong != NULL)
    return wrong;
  memcpy(header->base.bytes, page + CBT_BITMAP_AT_BASE, sizeof header->base.bytes);
  memcpy(header->pending.bytes, page + CBT_BITMAP_AT_PENDING, sizeof header->pending.bytes);
  if (!decode_text(page + CBT_BITMAP_AT_NAME, sizeof header->name, header->name) ||
      !cbt_name_is_valid(header->name))
    return "name";
  if (!decode_text(page + CBT_BITMAP_AT_REASON, sizeof header->reason, header->reason))
    return "reason";
  return check_meaning(header);
}

/* Version 1 has no freedom in its layout: what the fields say must be what an encoder writes, byte for byte.
 * That covers offsets, sizes, reserved fields and padding. */
static gboolean
is_canonical(const guint8 *page, const CbtBitmapHeader *header)
{
  guint8 again[CBT_BITMAP_PAGE];
  cbt_bitmap_header_encode(header, again);
  return memcmp(page, again, CBT_BITMAP_PAGE) == 0;
}

gboolean
cbt_bitmap_header_decode(const guint8 page[CBT_BITMAP_PAGE], CbtBitmapHeader *header, GError **error)
{
  memset(header, 0, sizeof *header);
  if (memcmp(page + CBT_BITMAP_AT_MAGIC, CBT_BITMAP_MAGIC, 8) != 0) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "not a bitmap file");
    return FALSE;
  }
  if (cbt_get_u64(page + CBT_BITMAP_AT_CHECKSUM) != cbt_checksum64(page, CBT_BITMAP_AT_CHECKSUM)) {
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "the header fails its checksum");
    return FALSE;
  }
  guint32 version = cbt_get_u32(page + CBT_BITMAP_AT_VERSION);
  if (version > CBT_BITMAP_VERSION) {
    cbt_set_error(error, CBT_ERROR_UNSUPPORTED, "Upgrade, or remove the bitmap and make a full backup.",
                  "bitmap format version %u is newer than %u", version, CBT_BITMAP_VERSION);
    return FALSE;
  }
  const char *wrong = decode_fields(page, header);
  if (wrong == NULL && !is_canonical(page, header))
    wrong = "layout";
  if (wrong != NULL)
    cbt_set_error(error, CBT_ERROR_CORRUPT, NULL, "the header has an impossible %s", wrong);
  return wrong == NULL;
}

gboolean
cbt_bitmap_header_choose(const guint8 pages[CBT_BITMAP_N_SLOTS * CBT_BITMAP_PAGE], CbtBitmapHeader *header,
                         guint *slot, GError **error)
{
  gboolean found = FALSE;
  g_autoptr(GError) first_error = NULL;
  for (guint i = 0; i < CBT_BITMAP_N_SLOTS; i++) {
    CbtBitmapHeader candidate;
    g_autoptr(GError) local = NULL;
    if (!cbt_bitmap_header_decode(pages + i * CBT_BITMAP_PAGE, &candidate, &local)) {
      if (g_error_matches(local, CBT_ERROR, CBT_ERROR_UNSUPPORTED)) {
        g_propagate_error(error, g_steal_pointer(&local));
        return FALSE;
      }
      if (first_error == NULL)
        first_error = g_steal_pointer(&local);
    } else if (!found || candidate.sequence > header->sequence) {
      *header = candidate;
      *slot = i;
      found = TRUE;
    }
  }
  if (!found)
    g_propagate_error(error, g_steal_pointer(&first_error));
  return found;
}
