/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The index as a mapped hash table.
 *
 * Validity rule: header checksum, version, store uuid, and a file as long as its slots ask. Anything else is
 * thrown away and made anew. An entry is only a hint, which the store checks against the record that it
 * points to.
 *
 * Write order: a change writes the id, then the location (release), which makes the slot count; an id is
 * never written over, and a slot never moves, so look-ups need no lock against changes, and a killed process
 * leaves no half entry. A checkpoint syncs the slots, then writes and syncs the header that says what they
 * cover. So after a power loss all that is covered is there; of the rest some slots may be missing, or half
 * written (wrong hints), and the records behind are read again. A grown table is not synced: until the next
 * checkpoint its header is marked volatile, and another boot throws it away.
 *
 * Removing an entry and looking one up are sequentially consistent: store/pins.c counts on it.
 *
 * Slots are allocated on disk before the file is mapped, because a full disk behind a mapping is a SIGBUS.
 */
#include <store/index-format.h>

#include <common/bytes.h>
#include <common/error.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>

typedef struct {
  StoreChunkId id;  /* written once, before the location */
  guint64 location; /* little-endian, atomic */
} Slot;

_Static_assert(sizeof(Slot) == STORE_INDEX_SLOT_SIZE, "slots are mapped as they are");

typedef struct {
  int fd;
  guint8 *map;
  gsize size; /* of the map, bytes */
  Slot *slots;
  guint64 n_slots;
  guint64 n_total;   /* slots and spare ones */
  guint64 n_used;    /* protected by change_lock */
  guint64 n_removed; /* protected by change_lock */
} Table;

/* A bit for each slot, by kind. */
struct StoreIndexMarks {
  StoreIndex *index;
  guint64 *bits[STORE_INDEX_MARK_KINDS];
};

struct StoreIndex {
  /* constant after creation */
  const CbtFileOps *ops;
  char *path;
  CbtUuid store;
  CbtUuid boot;

  guint64 count; /* atomic: who asks for it does not wait for a change, which waits for the disk */

  pthread_mutex_t change_lock;     /* one change at a time; taken first */
  pthread_mutex_t marks_lock;      /* held while the table is made anew; taken second */
  GPtrArray *marks;                /* of StoreIndexMarks */
  pthread_mutex_t checkpoint_lock; /* the header and covered; taken third */
  StoreLocation covered;
  pthread_rwlock_t table_lock; /* which table it is; taken fourth */
  Table table;
};

static CbtUuid
read_boot_id(void)
{
  g_autofree char *text = NULL;
  CbtUuid boot;
  if (g_file_get_contents("/proc/sys/kernel/random/boot_id", &text, NULL, NULL) &&
      cbt_uuid_parse(g_strchomp(text), &boot))
    return boot;
  return cbt_uuid_generate();
}

/* --- slots --- */

static guint64
load_location(const Slot *slot)
{
  return GUINT64_FROM_LE(__atomic_load_n(&slot->location, __ATOMIC_SEQ_CST));
}

static void
store_location(Slot *slot, guint64 location)
{
  __atomic_store_n(&slot->location, GUINT64_TO_LE(location), __ATOMIC_RELEASE);
}

static guint64
home_of(const StoreChunkId *id, guint64 n_slots)
{
  guint64 big_endian;
  memcpy(&big_endian, id->bytes, sizeof big_endian);
  return (guint64) (((unsigned __int128) GUINT64_FROM_BE(big_endian) * n_slots) >> 64);
}

/* The slot of ID, perhaps a removed one. If there is none: NULL, and *empty is where it would go (NULL: no
 * room). */
static Slot *
find_slot(const Table *table, const StoreChunkId *id, Slot **empty)
{
  *empty = NULL;
  for (guint64 i = home_of(id, table->n_slots); i < table->n_total; i++) {
    Slot *slot = &table->slots[i];
    if (load_location(slot) == STORE_INDEX_EMPTY) {
      *empty = slot;
      return NULL;
    }
    if (store_chunk_id_equal(&slot->id, id))
      return slot;
  }
  return NULL;
}

static void
put_live(const Table *table, gsize at, guint64 value)
{
  __atomic_store_n((guint64 *) (gpointer) (table->map + at), GUINT64_TO_LE(value), __ATOMIC_RELAXED);
}

static void
note_counts(const Table *table)
{
  put_live(table, STORE_INDEX_AT_LIVE_USED, table->n_used);
  put_live(table, STORE_INDEX_AT_LIVE_REMOVED, table->n_removed);
}

static void
fill_slot(Table *table, Slot *empty, const StoreChunkId *id, guint64 location)
{
  empty->id = *id;
  store_location(empty, location);
  table->n_used++;
}

/* --- the mapped file --- */

static gboolean
table_map(Table *table, int fd, gsize size)
{
  void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (map == MAP_FAILED)
    return FALSE;
  /* Look-ups fall anywhere; reading ahead would only waste memory and disk. */
  madvise(map, size, MADV_RANDOM);
  *table = (Table){.fd = fd, .map = map, .size = size};
  table->slots = (Slot *) (gpointer) (table->map + STORE_INDEX_HEADER_SIZE);
  return TRUE;
}

static void
table_clear(const CbtFileOps *ops, Table *table)
{
  if (!table->map)
    return;
  munmap(table->map, table->size);
  ops->close(ops, table->fd);
  *table = (Table){.fd = -1};
}

static int
allocate(const CbtFileOps *ops, int fd, gsize size)
{
  if (ops->ftruncate(ops, fd, (off_t) size) != 0)
    return errno;
  return posix_fallocate(fd, 0, (off_t) size);
}

static gboolean
fail_making(const CbtFileOps *ops, const char *path, int fd, int errsv, GError **error)
{
  if (fd >= 0) {
    ops->close(ops, fd);
    ops->unlink(ops, path);
  }
  cbt_set_error_errno(error, errsv, "cannot make %s", path);
  return FALSE;
}

/* An empty table of N_SLOTS in a new file at PATH, without a header. */
static gboolean
table_make(const CbtFileOps *ops, const char *path, guint64 n_slots, Table *table, GError **error)
{
  guint64 n_total = n_slots + n_slots / 16;
  gsize size = STORE_INDEX_HEADER_SIZE + (gsize) n_total * STORE_INDEX_SLOT_SIZE;
  int fd = ops->open(ops, path, O_RDWR | O_CREAT | O_TRUNC, 0600);
  if (fd < 0)
    return fail_making(ops, path, fd, errno, error);
  int errsv = allocate(ops, fd, size);
  if (errsv != 0)
    return fail_making(ops, path, fd, errsv, error);
  if (!table_map(table, fd, size))
    return fail_making(ops, path, fd, errno, error);
  table->n_slots = n_slots;
  table->n_total = n_total;
  return TRUE;
}

static void
write_header(const StoreIndex *index, const Table *table, const StoreLocation *covered, guint32 flags,
             guint64 n_used, guint64 n_removed)
{
  guint8 bytes[STORE_INDEX_HEADER_SIZE];
  StoreIndexHeader header = {
      .store = index->store,
      .n_slots = table->n_slots,
      .n_spare = table->n_total - table->n_slots,
      .n_used = n_used,
      .n_removed = n_removed,
      .covered = *covered,
      .flags = flags,
      .boot = index->boot,
  };
  store_index_header_encode(&header, bytes);
  memcpy(table->map, bytes, STORE_INDEX_CHECKED_SIZE);
}

/* --- marks --- */

static guint64 *
bits_new(guint64 n_slots)
{
  return g_new0(guint64, n_slots / 64 + 1);
}

static gboolean
get_bit(const guint64 *bits, guint64 i)
{
  return bits[i / 64] >> i % 64 & 1;
}

static void
set_bit(guint64 *bits, guint64 i)
{
  bits[i / 64] |= G_GUINT64_CONSTANT(1) << i % 64;
}

StoreIndexMarks *
store_index_marks_new(StoreIndex *index)
{
  StoreIndexMarks *marks = g_new0(StoreIndexMarks, 1);
  marks->index = index;
  pthread_mutex_lock(&index->marks_lock);
  for (guint kind = 0; kind < STORE_INDEX_MARK_KINDS; kind++)
    marks->bits[kind] = bits_new(index->table.n_total);
  g_ptr_array_add(index->marks, marks);
  pthread_mutex_unlock(&index->marks_lock);
  return marks;
}

static void
marks_clear(StoreIndexMarks *marks)
{
  for (guint kind = 0; kind < STORE_INDEX_MARK_KINDS; kind++)
    g_free(marks->bits[kind]);
}

void
store_index_marks_free(StoreIndexMarks *marks)
{
  pthread_mutex_lock(&marks->index->marks_lock);
  g_ptr_array_remove_fast(marks->index->marks, marks);
  pthread_mutex_unlock(&marks->index->marks_lock);
  marks_clear(marks);
  g_free(marks);
}

/* The number of ID's slot, if it has an entry. marks_lock is held, so the table stays. */
static gboolean
find_entry(const StoreIndex *index, const StoreChunkId *id, guint64 *number, guint64 *location)
{
  Slot *empty;
  const Slot *slot = find_slot(&index->table, id, &empty);
  *location = slot ? load_location(slot) : STORE_INDEX_EMPTY;
  *number = slot ? (guint64) (slot - index->table.slots) : 0;
  return *location > STORE_INDEX_REMOVED;
}

void
store_index_marks_prefetch(StoreIndexMarks *marks, const StoreChunkId *ids, guint n)
{
  StoreIndex *index = marks->index;
  pthread_mutex_lock(&index->marks_lock);
  for (guint i = 0; i < n; i++)
    __builtin_prefetch(&index->table.slots[home_of(&ids[i], index->table.n_slots)]);
  pthread_mutex_unlock(&index->marks_lock);
}

gboolean
store_index_mark(StoreIndexMarks *marks, const StoreChunkId *id, StoreIndexMark kind, gboolean *is_new,
                 StoreLocation *location)
{
  guint64 number, packed;
  pthread_mutex_lock(&marks->index->marks_lock);
  gboolean found = find_entry(marks->index, id, &number, &packed);
  *is_new = found && !get_bit(marks->bits[kind], number);
  if (*is_new)
    set_bit(marks->bits[kind], number);
  pthread_mutex_unlock(&marks->index->marks_lock);
  if (found && location)
    *location = store_index_unpack_location(packed);
  return found;
}

gboolean
store_index_is_marked(StoreIndexMarks *marks, const StoreChunkId *id, StoreIndexMark kind)
{
  guint64 number, packed;
  pthread_mutex_lock(&marks->index->marks_lock);
  gboolean is_marked = find_entry(marks->index, id, &number, &packed) && get_bit(marks->bits[kind], number);
  pthread_mutex_unlock(&marks->index->marks_lock);
  return is_marked;
}

/* --- growth --- */

/* The marks that go with a table in the making. */
static StoreIndexMarks *
marks_for(const StoreIndex *index, const Table *table)
{
  StoreIndexMarks *moved = g_new0(StoreIndexMarks, index->marks->len);
  for (guint i = 0; i < index->marks->len; i++)
    for (guint kind = 0; kind < STORE_INDEX_MARK_KINDS; kind++)
      moved[i].bits[kind] = bits_new(table->n_total);
  return moved;
}

static void
move_marks(const StoreIndex *index, guint64 from, StoreIndexMarks *moved, guint64 to)
{
  for (guint i = 0; i < index->marks->len; i++) {
    const StoreIndexMarks *marks = index->marks->pdata[i];
    for (guint kind = 0; kind < STORE_INDEX_MARK_KINDS; kind++)
      if (get_bit(marks->bits[kind], from))
        set_bit(moved[i].bits[kind], to);
  }
}

/* MOVED (transfer full) takes the place of the marks, or is thrown away. */
static void
settle_marks(StoreIndex *index, StoreIndexMarks *moved, gboolean is_used)
{
  for (guint i = 0; i < index->marks->len; i++) {
    StoreIndexMarks *marks = index->marks->pdata[i];
    marks_clear(is_used ? marks : &moved[i]);
    if (is_used)
      memcpy(marks->bits, moved[i].bits, sizeof marks->bits);
  }
  g_free(moved);
}

/* FALSE if the spare slots of TO are exhausted. */
static gboolean
copy_slots(const StoreIndex *index, Table *to, StoreIndexMarks *moved)
{
  const Table *from = &index->table;
  for (guint64 i = 0; i < from->n_total; i++) {
    const Slot *slot = &from->slots[i];
    guint64 location = load_location(slot);
    Slot *empty;
    if (location == STORE_INDEX_EMPTY || location == STORE_INDEX_REMOVED || find_slot(to, &slot->id, &empty))
      continue;
    if (!empty)
      return FALSE;
    fill_slot(to, empty, &slot->id, location);
    move_marks(index, i, moved, (guint64) (empty - to->slots));
  }
  return TRUE;
}

/* Puts GROWN (transfer full), a file at PATH, in the place of the table. */
static gboolean
switch_table(StoreIndex *index, const char *path, Table grown, GError **error)
{
  pthread_mutex_lock(&index->checkpoint_lock);
  write_header(index, &grown, &index->covered, STORE_INDEX_VOLATILE, grown.n_used, 0);
  note_counts(&grown);
  gboolean ok = index->ops->rename(index->ops, path, index->path) == 0;
  int errsv = errno;
  if (ok) {
    pthread_rwlock_wrlock(&index->table_lock);
    Table old = index->table;
    index->table = grown;
    grown = old;
    pthread_rwlock_unlock(&index->table_lock);
  }
  pthread_mutex_unlock(&index->checkpoint_lock);
  table_clear(index->ops, &grown);
  if (!ok) {
    index->ops->unlink(index->ops, path);
    cbt_set_error_errno(error, errsv, "cannot replace %s", index->path);
  }
  return ok;
}

/* Makes a table of N_SLOTS with the entries of the present one, and puts it in its place. change_lock and
 * marks_lock are held. */
static gboolean
replace_table(StoreIndex *index, guint64 n_slots, gboolean *fits, GError **error)
{
  g_autofree char *path = g_strconcat(index->path, ".new", NULL);
  Table grown;
  if (!table_make(index->ops, path, n_slots, &grown, error))
    return FALSE;
  StoreIndexMarks *moved = marks_for(index, &grown);
  gboolean ok = TRUE;
  *fits = copy_slots(index, &grown, moved);
  if (*fits)
    ok = switch_table(index, path, grown, error);
  else
    table_clear(index->ops, &grown);
  settle_marks(index, moved, *fits && ok);
  return ok;
}

static gboolean
grow(StoreIndex *index, GError **error)
{
  const Table *table = &index->table;
  /* Where removed entries take much of the room, the same size will do. */
  guint64 n_slots = table->n_removed > table->n_used / 2 ? table->n_slots : table->n_slots * 2;
  gboolean fits = FALSE, ok = TRUE;
  pthread_mutex_lock(&index->marks_lock);
  for (; n_slots <= STORE_INDEX_SLOTS_MAX && !fits && ok; n_slots *= 2)
    ok = replace_table(index, n_slots, &fits, error);
  pthread_mutex_unlock(&index->marks_lock);
  if (!ok)
    return FALSE;
  if (!fits)
    cbt_set_error(error, CBT_ERROR_TOO_LARGE, NULL, "%s cannot grow any more", index->path);
  return fits;
}

/* --- looking up and changing --- */

gboolean
store_index_lookup(StoreIndex *index, const StoreChunkId *id, StoreLocation *location)
{
  Slot *empty;
  pthread_rwlock_rdlock(&index->table_lock);
  const Slot *slot = find_slot(&index->table, id, &empty);
  guint64 packed = slot ? load_location(slot) : STORE_INDEX_EMPTY;
  pthread_rwlock_unlock(&index->table_lock);
  if (packed <= STORE_INDEX_REMOVED)
    return FALSE;
  *location = store_index_unpack_location(packed);
  return TRUE;
}

static gboolean
insert_locked(StoreIndex *index, const StoreChunkId *id, guint64 location, GError **error)
{
  Table *table = &index->table;
  Slot *empty;
  Slot *slot = find_slot(table, id, &empty);
  if (slot) {
    table->n_removed -= load_location(slot) == STORE_INDEX_REMOVED && table->n_removed > 0;
    store_location(slot, location);
    return TRUE;
  }
  while (!empty || table->n_used >= table->n_slots / 4 * 3) {
    if (!grow(index, error))
      return FALSE;
    find_slot(table, id, &empty);
  }
  fill_slot(table, empty, id, location);
  return TRUE;
}

/* change_lock is held. */
static void
publish_count(StoreIndex *index)
{
  guint64 count = index->table.n_used - MIN(index->table.n_removed, index->table.n_used);
  __atomic_store_n(&index->count, count, __ATOMIC_RELAXED);
}

gboolean
store_index_insert(StoreIndex *index, const StoreChunkId *id, const StoreLocation *location, GError **error)
{
  guint64 packed = store_index_pack_location(location);
  g_assert(packed > STORE_INDEX_REMOVED && !store_chunk_id_is_zero(id));
  pthread_mutex_lock(&index->change_lock);
  gboolean ok = insert_locked(index, id, packed, error);
  publish_count(index);
  note_counts(&index->table);
  pthread_mutex_unlock(&index->change_lock);
  return ok;
}

gboolean
store_index_remove(StoreIndex *index, const StoreChunkId *id)
{
  Slot *empty;
  pthread_mutex_lock(&index->change_lock);
  Slot *slot = find_slot(&index->table, id, &empty);
  gboolean was_there = slot && load_location(slot) != STORE_INDEX_REMOVED;
  if (was_there) {
    __atomic_store_n(&slot->location, GUINT64_TO_LE(STORE_INDEX_REMOVED), __ATOMIC_SEQ_CST);
    index->table.n_removed++;
    publish_count(index);
    note_counts(&index->table);
  }
  pthread_mutex_unlock(&index->change_lock);
  return was_there;
}

guint64
store_index_count(const StoreIndex *index)
{
  return __atomic_load_n(&index->count, __ATOMIC_RELAXED);
}

/* --- checkpoint --- */

static gboolean
sync_table(StoreIndex *index, const StoreLocation *covered, guint64 n_used, guint64 n_removed)
{
  const Table *table = &index->table;
  if (msync(table->map, table->size, MS_SYNC) != 0)
    return FALSE;
  write_header(index, table, covered, 0, n_used, n_removed);
  return msync(table->map, STORE_INDEX_HEADER_SIZE, MS_SYNC) == 0;
}

gboolean
store_index_checkpoint(StoreIndex *index, const StoreLocation *covered, GError **error)
{
  pthread_mutex_lock(&index->change_lock);
  guint64 n_used = index->table.n_used;
  guint64 n_removed = index->table.n_removed;
  pthread_mutex_unlock(&index->change_lock);
  pthread_mutex_lock(&index->checkpoint_lock);
  pthread_rwlock_rdlock(&index->table_lock);
  gboolean ok = sync_table(index, covered, n_used, n_removed);
  int errsv = errno;
  pthread_rwlock_unlock(&index->table_lock);
  if (ok)
    index->covered = (StoreLocation){.pack = covered->pack, .offset = covered->offset};
  pthread_mutex_unlock(&index->checkpoint_lock);
  if (!ok)
    cbt_set_error_errno(error, errsv, "cannot make %s durable", index->path);
  return ok;
}

/* --- opening --- */

/* Takes over the counts and the covered range that the header vouches for. FALSE if it vouches for nothing.
 */
static gboolean
adopt_header(StoreIndex *index, const StoreIndexHeader *header)
{
  Table *table = &index->table;
  gboolean same_boot = cbt_uuid_equal(&header->boot, &index->boot);
  if ((header->flags & STORE_INDEX_VOLATILE) && !same_boot)
    return FALSE;
  table->n_slots = header->n_slots;
  table->n_total = header->n_slots + header->n_spare;
  table->n_used = same_boot ? cbt_get_u64(table->map + STORE_INDEX_AT_LIVE_USED) : header->n_used;
  table->n_removed = same_boot ? cbt_get_u64(table->map + STORE_INDEX_AT_LIVE_REMOVED) : header->n_removed;
  index->covered = header->covered;
  write_header(index, table, &header->covered, header->flags, table->n_used, table->n_removed);
  note_counts(table);
  return TRUE;
}

/* FALSE if there is no file, or none of use. */
static gboolean
load_table(StoreIndex *index)
{
  const CbtFileOps *ops = index->ops;
  guint8 bytes[STORE_INDEX_HEADER_SIZE];
  StoreIndexHeader header;
  struct stat st;
  int fd = ops->open(ops, index->path, O_RDWR, 0);
  if (fd < 0)
    return FALSE;
  if (fstat(fd, &st) != 0 || cbt_file_pread_full(ops, fd, bytes, sizeof bytes, 0) != (gssize) sizeof bytes ||
      !store_index_header_decode(bytes, &index->store, (guint64) st.st_size, &header) ||
      !table_map(&index->table, fd, (gsize) st.st_size)) {
    ops->close(ops, fd);
    return FALSE;
  }
  if (adopt_header(index, &header))
    return TRUE;
  table_clear(ops, &index->table);
  return FALSE;
}

static gboolean
make_table(StoreIndex *index, GError **error)
{
  g_autofree char *path = g_strconcat(index->path, ".new", NULL);
  if (!table_make(index->ops, path, STORE_INDEX_SLOTS_MIN, &index->table, error))
    return FALSE;
  write_header(index, &index->table, &index->covered, STORE_INDEX_VOLATILE, 0, 0);
  if (index->ops->rename(index->ops, path, index->path) == 0)
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot make %s", index->path);
  index->ops->unlink(index->ops, path);
  return FALSE;
}

StoreIndex *
store_index_open(const CbtFileOps *ops, const char *path, const CbtUuid *store_uuid, StoreLocation *covered,
                 GError **error)
{
  g_autoptr(StoreIndex) index = g_new0(StoreIndex, 1);
  index->ops = ops ? ops : cbt_file_ops_default();
  index->path = g_strdup(path);
  index->store = *store_uuid;
  index->boot = read_boot_id();
  index->table.fd = -1;
  pthread_mutex_init(&index->change_lock, NULL);
  pthread_mutex_init(&index->marks_lock, NULL);
  index->marks = g_ptr_array_new();
  pthread_mutex_init(&index->checkpoint_lock, NULL);
  pthread_rwlock_init(&index->table_lock, NULL);
  if (!load_table(index) && !make_table(index, error))
    return NULL;
  publish_count(index);
  *covered = index->covered;
  return g_steal_pointer(&index);
}

void
store_index_close(StoreIndex *index)
{
  if (!index)
    return;
  table_clear(index->ops, &index->table);
  pthread_mutex_destroy(&index->change_lock);
  pthread_mutex_destroy(&index->marks_lock);
  g_ptr_array_unref(index->marks);
  pthread_mutex_destroy(&index->checkpoint_lock);
  pthread_rwlock_destroy(&index->table_lock);
  g_free(index->path);
  g_free(index);
}
