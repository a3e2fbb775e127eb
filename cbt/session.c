/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Shared memory: one page of header, then the words of `preserved`, of `done` and of `used`, then `slots`, a
 * number for each cluster; bit c of word c / 64 is cluster, or slot, c. Memory for the slots is taken as they
 * are needed, for all else at once. Both sides compute the layout from the disk's size and trust nothing in
 * the memory but the bits, `broken` and the counters: a peer that scribbles over it can spoil its backup, but
 * not the other process. The memfd is sealed against shrinking, for touching a page that is gone would kill
 * the guest's export.
 */
#include <cbt/session-private.h>

#include <common/bytes.h>
#include <common/error.h>
#include <common/fd.h>
#include <common/file-ops.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define SESSION_MAGIC   G_GUINT64_CONSTANT(0x31535345534f4243)
#define SESSION_VERSION 2u

static CbtSession *
session_alloc(guint64 size, int memory_fd, int fleece_fd)
{
  CbtSession *session = g_new0(CbtSession, 1);
  session->size = size;
  session->n_clusters = cbt_div_up(size, CBT_CLUSTER_SIZE);
  session->n_words = (gsize) cbt_div_up(session->n_clusters, CBT_SESSION_CLUSTERS_PER_WORD);
  session->memory_size = cbt_session_memory_size(size);
  session->memory_fd = memory_fd;
  session->fleece_fd = fleece_fd;
  for (guint i = 0; i < CBT_SESSION_N_STRIPES; i++)
    pthread_mutex_init(&session->stripes[i], NULL);
  return session;
}

void
cbt_session_free(CbtSession *session)
{
  if (session == NULL)
    return;
  cbt_fleece_free(session->fleece);
  for (guint i = 0; i < CBT_SESSION_N_STRIPES; i++)
    pthread_mutex_destroy(&session->stripes[i]);
  if (session->memory != NULL)
    munmap(session->memory, session->memory_size);
  cbt_clear_fd(&session->memory_fd);
  cbt_clear_fd(&session->fleece_fd);
  g_free(session);
}

/* Where the memory of a disk of N_CLUSTERS has what. */
typedef struct {
  gsize preserved, done, used, slots, end;
} Layout;

static Layout
layout_of(guint64 n_clusters)
{
  gsize bits = sizeof(CbtSharedWord) * (gsize) cbt_div_up(n_clusters, CBT_SESSION_CLUSTERS_PER_WORD);
  Layout layout = {.preserved = CBT_SESSION_HEADER_SIZE};
  layout.done = layout.preserved + bits;
  layout.used = layout.done + bits;
  layout.slots = layout.used + bits;
  layout.end = layout.slots + sizeof(CbtSharedSlot) * (gsize) n_clusters;
  return layout;
}

gsize
cbt_session_memory_size(guint64 size)
{
  return layout_of(cbt_div_up(size, CBT_CLUSTER_SIZE)).end;
}

static gboolean
map_memory(CbtSession *session, GError **error)
{
  void *memory = mmap(NULL, session->memory_size, PROT_READ | PROT_WRITE, MAP_SHARED, session->memory_fd, 0);
  if (memory == MAP_FAILED) {
    cbt_set_error_errno(error, errno, "cannot map the %zu bytes of a backup session", session->memory_size);
    return FALSE;
  }
  Layout layout = layout_of(session->n_clusters);
  session->memory = memory;
  session->header = memory;
  session->preserved = (CbtSharedWord *) ((guint8 *) memory + layout.preserved);
  session->done = (CbtSharedWord *) ((guint8 *) memory + layout.done);
  session->used = (CbtSharedWord *) ((guint8 *) memory + layout.used);
  session->slots = (CbtSharedSlot *) ((guint8 *) memory + layout.slots);
  return TRUE;
}

/* A sealed memfd with the memory taken for all but the slots. */
static int
make_memory(guint64 size, GError **error)
{
  Layout layout = layout_of(cbt_div_up(size, CBT_CLUSTER_SIZE));
  CBT_AUTO_FD int fd = memfd_create("cbt-session", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0 || ftruncate(fd, (off_t) layout.end) != 0 || fallocate(fd, 0, 0, (off_t) layout.slots) != 0 ||
      fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    cbt_set_error_errno(error, errno, "cannot make %zu bytes of shared memory for a backup session",
                        layout.end);
    return -1;
  }
  return cbt_steal_fd(&fd);
}

static int
open_unlinked(const char *directory)
{
  int fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR))
    return fd;
  g_autofree char *path = g_build_filename(directory, "fleece.XXXXXX", NULL);
  fd = mkostemp(path, O_CLOEXEC);
  if (fd >= 0)
    unlink(path);
  return fd;
}

static int
make_fleece(const char *directory, guint64 size, GError **error)
{
  CBT_AUTO_FD int fd = open_unlinked(directory);
  if (fd < 0 || ftruncate(fd, (off_t) size) != 0) {
    cbt_set_error_errno(error, errno, "cannot make a fleece file of %" G_GUINT64_FORMAT " bytes in %s", size,
                        directory);
    return -1;
  }
  return cbt_steal_fd(&fd);
}

static void
fill_header(const CbtSession *session)
{
  CbtSessionHeader *header = session->header;
  header->magic = SESSION_MAGIC;
  header->version = SESSION_VERSION;
  header->cluster_size = CBT_CLUSTER_SIZE;
  header->size = session->size;
  header->n_clusters = session->n_clusters;
  header->fleece_limit = session->fleece_limit;
  Layout layout = layout_of(session->n_clusters);
  header->preserved_offset = layout.preserved;
  header->done_offset = layout.done;
  header->used_offset = layout.used;
  header->slots_offset = layout.slots;
  header->memory_size = session->memory_size;
}

static void
make_slots(CbtSession *session)
{
  guint64 n_slots = MIN(session->n_clusters, G_MAXUINT32);
  if (session->fleece_limit != 0)
    n_slots = MIN(n_slots, session->fleece_limit / CBT_CLUSTER_SIZE);
  session->fleece = cbt_fleece_new(session->fleece_fd, n_slots, session->used, &session->header->hint);
}

static gboolean
check_disk_size(guint64 size, GError **error)
{
  if (size > 0 && size <= CBT_DISK_SIZE_MAX)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, NULL, "no backup session for a disk of %" G_GUINT64_FORMAT " bytes",
                size);
  return FALSE;
}

CbtSession *
cbt_session_new(guint64 size, const char *fleece_directory, guint64 fleece_limit, GError **error)
{
  if (!check_disk_size(size, error))
    return NULL;
  CBT_AUTO_FD int memory_fd = make_memory(size, error);
  if (memory_fd < 0)
    return NULL;
  CBT_AUTO_FD int fleece_fd = make_fleece(fleece_directory, size, error);
  if (fleece_fd < 0)
    return NULL;
  g_autoptr(CbtSession) session = session_alloc(size, cbt_steal_fd(&memory_fd), cbt_steal_fd(&fleece_fd));
  session->fleece_limit = fleece_limit;
  if (!map_memory(session, error))
    return NULL;
  fill_header(session);
  make_slots(session);
  return g_steal_pointer(&session);
}

static gboolean
check_memory_fd(const CbtSession *session, GError **error)
{
  struct stat st;
  int seals = fcntl(session->memory_fd, F_GET_SEALS);
  if (seals < 0 || !(seals & F_SEAL_SHRINK) || (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL,
                  "the session's memory is no memfd sealed against shrinking only");
    return FALSE;
  }
  if (fstat(session->memory_fd, &st) == 0 && (guint64) st.st_size == session->memory_size)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, NULL, "the session's memory is not of %zu bytes",
                session->memory_size);
  return FALSE;
}

/* With O_APPEND, Linux would append what pwrite() should place. */
static gboolean
check_fleece_fd(const CbtSession *session, GError **error)
{
  struct stat st;
  int flags = fcntl(session->fleece_fd, F_GETFL);
  if (flags >= 0 && (flags & O_ACCMODE) == O_RDWR && !(flags & O_APPEND) &&
      fstat(session->fleece_fd, &st) == 0 && S_ISREG(st.st_mode))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, NULL, "the session's fleece is no regular file open for writing");
  return FALSE;
}

static gboolean
check_header(const CbtSession *session, GError **error)
{
  const CbtSessionHeader *header = session->header;
  Layout layout = layout_of(session->n_clusters);
  if (header->magic != SESSION_MAGIC) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "the session's memory has no session header");
    return FALSE;
  }
  if (header->version != SESSION_VERSION) {
    cbt_set_error(error, CBT_ERROR_UNSUPPORTED, "Restart the export with the version of the daemon.",
                  "the session's memory is of version %u, not %u", header->version, SESSION_VERSION);
    return FALSE;
  }
  if (header->size == session->size && header->cluster_size == CBT_CLUSTER_SIZE &&
      header->n_clusters == session->n_clusters && header->memory_size == session->memory_size &&
      header->preserved_offset == layout.preserved && header->done_offset == layout.done &&
      header->used_offset == layout.used && header->slots_offset == layout.slots)
    return TRUE;
  cbt_set_error(error, CBT_ERROR_INVALID, NULL,
                "the session is for a disk of %" G_GUINT64_FORMAT " bytes, this one has %" G_GUINT64_FORMAT,
                header->size, session->size);
  return FALSE;
}

CbtSession *
cbt_session_attach(int memory_fd, int fleece_fd, guint64 size, GError **error)
{
  g_autoptr(CbtSession) session = session_alloc(size, memory_fd, fleece_fd);
  if (!check_disk_size(size, error) || !check_memory_fd(session, error) || !check_fleece_fd(session, error) ||
      !map_memory(session, error) || !check_header(session, error))
    return NULL;
  session->fleece_limit = session->header->fleece_limit;
  make_slots(session);
  return g_steal_pointer(&session);
}

int
cbt_session_memory_fd(const CbtSession *session)
{
  return session->memory_fd;
}

int
cbt_session_fleece_fd(const CbtSession *session)
{
  return session->fleece_fd;
}

gboolean
cbt_session_check(const CbtSession *session, GError **error)
{
  int errsv = atomic_load_explicit(&session->header->broken, memory_order_acquire);
  if (errsv == 0)
    return TRUE;
  if (errsv == CBT_SESSION_LIMIT_REACHED)
    cbt_set_error(error, CBT_ERROR_NO_SPACE, "Raise fleece-limit, or back up when the guest writes less.",
                  "the guest overwrote more than the fleece limit of %" G_GUINT64_FORMAT
                  " bytes before it was read",
                  session->fleece_limit);
  else if (cbt_error_code_from_errno(errsv) == CBT_ERROR_NO_SPACE)
    cbt_set_error(error, CBT_ERROR_NO_SPACE,
                  "Make room in fleece-dir or choose another, or back up when the guest writes less.",
                  "no room in the fleece for what the guest overwrote before it was read: %s",
                  g_strerror(errsv));
  else
    cbt_set_error_errno(error, errsv,
                        "cannot copy to the fleece what the guest overwrote before it was read");
  return FALSE;
}

guint64
cbt_session_fleeced(const CbtSession *session)
{
  return atomic_load(&session->header->fleeced);
}
