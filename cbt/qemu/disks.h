/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which disks a running QEMU has, and what decides how they can be backed up. A look at one moment: disks come and go.
 * Two steps, so that all decisions can be tried on recorded answers: qemu_disks_parse() takes what query-block said;
 * qemu_disks_fill() adds what the devices say, through a function that asks.
 */
#pragma once

#include <cbt/qemu/qmp.h>

typedef struct {
  char *name;
  guint64 granularity; /* bytes */
  guint64 count;       /* bytes that are dirty; means nothing if it is inconsistent: QEMU says 0 then */
  gboolean is_recording, is_busy, is_persistent, is_inconsistent;
  guint depth; /* images above the one that has it; 0 while QEMU runs, for only those of the topmost node are told */
} QemuBitmap;

void qemu_bitmap_free(gpointer bitmap);

typedef struct {
  /* of query-block */
  char *node;     /* of the root of what is inserted; "#block..." if QEMU made it up: it will be another one next time.
                     A filter, if one stands there: then `format` names it. NULL if empty */
  char *drive;    /* of -drive, or NULL */
  char *qdev;     /* the device's id or path, or NULL if no device uses it */
  char *format;   /* the driver of the node: "qcow2", "raw", ...; NULL if empty */
  char *filename; /* or NULL */
  char *image;    /* `filename`, once qemu_disks_see() saw QEMU have it open; NULL: QEMU's word is all there is */
  guint64 size_bytes;
  guint64 backing_depth; /* images below the top one */
  char *filter;          /* of a backup, ours or another store's, that stands before the node now: all else is told as if it
                            did not; or NULL */
  gboolean is_read_only;
  gboolean has_data_file; /* a qcow2 whose data are in a file of their own */
  GPtrArray *bitmaps;  /* QemuBitmap; those without a name left out */
  const char *left_out; /* why it is not to be backed up ("empty", "read-only", "not used by a device", "behind a filter
                           of another program's backup"), or NULL */
  /* of its device */
  char *device_path; /* in QOM; where qom-set finds the property `drive`; or NULL */
  char *serial;      /* or NULL */
  char *iothread;    /* of the device or its controller; NULL if the main loop serves it */
  gboolean has_pci;  /* of the device or its controller, as QEMU numbers it */
  char *pci_bus;     /* "pci.0" */
  guint pci_slot, pci_function;
  gint64 scsi_id, lun; /* or -1 */
} QemuDisk;

void qemu_disk_free(gpointer disk);
/* A disk that no QEMU has: an image at rest, as if its node were NODE. BITMAPS (of QemuBitmap) is (transfer full). */
QemuDisk *qemu_disk_at_rest(const char *node, const char *filename, const char *format, guint64 size_bytes,
                            GPtrArray *bitmaps);

/* Puts, into ANSWER of query-block, the node behind the filter of a backup in its place; by the answers of
 * query-named-block-nodes and query-fdsets. (transfer full) */
JsonNode *qemu_disks_see_through(JsonNode *answer, JsonNode *nodes, JsonNode *fdsets);
/* ANSWER of query-block as GPtrArray (transfer full) of QemuDisk, in its order. CORRUPT if it is none. */
GPtrArray *qemu_disks_parse(JsonNode *answer, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Asks "qom-list" of PATH (PROPERTY is NULL), or "qom-get" of its PROPERTY; *answer is (transfer full). */
typedef gboolean (*QemuQomFunc)(const char *path, const char *property, JsonNode **answer, gpointer user_data,
                                GError **error);
/* Fills what the devices say into DISKS. Fails if a device cannot be asked: not to know of an iothread can cost the
 * guest its life. NOT_FOUND if the device was unplugged meanwhile: look again. */
gboolean qemu_disks_fill(GPtrArray *disks, QemuQomFunc func, gpointer user_data,
                         GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* The QemuBitmaps of NODE (nullable), an item of query-named-block-nodes, as GPtrArray (transfer full). */
GPtrArray *qemu_disks_parse_bitmaps(JsonObject *node);

/* Both steps, with QMP; TIMEOUT_MS bounds each command. Looks again when a device went away meanwhile. */
GPtrArray *qemu_disks_query(Qmp *qmp, guint timeout_ms, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Fills in `image` of those of which that can be said: what it leads to for a file that is a link, the name that QEMU tells for
 * a block device. */
void qemu_disks_see(GPtrArray *disks, Qmp *qmp);

/* The disk (transfer none) whose node, drive, device id or serial is NAME. NOT_FOUND; INVALID if NAME means several;
 * STATE if it is left out, with the reason. */
QemuDisk *qemu_disks_find(GPtrArray *disks, const char *name, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* What to find DISK by the next time, when QEMU may be another process: node, drive, serial or device id, the first that
 * was given to it; NULL if none was. */
const char *qemu_disk_lasting_name(const QemuDisk *disk);
/* Where in QOM the device is that query-block calls QDEV, and that has the property `drive` (transfer full); NULL for NULL. */
char *qemu_device_path(const char *qdev);
/* The bitmap NAME (transfer none), or NULL. */
const QemuBitmap *qemu_disk_bitmap(const QemuDisk *disk, const char *name);
