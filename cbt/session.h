/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A backup session: the memory that an export process and the daemon share while a point in time is read.
 *
 * The daemon makes the memory (a memfd) and the fleece file (sparse, unlinked) and passes both to the export, which
 * initialises `done` at begin. For each cluster of the disk there are two bits:
 *
 *   preserved done   meaning                                            who moves on
 *   0         0      to be read; the image still holds the old bytes     export sets preserved, or reader sets done
 *   1         0      the old bytes stand in a slot of the fleece          reader takes them there, then sets done
 *   0         1      not part of the backup, or already read             nobody; writes pass
 *   1         1      read; the slot is free again                        nobody; writes pass
 *
 * Export, before it changes a cluster: done set? pass. preserved set? pass. Else copy the cluster to a free slot of
 * the fleece (cbt/fleece.h), set preserved (release), and only then change the image.
 * Reader: read the image; THEN load preserved (acquire). Unset: no change had begun when the read ended, so what it
 * read is old. Set: read the cluster from the fleece instead. Then set done. The same holds for a cluster that was
 * found to be a hole: look, then load preserved.
 * If the export cannot preserve, it sets `broken` to the errno before it lets the write pass; the reader, having read,
 * checks it after preserved and fails the backup.
 *
 * Source of the idea: QEMU's fleecing and copy-before-write (block/copy-before-write.c), without the shared lock.
 */
#pragma once

#include <cbt/bitmap.h>

typedef struct CbtSession CbtSession;

/* Bytes of shared memory for a disk of SIZE bytes. */
gsize cbt_session_memory_size(guint64 size);

/* Daemon side: makes memfd and fleece file (in FLEECE_DIRECTORY, unlinked at once). FLEECE_LIMIT in bytes bounds what
 * may stand in it; 0 is no bound. */
CbtSession *cbt_session_new(guint64 size, const char *fleece_directory, guint64 fleece_limit, GError **error)
    G_GNUC_WARN_UNUSED_RESULT;
/* Export side: maps MEMORY_FD and takes FLEECE_FD (both transfer full, closed also on failure). Checks magic, size. */
CbtSession *cbt_session_attach(int memory_fd, int fleece_fd, guint64 size, GError **error) G_GNUC_WARN_UNUSED_RESULT;
void cbt_session_free(CbtSession *session);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(CbtSession, cbt_session_free)

/* The descriptors to pass on (transfer none). */
int cbt_session_memory_fd(const CbtSession *session);
int cbt_session_fleece_fd(const CbtSession *session);

/* Export, while writes are held: all clusters are wanted (WANTED NULL), or those that WANTED marks. */
void cbt_session_start(CbtSession *session, const CbtBitmap *wanted);
/* Export, when the writes were let go: keeps slots of the fleece ready, so that they wait less. Once is enough. */
void cbt_session_prepare(CbtSession *session);
/* Ends that. FALSE if storage that hangs keeps it: then cbt_session_free() would wait. */
gboolean cbt_session_end_preparing(CbtSession *session) G_GNUC_WARN_UNUSED_RESULT;
/* Export, before a change of the range of IMAGE_FD. Never fails: a failure marks the session broken. Any thread. */
void cbt_session_preserve(CbtSession *session, int image_fd, guint64 offset, guint64 length);

/*
 * Reader, after DATA was read from the image at OFFSET (cluster-aligned; LENGTH to a cluster's or the disk's end):
 * replaces in DATA the clusters that were preserved, and sets done. *n_preserved gets their number (nullable).
 * Errors: the session is broken (NO_SPACE or IO, naming the cause); the fleece cannot be read.
 */
gboolean cbt_session_settle(CbtSession *session, guint64 offset, gsize length, guint8 *data, guint64 *n_preserved,
                            GError **error) G_GNUC_WARN_UNUSED_RESULT;
/*
 * Reader, for a range that was found to be a hole: sets *extent to the first run of preserved clusters in it (to be read
 * with cbt_session_settle() into a zeroed buffer) and returns TRUE; or sets done for the whole range and returns FALSE
 * with extent->length 0. Call again for what is left behind *extent. Before it, everything is done.
 */
gboolean cbt_session_next_preserved(CbtSession *session, guint64 offset, guint64 length, CbtExtent *extent);
/* FALSE with the reason if the session is broken. */
gboolean cbt_session_check(const CbtSession *session, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Bytes that were copied to the fleece file so far. */
guint64 cbt_session_fleeced(const CbtSession *session);
