/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* That the vm is in the journal is durable before the first step. Which one was the latest, and that there is
 * nothing more to do, is told to who reads the log: losing that with the power costs a look at a QEMU that
 * lost its power, too. */
#include <daemon/live-journal.h>

struct LiveJournal {
  Daemon *daemon;
  char *vm;
  gint64 job;
  gboolean is_begun;
};

typedef struct {
  Daemon *daemon;
  char *vm;
  gint64 job;
  char *step; /* NULL: forget */
  GError *error;
} Entry;

LiveJournal *
live_journal_new(Daemon *daemon, const char *vm, gint64 job)
{
  LiveJournal *self = g_new0(LiveJournal, 1);
  *self = (LiveJournal){.daemon = daemon, .vm = g_strdup(vm), .job = job};
  return self;
}

void
live_journal_free(LiveJournal *self)
{
  g_free(self->vm);
  g_free(self);
}

static Entry *
entry_new(const LiveJournal *self, const char *step)
{
  Entry *entry = g_new0(Entry, 1);
  *entry =
      (Entry){.daemon = self->daemon, .vm = g_strdup(self->vm), .job = self->job, .step = g_strdup(step)};
  return entry;
}

static void
entry_free(Entry *entry)
{
  g_clear_error(&entry->error);
  g_free(entry->vm);
  g_free(entry->step);
  g_free(entry);
}

static void
write_entry(gpointer data)
{
  Entry *entry = data;
  Catalogue *catalogue = entry->daemon->catalogue;
  gboolean ok = entry->step
                    ? catalogue_journal_note(catalogue, entry->vm, entry->job, entry->step, &entry->error)
                    : catalogue_journal_clear(catalogue, entry->vm, &entry->error);
  if (!ok)
    g_warning("cannot write the journal of vm '%s': %s", entry->vm, entry->error->message);
}

static void
write_entry_later(gpointer data)
{
  write_entry(data);
  entry_free(data);
}

gboolean
live_journal_note(const char *step, gpointer data, GError **error)
{
  LiveJournal *self = data;
  Entry *entry = entry_new(self, step);
  if (self->is_begun) {
    main_queue_post(self->daemon->queue, write_entry_later, entry);
    return TRUE;
  }
  main_queue_call(self->daemon->queue, write_entry, entry);
  if (!entry->error && !catalogue_sync(self->daemon->catalogue, &entry->error))
    g_warning("the journal of vm '%s' is not durable: %s", entry->vm, entry->error->message);
  self->is_begun = entry->error == NULL;
  if (entry->error)
    g_propagate_error(error, g_steal_pointer(&entry->error));
  entry_free(entry);
  return self->is_begun;
}

void
live_journal_forget(LiveJournal *self)
{
  if (self->is_begun)
    main_queue_post(self->daemon->queue, write_entry_later, entry_new(self, NULL));
  self->is_begun = FALSE;
}
