/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Power cuts, simulated: a tracker with two bitmaps and a guest that writes, freezes that end well or not,
 * trims with writes in the middle of them; at some call everything stops. Of each file there is left, sector
 * by sector or page by page at random, what it held or what was synced last; so it is with the clusters of
 * the image and the names in the folder. Then the tracker is opened in another boot: each cluster that
 * differs from the point that a bitmap is based on must be dirty in it, and no bitmap may have lost its base.
 *
 * CBT_TEST_SEED runs one seed; CBT_TEST_LONG a thousand.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cbt/tracker-private.h>
#include <common/error.h>
#include <common/fd.h>
#include <pthread.h>
#include <sys/stat.h>

#include "bitmap-fixture.h"

#define CLUSTER    CBT_CLUSTER_SIZE
#define DISK_SIZE  (G_GUINT64_CONSTANT(66) << 30) /* its log has two sectors */
#define N_HOT      24                             /* regions that are written */
#define N_PER_HOT  12                             /* clusters of each */
#define N_CLUSTERS (N_HOT * N_PER_HOT)
#define N_CUTS     3 /* for each seed, one after the other */
#define N_BITMAPS  2
#ifdef __SANITIZE_THREAD__
#define N_SEEDS 30
#else
#define N_SEEDS 100
#endif

static const char *const names[N_BITMAPS] = {"daily", "weekly"};
static const guint64 granularities[N_BITMAPS] = {16384, 65536};

/* A file as the disk has it. */
typedef struct {
  guint8 *data;
  gsize length;
} Content;

typedef struct {
  CbtFileOps ops;
  char *folder;
  int image_fd;
  ino_t image_ino;
  CbtUuid disk_id;
  CbtTracker *tracker;
  pthread_t main_thread;
  GRand *rand;
  GHashTable *synced;        /* inode -> Content */
  GHashTable *durable_names; /* name -> inode */
  GHashTable *after_cut;     /* name -> Content; NULL until the cut */
  guint64 cut_at;
  guint64 steps;
  guint32 clock;
  gboolean is_guest_live; /* it writes while a bitmap is moved on */
  guint refuse_pause;     /* which pause from now on cannot be had; 0: none */
  guint64 offsets[N_CLUSTERS];
  guint32 image[N_CLUSTERS];   /* versions */
  guint32 durable[N_CLUSTERS]; /* of which the disk has these */
  guint32 cut_image[N_CLUSTERS];
  GHashTable *points; /* text of the id -> versions */
  guint64 n_needed;   /* totals */
  guint64 n_dirty;
  guint64 n_settled;
} Sim;

static void
content_free(gpointer data)
{
  Content *content = data;
  g_free(content->data);
  g_free(content);
}

static Content *
content_of(const char *path)
{
  Content *content = g_new0(Content, 1);
  char *data = NULL;
  assert_true(g_file_get_contents(path, &data, &content->length, NULL));
  content->data = (guint8 *) data;
  return content;
}

static ino_t
inode_of(const char *path)
{
  struct stat st;
  return stat(path, &st) == 0 ? st.st_ino : 0;
}

/* --- the cut --- */

/* Unit by unit what the file holds or what was synced. */
static Content *
mix(Sim *sim, const char *path, ino_t inode)
{
  const Content *synced = g_hash_table_lookup(sim->synced, GSIZE_TO_POINTER(inode));
  Content *content = content_of(path);
  gsize unit = g_rand_boolean(sim->rand) ? 512 : 4096;
  for (gsize at = 0; at < content->length; at += unit) {
    gsize n = MIN(unit, content->length - at);
    gsize known = synced != NULL && synced->length > at ? MIN(n, synced->length - at) : 0;
    if (g_rand_boolean(sim->rand))
      continue;
    memset(content->data + at + known, 0, n - known);
    if (known != 0)
      memcpy(content->data + at, synced->data + at, known);
  }
  return content;
}

static Content *
copy_synced(const Sim *sim, ino_t inode)
{
  const Content *synced = g_hash_table_lookup(sim->synced, GSIZE_TO_POINTER(inode));
  Content *content = g_new0(Content, 1);
  if (synced != NULL) {
    content->data = g_memdup2(synced->data, synced->length);
    content->length = synced->length;
  }
  return content;
}

static GPtrArray *
list_folder(const Sim *sim)
{
  GPtrArray *list = g_ptr_array_new_with_free_func(g_free);
  g_autoptr(GDir) dir = g_dir_open(sim->folder, 0, NULL);
  for (const char *name = g_dir_read_name(dir); name != NULL; name = g_dir_read_name(dir))
    if (strcmp(name, "lock") != 0)
      g_ptr_array_add(list, g_strdup(name));
  return list;
}

static void
take_cut(Sim *sim)
{
  g_autoptr(GPtrArray) list = list_folder(sim);
  sim->after_cut = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, content_free);
  for (guint i = 0; i < list->len; i++) {
    const char *name = g_ptr_array_index(list, i);
    g_autofree char *path = g_build_filename(sim->folder, name, NULL);
    ino_t inode = inode_of(path);
    ino_t old = (ino_t) GPOINTER_TO_SIZE(g_hash_table_lookup(sim->durable_names, name));
    if (old == inode || g_rand_boolean(sim->rand))
      g_hash_table_replace(sim->after_cut, g_strdup(name), mix(sim, path, inode));
    else if (old != 0)
      g_hash_table_replace(sim->after_cut, g_strdup(name), copy_synced(sim, old));
  }
  GHashTableIter iter;
  gpointer name, inode;
  g_hash_table_iter_init(&iter, sim->durable_names);
  while (g_hash_table_iter_next(&iter, &name, &inode))
    if (!g_ptr_array_find_with_equal_func(list, name, g_str_equal, NULL) && g_rand_boolean(sim->rand))
      g_hash_table_replace(sim->after_cut, g_strdup(name), copy_synced(sim, (ino_t) GPOINTER_TO_SIZE(inode)));
  for (guint i = 0; i < N_CLUSTERS; i++)
    sim->cut_image[i] = g_rand_boolean(sim->rand) ? sim->image[i] : sim->durable[i];
}

/* One of the instants at which the power may go. */
static void
step(Sim *sim)
{
  if (++sim->steps == sim->cut_at)
    take_cut(sim);
}

static gboolean
is_dead(const Sim *sim)
{
  return sim->after_cut != NULL;
}

/* --- the guest --- */

static void
guest_writes(Sim *sim, gint n)
{
  for (gint i = 0; i < n; i++) {
    gint cluster = g_rand_int_range(sim->rand, 0, N_CLUSTERS);
    cbt_tracker_open_range(sim->tracker, sim->offsets[cluster], CLUSTER);
    assert_true(cbt_tracker_is_range_open(sim->tracker, sim->offsets[cluster], CLUSTER));
    cbt_tracker_record(sim->tracker, sim->offsets[cluster], CLUSTER);
    step(sim);
    sim->image[cluster] = ++sim->clock;
    step(sim);
  }
}

/* While the main thread waits for storage, the guest goes on, if it is not held. */
static void
guest_goes_on(Sim *sim)
{
  if (!pthread_equal(pthread_self(), sim->main_thread) || !sim->is_guest_live)
    return;
  sim->is_guest_live = FALSE; /* its own flushes of the log */
  guest_writes(sim, g_rand_int_range(sim->rand, 0, 3));
  sim->is_guest_live = TRUE;
}

static gboolean
pause_guest(gpointer user_data, CbtTrackerFunc func, gpointer data, GError **error)
{
  Sim *sim = user_data;
  if (sim->refuse_pause != 0 && --sim->refuse_pause == 0) {
    cbt_set_error(error, CBT_ERROR_BUSY, NULL, "the guest cannot be held");
    return FALSE;
  }
  sim->is_guest_live = FALSE;
  func(data);
  sim->is_guest_live = TRUE;
  return TRUE;
}

/* --- file operations --- */

static int
sim_open(const CbtFileOps *ops, const char *path, int flags, mode_t mode)
{
  Sim *sim = ops->user;
  step(sim);
  int fd = cbt_file_ops_default()->open(ops, path, flags, mode);
  if (fd >= 0 && (flags & O_CREAT) != 0) /* an inode number may come back */
    g_hash_table_remove(sim->synced, GSIZE_TO_POINTER(inode_of(path)));
  return fd;
}

static ssize_t
sim_pwrite(const CbtFileOps *ops, int fd, const void *buffer, size_t length, off_t offset)
{
  step(ops->user);
  guest_goes_on(ops->user);
  ssize_t n = cbt_file_ops_default()->pwrite(ops, fd, buffer, length, offset);
  guest_goes_on(ops->user);
  return n;
}

static int
sim_fdatasync(const CbtFileOps *ops, int fd)
{
  Sim *sim = ops->user;
  struct stat st;
  char link[64];
  assert_int_equal(fstat(fd, &st), 0);
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  g_autofree char *path = g_file_read_link(link, NULL);
  /* The only other thread is a trim: in the middle of it the guest goes on. */
  gboolean in_trim =
      !pthread_equal(pthread_self(), sim->main_thread) && strstr(path, CBT_REGION_LOG_NAME) == NULL;
  step(sim);
  if (in_trim)
    guest_writes(sim, g_rand_int_range(sim->rand, 0, 4));
  guest_goes_on(sim);
  if (is_dead(sim))
    return 0;
  if (st.st_ino == sim->image_ino)
    memcpy(sim->durable, sim->image, sizeof sim->durable);
  else
    g_hash_table_replace(sim->synced, GSIZE_TO_POINTER(st.st_ino), content_of(link));
  if (in_trim)
    guest_writes(sim, g_rand_int_range(sim->rand, 0, 4));
  guest_goes_on(sim);
  step(sim);
  return 0;
}

static int
sim_rename(const CbtFileOps *ops, const char *from, const char *to)
{
  step(ops->user);
  return rename(from, to);
}

static int
sim_unlink(const CbtFileOps *ops, const char *path)
{
  step(ops->user);
  return unlink(path);
}

static void
note_names(Sim *sim)
{
  g_autoptr(GPtrArray) list = list_folder(sim);
  g_hash_table_remove_all(sim->durable_names);
  for (guint i = 0; i < list->len; i++) {
    g_autofree char *path = g_build_filename(sim->folder, g_ptr_array_index(list, i), NULL);
    g_hash_table_replace(sim->durable_names, g_strdup(g_ptr_array_index(list, i)),
                         GSIZE_TO_POINTER(inode_of(path)));
  }
}

static int
sim_fsync_dir(const CbtFileOps *ops, const char *path G_GNUC_UNUSED)
{
  Sim *sim = ops->user;
  step(sim);
  if (!is_dead(sim))
    note_names(sim);
  return 0;
}

/* --- a life between two cuts --- */

static void
open_tracker(Sim *sim, guint8 boot_number)
{
  g_autoptr(GError) error = NULL;
  CbtBoot boot = {.id = {.bytes = {0xb0, boot_number}}, .started_ns = G_MAXINT64};
  sim->tracker =
      cbt_tracker_open_in_boot(&sim->ops, sim->folder, NULL, sim->image_fd, &sim->disk_id, &boot, &error);
  assert_no_error(error);
}

static void
close_tracker(Sim *sim)
{
  g_autoptr(GError) error = NULL;
  memcpy(sim->durable, sim->image, sizeof sim->durable); /* it begins with a sync of the image */
  if (!cbt_tracker_close(g_steal_pointer(&sim->tracker), &error))
    fail_msg("%s", error->message);
}

static CbtBitmapInfo
info_of(Sim *sim, guint bitmap)
{
  g_autoptr(GError) error = NULL;
  CbtBitmapInfo info;
  CbtBitmapFile *file = cbt_tracker_find(sim->tracker, names[bitmap], &error);
  assert_no_error(error);
  cbt_bitmap_file_info(file, &info);
  return info;
}

static void
apply(Sim *sim, guint bitmap, CbtBitmapEvent event, const CbtUuid *pending)
{
  g_autoptr(GError) error = NULL;
  /* As an export does it: the guest writes in between; the header of a freeze is durable late, or never. */
  guint finish = event == CBT_BITMAP_ABDICATE ? 1 : 2; /* a freeze has but one */
  sim->refuse_pause = g_rand_int_range(sim->rand, 0, 4) == 0 ? finish : 0;
  sim->is_guest_live = TRUE;
  cbt_tracker_set_pause(sim->tracker, pause_guest, sim);
  if (!cbt_tracker_apply(sim->tracker, names[bitmap], event, pending, NULL, &error))
    fail_msg("%s", error->message);
  cbt_tracker_set_pause(sim->tracker, NULL, NULL);
  sim->is_guest_live = FALSE;
  cbt_tracker_wait_for_trim(sim->tracker); /* the guest writes in the trim's own thread */
  if (g_rand_boolean(sim->rand))
    cbt_tracker_settle(sim->tracker);
}

/* A freeze is for a point that has the image as it is now. */
static void
freeze(Sim *sim, guint bitmap)
{
  CbtUuid id = {.bytes = {1}};
  char text[CBT_UUID_TEXT_SIZE];
  for (guint i = 1; i < sizeof id.bytes; i++)
    id.bytes[i] = (guint8) g_rand_int_range(sim->rand, 0, 256);
  g_hash_table_replace(sim->points, g_strdup(cbt_uuid_format(&id, text)),
                       g_memdup2(sim->image, sizeof sim->image));
  apply(sim, bitmap, CBT_BITMAP_CREATE_SUCCESSOR, &id);
}

static void
live(Sim *sim, guint8 *boot_number)
{
  while (!is_dead(sim)) {
    guint bitmap = (guint) g_rand_int_range(sim->rand, 0, N_BITMAPS);
    gint what = g_rand_int_range(sim->rand, 0, 20);
    if (what < 9)
      guest_writes(sim, g_rand_int_range(sim->rand, 1, 12));
    else if (what < 18 && info_of(sim, bitmap).state == CBT_BITMAP_FROZEN)
      apply(sim, bitmap, g_rand_int_range(sim->rand, 0, 4) ? CBT_BITMAP_ABDICATE : CBT_BITMAP_RECLAIM, NULL);
    else if (what < 18)
      freeze(sim, bitmap);
    else if (what == 18) { /* killed, and started again */
      cbt_tracker_abandon(g_steal_pointer(&sim->tracker));
      open_tracker(sim, *boot_number);
    } else {
      close_tracker(sim);
      open_tracker(sim, ++*boot_number);
    }
  }
  cbt_tracker_abandon(g_steal_pointer(&sim->tracker));
}

/* --- afterwards --- */

/* What the disk has now is all there is. */
static void
settle_folder(Sim *sim)
{
  g_autoptr(GPtrArray) list = list_folder(sim);
  GHashTableIter iter;
  gpointer name, content;
  for (guint i = 0; i < list->len; i++) {
    g_autofree char *path = g_build_filename(sim->folder, g_ptr_array_index(list, i), NULL);
    unlink(path);
  }
  g_hash_table_remove_all(sim->synced);
  g_hash_table_iter_init(&iter, sim->after_cut);
  while (g_hash_table_iter_next(&iter, &name, &content)) {
    g_autofree char *path = g_build_filename(sim->folder, name, NULL);
    const Content *c = content;
    CBT_AUTO_FD int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && cbt_pwrite_full(fd, c->data, c->length, 0));
    g_hash_table_replace(sim->synced, GSIZE_TO_POINTER(inode_of(path)), content_of(path));
  }
  note_names(sim);
  g_clear_pointer(&sim->after_cut, g_hash_table_destroy);
  memcpy(sim->image, sim->cut_image, sizeof sim->image);
  memcpy(sim->durable, sim->cut_image, sizeof sim->durable);
}

/* Each cluster that differs from POINT is dirty in A or in B, which may be NULL. */
static void
check_point(Sim *sim, guint32 seed, const char *name, const CbtUuid *point, const CbtBitmap *a,
            const CbtBitmap *b)
{
  char text[CBT_UUID_TEXT_SIZE];
  const guint32 *versions = g_hash_table_lookup(sim->points, cbt_uuid_format(point, text));
  assert_non_null(versions);
  for (guint i = 0; i < N_CLUSTERS; i++)
    if (versions[i] != sim->image[i]) {
      sim->n_needed++;
      if (!cbt_bitmap_get(a, sim->offsets[i]) && (b == NULL || !cbt_bitmap_get(b, sim->offsets[i])))
        fail_msg("CBT_TEST_SEED=%u: '%s' misses cluster %u", seed, name, i);
    }
  sim->n_dirty += cbt_bitmap_count(a) / CLUSTER;
}

static void
check_bitmap(Sim *sim, guint32 seed, guint bitmap)
{
  CbtBitmapInfo info = info_of(sim, bitmap);
  const CbtBitmapFile *file = cbt_tracker_find(sim->tracker, names[bitmap], NULL);
  if (info.state != CBT_BITMAP_ACTIVE && info.state != CBT_BITMAP_FROZEN)
    fail_msg("CBT_TEST_SEED=%u: '%s' is %s: %s", seed, info.name, cbt_bitmap_state_name(info.state),
             info.reason);
  check_point(sim, seed, info.name, &info.base, cbt_bitmap_file_parent(file),
              cbt_bitmap_file_successor(file));
  if (info.state == CBT_BITMAP_FROZEN) { /* as if it abdicated now */
    check_point(sim, seed, info.name, &info.pending, cbt_bitmap_file_successor(file), NULL);
    sim->n_settled++;
    apply(sim, bitmap, g_rand_boolean(sim->rand) ? CBT_BITMAP_ABDICATE : CBT_BITMAP_RECLAIM, NULL);
  }
}

static void
sim_init(Sim *sim, const Fixture *f, guint32 seed)
{
  g_autofree char *image = g_build_filename(f->directory, "image", NULL);
  sim->ops = *cbt_file_ops_default();
  sim->ops.user = sim;
  sim->ops.open = sim_open;
  sim->ops.pwrite = sim_pwrite;
  sim->ops.fdatasync = sim_fdatasync;
  sim->ops.rename = sim_rename;
  sim->ops.unlink = sim_unlink;
  sim->ops.fsync_dir = sim_fsync_dir;
  sim->folder = g_strdup_printf("%s/%u", f->directory, seed);
  sim->image_fd = open(image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  assert_int_equal(ftruncate(sim->image_fd, (off_t) DISK_SIZE), 0);
  sim->image_ino = inode_of(image);
  sim->disk_id = f->disk.disk_id;
  sim->main_thread = pthread_self();
  sim->rand = g_rand_new_with_seed(seed);
  sim->synced = g_hash_table_new_full(NULL, NULL, NULL, content_free);
  sim->durable_names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
  sim->points = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
  for (guint i = 0; i < N_CLUSTERS; i++) {
    guint64 region = (i / N_PER_HOT) * (DISK_SIZE / N_HOT / (16 << 20));
    sim->offsets[i] = (region << 24) + (guint64) (i % N_PER_HOT) * 20 * CLUSTER;
  }
}

static void
sim_clear(Sim *sim)
{
  close(sim->image_fd);
  g_hash_table_destroy(sim->points);
  g_hash_table_destroy(sim->durable_names);
  g_hash_table_destroy(sim->synced);
  g_rand_free(sim->rand);
  g_free(sim->folder);
}

static void
run_seed(const Fixture *f, guint32 seed, Sim *totals)
{
  Sim sim = {0};
  guint8 boot_number = 0;
  sim_init(&sim, f, seed);
  open_tracker(&sim, ++boot_number);
  for (guint i = 0; i < N_BITMAPS; i++) {
    g_autoptr(GError) error = NULL;
    assert_true(cbt_tracker_add(sim.tracker, names[i], granularities[i], &error));
    freeze(&sim, i);
    apply(&sim, i, CBT_BITMAP_ABDICATE, NULL);
  }
  for (guint cut = 0; cut < N_CUTS; cut++) {
    sim.cut_at = sim.steps + (guint64) g_rand_int_range(sim.rand, 1, 400);
    live(&sim, &boot_number);
    settle_folder(&sim);
    /* The next one may come while this one is made good. */
    sim.cut_at = sim.steps + (guint64) g_rand_int_range(sim.rand, 1, 60);
    open_tracker(&sim, ++boot_number);
    if (is_dead(&sim)) {
      cbt_tracker_abandon(g_steal_pointer(&sim.tracker));
      settle_folder(&sim);
      open_tracker(&sim, ++boot_number);
    }
    sim.cut_at = 0;
    for (guint i = 0; i < N_BITMAPS; i++)
      check_bitmap(&sim, seed, i);
  }
  cbt_tracker_abandon(sim.tracker);
  totals->n_needed += sim.n_needed;
  totals->n_dirty += sim.n_dirty;
  totals->n_settled += sim.n_settled;
  totals->steps += sim.steps;
  sim_clear(&sim);
}

static void
test_power_cut_loses_no_change_and_no_base(void **state)
{
  const char *fixed = g_getenv("CBT_TEST_SEED");
  guint32 n = g_getenv("CBT_TEST_LONG") != NULL ? 1000 : N_SEEDS;
  guint32 first = fixed != NULL ? (guint32) g_ascii_strtoull(fixed, NULL, 10) : 1;
  Sim totals = {0};
  for (guint32 seed = first; seed < first + (fixed != NULL ? 1 : n); seed++) {
    void *fixture;
    assert_int_equal(fixture_setup(&fixture), 0);
    run_seed(fixture, seed, &totals);
    fixture_teardown(&fixture);
  }
  (void) state;
  print_message(
      "%u seeds of %u cuts, %" G_GUINT64_FORMAT " steps, %" G_GUINT64_FORMAT
      " bitmaps found frozen: %" G_GUINT64_FORMAT " clusters differed, %" G_GUINT64_FORMAT " were dirty\n",
      fixed != NULL ? 1 : n, N_CUTS, totals.steps, totals.n_settled, totals.n_needed, totals.n_dirty);
}

int
main(void)
{
  if (access("/dev/shm", W_OK) == 0)
    g_setenv("TMPDIR", "/dev/shm", FALSE);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_power_cut_loses_no_change_and_no_base),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
