/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The states of a bitmap and the one transition function, as a table. No I/O. */
#include <cbt/bitmap-file.h>

#define REFUSED   0
#define TO(state) ((state) + 1) /* so that a cell not named below refuses */

/* A reclaim of a bitmap that was inconsistent before the freeze is the only case that the table leaves open.
 */
static const guint8 transitions[CBT_N_BITMAP_STATES][CBT_N_BITMAP_EVENTS] = {
    [CBT_BITMAP_ACTIVE] =
        {
            [CBT_BITMAP_CREATE_SUCCESSOR] = TO(CBT_BITMAP_FROZEN),
            [CBT_BITMAP_DISABLE] = TO(CBT_BITMAP_DISABLED),
            [CBT_BITMAP_CLEAR] = TO(CBT_BITMAP_ACTIVE),
            [CBT_BITMAP_MARK_INCONSISTENT] = TO(CBT_BITMAP_INCONSISTENT),
        },
    [CBT_BITMAP_DISABLED] =
        {
            [CBT_BITMAP_ENABLE] = TO(CBT_BITMAP_ACTIVE),
            [CBT_BITMAP_CLEAR] = TO(CBT_BITMAP_DISABLED),
            [CBT_BITMAP_MARK_INCONSISTENT] = TO(CBT_BITMAP_INCONSISTENT),
        },
    [CBT_BITMAP_FROZEN] =
        {
            [CBT_BITMAP_ABDICATE] = TO(CBT_BITMAP_ACTIVE),
            [CBT_BITMAP_RECLAIM] = TO(CBT_BITMAP_ACTIVE),
            [CBT_BITMAP_MARK_INCONSISTENT] = TO(CBT_BITMAP_INCONSISTENT),
        },
    [CBT_BITMAP_INCONSISTENT] =
        {
            [CBT_BITMAP_CREATE_SUCCESSOR] = TO(CBT_BITMAP_FROZEN),
            [CBT_BITMAP_MARK_INCONSISTENT] = TO(CBT_BITMAP_INCONSISTENT),
        },
};

const char *
cbt_bitmap_state_name(CbtBitmapState state)
{
  static const char *const names[CBT_N_BITMAP_STATES] = {
      [CBT_BITMAP_ACTIVE] = "active",
      [CBT_BITMAP_DISABLED] = "disabled",
      [CBT_BITMAP_FROZEN] = "frozen",
      [CBT_BITMAP_INCONSISTENT] = "inconsistent",
  };
  return (guint) state < CBT_N_BITMAP_STATES ? names[state] : "unknown";
}

const char *
cbt_bitmap_event_name(CbtBitmapEvent event)
{
  static const char *const names[CBT_N_BITMAP_EVENTS] = {
      [CBT_BITMAP_CREATE_SUCCESSOR] = "create-successor",
      [CBT_BITMAP_ABDICATE] = "abdicate",
      [CBT_BITMAP_RECLAIM] = "reclaim",
      [CBT_BITMAP_ENABLE] = "enable",
      [CBT_BITMAP_DISABLE] = "disable",
      [CBT_BITMAP_CLEAR] = "clear",
      [CBT_BITMAP_MARK_INCONSISTENT] = "mark-inconsistent",
  };
  return (guint) event < CBT_N_BITMAP_EVENTS ? names[event] : "unknown";
}

gboolean
cbt_bitmap_next_state(CbtBitmapState state, CbtBitmapEvent event, gboolean inconsistent_base,
                      CbtBitmapState *next)
{
  if ((guint) state >= CBT_N_BITMAP_STATES || (guint) event >= CBT_N_BITMAP_EVENTS)
    return FALSE;
  guint8 cell = transitions[state][event];
  if (cell == REFUSED)
    return FALSE;
  *next = (CbtBitmapState) (cell - 1);
  if (event == CBT_BITMAP_RECLAIM && inconsistent_base)
    *next = CBT_BITMAP_INCONSISTENT;
  return TRUE;
}
