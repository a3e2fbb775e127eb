/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <cbt/qemu/bitmaps.h>

#include <cbt/bitmap-file-private.h>
#include <cbt/qemu/qmp-args.h>
#include <common/error.h>
#include <string.h>

#define NO_BASE "none-"

/* The bitmaps of QEMU that stand for one of ours. */
typedef struct {
  char name[CBT_NAME_MAX + 1];
  GPtrArray *members; /* of const QemuBitmap */
} Group;

static void
group_free(gpointer data)
{
  Group *group = data;
  g_ptr_array_unref(group->members);
  g_free(group);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(Group, group_free)

static void
step_free(gpointer data)
{
  QemuBitmapStep *step = data;
  g_free(step->name);
  g_free(step->source);
  g_free(step);
}

/* ---- names ---- */

char *
qemu_bitmap_name(const char *prefix, const char *name, const CbtUuid *base)
{
  char text[CBT_UUID_TEXT_SIZE];
  if (cbt_uuid_is_nil(base))
    return g_strdup_printf("%s-%s-" NO_BASE "%08x", prefix, name, g_random_int());
  return g_strdup_printf("%s-%s-%s", prefix, name, cbt_uuid_format(base, text));
}

/* Where BASE begins in the rest of a name, or NULL. */
static const char *
find_base(const char *rest, CbtUuid *base)
{
  gsize length = strlen(rest);
  const gsize uuid_length = CBT_UUID_TEXT_SIZE - 1, none_length = strlen(NO_BASE) + 8;
  if (length > uuid_length && cbt_uuid_parse(rest + length - uuid_length, base))
    return rest + length - uuid_length;
  *base = (CbtUuid){{0}};
  if (length > none_length && g_str_has_prefix(rest + length - none_length, NO_BASE) &&
      strspn(rest + length - 8, "0123456789abcdef") == 8)
    return rest + length - none_length;
  return NULL;
}

/* FALSE if the bitmap is none of ours. */
static gboolean
parse_name(const char *prefix, const char *qemu_name, char name[CBT_NAME_MAX + 1], CbtUuid *base)
{
  gsize length = strlen(prefix);
  if (!g_str_has_prefix(qemu_name, prefix) || qemu_name[length] != '-')
    return FALSE;
  const char *rest = qemu_name + length + 1;
  const char *end = find_base(rest, base);
  if (!end || end == rest || end[-1] != '-' || (gsize) (end - 1 - rest) > CBT_NAME_MAX)
    return FALSE;
  memset(name, 0, CBT_NAME_MAX + 1);
  memcpy(name, rest, (gsize) (end - 1 - rest));
  return cbt_name_check("bitmap", name, NULL);
}

/* ---- groups ---- */

static Group *
find_group(const GPtrArray *groups, const char *name)
{
  for (guint i = 0; i < groups->len; i++)
    if (strcmp(((Group *) groups->pdata[i])->name, name) == 0)
      return groups->pdata[i];
  return NULL;
}

static GPtrArray *
make_groups(const QemuDisk *disk, const char *prefix)
{
  GPtrArray *groups = g_ptr_array_new_with_free_func(group_free);
  for (guint i = 0; i < disk->bitmaps->len; i++) {
    QemuBitmap *bitmap = disk->bitmaps->pdata[i];
    char name[CBT_NAME_MAX + 1];
    CbtUuid base;
    if (!parse_name(prefix, bitmap->name, name, &base))
      continue;
    Group *group = find_group(groups, name);
    if (!group) {
      group = g_new0(Group, 1);
      g_strlcpy(group->name, name, sizeof group->name);
      group->members = g_ptr_array_new();
      g_ptr_array_add(groups, group);
    }
    g_ptr_array_add(group->members, bitmap);
  }
  return groups;
}

/* Of the state; one of them is NULL where the state has no such bitmap. */
typedef struct {
  CbtBitmapState state;
  const QemuBitmap *parent;
  const QemuBitmap *successor;
  const char *reason; /* inconsistent: why */
} Reading;

static Reading
read_pair(const QemuBitmap *a, const QemuBitmap *b)
{
  const QemuBitmap *parent = a->is_recording ? b : a, *successor = a->is_recording ? a : b;
  if (successor->is_recording && !successor->is_inconsistent && !parent->is_recording)
    return (Reading){CBT_BITMAP_FROZEN, parent, successor, NULL};
  return (Reading){CBT_BITMAP_INCONSISTENT, NULL, NULL, "QEMU ended unclean while it was frozen"};
}

/* One that we disabled has no base: this one was frozen, and what recorded beside it was taken away. */
static gboolean
lost_its_successor(const Group *group, const char *prefix)
{
  const QemuBitmap *only = group->members->pdata[0];
  char name[CBT_NAME_MAX + 1];
  CbtUuid base;
  return !only->is_recording && parse_name(prefix, only->name, name, &base) && !cbt_uuid_is_nil(&base);
}

static Reading
read_group(const Group *group, const char *prefix)
{
  const QemuBitmap *first = group->members->pdata[0];
  if (group->members->len == 2)
    return read_pair(first, group->members->pdata[1]);
  if (group->members->len > 2)
    return (Reading){CBT_BITMAP_INCONSISTENT, NULL, NULL, "QEMU has several bitmaps that stand for it"};
  if (first->is_inconsistent)
    return (Reading){CBT_BITMAP_INCONSISTENT, NULL, NULL, "QEMU ended unclean, and lost it"};
  if (lost_its_successor(group, prefix))
    return (Reading){CBT_BITMAP_INCONSISTENT, NULL, NULL, "the bitmap that recorded in its place is gone"};
  return (Reading){first->is_recording ? CBT_BITMAP_ACTIVE : CBT_BITMAP_DISABLED, first, NULL, NULL};
}

static void
fill_info(CbtBitmapInfo *info, const Group *group, const char *prefix, guint64 size)
{
  Reading reading = read_group(group, prefix);
  char name[CBT_NAME_MAX + 1];
  memset(info, 0, sizeof *info);
  g_strlcpy(info->name, group->name, sizeof info->name);
  info->state = reading.state;
  info->size = size;
  info->granularity = ((const QemuBitmap *) group->members->pdata[0])->granularity;
  if (reading.parent && !reading.parent->is_inconsistent) {
    info->count = reading.parent->count;
    parse_name(prefix, reading.parent->name, name, &info->base);
  } else if (reading.parent)
    reading.reason = "QEMU ended unclean, and lost it";
  if (reading.successor) {
    info->has_successor = TRUE;
    info->successor_count = reading.successor->count;
    parse_name(prefix, reading.successor->name, name, &info->pending);
  }
  if (!reading.reason && cbt_uuid_is_nil(&info->base))
    reading.reason = "it has no base";
  if (reading.reason)
    g_strlcpy(info->reason, reading.reason, sizeof info->reason);
}

guint
qemu_bitmaps_list(const QemuDisk *disk, const char *prefix, CbtBitmapInfo *infos)
{
  g_autoptr(GPtrArray) groups = make_groups(disk, prefix);
  guint n = MIN(groups->len, CBT_TRACKER_MAX_BITMAPS);
  for (guint i = 0; i < n; i++)
    fill_info(&infos[i], groups->pdata[i], prefix, disk->size_bytes);
  return n;
}

const char *
qemu_bitmaps_parent(const QemuDisk *disk, const char *prefix, const char *name)
{
  g_autoptr(GPtrArray) groups = make_groups(disk, prefix);
  const Group *group = find_group(groups, name);
  const QemuBitmap *parent = group ? read_group(group, prefix).parent : NULL;
  return parent ? parent->name : NULL;
}

const char *
qemu_bitmaps_recorder(const QemuDisk *disk, const char *prefix, const char *name)
{
  g_autoptr(GPtrArray) groups = make_groups(disk, prefix);
  const Group *group = find_group(groups, name);
  Reading reading = group ? read_group(group, prefix) : (Reading){0};
  const QemuBitmap *found = reading.successor ? reading.successor : reading.parent;
  return found && found->is_recording ? found->name : NULL;
}

/* ---- planning ---- */

typedef struct {
  const char *prefix;
  const CbtControlRequest *request;
  const GPtrArray *groups;
  const Group *group; /* that the request names; NULL if there is none */
  Reading reading;    /* of it */
  GPtrArray *steps;
} Plan;

static QemuBitmapStep *
add_step(Plan *plan, QemuBitmapOp op, const char *name)
{
  QemuBitmapStep *step = g_new0(QemuBitmapStep, 1);
  step->op = op;
  step->name = g_strdup(name);
  g_ptr_array_add(plan->steps, step);
  return step;
}

/* A new one, and its name (transfer none). */
static const char *
add_bitmap(Plan *plan, const CbtUuid *base, guint64 granularity, gboolean disabled)
{
  g_autofree char *name = qemu_bitmap_name(plan->prefix, plan->request->name, base);
  QemuBitmapStep *step = add_step(plan, QEMU_BITMAP_ADD, name);
  step->granularity = granularity;
  step->disabled = disabled;
  return step->name;
}

static void
add_merge(Plan *plan, const char *target, const char *source)
{
  add_step(plan, QEMU_BITMAP_MERGE, target)->source = g_strdup(source);
}

static void
remove_all(Plan *plan)
{
  for (guint i = 0; i < plan->group->members->len; i++)
    add_step(plan, QEMU_BITMAP_REMOVE, ((const QemuBitmap *) plan->group->members->pdata[i])->name);
}

static guint64
granularity_of(const Plan *plan)
{
  return ((const QemuBitmap *) plan->group->members->pdata[0])->granularity;
}

/* Another one without a base takes the place of all that stand for it. */
static void
replace_all(Plan *plan, gboolean disabled, const char *merged)
{
  const CbtUuid none = {{0}};
  const char *name = add_bitmap(plan, &none, granularity_of(plan), disabled);
  if (merged)
    add_merge(plan, name, merged);
  remove_all(plan);
}

static void
plan_create_successor(Plan *plan)
{
  add_bitmap(plan, &plan->request->pending, granularity_of(plan), FALSE);
  if (plan->reading.parent)
    add_step(plan, QEMU_BITMAP_DISABLE, plan->reading.parent->name);
  else /* what is inconsistent says nothing: one without a base stands for it */
    replace_all(plan, TRUE, NULL);
}

static void
plan_reclaim(Plan *plan)
{
  const QemuBitmap *parent = plan->reading.parent, *successor = plan->reading.successor;
  if (parent->is_inconsistent) {
    replace_all(plan, FALSE, NULL);
    return;
  }
  add_merge(plan, parent->name, successor->name);
  add_step(plan, QEMU_BITMAP_ENABLE, parent->name);
  add_step(plan, QEMU_BITMAP_REMOVE, successor->name);
}

static gboolean
plan_apply(Plan *plan, GError **error)
{
  CbtBitmapState next;
  CbtBitmapEvent event = plan->request->event;
  gboolean was_inconsistent = plan->reading.parent && plan->reading.parent->is_inconsistent;
  if (event >= CBT_N_BITMAP_EVENTS ||
      !cbt_bitmap_next_state(plan->reading.state, event, was_inconsistent, &next)) {
    cbt_set_error(error, CBT_ERROR_STATE, NULL, "bitmap '%s' is %s: it cannot take '%s'", plan->group->name,
                  cbt_bitmap_state_name(plan->reading.state),
                  event < CBT_N_BITMAP_EVENTS ? cbt_bitmap_event_name(event) : "that");
    return FALSE;
  }
  if (event == CBT_BITMAP_CREATE_SUCCESSOR)
    plan_create_successor(plan);
  else if (event == CBT_BITMAP_ABDICATE)
    add_step(plan, QEMU_BITMAP_REMOVE, plan->reading.parent->name);
  else if (event == CBT_BITMAP_RECLAIM)
    plan_reclaim(plan);
  else if (event == CBT_BITMAP_ENABLE)
    add_step(plan, QEMU_BITMAP_ENABLE, plan->reading.parent->name);
  else if (event == CBT_BITMAP_DISABLE)
    replace_all(plan, TRUE, plan->reading.parent->name);
  else if (event == CBT_BITMAP_CLEAR)
    replace_all(plan, plan->reading.state == CBT_BITMAP_DISABLED, NULL);
  else
    replace_all(plan, FALSE, NULL);
  return TRUE;
}

static gboolean
plan_merge(Plan *plan, GError **error)
{
  char source_name[CBT_NAME_MAX + 1] = "";
  memcpy(source_name, plan->request->source, CBT_NAME_MAX);
  const Group *source = find_group(plan->groups, source_name);
  if (!source) {
    cbt_set_error(error, CBT_ERROR_NOT_FOUND, NULL, "there is no bitmap '%s'", source_name);
    return FALSE;
  }
  const Group *bad = plan->reading.state == CBT_BITMAP_INCONSISTENT                      ? plan->group
                     : read_group(source, plan->prefix).state == CBT_BITMAP_INCONSISTENT ? source
                                                                                         : NULL;
  if (bad) {
    cbt_set_error(error, CBT_ERROR_STATE, NULL, "bitmap '%s' is inconsistent", bad->name);
    return FALSE;
  }
  const QemuBitmap *target = plan->reading.successor ? plan->reading.successor : plan->reading.parent;
  for (guint i = 0; source != plan->group && i < source->members->len; i++)
    add_merge(plan, target->name, ((const QemuBitmap *) source->members->pdata[i])->name);
  return TRUE;
}

static gboolean
plan_add(Plan *plan, GError **error)
{
  const CbtUuid none = {{0}};
  if (plan->group) {
    cbt_set_error(error, CBT_ERROR_EXISTS, NULL, "bitmap '%s' exists already", plan->group->name);
    return FALSE;
  }
  if (plan->groups->len >= CBT_TRACKER_MAX_BITMAPS) {
    cbt_set_error(error, CBT_ERROR_NO_SPACE, "Remove one.", "the disk has %u bitmaps already",
                  plan->groups->len);
    return FALSE;
  }
  if (!cbt_granularity_is_valid(plan->request->granularity)) {
    cbt_set_error(error, CBT_ERROR_INVALID, "Use a power of two from 4K to 16M.",
                  "granularity %" G_GUINT64_FORMAT " is not possible", plan->request->granularity);
    return FALSE;
  }
  add_bitmap(plan, &none, plan->request->granularity, FALSE);
  return TRUE;
}

static gboolean
plan_remove(Plan *plan, GError **error)
{
  if (plan->reading.state == CBT_BITMAP_FROZEN) {
    cbt_set_error(error, CBT_ERROR_STATE, NULL, "bitmap '%s' is frozen", plan->group->name);
    return FALSE;
  }
  remove_all(plan);
  return TRUE;
}

static gboolean
plan_steps(Plan *plan, GError **error)
{
  CbtControlOp op = plan->request->op;
  if (op == CBT_CONTROL_HELLO || op == CBT_CONTROL_LIST)
    return TRUE;
  if (memchr(plan->request->name, '\0', sizeof plan->request->name) == NULL ||
      !cbt_name_check("bitmap", plan->request->name, NULL)) {
    cbt_set_error(error, CBT_ERROR_INVALID, NULL, "that is no name of a bitmap");
    return FALSE;
  }
  if (op == CBT_CONTROL_ADD)
    return plan_add(plan, error);
  if (op != CBT_CONTROL_REMOVE && op != CBT_CONTROL_APPLY && op != CBT_CONTROL_MERGE) {
    cbt_set_error(error, CBT_ERROR_UNSUPPORTED, NULL, "control operation %u is not known here", op);
    return FALSE;
  }
  if (!plan->group) {
    cbt_set_error(error, CBT_ERROR_NOT_FOUND, NULL, "there is no bitmap '%s'", plan->request->name);
    return FALSE;
  }
  return op == CBT_CONTROL_REMOVE  ? plan_remove(plan, error)
         : op == CBT_CONTROL_MERGE ? plan_merge(plan, error)
                                   : plan_apply(plan, error);
}

GPtrArray *
qemu_bitmaps_plan(const QemuDisk *disk, const char *prefix, const CbtControlRequest *request, GError **error)
{
  g_autoptr(GPtrArray) groups = make_groups(disk, prefix);
  g_autoptr(GPtrArray) steps = g_ptr_array_new_with_free_func(step_free);
  char name[CBT_NAME_MAX + 1] = "";
  memcpy(name, request->name, CBT_NAME_MAX);
  Plan plan = {.prefix = prefix, .request = request, .groups = groups, .steps = steps};
  plan.group = find_group(groups, name);
  if (plan.group)
    plan.reading = read_group(plan.group, prefix);
  return plan_steps(&plan, error) ? g_steal_pointer(&steps) : NULL;
}

/* ---- by QMP ---- */

gboolean
qemu_disk_keeps_bitmaps(const QemuDisk *disk)
{
  return g_strcmp0(disk->format, "qcow2") == 0;
}

JsonNode *
qemu_bitmap_action(const QemuBitmapStep *step, const char *node, gboolean persistent)
{
  switch (step->op) {
  case QEMU_BITMAP_ADD:
    return qmp_action("block-dirty-bitmap-add",
                      qmp_args("node", qmp_str(node), "name", qmp_str(step->name), "granularity",
                               qmp_int((gint64) step->granularity), "persistent", qmp_bool(persistent),
                               "disabled", qmp_bool(step->disabled), NULL));
  case QEMU_BITMAP_MERGE:
    return qmp_action("block-dirty-bitmap-merge",
                      qmp_args("node", qmp_str(node), "target", qmp_str(step->name), "bitmaps",
                               qmp_list(qmp_str(step->source), NULL), NULL));
  case QEMU_BITMAP_ENABLE:
  case QEMU_BITMAP_DISABLE:
  case QEMU_BITMAP_REMOVE:
    break;
  }
  const char *type = step->op == QEMU_BITMAP_ENABLE    ? "block-dirty-bitmap-enable"
                     : step->op == QEMU_BITMAP_DISABLE ? "block-dirty-bitmap-disable"
                                                       : "block-dirty-bitmap-remove";
  return qmp_action(type, qmp_args("node", qmp_str(node), "name", qmp_str(step->name), NULL));
}

gboolean
qemu_bitmaps_run(Qmp *qmp, const QemuDisk *disk, const GPtrArray *steps, guint timeout_ms, GError **error)
{
  if (steps->len == 0)
    return TRUE;
  JsonArray *actions = json_array_new();
  for (guint i = 0; i < steps->len; i++)
    json_array_add_element(actions,
                           qemu_bitmap_action(steps->pdata[i], disk->node, qemu_disk_keeps_bitmaps(disk)));
  JsonNode *list = json_node_init_array(json_node_alloc(), actions);
  json_array_unref(actions);
  return qmp_call(qmp, "transaction", qmp_args("actions", list, NULL), timeout_ms, NULL, error);
}
