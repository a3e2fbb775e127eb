/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* clang-format off */
/*
 * From state to state.
 *
 * A transition has three parts. begin and finish move the pointers that changes are recorded by, so nobody
 * may record meanwhile, but neither waits for storage; commit merges, syncs and writes the header, and
 * changes go on. In between they are recorded in both arrays, so that the bits are right whichever header a
 * crash leaves. At last, tidy clears the array that means nothing any more, lest the next freeze take long
 * over it. Abdicate needs no begin: changes go to the same array before and after it. A freeze clears the
 * array that changes shall go to, so all three of it come at one instant; its header is not waited for.
 *
 * A state is what the newest valid header slot says; a transition writes the other slot and syncs it, so a
 * crash leaves the old header or the new one. When it is durable the first slot gets the same bytes, without
 * a sync: from then on damage to either slot leaves the current state, never one that is out of date. The
 * next transition writes the slot that was not synced, so a durable one stands at all times.
 *
 * The order rule: whatever the bits lose or gain around a header update, each mixture of old and new must be
 * no less dirty than the state that it is read under.
 *
 *   create-successor   clear the other array, then header. (Clearing after the header could be lost, and a
 *                      write that came meanwhile with it.) After inconsistent: fill the parent first.
 *   abdicate           sync the arrays, header (it flips the parent index), then clear the old parent.
 *   reclaim            merge into the parent, sync, header, then clear the successor. (Killed after the
 *                      merge: frozen, with a parent that is a superset.)
 *   clear              header (it takes the base away), then clear the bits. The other way round a crash
 *                      would leave clean bits with a base.
 *   disable            sync, header: the bits of a disabled bitmap are durable and need no boot id.
 *   close              sync, then header with the clean mark.
 *
 * Where the table says sync, a header gives bits a meaning that must survive a power cut. create-successor
 * needs none, and its header is not waited for either (cbt_bitmap_file_settle() does, without a hold): a
 * power cut before it is durable leaves the old state, whose parent array gets the regions that were written
 * meanwhile. The older slot keeps its durable header so long. Stale bits in either array are only more dirty,
 * bits of the parent that are not durable lie in regions that the region log flags (they are set in both
 * arrays after a cut), and the guest is waiting. No other transition relies on the log: where bits begin to
 * mean something they were synced, and what is recorded while the header is written lies in flagged regions.
 * A bitmap that is new or enabled has no base that could be wrong; by the freeze that gives it one, whatever
 * the image may lose again is flagged, for flags are taken away only after a sync of the image.
 */
/* clang-format on */
#include <cbt/bitmap-file-private.h>

#include <common/error.h>
#include <errno.h>

/* After a failed sync the kernel holds pages for clean that never reached the disk. Touching each makes it
 * dirty again. */
static void
redirty(CbtBitmapFile *file)
{
  for (gsize at = 0; at < file->map_length; at += CBT_BITMAP_PAGE)
    __atomic_fetch_or(&file->map[at], 0, __ATOMIC_RELAXED);
}

static gboolean
write_slot(CbtBitmapFile *file, guint slot, const CbtBitmapHeader *header)
{
  guint8 page[CBT_BITMAP_PAGE];
  cbt_bitmap_header_encode(header, page);
  return cbt_file_pwrite_full(file->ops, file->fd, page, sizeof page, slot * sizeof page);
}

/* The newest header is durable in the slot that `slot` does not name. */
static void
switch_slot(CbtBitmapFile *file)
{
  if (!write_slot(file, file->slot, &file->header))
    g_debug("%s: cannot write the second header slot", file->path);
  file->slot = 1 - file->slot;
  file->header_waits = FALSE;
}

static gboolean
sync_fd(CbtBitmapFile *file)
{
  if (file->sync_failed)
    redirty(file);
  if (file->sync_failed && file->header_waits && !write_slot(file, 1 - file->slot, &file->header))
    return FALSE;
  file->sync_failed = file->ops->fdatasync(file->ops, file->fd) != 0;
  if (!file->sync_failed && file->header_waits)
    switch_slot(file);
  return !file->sync_failed;
}

gboolean
cbt_bitmap_file_sync(CbtBitmapFile *file, GError **error)
{
  if (sync_fd(file))
    return TRUE;
  cbt_set_error_errno(error, errno, "cannot sync %s", file->path);
  return FALSE;
}

/* Writes HEADER to the slot that is not in force, and syncs it if SYNC. If that fails the old one stays. */
static gboolean
put_header(CbtBitmapFile *file, const CbtBitmapHeader *header, gboolean sync, GError **error)
{
  guint slot = 1 - file->slot;
  if (write_slot(file, slot, header) && (!sync || sync_fd(file)))
    return TRUE;
  int errsv = errno;
  /* What was written must not win at the next open. If it cannot be taken back either, both states are
   * possible: go on recording where either of them looks. */
  file->header_unknown = !write_slot(file, slot, &file->header);
  cbt_set_error_errno(error, errsv, "cannot write the header of %s", file->path);
  return FALSE;
}

static gboolean
write_header(CbtBitmapFile *file, const CbtBitmapHeader *next, gboolean sync, GError **error)
{
  CbtBitmapHeader header = *next;
  /* A header that waits stands in the slot to be written, and the durable one is older than it. */
  if (file->header_waits && !cbt_bitmap_file_sync(file, error))
    return FALSE;
  header.sequence = file->header.sequence + 1;
  if (!put_header(file, &header, sync, error))
    return FALSE;
  file->header = header;
  if (sync)
    switch_slot(file);
  else
    file->header_waits = TRUE;
  file->header_unknown = FALSE;
  return TRUE;
}

gboolean
cbt_bitmap_file_write_header(CbtBitmapFile *file, const CbtBitmapHeader *next, GError **error)
{
  /* The bits that are recorded stay as they are, and may be added to meanwhile. */
  cbt_witness_expect(file->witness, TRUE);
  if (!write_header(file, next, TRUE, error))
    return FALSE;
  cbt_witness_advance(file->witness, file->header.sequence);
  return TRUE;
}

gboolean
cbt_bitmap_file_settle(CbtBitmapFile *file, GError **error)
{
  return !file->header_waits || cbt_bitmap_file_sync(file, error);
}

static CbtBitmap *
other_array(const CbtBitmapFile *file, const CbtBitmap *bits)
{
  return bits == file->bits[0] ? file->bits[1] : file->bits[0];
}

void
cbt_bitmap_file_update_recording(CbtBitmapFile *file)
{
  guint parent = file->header.parent;
  if (!file->writable || file->header.state == CBT_BITMAP_DISABLED)
    file->recording = NULL;
  else
    file->recording = file->bits[file->header.state == CBT_BITMAP_FROZEN ? 1 - parent : parent];
  file->also = file->header_unknown && file->recording != NULL ? other_array(file, file->recording) : NULL;
}

static void
drop_base(CbtBitmapHeader *header, const char *reason)
{
  header->base = (CbtUuid){{0}};
  cbt_bitmap_copy_text(header->reason, sizeof header->reason, reason);
}

static void
abdicate(CbtBitmapHeader *header)
{
  header->parent = 1 - header->parent;
  if (cbt_uuid_is_nil(&header->pending))
    drop_base(header, "the last freeze ended without a recovery point");
  else {
    header->base = header->pending;
    cbt_bitmap_copy_text(header->reason, sizeof header->reason, "");
  }
}

/* What the header says after EVENT, its state apart. */
static void
plan_header(CbtBitmapHeader *next, CbtBitmapEvent event, const CbtUuid *pending, const char *reason)
{
  gboolean was_inconsistent = next->state == CBT_BITMAP_INCONSISTENT;
  if (event == CBT_BITMAP_ABDICATE)
    abdicate(next);
  next->pending = (CbtUuid){{0}};
  next->inconsistent_base = FALSE;
  if (event == CBT_BITMAP_CREATE_SUCCESSOR) {
    next->inconsistent_base = was_inconsistent;
    if (pending != NULL)
      next->pending = *pending;
  } else if (event == CBT_BITMAP_ENABLE) {
    drop_base(next, "no backup since the bitmap was enabled");
  } else if (event == CBT_BITMAP_DISABLE) {
    drop_base(next, "the bitmap was disabled");
  } else if (event == CBT_BITMAP_CLEAR) {
    drop_base(next, "the bitmap was cleared");
  } else if (event == CBT_BITMAP_MARK_INCONSISTENT) {
    drop_base(next, reason != NULL && *reason != '\0' ? reason : "the bitmap was marked inconsistent");
  }
}

gboolean
cbt_bitmap_transition_plan(CbtBitmapTransition *transition, CbtBitmapFile *file, CbtBitmapEvent event,
                           const CbtUuid *pending, const char *reason, GError **error)
{
  *transition = (CbtBitmapTransition){.file = file, .event = event, .next = file->header};
  CbtBitmapHeader *next = &transition->next;
  CbtBitmapState state;
  if (!file->writable ||
      !cbt_bitmap_next_state(file->header.state, event, file->header.inconsistent_base, &state)) {
    cbt_set_error(error, CBT_ERROR_STATE, NULL, "bitmap '%s' is %s%s, which does not allow %s",
                  file->header.name, cbt_bitmap_state_name(file->header.state),
                  file->writable ? "" : " and open read-only", cbt_bitmap_event_name(event));
    return FALSE;
  }
  plan_header(next, event, pending, reason);
  next->state = state;
  next->generation++;
  return TRUE;
}

void
cbt_bitmap_transition_begin(const CbtBitmapTransition *transition)
{
  CbtBitmapFile *file = transition->file;
  CbtBitmap *parent = file->bits[file->header.parent];
  cbt_bitmap_file_update_recording(file); /* if the last one could not finish */
  if (transition->event == CBT_BITMAP_ENABLE)
    file->recording = parent;
  if (transition->event == CBT_BITMAP_CREATE_SUCCESSOR) {
    cbt_bitmap_clear_all(other_array(file, parent));
    if (file->header.state == CBT_BITMAP_INCONSISTENT)
      cbt_bitmap_set_all(parent);
  }
  if (file->recording != NULL)
    file->also = other_array(file, file->recording);
}

gboolean
cbt_bitmap_transition_commit(CbtBitmapTransition *transition, GError **error)
{
  CbtBitmapFile *file = transition->file;
  CbtBitmapEvent event = transition->event;
  gboolean freezes = event == CBT_BITMAP_CREATE_SUCCESSOR;
  CbtBitmap *parent = file->bits[file->header.parent];
  gboolean same_bits = !freezes && event != CBT_BITMAP_DISABLE;
  cbt_witness_expect(file->witness, same_bits);
  if (event == CBT_BITMAP_RECLAIM)
    cbt_bitmap_merge(parent, other_array(file, parent));
  gboolean syncs = event == CBT_BITMAP_RECLAIM || event == CBT_BITMAP_ABDICATE || event == CBT_BITMAP_DISABLE;
  transition->is_done =
      (!syncs || cbt_bitmap_file_sync(file, error)) && write_header(file, &transition->next, !freezes, error);
  if (transition->is_done && same_bits)
    cbt_witness_advance(file->witness, file->header.sequence);
  return transition->is_done;
}

void
cbt_bitmap_transition_finish(const CbtBitmapTransition *transition)
{
  CbtBitmapFile *file = transition->file;
  cbt_bitmap_file_update_recording(file);
  if (transition->is_done && transition->event == CBT_BITMAP_CLEAR)
    cbt_bitmap_clear_all(file->bits[file->header.parent]);
  cbt_bitmap_file_note_witness(file);
}

void
cbt_bitmap_transition_tidy(const CbtBitmapTransition *transition)
{
  CbtBitmapFile *file = transition->file;
  if (transition->is_done && file->header.state != CBT_BITMAP_FROZEN && file->also == NULL)
    cbt_bitmap_clear_all(file->bits[1 - file->header.parent]);
}

gboolean
cbt_bitmap_file_apply(CbtBitmapFile *file, CbtBitmapEvent event, const CbtUuid *pending, const char *reason,
                      GError **error)
{
  CbtBitmapTransition transition;
  if (!cbt_bitmap_transition_plan(&transition, file, event, pending, reason, error))
    return FALSE;
  cbt_bitmap_transition_begin(&transition);
  gboolean ok = cbt_bitmap_transition_commit(&transition, error);
  cbt_bitmap_transition_finish(&transition);
  cbt_bitmap_transition_tidy(&transition);
  return ok;
}
