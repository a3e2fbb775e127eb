/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Ordering. The export must not change the image before `preserved` can be seen, and the reader must not look
 * at `preserved` before its read of the image is over. Image bytes go through system calls, so both put a
 * full fence between call and bit. `broken` is set before a change in the same way, and is looked at after
 * `preserved`.
 *
 * Two changes of one cluster exclude each other by striped mutexes on the export's side, so that the second
 * neither copies what the first has changed, nor passes before the first has preserved it. Reader and export
 * share no lock. The one race between them is harmless: a cluster that is done while it is being copied
 * leaves a copy that nobody wants, whose slot the export gives back itself. (Done in the moment between its
 * last look and preserved: then the slot stays in use until the session ends.)
 *
 * The number of a cluster's slot is stored before `preserved`, and loaded after it. The reader gives the slot
 * back when it has read it and set done: nobody looks at the number any more.
 */
#include <cbt/session-private.h>

#include <common/bytes.h>
#include <common/error.h>
#include <common/file-ops.h>
#include <errno.h>

/* Between a system call on the image and a bit of shared memory. */
static void
full_fence(void)
{
#if defined(__SANITIZE_THREAD__)
  /* Fences are unknown to TSan; on the machines that it runs on the system call orders enough. */
#else
  atomic_thread_fence(memory_order_seq_cst);
#endif
}

static gboolean
test_bit(const CbtSharedWord *words, guint64 cluster)
{
  guint64 word = atomic_load_explicit(&words[cluster / CBT_SESSION_CLUSTERS_PER_WORD], memory_order_acquire);
  return (word >> (cluster % CBT_SESSION_CLUSTERS_PER_WORD)) & 1;
}

static void
set_bits(CbtSharedWord *word, guint64 mask)
{
  atomic_fetch_or_explicit(word, mask, memory_order_acq_rel);
}

static void
set_bit(CbtSharedWord *words, guint64 cluster)
{
  set_bits(&words[cluster / CBT_SESSION_CLUSTERS_PER_WORD], G_GUINT64_CONSTANT(1)
                                                                << (cluster % CBT_SESSION_CLUSTERS_PER_WORD));
}

/* The bits of word WORD that stand for clusters of [first, end). */
static guint64
word_mask(gsize word, guint64 first, guint64 end)
{
  guint64 base = (guint64) word * CBT_SESSION_CLUSTERS_PER_WORD;
  guint64 low = MAX(first, base) - base;
  guint64 high =
      MIN(end, base + CBT_SESSION_CLUSTERS_PER_WORD) - base; /* 1 to 64, as the word has bits of the range */
  return (~G_GUINT64_CONSTANT(0) << low) & (~G_GUINT64_CONSTANT(0) >> (CBT_SESSION_CLUSTERS_PER_WORD - high));
}

static guint64
cluster_length(const CbtSession *session, guint64 cluster)
{
  return MIN(CBT_CLUSTER_SIZE, session->size - cluster * CBT_CLUSTER_SIZE);
}

/* --- export --- */

static void
fill_words(CbtSharedWord *words, gsize n_words, guint64 value)
{
  for (gsize i = 0; i < n_words; i++)
    atomic_store_explicit(&words[i], value, memory_order_relaxed);
}

static void
want_extent(CbtSession *session, const CbtExtent *extent)
{
  guint64 first = extent->offset / CBT_CLUSTER_SIZE;
  guint64 end = cbt_div_up(extent->offset + extent->length, CBT_CLUSTER_SIZE);
  for (gsize word = first / CBT_SESSION_CLUSTERS_PER_WORD; word * CBT_SESSION_CLUSTERS_PER_WORD < end; word++)
    atomic_fetch_and_explicit(&session->done[word], ~word_mask(word, first, end), memory_order_relaxed);
}

void
cbt_session_start(CbtSession *session, const CbtBitmap *wanted)
{
  g_assert(wanted == NULL || cbt_bitmap_size(wanted) == session->size);
  fill_words(session->preserved, session->n_words, 0);
  fill_words(session->done, session->n_words, wanted == NULL ? 0 : ~G_GUINT64_CONSTANT(0));
  CbtExtent extent = {0, 0};
  while (wanted != NULL &&
         cbt_bitmap_next_dirty(wanted, extent.offset + extent.length, session->size, &extent))
    want_extent(session, &extent);
  atomic_store(&session->header->broken, 0);
  atomic_store(&session->header->fleeced, 0);
  atomic_store(&session->header->hint, 0);
  fill_words(session->used, session->n_words, 0);
  full_fence();
}

void
cbt_session_prepare(CbtSession *session)
{
  cbt_fleece_prepare(session->fleece);
}

gboolean
cbt_session_end_preparing(CbtSession *session)
{
  return cbt_fleece_end(session->fleece);
}

static void
mark_broken(CbtSession *session, int errsv)
{
  gint32 none = 0;
  atomic_compare_exchange_strong(&session->header->broken, &none, errsv);
}

static gboolean
is_broken(const CbtSession *session)
{
  return atomic_load_explicit(&session->header->broken, memory_order_acquire) != 0;
}

static gboolean
must_preserve(const CbtSession *session, guint64 cluster)
{
  return !test_bit(session->done, cluster) && !test_bit(session->preserved, cluster);
}

/* *number gets what belongs into `slots`. Returns 0 or an errno. */
static int
copy_cluster(CbtSession *session, int image_fd, guint64 cluster, guint32 *number)
{
  guint8 data[CBT_CLUSTER_SIZE];
  guint64 length = cluster_length(session, cluster), slot;
  *number = 0;
  gssize n = cbt_pread_full(image_fd, data, length, cluster * CBT_CLUSTER_SIZE);
  if (n < 0)
    return errno;
  if ((guint64) n != length)
    return EIO;
  if (cbt_is_zero(data, length))
    return 0;
  int errsv = cbt_fleece_put(session->fleece, data, length, &slot);
  if (errsv != 0)
    return errsv;
  *number = (guint32) slot + 1;
  atomic_fetch_add(&session->header->fleeced, length);
  return 0;
}

/* The memory of the slots may not be there yet, and none be left: a system call says so, a store would be the
 * end of the export. */
static void
set_preserved(CbtSession *session, guint64 cluster, guint32 number)
{
  guint64 offset = (guint64) ((guint8 *) &session->slots[cluster] - (guint8 *) session->memory);
  if (cbt_pwrite_full(session->memory_fd, &number, sizeof number, offset))
    set_bit(session->preserved, cluster);
  else
    mark_broken(session, errno);
}

static void
preserve_locked(CbtSession *session, int image_fd, guint64 cluster)
{
  guint32 number = 0;
  int errsv = copy_cluster(session, image_fd, cluster, &number);
  if (errsv != 0) {
    mark_broken(session, errsv);
  } else if (!test_bit(session->done, cluster)) {
    set_preserved(session, cluster, number);
  } else if (number != 0) {
    cbt_fleece_drop(session->fleece, number - 1);
  }
}

static void
preserve_cluster(CbtSession *session, int image_fd, guint64 cluster)
{
  pthread_mutex_t *stripe = &session->stripes[cluster % CBT_SESSION_N_STRIPES];
  pthread_mutex_lock(stripe);
  if (must_preserve(session, cluster) && !is_broken(session))
    preserve_locked(session, image_fd, cluster);
  pthread_mutex_unlock(stripe);
}

void
cbt_session_preserve(CbtSession *session, int image_fd, guint64 offset, guint64 length)
{
  guint64 end = cbt_div_up(MIN(offset + length, session->size), CBT_CLUSTER_SIZE);
  if (length == 0)
    return;
  for (guint64 cluster = offset / CBT_CLUSTER_SIZE; cluster < end; cluster++)
    if (must_preserve(session, cluster))
      preserve_cluster(session, image_fd, cluster);
  full_fence();
}

/* --- reader --- */

static void
check_range(const CbtSession *session, guint64 offset, guint64 length)
{
  g_assert(offset % CBT_CLUSTER_SIZE == 0 && cbt_range_fits(offset, length, session->size));
  g_assert(length % CBT_CLUSTER_SIZE == 0 || offset + length == session->size);
}

static gboolean
settle_preserved(CbtSession *session, guint64 cluster, guint8 *data, GError **error)
{
  guint64 length = cluster_length(session, cluster);
  guint32 number = atomic_load_explicit(&session->slots[cluster], memory_order_relaxed);
  if (number == 0)
    memset(data, 0, length);
  int errsv = number != 0 ? cbt_fleece_get(session->fleece, number - 1, data, length) : 0;
  if (errsv != 0) {
    cbt_set_error_errno(error, errsv, "cannot read from the fleece what stood at %" G_GUINT64_FORMAT,
                        cluster * CBT_CLUSTER_SIZE);
    return FALSE;
  }
  set_bit(session->done, cluster);
  if (number != 0)
    cbt_fleece_drop(session->fleece, number - 1);
  return TRUE;
}

gboolean
cbt_session_settle(CbtSession *session, guint64 offset, gsize length, guint8 *data, guint64 *n_preserved,
                   GError **error)
{
  check_range(session, offset, length);
  guint64 n_taken = 0;
  full_fence();
  for (guint64 at = 0; at < length; at += CBT_CLUSTER_SIZE) {
    guint64 cluster = (offset + at) / CBT_CLUSTER_SIZE;
    if (test_bit(session->done, cluster))
      continue;
    if (!test_bit(session->preserved, cluster)) {
      set_bit(session->done, cluster);
    } else {
      if (!settle_preserved(session, cluster, data + at, error))
        return FALSE;
      n_taken++;
    }
  }
  if (n_preserved != NULL)
    *n_preserved = n_taken;
  return cbt_session_check(session, error);
}

/* Sets done for the clusters of MASK before the first that is preserved and not done; returns its bit, or 64
 * for none. */
static guint
settle_hole_word(CbtSession *session, gsize word, guint64 mask)
{
  guint64 done = atomic_load_explicit(&session->done[word], memory_order_acquire);
  guint64 preserved = atomic_load_explicit(&session->preserved[word], memory_order_acquire);
  guint64 waiting = preserved & ~done & mask;
  guint first = waiting == 0 ? CBT_SESSION_CLUSTERS_PER_WORD : (guint) __builtin_ctzll(waiting);
  guint64 before =
      first == CBT_SESSION_CLUSTERS_PER_WORD ? mask : mask & ((G_GUINT64_CONSTANT(1) << first) - 1);
  if ((done & before) != before)
    set_bits(&session->done[word], before);
  return first;
}

static void
preserved_run(const CbtSession *session, guint64 cluster, guint64 end, CbtExtent *extent)
{
  guint64 last = cluster + 1;
  while (last < end && test_bit(session->preserved, last) && !test_bit(session->done, last))
    last++;
  extent->offset = cluster * CBT_CLUSTER_SIZE;
  extent->length = MIN(last * CBT_CLUSTER_SIZE, session->size) - extent->offset;
}

gboolean
cbt_session_next_preserved(CbtSession *session, guint64 offset, guint64 length, CbtExtent *extent)
{
  *extent = (CbtExtent){offset, 0};
  if (length == 0)
    return FALSE;
  check_range(session, offset, length);
  guint64 first = offset / CBT_CLUSTER_SIZE;
  guint64 end = cbt_div_up(offset + length, CBT_CLUSTER_SIZE);
  full_fence();
  for (gsize word = first / CBT_SESSION_CLUSTERS_PER_WORD;
       word * CBT_SESSION_CLUSTERS_PER_WORD < end && first < end; word++) {
    guint bit = settle_hole_word(session, word, word_mask(word, first, end));
    if (bit != CBT_SESSION_CLUSTERS_PER_WORD) {
      preserved_run(session, word * CBT_SESSION_CLUSTERS_PER_WORD + bit, end, extent);
      return TRUE;
    }
  }
  return FALSE;
}
