/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One page, mapped shared: the kernel keeps it when the process dies. It is written in such an order that a
 * process killed on the way leaves a witness that vouches for too much of the same file, never for too
 * little: the count falls before the sequence rises.
 *
 * What it vouches for: a file with the same id and the same sequence needs at least as many bits. One with a
 * higher sequence was killed between the header and the note: if the bits stayed the same, it needs as many;
 * if they did not, nobody recorded in between, so an older copy cannot have that header. One with a lower
 * sequence is an older copy.
 */
#include <cbt/witness.h>

#include <common/fd.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE_SIZE 4096u
#define MAGIC     G_GUINT64_CONSTANT(0x31534e5457544243) /* "CBTWTNS1" */

/* As in the file, in the byte order of the host. */
typedef struct {
  guint64 magic; /* 0: vouches for nothing */
  CbtUuid file_id;
  guint64 sequence;
  guint64 n_dirty;
  guint64 same_bits; /* whether the next header has the same bits in the array that records */
} Page;

struct CbtWitness {
  char *path;
  Page *page;
};

static void
store(guint64 *field, guint64 value)
{
  __atomic_store_n(field, value, __ATOMIC_SEQ_CST);
}

/* Length and blocks, so that a store into the mapping always finds room. */
static gboolean
make_page(int fd)
{
  static const guint8 zeros[PAGE_SIZE];
  struct stat st;
  if (fstat(fd, &st) != 0)
    return FALSE;
  if (S_ISREG(st.st_mode) && st.st_size == PAGE_SIZE)
    return TRUE;
  return ftruncate(fd, 0) == 0 && pwrite(fd, zeros, sizeof zeros, 0) == (ssize_t) sizeof zeros;
}

static Page *
map_page(const char *path)
{
  CBT_AUTO_FD int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
  if (fd < 0 || !make_page(fd))
    return NULL;
  void *map = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return map != MAP_FAILED ? map : NULL;
}

CbtWitness *
cbt_witness_open(const char *directory, const CbtUuid *disk_id, const char *bitmap_path)
{
  char id[CBT_UUID_TEXT_SIZE];
  g_autofree char *name = g_path_get_basename(bitmap_path);
  g_autofree char *path = g_strdup_printf("%s/%s.%s", directory, cbt_uuid_format(disk_id, id), name);
  Page *page = g_mkdir_with_parents(directory, 0700) == 0 ? map_page(path) : NULL;
  if (page == NULL) {
    g_message("%s: %s: if its process is killed, the disk is read again", path, g_strerror(errno));
    return NULL;
  }
  CbtWitness *witness = g_new0(CbtWitness, 1);
  witness->path = g_steal_pointer(&path);
  witness->page = page;
  return witness;
}

void
cbt_witness_free(CbtWitness *witness)
{
  if (witness == NULL)
    return;
  munmap(witness->page, PAGE_SIZE);
  g_free(witness->path);
  g_free(witness);
}

void
cbt_witness_remove(CbtWitness *witness)
{
  if (witness == NULL)
    return;
  store(&witness->page->magic, 0);
  if (unlink(witness->path) != 0 && errno != ENOENT)
    g_debug("cannot remove %s: %s", witness->path, g_strerror(errno));
  cbt_witness_free(witness);
}

void
cbt_witness_begin(CbtWitness *witness, const CbtUuid *file_id, guint64 sequence, guint64 n_dirty)
{
  if (witness == NULL)
    return;
  Page *page = witness->page;
  gboolean same = page->magic == MAGIC && cbt_uuid_equal(&page->file_id, file_id);
  if (!same) {
    store(&page->magic, 0);
    page->file_id = *file_id;
  }
  cbt_witness_note(witness, sequence, n_dirty);
  store(&page->magic, MAGIC);
}

void
cbt_witness_note(CbtWitness *witness, guint64 sequence, guint64 n_dirty)
{
  if (witness == NULL)
    return;
  store(&witness->page->n_dirty, 0);
  store(&witness->page->sequence, sequence);
  store(&witness->page->n_dirty, n_dirty);
}

void
cbt_witness_expect(CbtWitness *witness, gboolean same_bits)
{
  if (witness != NULL)
    store(&witness->page->same_bits, same_bits != FALSE);
}

void
cbt_witness_advance(CbtWitness *witness, guint64 sequence)
{
  if (witness != NULL)
    store(&witness->page->sequence, sequence);
}

void
cbt_witness_add(CbtWitness *witness, guint64 n)
{
  __atomic_fetch_add(&witness->page->n_dirty, n, __ATOMIC_RELEASE);
}

const char *
cbt_witness_doubt(const CbtWitness *witness, const CbtUuid *file_id, guint64 sequence, guint64 n_dirty)
{
  if (witness == NULL || witness->page->magic != MAGIC || !cbt_uuid_equal(&witness->page->file_id, file_id))
    return "the bitmap file was not closed, and nothing tells that it is the one that was in use";
  const Page *page = witness->page;
  gboolean countable = sequence == page->sequence || page->same_bits != 0;
  if (sequence < page->sequence || (countable && n_dirty < page->n_dirty))
    return "the bitmap file is an older copy of the one that was in use: it lacks changes";
  return NULL;
}
