/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A client of the QEMU guest agent behind its Unix socket. The agent is part of the guest: it may be absent, late, dead,
 * or lie. So each call has a bound on its time; after a call that got no answer the stream is synchronised anew
 * (guest-sync-delimited), so that the answer of one command is never taken for that of the next; and nothing it says is
 * trusted beyond its form. What to freeze, and what its counts mean, is for the caller to judge.
 *
 * Lifecycle: qga_open(), calls, qga_close(). Every call may fail with UNREACHABLE (no answer in time, which leaves the
 * connection usable while qga_is_open(); or it ended), CANCELLED, CORRUPT or TOO_LARGE (what it said), UNSUPPORTED (the
 * agent does not know the command, or allows it not now: while frozen it allows few), and FAILED (it refused; its words
 * are in the message). Commands that got no answer may be carried out all the same.
 *
 * One thread at a time, any thread. Protocol: QEMU's qga/qapi-schema.json.
 */
#pragma once

#include <common/error.h>
#include <gio/gio.h>
#include <json-glib/json-glib.h>

#define QGA_MAX_MESSAGE_BYTES (8u << 20)

typedef struct Qga Qga;

/* Connects to SOCKET_PATH, synchronises, and asks what the agent can do, all within TIMEOUT_MS. UNREACHABLE also if
 * somebody else is connected to the socket; the message says so. CANCELLABLE may be NULL, and serves all later calls. */
Qga *qga_open(const char *socket_path, guint timeout_ms, GCancellable *cancellable,
              GError **error) G_GNUC_WARN_UNUSED_RESULT;
void qga_close(Qga *qga);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qga, qga_close)

gboolean qga_is_open(const Qga *qga);
const char *qga_version(const Qga *qga); /* "" if it does not tell */
/* Whether the agent had COMMAND enabled when it was opened: it was not frozen then, or it was. */
gboolean qga_supports(const Qga *qga, const char *command);

/* Carries out COMMAND with ARGUMENTS (transfer full; NULL for none). *answer (transfer full); ANSWER may be NULL. */
gboolean qga_call(Qga *qga, const char *command, JsonObject *arguments, guint timeout_ms, JsonNode **answer,
                  GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Synchronises now, for example to see whether the agent is there. */
gboolean qga_sync(Qga *qga, guint timeout_ms, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Freezing. Counts are the agent's: 0 means that nothing was frozen or thawed. */
gboolean qga_fsfreeze_status(Qga *qga, guint timeout_ms, gboolean *is_frozen, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* All file systems, or those mounted at MOUNTPOINTS (NULL-terminated). The agent ignores mount points that it does not
 * have: look at qga_get_fsinfo() before. On any error thaw: it may be frozen. */
gboolean qga_fsfreeze_freeze(Qga *qga, const char *const *mountpoints, guint timeout_ms, guint *count,
                             GError **error) G_GNUC_WARN_UNUSED_RESULT;
gboolean qga_fsfreeze_thaw(Qga *qga, guint timeout_ms, guint *count, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* Where a disk is, as the guest sees it. */
typedef struct {
  char *serial;   /* or NULL */
  char *device;   /* "/dev/vda", or NULL */
  char *bus_type; /* "virtio", "scsi", ... */
  gboolean has_pci;
  guint pci_domain, pci_bus, pci_slot, pci_function; /* of its controller, numbered by the guest */
  gint64 bus, target, unit;
} QgaDiskAddress;

typedef struct {
  char *name;       /* "vda1", "dm-0" */
  char *mountpoint;
  char *type;       /* "ext4" */
  GPtrArray *disks; /* QgaDiskAddress: those that it is on */
} QgaFilesystem;

typedef struct {
  char *name; /* "/dev/vda" */
  gboolean is_partition;
  char **dependencies;     /* names of the disks that it is made of: LVM, LUKS, partitions */
  char *alias;             /* or NULL */
  QgaDiskAddress *address; /* or NULL */
} QgaDisk;

/* ANSWER of guest-get-fsinfo or guest-get-disks as GPtrArray (transfer full). CORRUPT if it is none. */
GPtrArray *qga_parse_fsinfo(JsonNode *answer, GError **error) G_GNUC_WARN_UNUSED_RESULT;
GPtrArray *qga_parse_disks(JsonNode *answer, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* GPtrArray (transfer full) of QgaFilesystem: those that are mounted. */
GPtrArray *qga_get_fsinfo(Qga *qga, guint timeout_ms, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* GPtrArray (transfer full) of QgaDisk. */
GPtrArray *qga_get_disks(Qga *qga, guint timeout_ms, GError **error) G_GNUC_WARN_UNUSED_RESULT;

typedef struct {
  gint64 exit_status; /* -1 if it was killed */
  gint64 signal;      /* that killed it, or 0 */
  char *out, *err;    /* made valid UTF-8; never NULL */
  gboolean is_cut;    /* the agent kept a part of them only */
} QgaExecResult;
void qga_exec_result_clear(QgaExecResult *result);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(QgaExecResult, qga_exec_result_clear)

/* Runs ARGV (a path, then its arguments; NULL-terminated) in the guest and waits until it has ended. UNREACHABLE if it
 * has not within TIMEOUT_MS; it goes on then. RESULT, to be cleared, is what it came to: a failed program is no error. */
gboolean qga_exec(Qga *qga, const char *const *argv, guint timeout_ms, QgaExecResult *result,
                  GError **error) G_GNUC_WARN_UNUSED_RESULT;
