/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Inside of an export, for export.c (I/O) and export-control.c (requests). */
#pragma once

#include <cbt/export.h>
#include <cbt/gate.h>
#include <pthread.h>

typedef struct ExportControl ExportControl;

struct CbtExport {
  /* constant after open */
  int image_fd;
  guint64 size;
  CbtGate *gate;
  ExportControl *control; /* NULL: not served */

  /* changed while the gate is held, read by changes inside of it */
  CbtTracker *tracker;
  CbtSession *session; /* NULL: no backup under way */
};

/* Joins the control thread and frees. */
void cbt_export_control_stop(ExportControl *control);
