/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <common/bytes.h>
#include <common/error.h>
#include <errno.h>
#include <glib/gstdio.h>
#include <store/manifest-format.h>
#include <store/point.h>
#include <string.h>
#include <tests/support/fault-ops.h>
#include <tests/support/store-files.h>

#define GOLDEN_UUID "6f1c2a34-5b6d-4e8f-9a0b-1c2d3e4f5061"
#define GOLDEN_PATH CBT_GOLDEN_DIR "/point-v1.point"

static int
setup(void **state)
{
  *state = store_test_folder_new();
  return 0;
}

static int
teardown(void **state)
{
  store_test_folder_free(*state);
  return 0;
}

static void
set(char **field, const char *text)
{
  g_free(*field);
  *field = g_strdup(text);
}

static CbtUuid
uuid_of(const char *text)
{
  CbtUuid uuid;
  assert_true(cbt_uuid_parse(text, &uuid));
  return uuid;
}

/* The point that the golden file shows. */
static StorePoint *
make_point(void)
{
  StorePoint *point = store_point_new();
  point->uuid = uuid_of(GOLDEN_UUID);
  set(&point->vm, "web");
  point->incremental = TRUE;
  point->parent = uuid_of("00112233-4455-4677-8899-aabbccddeeff");
  point->time = 1700000000123456;
  set(&point->reason, "disk data: there was no bitmap");
  set(&point->note, "before the upgrade;\n = [two] lines, caf\303\251");
  point->is_protected = TRUE;
  point->verified = 1700000100000000;
  StorePointDisk *root = store_point_add_disk(point, "root");
  root->disk_id = uuid_of("11111111-2222-4333-8444-555555555555");
  set(&root->path, "/images/web root.raw");
  set(&root->bitmap, "default");
  root->manifest.size = 10737418240;
  for (guint i = 0; i < sizeof root->manifest.root; i++)
    root->manifest.root.bytes[i] = (guint8) (0xa0 + i);
  root->parent = point->parent;
  root->dirty = 196608;
  root->zero = 65536;
  root->reused = 65536;
  root->stored = 30000;
  StorePointDisk *data = store_point_add_disk(point, "data");
  data->disk_id = uuid_of("66666666-7777-4888-8999-aaaaaaaaaaaa");
  set(&data->path, "/dev/vg/web-data");
  data->manifest.size = 1000000;
  set(&data->reason, "there was no bitmap");
  data->dirty = data->zero = 1000000;
  StorePointConfig *config = store_point_add_config(point, "web server.conf");
  for (guint i = 0; i < sizeof config->id; i++)
    config->id.bytes[i] = (guint8) (0x30 + i);
  config->size = 321;
  return point;
}

static void
check_error(GError **error, CbtErrorCode code, const char *part)
{
  assert_non_null(*error);
  if ((*error)->domain != CBT_ERROR || (*error)->code != (int) code || !strstr((*error)->message, part))
    fail_msg("expected %s with '%s', got: %s", cbt_error_code_name((int) code), part, (*error)->message);
  g_clear_error(error);
}

/* BODY with the checksum line that it should have. */
static char *
seal(const char *body, gsize *length)
{
  char *text =
      g_strdup_printf("%s# xxh3-64: %016" G_GINT64_MODIFIER "x\n", body, cbt_checksum64(body, strlen(body)));
  *length = strlen(text);
  return text;
}

/* The golden text without its checksum line, with FROM (it must be there) replaced by TO, sealed and decoded.
 */
static StorePoint *
decode_changed(const char *from, const char *to, GError **error)
{
  g_autoptr(StorePoint) point = make_point();
  gsize length;
  g_autofree char *text = store_point_encode(point, &length);
  text[length - strlen("# xxh3-64: 0123456789abcdef\n")] = '\0';
  GString *body = g_string_new(text);
  if (g_string_replace(body, from, to, 1) != 1)
    fail_msg("'%s' is not in the text", from);
  g_autofree char *sealed = seal(body->str, &length);
  g_string_free(body, TRUE);
  return store_point_decode(sealed, length, error);
}

/* ---- text ---- */

static void
test_golden_file_is_decoded_and_encoded_alike(void **state)
{
  (void) state;
  g_autoptr(GError) error = NULL;
  g_autoptr(StorePoint) made = make_point();
  gsize length, golden_length;
  g_autofree char *encoded = store_point_encode(made, &length);
  if (g_getenv("CBT_UPDATE_GOLDEN"))
    assert_true(g_file_set_contents(GOLDEN_PATH, encoded, (gssize) length, NULL));
  g_autofree char *golden = NULL;
  assert_true(g_file_get_contents(GOLDEN_PATH, &golden, &golden_length, NULL));
  assert_string_equal(encoded, golden);
  g_autoptr(StorePoint) decoded = store_point_decode(golden, golden_length, &error);
  assert_null(error);
  g_autofree char *again = store_point_encode(decoded, &length);
  assert_int_equal(length, golden_length);
  assert_memory_equal(again, golden, length);
}

static void
test_document_shows_the_golden_file(void **state)
{
  (void) state;
  g_autofree char *golden = NULL;
  g_autofree char *page = NULL;
  assert_true(g_file_get_contents(GOLDEN_PATH, &golden, NULL, NULL));
  assert_true(g_file_get_contents(CBT_GOLDEN_DIR "/../../docs/formats/point.md", &page, NULL, NULL));
  assert_non_null(strstr(page, golden));
}

static void
test_decode_gives_every_field_back(void **state)
{
  (void) state;
  g_autoptr(StorePoint) made = make_point();
  gsize length;
  g_autofree char *text = store_point_encode(made, &length);
  g_autoptr(StorePoint) point = store_point_decode(text, length, NULL);
  assert_non_null(point);
  assert_true(cbt_uuid_equal(&point->uuid, &made->uuid));
  assert_true(cbt_uuid_equal(&point->parent, &made->parent));
  assert_string_equal(point->vm, "web");
  assert_true(point->incremental && point->is_protected);
  assert_int_equal(point->time, made->time);
  assert_int_equal(point->verified, made->verified);
  assert_string_equal(point->reason, made->reason);
  assert_string_equal(point->note, made->note);
  assert_int_equal(point->disks->len, 2);
  const StorePointDisk *root = store_point_find_disk(point, "root");
  const StorePointDisk *root_made = store_point_find_disk(made, "root");
  assert_string_equal(root->path, "/images/web root.raw");
  assert_string_equal(root->bitmap, "default");
  assert_true(cbt_uuid_equal(&root->disk_id, &root_made->disk_id));
  assert_true(cbt_uuid_equal(&root->parent, &made->parent));
  assert_true(store_chunk_id_equal(&root->manifest.root, &root_made->manifest.root));
  assert_int_equal(root->manifest.size, 10737418240);
  assert_null(root->reason);
  assert_int_equal(root->dirty, 196608);
  assert_int_equal(root->zero, 65536);
  assert_int_equal(root->reused, 65536);
  assert_int_equal(root->stored, 30000);
  const StorePointDisk *data = point->disks->pdata[1];
  assert_string_equal(data->reason, "there was no bitmap");
  assert_string_equal(data->bitmap, "");
  assert_true(cbt_uuid_is_nil(&data->parent));
  assert_int_equal(point->configs->len, 1);
  const StorePointConfig *config = point->configs->pdata[0];
  assert_string_equal(config->name, "web server.conf");
  assert_int_equal(config->size, 321);
  assert_int_equal(config->id.bytes[15], 0x3f);
  assert_null(store_point_find_disk(point, "roo"));
}

static void
test_absent_values_stay_absent(void **state)
{
  (void) state;
  g_autoptr(StorePoint) made = store_point_new();
  made->uuid = cbt_uuid_generate();
  set(&made->vm, "web");
  gsize length;
  g_autofree char *text = store_point_encode(made, &length);
  g_autoptr(StorePoint) point = store_point_decode(text, length, NULL);
  assert_non_null(point);
  assert_null(point->reason);
  assert_null(point->note);
  assert_true(cbt_uuid_is_nil(&point->parent));
  assert_false(point->incremental || point->is_protected);
  assert_int_equal(point->verified, 0);
  assert_int_equal(point->disks->len, 0);
}

static void
test_hard_texts_come_back(void **state)
{
  (void) state;
  const char *const texts[] = {
      "",  " lead and trail ", "a\\nb\\\\c", "tab\tcr\rlf\n", "# xxh3-64: 0000000000000000\n",
      ";", "[point]\nuuid=x"};
  for (guint i = 0; i < G_N_ELEMENTS(texts); i++) {
    g_autoptr(StorePoint) made = make_point();
    set(&made->note, texts[i]);
    gsize length;
    g_autofree char *text = store_point_encode(made, &length);
    g_autoptr(StorePoint) point = store_point_decode(text, length, NULL);
    assert_non_null(point);
    assert_string_equal(point->note, texts[i]);
  }
}

static void
test_bytes_that_are_no_utf8_do_not_lose_the_point(void **state)
{
  (void) state;
  g_autoptr(StorePoint) made = make_point();
  StorePointDisk *disk = store_point_find_disk(made, "root");
  set(&disk->path, "/images/\377.raw");
  gsize length;
  g_autofree char *text = store_point_encode(made, &length);
  g_autoptr(StorePoint) point = store_point_decode(text, length, NULL);
  assert_non_null(point);
  assert_string_equal(store_point_find_disk(point, "root")->path, "/images/\357\277\275.raw");
}

static void
test_every_flipped_byte_is_detected(void **state)
{
  (void) state;
  g_autoptr(StorePoint) made = make_point();
  gsize length;
  g_autofree char *text = store_point_encode(made, &length);
  for (gsize i = 0; i < length; i++)
    for (guint bit = 0; bit < 8; bit++) {
      g_autoptr(GError) error = NULL;
      text[i] = (char) (text[i] ^ (1 << bit));
      assert_null(store_point_decode(text, length, &error));
      check_error(&error, CBT_ERROR_CORRUPT, "checksum");
      text[i] = (char) (text[i] ^ (1 << bit));
    }
}

static void
test_every_truncation_is_detected(void **state)
{
  (void) state;
  g_autoptr(StorePoint) made = make_point();
  gsize length;
  g_autofree char *text = store_point_encode(made, &length);
  for (gsize i = 0; i < length; i++) {
    g_autoptr(GError) error = NULL;
    g_autofree char *copy = g_memdup2(text, i); /* so that a read behind it is seen */
    assert_null(store_point_decode(copy ? copy : "", i, &error));
    check_error(&error, CBT_ERROR_CORRUPT, "checksum");
  }
}

/* A checksum does not stop who can compute it. */
static void
test_sealed_nonsense_is_refused_by_key(void **state)
{
  (void) state;
  static const struct {
    const char *from, *to, *named;
  } cases[] = {
      {"uuid=" GOLDEN_UUID, "uuid=6f1c", "'uuid'"},
      {"uuid=" GOLDEN_UUID "\n", "", "'uuid'"},
      {"uuid=" GOLDEN_UUID, "uuid=00000000-0000-0000-0000-000000000000", "uuid"},
      {"vm=web", "vm=../web", "../web"},
      {"vm=web", "vm=\377", "'vm'"},
      {"kind=incremental", "kind=other", "'kind'"},
      {"kind=incremental\n", "", "'kind'"},
      {"parent=00112233", "parent=001122", "'parent'"},
      {"time=1700000000123456", "time=-1", "'time'"},
      {"time=1700000000123456", "time=99999999999999999999", "'time'"},
      {"protected=true", "protected=yes", "'protected'"},
      {"verified=1700000100000000", "verified=", "'verified'"},
      {"note=", "note=\\q", "'note'"},
      {"[disk root]", "[disk ]", "disk"},
      {"[disk root]", "[disk ../root]", "../root"},
      {"[disk data]", "[disk .]", "'.'"},
      {"id=11111111", "id=1", "'id'"},
      {"size=10737418240", "size=1125899906842625", "'root'"},
      {"size=10737418240", "size=0x10", "'size'"},
      {"root=a0a1", "root=a0a1a2", "'root'"},
      {"root=a0a1", "root=zza1", "'root'"},
      {"bitmap=default", "bitmap=a/b", "a/b"},
      {"dirty=196608", "dirty=18446744073709551615", "'dirty'"},
      {"stored=30000\n", "", "'stored'"},
      {"[config web server.conf]", "[config ../x]", "../x"},
      {"[config web server.conf]", "[config .bashrc]", ".bashrc"},
      {"[config web server.conf]", "[config ]", "configuration file"},
      {"chunk=3031", "chunk=30", "'chunk'"},
      {"size=321", "size=", "'size'"},
      {"format=1\n", "", "'format'"},
      {"format=1\n", "format=one\n", "'format'"},
      {"[point]", "[pint]", "[point]"},
      {"[point]", "point", "[point]"},
  };
  for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
    g_autoptr(GError) error = NULL;
    g_autoptr(StorePoint) point = decode_changed(cases[i].from, cases[i].to, &error);
    if (point)
      fail_msg("taken: '%s' for '%s'", cases[i].to, cases[i].from);
    check_error(&error, CBT_ERROR_CORRUPT, cases[i].named);
  }
}

static void
test_newer_format_is_unsupported(void **state)
{
  (void) state;
  g_autoptr(GError) error = NULL;
  assert_null(decode_changed("format=1", "format=2", &error));
  check_error(&error, CBT_ERROR_UNSUPPORTED, "format 2");
}

static void
test_unknown_keys_and_groups_are_ignored(void **state)
{
  (void) state;
  g_autoptr(StorePoint) key = decode_changed("vm=web", "vm=web\ncolour=blue", NULL);
  g_autoptr(StorePoint) group = decode_changed("[disk data]", "[later]\nkey=1\n\n[disk data]", NULL);
  assert_non_null(key);
  assert_non_null(group);
  assert_int_equal(group->disks->len, 2);
}

static void
test_text_with_nul_or_above_the_limit_is_refused(void **state)
{
  (void) state;
  g_autoptr(GError) error = NULL;
  char body[] = "[point]\nformat=1\n0\n";
  body[sizeof body - 3] = '\0';
  g_autofree char *line =
      g_strdup_printf("# xxh3-64: %016" G_GINT64_MODIFIER "x\n", cbt_checksum64(body, sizeof body - 1));
  char text[sizeof body - 1 + 28];
  memcpy(text, body, sizeof body - 1);
  memcpy(text + sizeof body - 1, line, 28);
  assert_null(store_point_decode(text, sizeof text, &error));
  check_error(&error, CBT_ERROR_CORRUPT, "key file");
  g_autofree char *large = g_strnfill(STORE_POINT_LENGTH_MAX, '#');
  gsize length;
  g_autofree char *sealed = seal(large, &length);
  assert_null(store_point_decode(sealed, length, &error));
  check_error(&error, CBT_ERROR_CORRUPT, "checksum");
}

static void
test_config_names_are_plain_file_names(void **state)
{
  (void) state;
  g_autofree char *longest = g_strnfill(255, 'n');
  g_autofree char *too_long = g_strnfill(256, 'n');
  const char *const good[] = {"a", "web.conf", "web server.conf", "caf\303\251", "-x", longest};
  const char *const bad[] = {"",    ".",   "..", ".hidden", "a/b",  "/a",    "a\nb",
                             "a[b", "a]b", " a", "\377",    "\177", too_long};
  for (guint i = 0; i < G_N_ELEMENTS(good); i++)
    assert_true(store_point_config_name_is_valid(good[i]));
  for (guint i = 0; i < G_N_ELEMENTS(bad); i++)
    assert_false(store_point_config_name_is_valid(bad[i]));
}

/* ---- files ---- */

static void
assert_stored(const char *folder, const StorePoint *expected)
{
  g_autoptr(GError) error = NULL;
  g_autoptr(StorePoint) found = store_point_load(cbt_file_ops_default(), folder, &expected->uuid, &error);
  if (!found)
    fail_msg("%s", error->message);
  gsize length;
  g_autofree char *x = store_point_encode(found, &length);
  g_autofree char *y = store_point_encode(expected, &length);
  assert_string_equal(x, y);
}

static void
test_saved_point_is_loaded_listed_and_removed(void **state)
{
  const char *folder = *state;
  const CbtFileOps *ops = cbt_file_ops_default();
  g_autoptr(GError) error = NULL;
  g_autoptr(StorePoint) point = make_point();
  g_autoptr(StorePoint) other = make_point();
  other->uuid = cbt_uuid_generate();
  assert_true(store_point_save(ops, folder, point, NULL));
  assert_true(store_point_save(ops, folder, other, NULL));
  assert_stored(folder, point);
  set(&point->note, "changed");
  assert_true(store_point_save(ops, folder, point, NULL));
  assert_stored(folder, point);
  g_autoptr(GArray) uuids = store_point_list(folder, NULL);
  assert_int_equal(uuids->len, 2);
  assert_true(store_point_remove(ops, folder, &point->uuid, NULL));
  assert_false(store_point_remove(ops, folder, &point->uuid, &error));
  check_error(&error, CBT_ERROR_NOT_FOUND, GOLDEN_UUID);
  assert_null(store_point_load(ops, folder, &point->uuid, &error));
  check_error(&error, CBT_ERROR_NOT_FOUND, GOLDEN_UUID);
  assert_stored(folder, other);
}

static void
test_list_takes_only_names_of_points(void **state)
{
  const char *folder = *state;
  const char *const names[] = {
      GOLDEN_UUID ".point.tmp",
      GOLDEN_UUID,
      "x.point",
      "6F1C2A34-5B6D-4E8F-9A0B-1C2D3E4F5061.point",
      ".point",
      "6f1c2a34-5b6d-4e8f-9a0b-1c2d3e4f506_.point",
  };
  for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
    g_autofree char *path = g_build_filename(folder, names[i], NULL);
    store_test_write(path, "x", 1);
  }
  g_autoptr(GArray) uuids = store_point_list(folder, NULL);
  assert_int_equal(uuids->len, 0);
}

static void
test_missing_folder_is_an_error_not_an_empty_list(void **state)
{
  (void) state;
  g_autoptr(GError) error = NULL;
  assert_null(store_point_list("/nonexistent/points", &error));
  check_error(&error, CBT_ERROR_NOT_FOUND, "/nonexistent/points");
}

static void
test_damaged_file_is_named(void **state)
{
  const char *folder = *state;
  g_autoptr(GError) error = NULL;
  g_autoptr(StorePoint) point = make_point();
  g_autofree char *path = g_build_filename(folder, GOLDEN_UUID ".point", NULL);
  assert_true(store_point_save(cbt_file_ops_default(), folder, point, NULL));
  store_test_flip(path, 100, 4);
  assert_null(store_point_load(cbt_file_ops_default(), folder, &point->uuid, &error));
  check_error(&error, CBT_ERROR_CORRUPT, path);
}

static void
test_file_of_another_point_is_corrupt(void **state)
{
  const char *folder = *state;
  g_autoptr(GError) error = NULL;
  g_autoptr(StorePoint) point = make_point();
  CbtUuid other = uuid_of("00000000-1111-4222-8333-444444444444");
  g_autofree char *from = g_build_filename(folder, GOLDEN_UUID ".point", NULL);
  g_autofree char *to = g_build_filename(folder, "00000000-1111-4222-8333-444444444444.point", NULL);
  assert_true(store_point_save(cbt_file_ops_default(), folder, point, NULL));
  assert_int_equal(g_rename(from, to), 0);
  assert_null(store_point_load(cbt_file_ops_default(), folder, &other, &error));
  check_error(&error, CBT_ERROR_CORRUPT, "another point");
}

static void
test_point_that_could_not_be_read_back_is_not_saved(void **state)
{
  const char *folder = *state;
  const CbtFileOps *ops = cbt_file_ops_default();
  g_autoptr(GError) error = NULL;
  g_autoptr(StorePoint) twice = make_point();
  store_point_add_disk(twice, "root");
  assert_false(store_point_save(ops, folder, twice, &error));
  check_error(&error, CBT_ERROR_INVALID, "'root'");
  g_autoptr(StorePoint) huge = make_point();
  store_point_find_disk(huge, "root")->manifest.size = STORE_DISK_SIZE_MAX + 1;
  assert_false(store_point_save(ops, folder, huge, &error));
  check_error(&error, CBT_ERROR_INVALID, "'root'");
  g_autoptr(StorePoint) longwinded = make_point();
  g_free(longwinded->note);
  longwinded->note = g_strnfill(STORE_POINT_LENGTH_MAX, 'n');
  assert_false(store_point_save(ops, folder, longwinded, &error));
  check_error(&error, CBT_ERROR_TOO_LARGE, "bytes");
  g_autoptr(GArray) uuids = store_point_list(folder, NULL);
  assert_int_equal(uuids->len, 0);
}

/* Save NEW over OLD with call n failing: afterwards there is the one or the other. */
static void
save_under_faults(const char *folder, CbtFaultFlags flags)
{
  CbtFaultOps faults;
  guint n;
  cbt_fault_ops_init(&faults);
  for (n = 1;; n++) {
    g_autoptr(GError) error = NULL;
    g_autoptr(StorePoint) old = make_point();
    g_autoptr(StorePoint) new = make_point();
    set(&new->note, "new");
    assert_true(store_point_save(cbt_file_ops_default(), folder, old, NULL));
    cbt_fault_ops_arm(&faults, n, ENOSPC, flags);
    gboolean ok = store_point_save(&faults.ops, folder, new, &error);
    gboolean failed = cbt_fault_ops_disarm(&faults);
    assert_true(ok != failed);
    if (ok)
      break;
    check_error(&error, CBT_ERROR_NO_SPACE, GOLDEN_UUID ".point");
    g_autoptr(StorePoint) found = store_point_load(cbt_file_ops_default(), folder, &old->uuid, NULL);
    assert_non_null(found);
    assert_true(strcmp(found->note, old->note) == 0 || strcmp(found->note, "new") == 0);
  }
  assert_in_range(n, 6, 20); /* open, write, sync, close, rename, sync of the folder */
}

static void
test_save_under_faults_leaves_old_or_new(void **state)
{
  save_under_faults(*state, CBT_FAULT_ONCE);
  save_under_faults(*state, CBT_FAULT_FOR_EVER);
  save_under_faults(*state, CBT_FAULT_TORN);
}

static void
test_load_under_faults_is_an_error(void **state)
{
  const char *folder = *state;
  CbtFaultOps faults;
  g_autoptr(StorePoint) point = make_point();
  assert_true(store_point_save(cbt_file_ops_default(), folder, point, NULL));
  cbt_fault_ops_init(&faults);
  for (guint n = 1; n <= 2; n++) { /* open and read; a failing close harms nobody */
    g_autoptr(GError) error = NULL;
    cbt_fault_ops_arm(&faults, n, EIO, CBT_FAULT_ONCE);
    assert_null(store_point_load(&faults.ops, folder, &point->uuid, &error));
    assert_true(cbt_fault_ops_disarm(&faults));
    check_error(&error, CBT_ERROR_IO, GOLDEN_UUID ".point");
  }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(test_golden_file_is_decoded_and_encoded_alike),
      TEST(test_document_shows_the_golden_file),
      TEST(test_decode_gives_every_field_back),
      TEST(test_absent_values_stay_absent),
      TEST(test_hard_texts_come_back),
      TEST(test_bytes_that_are_no_utf8_do_not_lose_the_point),
      TEST(test_every_flipped_byte_is_detected),
      TEST(test_every_truncation_is_detected),
      TEST(test_sealed_nonsense_is_refused_by_key),
      TEST(test_newer_format_is_unsupported),
      TEST(test_unknown_keys_and_groups_are_ignored),
      TEST(test_text_with_nul_or_above_the_limit_is_refused),
      TEST(test_config_names_are_plain_file_names),
      TEST(test_saved_point_is_loaded_listed_and_removed),
      TEST(test_list_takes_only_names_of_points),
      TEST(test_missing_folder_is_an_error_not_an_empty_list),
      TEST(test_damaged_file_is_named),
      TEST(test_file_of_another_point_is_corrupt),
      TEST(test_point_that_could_not_be_read_back_is_not_saved),
      TEST(test_save_under_faults_leaves_old_or_new),
      TEST(test_load_under_faults_is_an_error),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
