/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The journal of what is done to the QEMUs of live vms. */
#include <store/catalogue-private.h>

#include <common/error.h>

static void
entry_free(gpointer data)
{
  CatalogueJournalEntry *entry = data;
  g_free(entry->vm);
  g_free(entry->step);
  g_free(entry);
}

gboolean
catalogue_journal_note(Catalogue *catalogue, const char *vm, gint64 job, const char *step, GError **error)
{
  return catalogue_run(
      catalogue, error,
      "INSERT INTO journal (vm, job, step, time) SELECT name, ?, ?, ? FROM vms WHERE name = ?"
      " ON CONFLICT (vm) DO UPDATE"
      " SET job = excluded.job, step = excluded.step, time = excluded.time",
      "isis", job, step, g_get_real_time(), vm);
}

gboolean
catalogue_journal_clear(Catalogue *catalogue, const char *vm, GError **error)
{
  return catalogue_run(catalogue, error, "DELETE FROM journal WHERE vm = ?", "s", vm);
}

GPtrArray *
catalogue_journal_list(Catalogue *catalogue, GError **error)
{
  g_autoptr(GPtrArray) entries = g_ptr_array_new_with_free_func(entry_free);
  g_autoptr(sqlite3_stmt) stmt =
      catalogue_prepare(catalogue, error, "SELECT vm, job, step, time FROM journal ORDER BY vm", "");
  CatalogueStep step = CATALOGUE_FAILED;
  while (stmt && (step = catalogue_step(catalogue, stmt, error)) == CATALOGUE_ROW) {
    CatalogueJournalEntry *entry = g_new0(CatalogueJournalEntry, 1);
    g_ptr_array_add(entries, entry);
    entry->vm = catalogue_column_text(stmt, 0);
    entry->job = sqlite3_column_int64(stmt, 1);
    entry->step = catalogue_column_text(stmt, 2);
    entry->time = sqlite3_column_int64(stmt, 3);
  }
  return step == CATALOGUE_DONE ? g_steal_pointer(&entries) : NULL;
}
