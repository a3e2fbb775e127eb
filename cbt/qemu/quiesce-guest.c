/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is to be frozen is found out twice: to say early what is wrong, and just before the freeze, for the
 * caller may take its time between, and what was mounted meanwhile counts. File systems are written out
 * before, so that a freeze has little to do: while it writes, the guest's writers wait already.
 */
#include <cbt/qemu/quiesce-guest.h>

#include <cbt/qemu/json.h>
#include <cbt/qemu/qmp-args.h>
#include <cbt/qemu/quiesce-map.h>
#include <cbt/qemu/quiesce-mark.h>

#define READY_MARKER    "cbt-backup: ready"
#define SYNC_TIMEOUT_MS 10000

struct QemuQuiesceGuest {
  const QemuQuiesceRequest *request;
  QemuQuiesceMark mark;
  Qga *qga;
  QemuQuiescePlan *plan;
  QemuQuiesceFacts facts;
  gboolean is_settled; /* the guest was not frozen, or is thawed, when it was opened */
  gboolean is_freeze_sent;
};

/* Before the freeze */

static gboolean
thaw_own_leftover(QemuQuiesceGuest *self, gboolean *was_frozen, GError **error)
{
  const QemuQuiesceRequest *request = self->request;
  guint count = 0;
  if (!qga_fsfreeze_status(self->qga, request->connect_timeout_ms, was_frozen, error))
    return FALSE;
  if (!*was_frozen)
    return TRUE;
  if (qemu_quiesce_mark_is_set(&self->mark))
    return qemu_quiesce_thaw_until(&self->qga, request->socket, request->connect_timeout_ms, NULL, NULL,
                                   &count, error);
  cbt_set_error(error, CBT_ERROR_STATE, "If nobody needs it frozen, have its agent thaw it.",
                "The guest behind %s is frozen already, by somebody else", request->socket);
  return FALSE;
}

/* A frozen agent says that it can do little, so that it is asked again after a thaw. */
static gboolean
open_agent(QemuQuiesceGuest *self, GError **error)
{
  const QemuQuiesceRequest *request = self->request;
  gboolean was_frozen = TRUE;
  for (guint i = 0; was_frozen && i < 2; i++) {
    g_clear_pointer(&self->qga, qga_close);
    self->qga = qga_open(request->socket, request->connect_timeout_ms, NULL, error);
    if (!self->qga || !thaw_own_leftover(self, &was_frozen, error))
      return FALSE;
  }
  self->is_settled = TRUE;
  if (qga_supports(self->qga, "guest-fsfreeze-freeze") && qga_supports(self->qga, "guest-fsfreeze-thaw"))
    return TRUE;
  cbt_set_error(error, CBT_ERROR_UNSUPPORTED, "See which commands its configuration forbids.",
                "The guest agent on %s cannot freeze file systems", request->socket);
  return FALSE;
}

static gboolean
make_plan(QemuQuiesceGuest *self, GError **error)
{
  guint timeout_ms = self->request->connect_timeout_ms;
  gboolean can_choose = qga_supports(self->qga, "guest-fsfreeze-freeze-list");
  g_autoptr(GError) ignored = NULL;
  g_autoptr(GPtrArray) filesystems = qga_get_fsinfo(self->qga, timeout_ms, error), disks = NULL;
  if (!filesystems)
    return FALSE;
  if (self->request->disks && can_choose && qga_supports(self->qga, "guest-get-disks"))
    disks = qga_get_disks(self->qga, timeout_ms, &ignored); /* without it less is sure, and more is frozen */
  g_clear_pointer(&self->plan, qemu_quiesce_plan_free);
  self->plan = qemu_quiesce_plan_new(filesystems, disks, can_choose ? self->request->disks : NULL);
  self->facts.has_filesystems = self->plan->mountpoints[0] != NULL;
  g_free(self->facts.unfrozen);
  self->facts.unfrozen = g_strdup(self->plan->unfrozen);
  return TRUE;
}

static void
write_out(QemuQuiesceGuest *self)
{
  static const char *const argv[] = {"sync", NULL};
  g_autoptr(GError) ignored = NULL;
  g_auto(QgaExecResult) result = {0};
  gboolean is_windows = self->plan->n_max == G_MAXUINT;
  if (!is_windows && qga_supports(self->qga, "guest-exec") &&
      !qga_exec(self->qga, argv, SYNC_TIMEOUT_MS, &result, &ignored))
    return; /* the freeze does it then */
}

/* Whether PATH can be opened in the guest; TRUE if the agent does not let us try. */
static gboolean
is_script_there(QemuQuiesceGuest *self, const char *path, char **why)
{
  guint timeout_ms = self->request->connect_timeout_ms;
  g_autoptr(JsonNode) handle = NULL;
  g_autoptr(GError) error = NULL, ignored = NULL;
  if (!qga_supports(self->qga, "guest-file-open") || !qga_supports(self->qga, "guest-file-close"))
    return TRUE;
  if (!qga_call(self->qga, "guest-file-open", qmp_args("path", qmp_str(path), "mode", qmp_str("r"), NULL),
                timeout_ms, &handle, &error)) {
    g_autofree char *message = cbt_error_message(error);
    *why = g_strdup_printf("the script %s in the guest: %s", path, message);
    return FALSE;
  }
  if (json_node_get_value_type(handle) == G_TYPE_INT64 &&
      !qga_call(self->qga, "guest-file-close", qmp_args("handle", json_node_copy(handle), NULL), timeout_ms,
                NULL, &ignored))
    g_debug("%s", ignored->message);
  return TRUE;
}

static void
run_pre_script(QemuQuiesceGuest *self)
{
  const QemuQuiesceRequest *request = self->request;
  QemuQuiesceFacts *facts = &self->facts;
  if (request->level != QEMU_QUIESCE_APP)
    return;
  if (!qga_supports(self->qga, "guest-exec"))
    facts->app_why = g_strdup("the guest agent does not run programs (guest-exec)");
  else if (is_script_there(self, request->pre_script, &facts->app_why) &&
           is_script_there(self, request->post_script, &facts->app_why)) {
    facts->is_pre_run = TRUE;
    facts->is_app_ready = qemu_quiesce_run_script(self->qga, request->pre_script, "freeze", READY_MARKER,
                                                  request->script_timeout_ms, &facts->app_why);
  }
}

QemuQuiesceGuest *
qemu_quiesce_guest_open(const QemuQuiesceRequest *request, GError **error)
{
  g_autoptr(QemuQuiesceGuest) self = g_new0(QemuQuiesceGuest, 1);
  self->request = request;
  self->facts.asked = request->level;
  self->mark.fd = -1;
  if (!qemu_quiesce_mark_open(&self->mark, request->socket, TRUE, error) || !open_agent(self, error) ||
      !make_plan(self, error))
    return NULL;
  write_out(self);
  run_pre_script(self);
  return g_steal_pointer(&self);
}

const QemuQuiesceFacts *
qemu_quiesce_guest_facts(const QemuQuiesceGuest *self)
{
  return &self->facts;
}

const char *
qemu_quiesce_guest_note(const QemuQuiesceGuest *self)
{
  return self->plan->note;
}

/* The freeze */

static void
break_with(QemuQuiesceGuest *self, const GError *error)
{
  g_autofree char *message = cbt_error_message(error);
  qemu_quiesce_facts_break(&self->facts, "%s", message);
}

static void
check_count(QemuQuiesceGuest *self)
{
  const QemuQuiescePlan *plan = self->plan;
  guint count = self->facts.n_frozen;
  if (count == 0)
    qemu_quiesce_facts_break(&self->facts, "the agent froze nothing");
  else if (count < plan->n_min || count > plan->n_max)
    qemu_quiesce_facts_break(&self->facts, "the agent says that it froze %u file systems, of %u", count,
                             plan->n_min);
}

static void
check_status(QemuQuiesceGuest *self)
{
  g_autoptr(GError) error = NULL;
  gint64 left_us = qemu_quiesce_guest_deadline_us(self) - g_get_monotonic_time();
  gboolean is_frozen = FALSE;
  if (!qga_fsfreeze_status(self->qga, (guint) MAX(left_us / 1000, 1), &is_frozen, &error))
    break_with(self, error);
  else if (!is_frozen)
    qemu_quiesce_facts_break(&self->facts,
                             "the agent says that it froze %u file systems, and that it is thawed",
                             self->facts.n_frozen);
}

static void
send_freeze(QemuQuiesceGuest *self)
{
  const QemuQuiescePlan *plan = self->plan;
  g_autoptr(GError) error = NULL;
  qemu_quiesce_mark_set(&self->mark);
  self->is_freeze_sent = TRUE;
  self->facts.begin_us = g_get_monotonic_time();
  if (!qga_fsfreeze_freeze(self->qga, plan->is_all ? NULL : (const char *const *) plan->mountpoints,
                           self->request->budget_ms, &self->facts.n_frozen, &error)) {
    break_with(self, error);
    return;
  }
  check_count(self);
  if (!self->facts.broken)
    check_status(self);
  if (g_get_monotonic_time() >= qemu_quiesce_guest_deadline_us(self))
    qemu_quiesce_facts_break(&self->facts, "the freeze took more than the %u ms that it may last",
                             self->request->budget_ms);
}

gboolean
qemu_quiesce_guest_look(QemuQuiesceGuest *self)
{
  g_autoptr(GError) error = NULL;
  gboolean is_good = make_plan(self, &error);
  if (!is_good)
    break_with(self, error);
  return is_good;
}

gboolean
qemu_quiesce_guest_freeze(QemuQuiesceGuest *self)
{
  if (self->facts.has_filesystems)
    send_freeze(self);
  else if (!self->facts.is_app_ready)
    qemu_quiesce_facts_break(&self->facts, "no file system that is mounted in the guest is on these disks");
  return !self->facts.broken;
}

gint64
qemu_quiesce_guest_deadline_us(const QemuQuiesceGuest *self)
{
  gint64 begin_us = self->facts.begin_us ? self->facts.begin_us : g_get_monotonic_time();
  return begin_us + (gint64) self->request->budget_ms * 1000;
}

void
qemu_quiesce_guest_break(QemuQuiesceGuest *self, const char *reason)
{
  qemu_quiesce_facts_break(&self->facts, "%s", reason);
}

/* After it */

void
qemu_quiesce_guest_thaw(QemuQuiesceGuest *self, QemuQuiesceRetryFunc retry, gpointer user_data)
{
  g_autoptr(GError) error = NULL;
  if (!self->is_freeze_sent)
    return;
  self->is_freeze_sent = FALSE;
  self->facts.is_left_frozen =
      !qemu_quiesce_thaw_until(&self->qga, self->request->socket, self->request->thaw_timeout_ms, retry,
                               user_data, &self->facts.n_thawed, &error);
  self->facts.end_us = g_get_monotonic_time();
  if (error)
    break_with(self, error);
}

void
qemu_quiesce_guest_finish(QemuQuiesceGuest *self)
{
  if (!self->facts.is_left_frozen)
    qemu_quiesce_run_post_script(self->qga, self->request, &self->facts);
  else if (self->facts.is_pre_run)
    qemu_quiesce_run_post_script(NULL, self->request, &self->facts);
}

void
qemu_quiesce_guest_close(QemuQuiesceGuest *self)
{
  if (!self)
    return;
  qga_close(self->qga);
  gboolean is_left = !self->is_settled && qemu_quiesce_mark_is_set(&self->mark);
  if (is_left || self->facts.is_left_frozen || self->is_freeze_sent)
    qemu_quiesce_mark_close(&self->mark);
  else
    qemu_quiesce_mark_remove(&self->mark);
  g_clear_pointer(&self->plan, qemu_quiesce_plan_free);
  qemu_quiesce_facts_clear(&self->facts);
  g_free(self);
}
