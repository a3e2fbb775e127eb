/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What pack.c (appending), pack-flush.c, pack-open.c, pack-read.c, pack-remove.c, pack-scan.c and
 * pack-write.c share. */
#pragma once

#include <pthread.h>
#include <store/pack-format.h>
#include <store/pack.h>

#define STORE_PACK_BUFFER_SIZE (4u << 20) /* of the appender; a record always fits, and so does a group */
#define STORE_PACK_BUFFERS     4u         /* one is filled, the others are full or free */
#define STORE_PACK_BLOCK       4096u      /* direct writes are of whole ones */
#define STORE_PACK_FDS         64u        /* packs held open for reading */
#define STORE_PACK_UNSYNCED                                                                                  \
  16u /* sealed packs that wait for a flush; beyond, the appender waits for the oldest */

/* A pack that was appended to and may have bytes that are not durable. */
typedef struct {
  guint32 number;
  guint32 version;     /* of the format */
  int fd;              /* read and write */
  int direct_fd;       /* for direct writes; -1: not opened yet, or refused; of the thread that writes */
  gboolean is_refused; /* the file system takes no direct writes; of the thread that writes */
  guint n_refs;        /* protected by append_lock, like all below */
  guint64 synced;      /* durable up to here, bytes */
  guint64 written;     /* handed to the kernel up to here, bytes */
  guint n_failures;    /* syncs that failed */
  gboolean is_suspect; /* a sync failed: the kernel may have dropped what is in [synced, written) */
} StorePackTail;

/*
 * Records that are not in their pack's file yet. They stand in memory as in the file's blocks: the first byte
 * is that of the block in which START is.
 */
typedef struct {
  guint8 *bytes;  /* STORE_PACK_BLOCK + STORE_PACK_BUFFER_SIZE, aligned */
  guint32 pack;   /* 0: none */
  guint64 start;  /* offset of the first record in the pack */
  gsize fill;     /* bytes of records */
  gsize n_before; /* bytes before START that are here too, though they belong to what was before */
} StorePackBuffer;

typedef struct {
  guint32 number; /* 0: free, or (with users) to be closed by the last of them */
  guint n_users;
  int fd;
  guint64 last_use;
} StorePackFd;

struct StorePackSet {
  /* constant after creation */
  const CbtFileOps *ops;
  char *folder;
  CbtUuid store;
  guint64 pack_size;

  pthread_mutex_t flush_lock; /* one flush at a time; taken first */

  /* protected by append_lock; taken second */
  pthread_mutex_t append_lock;
  guint32 version;          /* of the packs that are begun */
  StorePackTail *open;      /* (nullable) the pack that is appended to */
  GPtrArray *unsynced;      /* of StorePackTail: sealed, not yet durable */
  GByteArray *table;        /* entries of the open pack */
  guint32 next_number;      /* of the pack that is begun next */
  gboolean folder_is_dirty; /* a file was made since the folder was last synced */
  gboolean is_writing;      /* the oldest full buffer is being written, without the lock */
  pthread_cond_t written;   /* it was, or could not be */

  gint has_full; /* atomic: there are full buffers, and none of them could not be written just now */

  /* protected by buffer_lock (changed with append_lock held too); taken third */
  pthread_mutex_t buffer_lock;
  /* Number n is in place n % STORE_PACK_BUFFERS: [n_written, n_filled) are full, all of the open pack; the
   * next is filled, and its bytes from fill on are the appender's alone. */
  StorePackBuffer buffers[STORE_PACK_BUFFERS];
  guint64 n_written;
  guint64 n_filled;
  StorePackSlot *filling; /* (nullable) records whose bytes are being copied, all of the open pack */
  pthread_cond_t filled;  /* one of them was */
  guint64 n_packs;
  guint64 total_bytes;

  /* protected by fd_lock; taken alone */
  pthread_mutex_t fd_lock;
  StorePackFd fds[STORE_PACK_FDS];
  guint64 fd_clock;
};

/* pack-write.c; append_lock is held, or nobody else knows the set yet. */
StorePackBuffer *store_pack_filling(StorePackSet *set);
/* Where byte OFFSET of the pack is, or will be. */
guint8 *store_pack_buffer_at(const StorePackBuffer *buffer, guint64 offset);
/* Whether some of [FROM, TO) of PACK is still to be filled. buffer_lock is held. */
gboolean store_pack_is_filling(const StorePackSet *set, guint32 pack, guint64 from, guint64 to);
/* Waits until none of it is. Who fills needs no lock but buffer_lock. */
void store_pack_wait_until_filled(StorePackSet *set, guint32 pack, guint64 from, guint64 to);
/* Empties the buffer that is filled: it gets the records of PACK from START on. */
void store_pack_buffer_begin(StorePackSet *set, guint32 pack, guint64 start);
/* What was filled is full, and the next buffer is filled. FALSE: there is none, until another is written. */
gboolean store_pack_turn_over(StorePackSet *set);
/* Writes the oldest COUNT of the full buffers; fewer if there are not so many. append_lock is let go
 * meanwhile. */
gboolean store_pack_write_full(StorePackSet *set, guint64 count, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Writes all that was appended before. append_lock is let go meanwhile. */
gboolean store_pack_write_out(StorePackSet *set, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* pack.c; append_lock is held, and may be let go meanwhile. */
gboolean store_pack_seal_open(StorePackSet *set, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Of FD (transfer full), which has WRITTEN sound bytes; with one reference. */
StorePackTail *store_pack_tail_new(guint32 number, guint32 version, int fd, guint64 written);
/* Makes the same the open pack; nothing is buffered. */
void store_pack_tail_begin(StorePackSet *set, guint32 number, guint32 version, int fd, guint64 written);
void store_pack_tail_unref(StorePackSet *set, StorePackTail *tail);
/* Syncs TAIL; the caller notes the outcome in it. */
gboolean store_pack_tail_sync(StorePackSet *set, const StorePackTail *tail,
                              GError **error) G_GNUC_WARN_UNUSED_RESULT;
void store_pack_note_in_table(StorePackSet *set, const StoreRecordInfo *info, const StoreLocation *location);

char *store_pack_path(const StorePackSet *set, guint32 number);

/* A pack open for reading: SLOT is for the release. -1 with errno. */
int store_pack_fd_acquire(StorePackSet *set, guint32 number, StorePackFd **slot);
void store_pack_fd_release(StorePackSet *set, int fd, StorePackFd *slot);
/* The pack is gone: its descriptor is closed when nobody uses it. */
void store_pack_fd_forget(StorePackSet *set, guint32 number);
void store_pack_fds_clear(StorePackSet *set);

typedef struct {
  guint64 end; /* behind the last good record and its padding, bytes; the header's size if there is none */
  guint64 n_damaged; /* stretches that are no good records, a torn tail included */
  guint64 n_records;
  gboolean stopped;
} StorePackWalk;

/*
 * Walks the records of pack NUMBER in [FROM, LIMIT) of FD one by one, each with its checksum; behind a
 * damaged one it looks for the next at every 16th byte. FALSE with errno if reading fails.
 */
gboolean store_pack_walk(StorePackSet *set, int fd, guint32 number, guint64 from, guint64 limit,
                         StoreRecordFunc func, gpointer user_data, StorePackWalk *walk);
/* The footer of a sealed pack of SIZE bytes; FALSE if it is not sealed, or not soundly. */
gboolean store_pack_read_footer(StorePackSet *set, int fd, guint32 number, guint64 size,
                                StorePackFooter *footer);
