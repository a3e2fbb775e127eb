/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inside of a bitmap file, for bitmap-file.c, bitmap-transition.c, tracker.c and the tests. */
#pragma once

#include <cbt/bitmap-format.h>
#include <cbt/region-log.h>
#include <cbt/witness.h>

struct CbtBitmapFile {
  /* constant after creation */
  const CbtFileOps *ops;
  char *path;
  int fd;
  gboolean writable;
  CbtBitmapLayout layout;
  guint8 *map; /* from the first bit array to the end of the file */
  gsize map_length;
  CbtBitmap *bits[2];
  /* changed by transitions, while nobody records */
  gboolean is_from_this_boot; /* when it was opened, somebody had made or altered it since the host started */
  gboolean settled;    /* when it was opened, nothing that was ever written to the disk could still be lost */
  CbtWitness *witness; /* NULL: none, see cbt/witness.h */
  char *temporary;     /* where the file stands until it is published; NULL then */
  CbtBitmapHeader header; /* as it is in the file */
  guint slot;             /* the slot that is known to be durable; the other one is written next */
  CbtBitmap *recording;   /* the array that new writes go to; NULL if none */
  CbtBitmap *also; /* the other one too, while either header may be the one that the disk has; else NULL */
  gboolean header_unknown; /* a write of the other slot failed, and could not be taken back */
  gboolean header_waits;   /* the header is in the other slot, and not yet durable there */
  gboolean sync_failed;    /* the kernel may have forgotten which pages are dirty */
};

/* One boot of the host. Tests make up others. */
typedef struct {
  CbtUuid id;        /* nil if it cannot be told */
  gint64 started_ns; /* since 1970 */
} CbtBoot;
CbtBoot cbt_boot_now(void);

/* What a file is taken into use with. */
typedef struct {
  CbtBoot boot;
  CbtRegionLog *log; /* (transfer none) of the disk; NULL: none, a power cut makes the bitmap inconsistent */
  /* (transfer none) folder of the witnesses; NULL: none, what a killed process left is believed */
  const char *witness_directory;
} CbtBitmapUse;

/* cbt_bitmap_file_create() and cbt_bitmap_file_open() under USE. */
CbtBitmapFile *cbt_bitmap_file_create_for(const CbtFileOps *ops, const char *path, const char *name,
                                          guint64 granularity, const CbtDiskIdentity *disk,
                                          const CbtBitmapUse *use, GError **error) G_GNUC_WARN_UNUSED_RESULT;
CbtBitmapFile *cbt_bitmap_file_open_for(const CbtFileOps *ops, const char *path, const CbtDiskIdentity *disk,
                                        const CbtBitmapUse *use, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Fills FIELD of SIZE bytes with TEXT: valid UTF-8, cut at a character, NUL-padded. NULL gives "". */
void cbt_bitmap_copy_text(char *field, gsize size, const char *text);

/*
 * A new file beside PATH with all bits clean, mapped, to be filled and then published. HEADER says what it is
 * to be; sequence and the clean mark are set here. Abandoning an unpublished file removes it.
 */
CbtBitmapFile *cbt_bitmap_file_prepare(const CbtFileOps *ops, const char *path, const CbtBitmapHeader *header,
                                       GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Makes FILE durable and renames it to PATH, over whatever stands there. The caller syncs the directory. */
gboolean cbt_bitmap_file_publish(CbtBitmapFile *file, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Gives a published FILE its witness, as USE says. */
void cbt_bitmap_file_begin_witness(CbtBitmapFile *file, const CbtBitmapUse *use);
/* Tells the witness, if there is one, of the header and the bits as they are now. */
void cbt_bitmap_file_note_witness(CbtBitmapFile *file);

/* Reads and checks the header of PATH, open as FD, and that the file is as long as it says. */
gboolean cbt_bitmap_file_load_header(const CbtFileOps *ops, int fd, const char *path, CbtBitmapHeader *header,
                                     guint *slot, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Makes the bit arrays durable. */
gboolean cbt_bitmap_file_sync(CbtBitmapFile *file, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Makes NEXT the header of the file, durably; sequence is set here. On an error the old one stays. */
gboolean cbt_bitmap_file_write_header(CbtBitmapFile *file, const CbtBitmapHeader *next,
                                      GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Makes the header of a freeze durable, which the freeze itself does not wait for. */
gboolean cbt_bitmap_file_settle(CbtBitmapFile *file, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Points `recording` to where the state in the header says. */
void cbt_bitmap_file_update_recording(CbtBitmapFile *file);

/* cbt_bitmap_file_merge() without the sync. */
gboolean cbt_bitmap_file_merge_bits(CbtBitmapFile *file, const CbtBitmapFile *src,
                                    GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* A transition in parts, for a file that is recorded in meanwhile; cbt_bitmap_file_apply() does all of them.
 */
typedef struct {
  CbtBitmapFile *file;
  CbtBitmapEvent event;
  CbtBitmapHeader next;
  gboolean is_done; /* NEXT is the header */
} CbtBitmapTransition;

/* Whether the state allows it, and what the header will say. STATE. */
gboolean cbt_bitmap_transition_plan(CbtBitmapTransition *transition, CbtBitmapFile *file,
                                    CbtBitmapEvent event, const CbtUuid *pending, const char *reason,
                                    GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Nobody may record. Not needed for abdicate. */
void cbt_bitmap_transition_begin(const CbtBitmapTransition *transition);
/* Changes may be recorded, but for create-successor. If it fails nothing has changed. */
gboolean cbt_bitmap_transition_commit(CbtBitmapTransition *transition,
                                      GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Nobody may record. After a commit that failed, too. If it cannot be had, changes are recorded in both
 * arrays until the next begin; only clear is then not done. */
void cbt_bitmap_transition_finish(const CbtBitmapTransition *transition);
/* Changes may be recorded. After finish, if that could be had. */
void cbt_bitmap_transition_tidy(const CbtBitmapTransition *transition);
