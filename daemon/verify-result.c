/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The result stays in the catalogue with the job, so its lists are limited; the counts are exact. */
#include <daemon/verify-private.h>

#include <daemon/json-util.h>

#define DAMAGES_MAX 200u
#define USES_MAX    50u /* of each */
#define POINTS_MAX  1000u

static const char *const type_names[] = {
    [STORE_CHUNK_DATA] = "data", [STORE_CHUNK_PAGE] = "page", [STORE_CHUNK_BLOB] = "config"};

static void
put_use(JsonBuilder *builder, const StoreVerifyUse *use)
{
  json_builder_begin_object(builder);
  json_put_uuid(builder, "point", &use->point);
  json_put_string(builder, "vm", use->vm);
  json_put_string(builder, "disk", use->disk);
  json_put_string(builder, "config", use->config);
  json_put_int(builder, "offset", use->offset);
  json_put_int(builder, "length", use->length);
  json_builder_end_object(builder);
}

static void
put_damage(JsonBuilder *builder, const StoreVerifyDamage *damage)
{
  char id[STORE_CHUNK_ID_TEXT_SIZE];
  g_autofree char *pack = damage->pack ? g_strdup_printf("%08x", damage->pack) : NULL;
  json_builder_begin_object(builder);
  json_put_string(builder, "chunk", store_chunk_id_format(&damage->id, id));
  json_put_string(builder, "type", type_names[damage->type]);
  json_put_string(builder, "pack", pack);
  json_put_int(builder, "offset", damage->offset);
  json_put_string(builder, "error", damage->error);
  json_put_bool(builder, "repaired", damage->is_repaired);
  json_put_int(builder, "used-by-count", damage->n_uses);
  json_builder_set_member_name(builder, "used-by");
  json_builder_begin_array(builder);
  for (guint i = 0; i < MIN(damage->uses->len, USES_MAX); i++)
    put_use(builder, &g_array_index(damage->uses, StoreVerifyUse, i));
  json_builder_end_array(builder);
  json_builder_end_object(builder);
}

static void
put_damages(JsonBuilder *builder, const Verify *verify)
{
  const GPtrArray *damages = store_verify_damages(verify->store);
  json_builder_set_member_name(builder, "damaged");
  json_builder_begin_array(builder);
  for (guint i = 0; i < MIN(damages->len, DAMAGES_MAX); i++)
    put_damage(builder, damages->pdata[i]);
  json_builder_end_array(builder);
}

static void
put_points(JsonBuilder *builder, const Verify *verify)
{
  json_builder_set_member_name(builder, "damaged-points");
  json_builder_begin_array(builder);
  for (guint i = 0; i < MIN(verify->damaged->len, POINTS_MAX); i++) {
    const VerifyDamagedPoint *point = &g_array_index(verify->damaged, VerifyDamagedPoint, i);
    json_builder_begin_object(builder);
    json_put_uuid(builder, "point", &point->uuid);
    json_put_string(builder, "vm", point->vm);
    json_put_int(builder, "places", point->verdict.n_uses);
    json_put_int(builder, "bytes", point->verdict.bytes);
    json_put_string(builder, "point-file", point->file_error);
    json_builder_end_object(builder);
  }
  json_builder_end_array(builder);
}

JsonNode *
verify_result_to_json(const Verify *verify)
{
  StoreVerifyCounts counts;
  JsonBuilder *builder = json_builder_new_immutable();
  store_verify_counts(verify->store, &counts);
  json_builder_begin_object(builder);
  json_put_int(builder, "chunks-read", counts.n_chunks);
  json_put_int(builder, "bytes-read", counts.bytes);
  json_put_int(builder, "points-verified", verify->n_verified);
  json_put_int(builder, "points-damaged", verify->damaged->len);
  json_put_int(builder, "points-gone", verify->n_gone);
  json_put_time(builder, "resumed-from", verify->resumed_from);
  json_put_int(builder, "points-skipped", verify->n_skipped);
  json_put_int(builder, "chunks-skipped", counts.n_skipped);
  json_put_int(builder, "damaged-count", counts.n_damaged);
  json_put_int(builder, "repaired-count", counts.n_repaired);
  put_damages(builder, verify);
  put_points(builder, verify);
  json_builder_end_object(builder);
  return json_finish(builder);
}

/* Only point files: they were written again with the verdict, if that could be noted. */
static gboolean
fail_files(const Verify *verify, GError **error)
{
  cbt_set_error(error, CBT_ERROR_CORRUPT,
                g_hash_table_size(verify->unnoted) > 0
                    ? "Not all could be written again from the catalogue; look for what damaged "
                      "them, and verify again."
                    : "They were written again from the catalogue; look for what damaged them.",
                "the point files of %u recovery points were damaged or missing", verify->damaged->len);
  return FALSE;
}

static gboolean
fail_notes(const Verify *verify, GError **error)
{
  g_autofree char *message = cbt_error_message(verify->note_error);
  g_autofree char *hint = cbt_error_hint(verify->note_error);
  cbt_set_error(error, cbt_error_code(verify->note_error), hint,
                "the verdicts of %u recovery points cannot be noted: %s", g_hash_table_size(verify->unnoted),
                message);
  return FALSE;
}

gboolean
verify_result_check(const Verify *verify, GError **error)
{
  StoreVerifyCounts counts;
  store_verify_counts(verify->store, &counts);
  guint n_points = 0;
  for (guint i = 0; i < verify->damaged->len; i++)
    n_points += g_array_index(verify->damaged, VerifyDamagedPoint, i).verdict.n_uses > 0;
  guint64 n_left = counts.n_damaged - counts.n_repaired;
  gboolean is_noted = g_hash_table_size(verify->unnoted) == 0;
  /* What a wrong row names need not be there: that comes first, as it explains the rest. */
  if (!is_noted && g_error_matches(verify->note_error, CBT_ERROR, CBT_ERROR_CORRUPT))
    return fail_notes(verify, error);
  if (n_left == 0 && verify->damaged->len > 0)
    return fail_files(verify, error);
  if (n_left == 0)
    return is_noted || fail_notes(verify, error);
  cbt_set_error(
      error, CBT_ERROR_CORRUPT,
      "A full backup of a disk that still has this data stores it again: cbt-backup --full VM. Or find it "
      "elsewhere: cbt-backup verify ... --repair [--from POINT|IMAGE].",
      "%" G_GUINT64_FORMAT " damaged chunk%s: %u of %u recovery points cannot be restored in full", n_left,
      n_left == 1 ? "" : "s", n_points, verify->n_verified + verify->n_skipped);
  return FALSE;
}
