/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Questions go out in rounds, one for each subject that has answered the one before, and all who wait are
 * told when the round is over: so what is made of the answers is made once, however many ask. A round that
 * somebody does not answer ends by itself; its answer is taken when it comes. A question holds all that its
 * thread needs, so that it shares nothing with the main thread until its task ends.
 */
#include <daemon/gauges.h>

#include <cbt/disk.h>
#include <cbt/tracker.h>
#include <daemon/exports.h>
#include <daemon/task.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define WAIT_MS            500u  /* for answers; status is what one looks at when something hangs */
#define ROUND_WAIT_MS      450u  /* less, so that who does not answer is known to be late */
#define ROUND_US           10000 /* one each, in the long run, however often somebody asks */
#define ROUNDS_AT_ONCE     20    /* after a rest of as many */
#define ASK_US             10000 /* who asks more often than that, in the long run, is one of many */
#define ASKS_AT_ONCE       20
#define CONNECT_TIMEOUT_MS 400u
#define STORE_TIMEOUT_MS   400u /* less than that, so that it is told that the store does not answer */
#define STORE_AGAIN_MS     20u  /* the same while it does not */

/* What one question is about: a vm's disks, or the store. */
typedef struct {
  Gauges *gauges;
  char *vm; /* NULL: the store */
  gboolean asking;
  guint64 round;    /* in which it was asked last */
  GPtrArray *disks; /* (nullable) of GaugeDisk, as last told */
} Subject;

typedef struct {
  Gauges *gauges;
  guint timeout_id;
  GaugesFunc func;
  gpointer data;
} Waiter;

struct Gauges {
  Daemon *daemon; /* constant */
  Subject *store_subject;
  GHashTable *vms; /* name -> Subject */
  GaugeStore store;
  GPtrArray *known; /* (nullable) of CatalogueVm, as listed when the catalogue had seen n_changes changes */
  guint64 n_changes;
  /* the round under way, or the last one */
  guint64 round;
  gint64 begun_at;    /* monotonic, as the next two */
  gint64 told_at;     /* when the last one began that is over */
  gint64 due_at;      /* the next one begins no sooner */
  gboolean is_wanted; /* the next one, without anybody waiting for it */
  guint n_open;       /* answers to come; 0: it is over */
  guint timer_id;     /* ends it, or begins the next */
  GPtrArray *waiters; /* of Waiter: for its end */
  GPtrArray *next;    /* the same: they came after it began, and want the one after it */
  gint64 asks_until; /* monotonic: ASK_US for each who asked, and no more behind or ahead than ASKS_AT_ONCE */
};

static void
gauge_disk_free(gpointer data)
{
  GaugeDisk *disk = data;
  g_array_unref(disk->bitmaps);
  g_free(disk->name);
  g_free(disk);
}

static Subject *
subject_new(Gauges *gauges, const char *vm)
{
  Subject *subject = g_new0(Subject, 1);
  subject->gauges = gauges;
  subject->vm = g_strdup(vm);
  return subject;
}

static void
subject_free(gpointer data)
{
  Subject *subject = data;
  g_assert(!subject->asking);
  g_clear_pointer(&subject->disks, g_ptr_array_unref);
  g_free(subject->vm);
  g_free(subject);
}

Gauges *
gauges_new(Daemon *daemon)
{
  Gauges *gauges = g_new0(Gauges, 1);
  gauges->daemon = daemon;
  gauges->store_subject = subject_new(gauges, NULL);
  gauges->vms = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, subject_free);
  gauges->waiters = g_ptr_array_new();
  gauges->next = g_ptr_array_new();
  return gauges;
}

void
gauges_free(Gauges *gauges)
{
  subject_free(gauges->store_subject);
  g_hash_table_unref(gauges->vms);
  g_clear_pointer(&gauges->known, g_ptr_array_unref);
  g_clear_handle_id(&gauges->timer_id, g_source_remove);
  g_assert(gauges->waiters->len == 0 && gauges->next->len == 0);
  g_ptr_array_unref(gauges->waiters);
  g_ptr_array_unref(gauges->next);
  g_free(gauges);
}

/* ---- one question ---- */

static void note_answer(Gauges *gauges);

typedef struct {
  char *control; /* NULL: it is not exported, or QEMU has it */
  char *bitmap;  /* (nullable) path of its file */
  char *image;   /* (nullable) the same; NULL: QEMU has it */
  GaugeDisk *answer;
} DiskQuestion;

typedef struct {
  Subject *subject;
  GPtrArray *disks; /* of DiskQuestion */
  guint timeout_ms; /* of the store */
  GaugeStore store;
} Question;

static void
disk_question_free(gpointer data)
{
  DiskQuestion *question = data;
  g_clear_pointer(&question->answer, gauge_disk_free);
  g_free(question->control);
  g_free(question->bitmap);
  g_free(question->image);
  g_free(question);
}

static void
ask_export(const char *control, GaugeDisk *answer)
{
  CbtControlRequest request;
  CbtControlReply reply;
  gint64 begun = g_get_monotonic_time();
  g_autoptr(CbtDisk) disk = cbt_disk_connect(control, CONNECT_TIMEOUT_MS, NULL);
  cbt_control_request_init(&request, CBT_CONTROL_LIST, NULL);
  answer->answers = disk && cbt_disk_call(disk, &request, NULL, &reply, NULL);
  if (!answer->answers)
    return;
  answer->round_trip_us = g_get_monotonic_time() - begun;
  g_array_append_vals(answer->bitmaps, reply.bitmaps, MIN(reply.n_bitmaps, CBT_TRACKER_MAX_BITMAPS));
}

static void
look_at_file(const char *path, GaugeDisk *answer)
{
  CbtBitmapInfo info;
  g_autoptr(CbtBitmapFile) file = cbt_bitmap_file_open_readonly(path, NULL);
  if (!file)
    return;
  cbt_bitmap_file_info(file, &info);
  g_array_append_val(answer->bitmaps, info);
}

static gboolean
leads_nowhere(const char *path)
{
  struct stat st;
  return stat(path, &st) != 0 && (errno == ENOENT || errno == ENOTDIR);
}

static JsonNode *
run_vm(Daemon *daemon G_GNUC_UNUSED, gpointer data, guint *status G_GNUC_UNUSED, GError **error G_GNUC_UNUSED)
{
  const Question *question = data;
  for (guint i = 0; i < question->disks->len; i++) {
    const DiskQuestion *disk = g_ptr_array_index(question->disks, i);
    if (disk->control)
      ask_export(disk->control, disk->answer);
    else if (disk->bitmap)
      look_at_file(disk->bitmap, disk->answer);
    disk->answer->image_is_missing = disk->image && leads_nowhere(disk->image);
  }
  return NULL;
}

static JsonNode *
run_store(Daemon *daemon, gpointer data, guint *status G_GNUC_UNUSED, GError **error G_GNUC_UNUSED)
{
  Question *question = data;
  GaugeStore *store = &question->store;
  store_statistics(daemon->store, &store->statistics);
  store->unwritten = store_unwritten_bytes(daemon->store);
  store->answers = free_space_get(daemon->store_space, question->timeout_ms, &store->free, &store->is_known);
  store->total = free_space_total(daemon->store_space);
  store->is_replaced = store->answers && !store_check_in_place(daemon->store, NULL);
  return NULL;
}

/* Main thread, when the task has ended. What an export last told stays if it does not answer. */
static void
take_disks(Subject *subject, Question *question)
{
  g_autoptr(GPtrArray) before = g_steal_pointer(&subject->disks);
  subject->disks = g_ptr_array_new_with_free_func(gauge_disk_free);
  for (guint i = 0; i < question->disks->len; i++) {
    GaugeDisk *answer = g_steal_pointer(&((DiskQuestion *) question->disks->pdata[i])->answer);
    for (guint j = 0; answer->exported && !answer->answers && before && j < before->len; j++) {
      const GaugeDisk *old = g_ptr_array_index(before, j);
      if (strcmp(old->name, answer->name) == 0)
        g_array_append_vals(answer->bitmaps, old->bitmaps->data, old->bitmaps->len);
    }
    g_ptr_array_add(subject->disks, answer);
  }
}

static void
question_end(gpointer data)
{
  Question *question = data;
  Subject *subject = question->subject;
  if (question->disks)
    take_disks(subject, question);
  else
    subject->gauges->store = question->store;
  g_clear_pointer(&question->disks, g_ptr_array_unref);
  g_free(question);
  subject->asking = FALSE;
  if (subject->round == subject->gauges->round)
    note_answer(subject->gauges);
}

static DiskQuestion *
disk_question_new(Daemon *daemon, const char *vm, const CatalogueDisk *disk)
{
  DiskQuestion *question = g_new0(DiskQuestion, 1);
  g_autofree char *folder = daemon_config_bitmap_dir(daemon->config, vm, disk->name);
  if (!disk->qmp) {
    question->control = exports_control_socket(daemon->exports, vm, disk->name);
    question->bitmap = cbt_tracker_bitmap_path(folder, "default");
    question->image = g_strdup(disk->path);
  }
  question->answer = g_new0(GaugeDisk, 1);
  question->answer->name = g_strdup(disk->name);
  question->answer->exported = question->control != NULL;
  question->answer->bitmaps = g_array_new(FALSE, FALSE, sizeof(CbtBitmapInfo));
  return question;
}

static const CatalogueVm *
find_vm(const Gauges *gauges, const char *name)
{
  for (guint i = 0; i < gauges->known->len; i++) {
    const CatalogueVm *vm = g_ptr_array_index(gauges->known, i);
    if (strcmp(vm->name, name) == 0)
      return vm;
  }
  return NULL;
}

/* About a vm that was removed there is nothing to ask. */
static void
ask(Subject *subject)
{
  Daemon *daemon = subject->gauges->daemon;
  const CatalogueVm *vm = subject->vm ? find_vm(subject->gauges, subject->vm) : NULL;
  Question *question = g_new0(Question, 1);
  question->subject = subject;
  if (subject->vm)
    question->disks = g_ptr_array_new_with_free_func(disk_question_free);
  for (guint i = 0; vm && i < vm->disks->len; i++)
    g_ptr_array_add(question->disks, disk_question_new(daemon, vm->name, vm->disks->pdata[i]));
  question->timeout_ms = subject->gauges->store.answers ? STORE_TIMEOUT_MS : STORE_AGAIN_MS;
  subject->round = subject->gauges->round;
  subject->gauges->n_open++;
  subject->asking = TRUE;
  task_run(daemon, NULL, 0, subject->vm ? run_vm : run_store, question, question_end);
}

/* ---- rounds ---- */

static void
waiter_end(Waiter *waiter)
{
  g_clear_handle_id(&waiter->timeout_id, g_source_remove);
  waiter->func(waiter->data);
  g_free(waiter);
}

static gboolean
on_waited(gpointer data)
{
  Waiter *waiter = data;
  waiter->timeout_id = 0;
  g_ptr_array_remove(waiter->gauges->waiters, waiter);
  g_ptr_array_remove(waiter->gauges->next, waiter);
  waiter_end(waiter);
  return G_SOURCE_REMOVE;
}

static void end_round(Gauges *gauges);

static void
note_answer(Gauges *gauges)
{
  if (gauges->n_open > 0 && --gauges->n_open == 0)
    end_round(gauges);
}

static gboolean
on_round_late(gpointer data)
{
  Gauges *gauges = data;
  gauges->timer_id = 0;
  gauges->n_open = 0;
  end_round(gauges);
  return G_SOURCE_REMOVE;
}

static void
ask_if_free(Subject *subject)
{
  if (!subject->asking)
    ask(subject);
}

static gboolean
begin_round(gpointer data)
{
  Gauges *gauges = data;
  GHashTableIter iter;
  gpointer subject;
  g_autoptr(GPtrArray) none = gauges->waiters;
  gauges->waiters = gauges->next;
  gauges->next = g_steal_pointer(&none);
  gauges->round++;
  gauges->is_wanted = FALSE;
  gauges->begun_at = g_get_monotonic_time();
  gauges->due_at = MAX(gauges->due_at, gauges->begun_at - ROUNDS_AT_ONCE * ROUND_US) + ROUND_US;
  gauges->timer_id = g_timeout_add(ROUND_WAIT_MS, on_round_late, gauges);
  gauges->n_open = 1; /* until all are asked */
  ask_if_free(gauges->store_subject);
  g_hash_table_iter_init(&iter, gauges->vms);
  while (g_hash_table_iter_next(&iter, NULL, &subject))
    ask_if_free(subject);
  note_answer(gauges);
  return G_SOURCE_REMOVE;
}

/* The next one begins as soon as somebody waits for it, but not too soon. */
static void
plan_round(Gauges *gauges)
{
  gint64 early_us = gauges->due_at - g_get_monotonic_time();
  if (gauges->n_open > 0 || gauges->timer_id != 0 || (gauges->next->len == 0 && !gauges->is_wanted))
    return;
  if (early_us > 0)
    gauges->timer_id = g_timeout_add((guint) (early_us + 999) / 1000, begin_round, gauges);
  else
    begin_round(gauges);
}

static void
end_round(Gauges *gauges)
{
  g_autoptr(GPtrArray) told = gauges->waiters;
  gauges->waiters = g_ptr_array_new();
  gauges->told_at = gauges->begun_at;
  g_clear_handle_id(&gauges->timer_id, g_source_remove);
  for (guint i = 0; i < told->len; i++)
    waiter_end(g_ptr_array_index(told, i));
  plan_round(gauges);
}

void
gauges_stop(Gauges *gauges)
{
  g_autoptr(GPtrArray) left = gauges->next;
  gauges->next = g_ptr_array_new();
  gauges->n_open = 0;
  gauges->is_wanted = FALSE;
  end_round(gauges);
  for (guint i = 0; i < left->len; i++)
    waiter_end(g_ptr_array_index(left, i));
}

/* ---- what callers see ---- */

static gboolean
is_late(const Subject *subject)
{
  return subject->asking && (subject->gauges->n_open == 0 || subject->round != subject->gauges->round);
}

static gboolean
is_forgotten(gpointer name, gpointer subject, gpointer gauges)
{
  return !((const Subject *) subject)->asking && !find_vm(gauges, name);
}

/* Lists the vms again if anything was written since. */
static gboolean
know_vms(Gauges *gauges, GError **error)
{
  guint64 n_changes = catalogue_n_changes(gauges->daemon->catalogue);
  if (gauges->known && gauges->n_changes == n_changes)
    return TRUE;
  GPtrArray *vms = catalogue_list_vms(gauges->daemon->catalogue, error);
  if (!vms)
    return FALSE;
  g_clear_pointer(&gauges->known, g_ptr_array_unref);
  gauges->known = vms;
  gauges->n_changes = n_changes;
  g_hash_table_foreach_remove(gauges->vms, is_forgotten, gauges);
  for (guint i = 0; i < vms->len; i++) {
    const char *name = ((const CatalogueVm *) vms->pdata[i])->name;
    if (g_hash_table_contains(gauges->vms, name))
      continue;
    Subject *subject = subject_new(gauges, name);
    g_hash_table_insert(gauges->vms, subject->vm, subject);
  }
  return TRUE;
}

gboolean
gauges_many_ask(const Gauges *gauges)
{
  return gauges->asks_until > g_get_monotonic_time();
}

static void
count_ask(Gauges *gauges, gint64 now)
{
  const gint64 most = ASKS_AT_ONCE * ASK_US;
  gauges->asks_until = CLAMP(gauges->asks_until, now - most, now + most) + ASK_US;
}

static void
wait_for(GPtrArray *waiters, Gauges *gauges, GaugesFunc func, gpointer data)
{
  Waiter *waiter = g_new0(Waiter, 1);
  *waiter = (Waiter){.gauges = gauges, .func = func, .data = data};
  waiter->timeout_id = g_timeout_add(WAIT_MS, on_waited, waiter);
  g_ptr_array_add(waiters, waiter);
}

gboolean
gauges_ask(Gauges *gauges, GaugesFunc func, gpointer data, GError **error)
{
  if (!know_vms(gauges, error))
    return FALSE;
  gint64 now = g_get_monotonic_time();
  count_ask(gauges, now);
  gboolean one_of_many = gauges_many_ask(gauges);
  gauges->is_wanted = TRUE;
  if (one_of_many && now - gauges->told_at <= GAUGES_FRESH_US)
    func(data);
  else
    wait_for(one_of_many && gauges->n_open > 0 ? gauges->waiters : gauges->next, gauges, func, data);
  plan_round(gauges);
  return TRUE;
}

guint64
gauges_round(const Gauges *gauges)
{
  return gauges->n_open > 0 ? gauges->round - 1 : gauges->round;
}

const GaugeDisk *
gauges_disk(const Gauges *gauges, const char *vm, const char *disk)
{
  const Subject *subject = g_hash_table_lookup(gauges->vms, vm);
  for (guint i = 0; subject && subject->disks && i < subject->disks->len; i++) {
    const GaugeDisk *gauge = g_ptr_array_index(subject->disks, i);
    if (strcmp(gauge->name, disk) == 0)
      return gauge;
  }
  return NULL;
}

gboolean
gauges_is_late(const Gauges *gauges, const char *vm)
{
  const Subject *subject = g_hash_table_lookup(gauges->vms, vm);
  return subject && is_late(subject);
}

const GaugeStore *
gauges_store(const Gauges *gauges)
{
  return &gauges->store;
}

const CbtBitmapInfo *
gauge_disk_default(const GaugeDisk *disk)
{
  for (guint i = 0; disk && i < disk->bitmaps->len; i++) {
    const CbtBitmapInfo *info = &g_array_index(disk->bitmaps, CbtBitmapInfo, i);
    if (strncmp(info->name, "default", sizeof info->name) == 0)
      return info;
  }
  return NULL;
}
