/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One persisted bitmap: a file, mapped shared, with two bit arrays (parent and successor) and a state.
 *
 * What it does: creates, opens and checks the file, moves it from state to state, each move one durable header
 * update. What it does not: it knows no other bitmaps of the disk (cbt/tracker.h does) and no backup jobs.
 *
 * Lifecycle: create or open, then cbt_bitmap_file_close(), which marks the file clean. A file freed or left by a
 * dying process without close is "unclean" at the next open; the same boot id says that its bits are exact
 * all the same (the kernel kept the pages); after another boot the regions that the disk's region log flags are dirty
 * (cbt/region-log.h, by way of the tracker), and without that log the bitmap is inconsistent.
 *
 * Threads: cbt_bitmap_file_record() from any number at once. Everything else needs that no one records meanwhile.
 * Format: cbt/bitmap-format.h and docs/formats/bitmap.md.
 */
#pragma once

#include <cbt/bitmap.h>
#include <common/file-ops.h>
#include <common/name.h>
#include <common/uuid.h>

typedef enum {
  CBT_BITMAP_ACTIVE,       /* records */
  CBT_BITMAP_DISABLED,     /* does not record */
  CBT_BITMAP_FROZEN,       /* the parent stands still for a backup, the successor records */
  CBT_BITMAP_INCONSISTENT, /* changes may be missing: bits mean nothing, but it records */
  CBT_N_BITMAP_STATES
} CbtBitmapState;

typedef enum {
  CBT_BITMAP_CREATE_SUCCESSOR, /* active or inconsistent -> frozen */
  CBT_BITMAP_ABDICATE,         /* frozen -> active: the successor's bits, based on the pending point */
  CBT_BITMAP_RECLAIM,          /* frozen -> active, or inconsistent if it was: parent |= successor */
  CBT_BITMAP_ENABLE,           /* disabled -> active */
  CBT_BITMAP_DISABLE,          /* active -> disabled; the base is lost, for what comes now is not seen */
  CBT_BITMAP_CLEAR,            /* active or disabled: all clean; the base is lost */
  CBT_BITMAP_MARK_INCONSISTENT, /* any -> inconsistent */
  CBT_N_BITMAP_EVENTS
} CbtBitmapEvent;

const char *cbt_bitmap_state_name(CbtBitmapState state); /* "active", ... */
const char *cbt_bitmap_event_name(CbtBitmapEvent event); /* "create-successor", ... */
/* The one transition function. FALSE where STATE does not take EVENT. INCONSISTENT_BASE: whether a frozen bitmap was
 * inconsistent before. */
gboolean cbt_bitmap_next_state(CbtBitmapState state, CbtBitmapEvent event, gboolean inconsistent_base,
                               CbtBitmapState *next);

/* Which disk, in what condition. Kept in each bitmap file and compared at open. */
typedef struct {
  CbtUuid disk_id;  /* given to the disk when it was registered */
  guint64 size;     /* bytes */
  guint64 device;   /* st_dev of a file, st_rdev of a block device */
  guint64 inode;    /* st_ino; 0 for a block device */
  gint64 mtime_ns;  /* last data change; of a block device its mark (cbt/block-mark.h) */
  gint64 ctime_ns;  /* last change of anything, which nobody can set back; 0 for a block device */
} CbtDiskIdentity;

/* What there is to say of a bitmap; also the wire form of cbt/control.h, so plain fixed-size fields. */
#define CBT_REASON_MAX 191
typedef struct {
  char name[CBT_NAME_MAX + 1];
  guint32 state;       /* CbtBitmapState */
  guint32 has_successor;
  guint64 granularity; /* bytes */
  guint64 size;        /* bytes of the disk */
  guint64 count;       /* dirty bytes of the parent */
  guint64 successor_count;
  guint64 generation;  /* goes up by one with every transition */
  CbtUuid base;        /* the recovery point that the bits are relative to; nil: none, an incremental cannot use them */
  CbtUuid pending;     /* the point that the freeze was for; nil unless frozen */
  char reason[CBT_REASON_MAX + 1]; /* why it has no base or is inconsistent; "" if it is good */
} CbtBitmapInfo;

typedef struct CbtBitmapFile CbtBitmapFile;

/*
 * A new file at PATH: active, all clean, no base. Errors: EXISTS, INVALID (name, granularity, size), NO_SPACE, IO.
 * The blocks of the file are allocated, so that setting a bit never fails for want of space.
 */
CbtBitmapFile *cbt_bitmap_file_create(const CbtFileOps *ops, const char *path, const char *name, guint64 granularity,
                                      const CbtDiskIdentity *disk, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/*
 * Opens and checks PATH for recording. Errors: NOT_FOUND; UNSUPPORTED (newer version); CORRUPT (magic, checksum, too
 * short); INCONSISTENT (of another disk id, another size, another inode, or the image changed since it was closed
 * clean: the message is the reason to show); IO.
 */
CbtBitmapFile *cbt_bitmap_file_open(const CbtFileOps *ops, const char *path, const CbtDiskIdentity *disk,
                                    GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Maps PATH read-only, whoever else has it open, to read frozen bits; takes whatever disk the file says. */
CbtBitmapFile *cbt_bitmap_file_open_readonly(const char *path, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Stamps DISK (its identity now) and the clean mark, durably. Nothing may be recorded behind it. */
gboolean cbt_bitmap_file_stamp(CbtBitmapFile *file, const CbtDiskIdentity *disk, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
/* Stamps DISK (its identity now) and the clean mark, makes all durable, and frees FILE, also on failure.
 * A read-only one is just freed; DISK may then be NULL. */
gboolean cbt_bitmap_file_close(CbtBitmapFile *file, const CbtDiskIdentity *disk, GError **error);
/* Frees without the clean mark, as a crash would leave it. */
void cbt_bitmap_file_abandon(CbtBitmapFile *file);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CbtBitmapFile, cbt_bitmap_file_abandon)

void cbt_bitmap_file_info(const CbtBitmapFile *file, CbtBitmapInfo *info);
/* The parent bits, and the successor's (NULL unless frozen). (transfer none); valid until the next transition. */
const CbtBitmap *cbt_bitmap_file_parent(const CbtBitmapFile *file);
const CbtBitmap *cbt_bitmap_file_successor(const CbtBitmapFile *file);

/* Marks the range dirty where new writes belong: the successor if there is one, else the parent; nothing if disabled. */
void cbt_bitmap_file_record(CbtBitmapFile *file, guint64 offset, guint64 length);
/*
 * Moves the file on, durably. PENDING is the point of a freeze (create-successor) or NULL; REASON goes with
 * mark-inconsistent. Errors: STATE names state and event; IO, NO_SPACE: then nothing has changed.
 */
gboolean cbt_bitmap_file_apply(CbtBitmapFile *file, CbtBitmapEvent event, const CbtUuid *pending, const char *reason,
                               GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* FILE |= SRC (its parent and successor bits), where new writes belong. STATE if FILE is inconsistent or SRC is. */
gboolean cbt_bitmap_file_merge(CbtBitmapFile *file, const CbtBitmapFile *src, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
