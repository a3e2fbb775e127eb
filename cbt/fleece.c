/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A slot belongs to whoever has set its bit, until it clears it: also while it is prepared, or punched out.
 * The hint says where to look first; it may be wrong, so nothing is full before all has been looked at.
 */
#include <cbt/fleece.h>

#include <cbt/bitmap.h>
#include <common/bytes.h>
#include <common/file-ops.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#define SLOT_SIZE     CBT_CLUSTER_SIZE
#define BITS_PER_WORD 64u
/* How many slots are made ready ahead of the last one used: 4 MiB. The thread makes one for each that is
 * used; if it made several at once, it would keep a processor so long that writes wait for it. The last slots
 * are left alone: one that is being made ready could be the last free one. */
#define AHEAD 64u
/* Below this many slots the file is kept as it is: 64 MiB. */
#define KEPT_SLOTS 1024u
/* A file's writers wait for each other, so what is written ahead goes in pieces. */
#define PIECE_SIZE     4096u
#define END_TIMEOUT_NS 100000000

struct CbtFleece {
  /* constant after creation */
  int fd;
  guint64 n_slots;
  gsize n_words;
  CbtSharedWord *used; /* shared with the other process */
  CbtSharedWord *hint; /* a word of `used`, shared */
  /* the thread */
  gboolean has_thread;
  pthread_t thread;
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  gboolean stop;           /* under mutex */
  guint64 wanted;          /* slots below this shall be ready; under mutex */
  _Atomic guint64 n_ready; /* those below this were */
};

CbtFleece *
cbt_fleece_new(int fd, guint64 n_slots, CbtSharedWord *used, CbtSharedWord *hint)
{
  CbtFleece *fleece = g_new0(CbtFleece, 1);
  fleece->fd = fd;
  fleece->n_slots = n_slots;
  fleece->n_words = (gsize) cbt_div_up(n_slots, BITS_PER_WORD);
  fleece->used = used;
  fleece->hint = hint;
  pthread_mutex_init(&fleece->mutex, NULL);
  pthread_cond_init(&fleece->changed, NULL);
  return fleece;
}

gboolean
cbt_fleece_end(CbtFleece *fleece)
{
  struct timespec deadline;
  if (!fleece->has_thread)
    return TRUE;
  pthread_mutex_lock(&fleece->mutex);
  fleece->stop = TRUE;
  pthread_cond_signal(&fleece->changed);
  pthread_mutex_unlock(&fleece->mutex);
  clock_gettime(CLOCK_REALTIME, &deadline);
  deadline.tv_nsec += END_TIMEOUT_NS;
  deadline.tv_sec += deadline.tv_nsec / 1000000000;
  deadline.tv_nsec %= 1000000000;
  fleece->has_thread = pthread_timedjoin_np(fleece->thread, NULL, &deadline) != 0;
  return !fleece->has_thread;
}

void
cbt_fleece_free(CbtFleece *fleece)
{
  if (fleece == NULL)
    return;
  if (!cbt_fleece_end(fleece))
    pthread_join(fleece->thread, NULL);
  pthread_cond_destroy(&fleece->changed);
  pthread_mutex_destroy(&fleece->mutex);
  g_free(fleece);
}

/* --- slots --- */

static guint64
bit_of(guint64 slot)
{
  return G_GUINT64_CONSTANT(1) << (slot % BITS_PER_WORD);
}

static gboolean
try_take(CbtFleece *fleece, guint64 slot)
{
  return !(atomic_fetch_or(&fleece->used[slot / BITS_PER_WORD], bit_of(slot)) & bit_of(slot));
}

static void
give_back(CbtFleece *fleece, guint64 word, guint64 bits)
{
  atomic_fetch_and(&fleece->used[word], ~bits);
  if (word < atomic_load_explicit(fleece->hint, memory_order_relaxed))
    atomic_store_explicit(fleece->hint, word, memory_order_relaxed);
}

/* The bits of WORD that stand for slots. */
static guint64
slots_of_word(const CbtFleece *fleece, gsize word)
{
  guint64 rest = fleece->n_slots - (guint64) word * BITS_PER_WORD;
  return rest >= BITS_PER_WORD ? ~G_GUINT64_CONSTANT(0) : (G_GUINT64_CONSTANT(1) << rest) - 1;
}

static gboolean
take_in_word(CbtFleece *fleece, gsize word, guint64 *slot)
{
  guint64 free;
  while ((free = ~atomic_load(&fleece->used[word]) & slots_of_word(fleece, word)) != 0) {
    *slot = (guint64) word * BITS_PER_WORD + (guint64) __builtin_ctzll(free);
    if (try_take(fleece, *slot))
      return TRUE;
  }
  return FALSE;
}

static gboolean
take_between(CbtFleece *fleece, gsize first, gsize end, guint64 *slot)
{
  for (gsize word = first; word < end; word++)
    if (take_in_word(fleece, word, slot)) {
      atomic_store_explicit(fleece->hint, word, memory_order_relaxed);
      return TRUE;
    }
  return FALSE;
}

static gboolean
take_slot(CbtFleece *fleece, guint64 *slot)
{
  gsize first = (gsize) MIN(atomic_load_explicit(fleece->hint, memory_order_relaxed), fleece->n_words);
  return take_between(fleece, first, fleece->n_words, slot) || take_between(fleece, 0, first, slot);
}

/* --- the thread --- */

/* FALSE if it makes no sense to go on. */
static gboolean
prepare_slot(CbtFleece *fleece, guint64 slot)
{
  static const guint8 zeros[PIECE_SIZE];
  if (!try_take(fleece, slot))
    return TRUE;
  gboolean ok = TRUE;
  for (guint64 at = 0; ok && at < SLOT_SIZE; at += PIECE_SIZE)
    ok = cbt_pwrite_full(fleece->fd, zeros, PIECE_SIZE, slot * SLOT_SIZE + at);
  give_back(fleece, slot / BITS_PER_WORD, bit_of(slot));
  return ok;
}

static void *
prepare_slots(void *user_data)
{
  CbtFleece *fleece = user_data;
  pthread_mutex_lock(&fleece->mutex);
  while (!fleece->stop) {
    guint64 slot = atomic_load(&fleece->n_ready);
    if (slot >= fleece->wanted) {
      pthread_cond_wait(&fleece->changed, &fleece->mutex);
      continue;
    }
    pthread_mutex_unlock(&fleece->mutex);
    gboolean ok = prepare_slot(fleece, slot);
    pthread_mutex_lock(&fleece->mutex);
    /* Whoever needs a slot will find out why it cannot be written. */
    atomic_store(&fleece->n_ready, ok ? slot + 1 : G_MAXUINT64);
  }
  pthread_mutex_unlock(&fleece->mutex);
  return NULL;
}

/* Signals are for the threads of the program around us. A fleece of few slots has none to spare. */
void
cbt_fleece_prepare(CbtFleece *fleece)
{
  sigset_t all, before;
  if (fleece->has_thread || fleece->n_slots < 4 * AHEAD)
    return;
  fleece->wanted = AHEAD;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  fleece->has_thread = pthread_create(&fleece->thread, NULL, prepare_slots, fleece) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void
want_more(CbtFleece *fleece, guint64 slot)
{
  if (!fleece->has_thread || slot + AHEAD < atomic_load(&fleece->n_ready))
    return;
  pthread_mutex_lock(&fleece->mutex);
  fleece->wanted = MIN(MAX(fleece->wanted, slot + AHEAD + 1), fleece->n_slots - AHEAD);
  pthread_cond_signal(&fleece->changed);
  pthread_mutex_unlock(&fleece->mutex);
}

/* --- bytes --- */

int
cbt_fleece_put(CbtFleece *fleece, const guint8 *data, guint64 length, guint64 *slot)
{
  g_assert(length <= SLOT_SIZE);
  if (!take_slot(fleece, slot))
    return EXFULL;
  if (!cbt_pwrite_full(fleece->fd, data, length, *slot * SLOT_SIZE)) {
    int errsv = errno;
    give_back(fleece, *slot / BITS_PER_WORD, bit_of(*slot));
    return errsv;
  }
  want_more(fleece, *slot);
  return 0;
}

int
cbt_fleece_get(const CbtFleece *fleece, guint64 slot, guint8 *data, guint64 length)
{
  if (slot >= fleece->n_slots)
    return ERANGE;
  gssize n = cbt_pread_full(fleece->fd, data, length, slot * SLOT_SIZE);
  if (n < 0)
    return errno;
  return (guint64) n == length ? 0 : EIO;
}

/* Whether a word but WORD is free as a whole. */
static gboolean
has_room_beside(const CbtFleece *fleece, gsize word)
{
  for (gsize i = 0; i < fleece->n_words; i++)
    if (i != word && atomic_load(&fleece->used[i]) == 0)
      return TRUE;
  return FALSE;
}

/* Punches out the slots of WORD if none of them is in use; all are taken meanwhile, which must not make the
 * fleece look full. */
static void
punch_word(CbtFleece *fleece, gsize word)
{
  guint64 none = 0, all = slots_of_word(fleece, word);
  off_t size = (off_t) BITS_PER_WORD * SLOT_SIZE;
  if (atomic_load(&fleece->used[word]) != 0 || !has_room_beside(fleece, word) ||
      !atomic_compare_exchange_strong(&fleece->used[word], &none, all))
    return;
  if (fallocate(fleece->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t) word * size, size) != 0)
    g_debug("cannot punch slots out of the fleece: %s", g_strerror(errno));
  give_back(fleece, word, all);
}

void
cbt_fleece_drop(CbtFleece *fleece, guint64 slot)
{
  if (slot >= fleece->n_slots)
    return;
  give_back(fleece, slot / BITS_PER_WORD, bit_of(slot));
  if (slot >= KEPT_SLOTS)
    punch_word(fleece, (gsize) (slot / BITS_PER_WORD));
}
