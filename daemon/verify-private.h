/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of the verify job share: verify.c (the job), verify-progress.c (where a run was cut off),
 * verify-repair.c, verify-result.c (what it tells). */
#pragma once

#include <daemon/throttle.h>
#include <daemon/verify.h>
#include <store/verify.h>

/* Where a run is, in a file of its own. Job's thread. */
typedef struct {
  char *path;
  char *scope;
  gint64 started;         /* microseconds since 1970, of the first run */
  GHashTable *finished;   /* uuids, as text, of the points that were found good */
  char *point;            /* (nullable) the one that is being read, as text */
  StoreVerifyPlace place; /* all of it before this was read */
  gint64 saved;           /* monotonic time */
  gboolean saved_point;   /* the file names a point that is being read */
} VerifyProgress;

/* What is known of SCOPE; nothing if there is no file, or it is older than a day, damaged, or RESTART. */
void verify_progress_load(VerifyProgress *progress, const char *state_dir, const char *scope, gboolean restart);
/* Writes it; but not too often unless NOW. A failure is only logged: it costs reading again. */
void verify_progress_save(VerifyProgress *progress, gboolean now);
void verify_progress_remove(const VerifyProgress *progress);
void verify_progress_clear(VerifyProgress *progress);
gboolean verify_progress_has_finished(const VerifyProgress *progress, const CbtUuid *point);
void verify_progress_finish(VerifyProgress *progress, const CbtUuid *point);

typedef struct {
  CbtUuid uuid;
  char *vm;
  StoreVerifyVerdict verdict;
  char *file_error; /* (nullable) what was wrong with its point file */
} VerifyDamagedPoint;

typedef struct {
  Daemon *daemon;
  Job *job;
  const VerifyRequest *request;
  StoreVerify *store;
  Throttle throttle;
  VerifyProgress progress;
  gint64 resumed_from; /* microseconds since 1970; 0: from the start */
  guint n_skipped;     /* points that the run before had finished */
  guint n_verified;
  guint n_gone;        /* removed before they were read */
  GArray *damaged;     /* of VerifyDamagedPoint */
  GHashTable *unnoted; /* uuids, as text, of the points whose verdict could not be noted */
  GError *note_error;  /* (nullable) why one of them could not; CORRUPT rather than others */
} Verify;

/* Verifies the points that were damaged once more. */
gboolean verify_damaged_again(Verify *verify, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Whether the image to repair from can be read: better to know that before hours of reading. */
gboolean verify_repair_open(const VerifyRequest *request, GError **error) G_GNUC_WARN_UNUSED_RESULT;
/* Repairs what was found damaged. */
gboolean verify_repair(Verify *verify, GError **error) G_GNUC_WARN_UNUSED_RESULT;

/* What was found, for the job (transfer full). */
JsonNode *verify_result_to_json(const Verify *verify);
/* CORRUPT if there was damage; else what kept verdicts from being noted. */
gboolean verify_result_check(const Verify *verify, GError **error) G_GNUC_WARN_UNUSED_RESULT;
