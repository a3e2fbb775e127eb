/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <common/error.h>
#include <store/chain-index.h>
#include <string.h>

#define GOLDEN_PATH CBT_GOLDEN_DIR "/chain-v1.json"
#define BASE        "root.20261121T101530Z-full.qcow2"
#define OVERLAY     "root.20261121T111530Z-incr.qcow2"

static CbtUuid
uuid_of(const char *text)
{
  CbtUuid uuid;
  assert_true(cbt_uuid_parse(text, &uuid));
  return uuid;
}

static void
add_disk(StoreChainPoint *point, const char *file, const char *backing_file, guint64 bytes)
{
  StoreChainDisk *disk = store_chain_point_add_disk(point, "root");
  disk->size = 10737418240;
  disk->file = g_strdup(file);
  disk->backing_file = g_strdup(backing_file);
  disk->bytes = bytes;
}

/* The index that the golden file shows. */
static StoreChainIndex *
make_index(void)
{
  CbtUuid store = uuid_of("33333333-4444-4555-8666-777777777777");
  CbtUuid first = uuid_of("00112233-4455-4677-8899-aabbccddeeff");
  CbtUuid second = uuid_of("6f1c2a34-5b6d-4e8f-9a0b-1c2d3e4f5061");
  StoreChainIndex *index = store_chain_index_new(&store, "web");
  StoreChainPoint *incremental = store_chain_point_new(&second);
  incremental->time = 1795259730;
  incremental->incremental = TRUE;
  incremental->parent = first;
  add_disk(incremental, OVERLAY, BASE, 786432);
  store_chain_index_put(index, incremental);
  StoreChainPoint *full = store_chain_point_new(&first);
  full->time = 1795256130;
  add_disk(full, BASE, NULL, 2147876864);
  full->config_folder = g_strdup("CONFIGS-20261121T101530Z");
  store_chain_point_add_config(full, "web.conf")->size = 412;
  store_chain_index_put(index, full);
  return index;
}

static void
test_text_is_the_golden_one_and_is_read_back(void **state G_GNUC_UNUSED)
{
  g_autoptr(StoreChainIndex) index = make_index();
  g_autofree char *text = store_chain_index_encode(index);
  g_autofree char *golden = NULL, *document = NULL;
  if (g_getenv("CBT_UPDATE_GOLDEN"))
    assert_true(g_file_set_contents(GOLDEN_PATH, text, -1, NULL));
  assert_true(g_file_get_contents(GOLDEN_PATH, &golden, NULL, NULL));
  assert_string_equal(text, golden);
  assert_true(g_file_get_contents(CBT_GOLDEN_DIR "/../../docs/formats/chain.md", &document, NULL, NULL));
  assert_non_null(strstr(document, golden));
  g_autoptr(StoreChainIndex) again = store_chain_index_decode(text, strlen(text), NULL);
  assert_non_null(again);
  g_autofree char *text_again = store_chain_index_encode(again);
  assert_string_equal(text, text_again);
}

static void
test_point_takes_the_place_of_its_older_entry(void **state G_GNUC_UNUSED)
{
  g_autoptr(StoreChainIndex) index = make_index();
  CbtUuid uuid = uuid_of("00112233-4455-4677-8899-aabbccddeeff");
  StoreChainPoint *point = store_chain_point_new(&uuid);
  point->time = 1795256130;
  store_chain_index_put(index, point);
  assert_int_equal(index->points->len, 2);
  assert_ptr_equal(store_chain_index_find(index, &uuid), point);
}

/* ---- what is refused ---- */

/* The golden text with FROM (it must be there) replaced by TO, decoded. */
static StoreChainIndex *
decode_changed(const char *from, const char *to, GError **error)
{
  g_autoptr(StoreChainIndex) index = make_index();
  g_autofree char *text = store_chain_index_encode(index);
  GString *changed = g_string_new(text);
  if (g_string_replace(changed, from, to, 0) == 0)
    fail_msg("there is no %s", from);
  StoreChainIndex *again = store_chain_index_decode(changed->str, changed->len, error);
  g_string_free(changed, TRUE);
  return again;
}

static void
test_wrong_value_is_refused_by_key(void **state G_GNUC_UNUSED)
{
  static const struct {
    const char *from, *to, *key;
  } changes[] = {
      {"\"cbt-backup-chain\"", "\"other\"", "'format'"},
      {"\"version\" : 1", "\"version\" : \"1\"", "'version'"},
      {"\"vm\" : \"web\"", "\"vm\" : \"../web\"", "'vm'"},
      {"\"vm\" : \"web\"", "\"vm\" : null", "'vm'"},
      {"33333333-4444-4555-8666-777777777777", "33333333", "'store'"},
      {"\"points\"", "\"point\"", "'points'"},
      {"6f1c2a34-5b6d-4e8f-9a0b-1c2d3e4f5061", "00112233-4455-4677-8899-aabbccddeeff", "'uuid'"},
      {"\"full\"", "\"whole\"", "'kind'"},
      {"1795256130", "-1", "'time'"},
      {"1795256130", "1795256130.5", "'time'"},
      {"\"name\" : \"root\"", "\"name\" : \"/root\"", "'name'"},
      {"10737418240", "9223372036854775807", "'size'"},
      {"2147876864", "-5", "'bytes'"},
      {"\"" OVERLAY "\"", "\"../" OVERLAY "\"", "'file'"},
      {"\"" OVERLAY "\"", "\".hidden\"", "'file'"},
      {"\"backing-file\" : \"" BASE "\"", "\"backing-file\" : \"/etc/passwd\"", "'backing-file'"},
      {"\"backing-file\" : null", "\"backing\" : null", "'backing-file'"},
      {"\"CONFIGS-20261121T101530Z\"", "\"..\"", "'config-folder'"},
      {"\"CONFIGS-20261121T101530Z\"", "null", "'config-folder'"},
      {"\"web.conf\"", "\"a/b\"", "'name'"},
      {"\"configs\" : []", "\"configs\" : {}", "'configs'"},
      {"\"configs\" : []", "\"configs\" : [7]", "'configs'"},
  };
  for (guint i = 0; i < G_N_ELEMENTS(changes); i++) {
    g_autoptr(GError) error = NULL;
    assert_null(decode_changed(changes[i].from, changes[i].to, &error));
    if (!g_error_matches(error, CBT_ERROR, CBT_ERROR_CORRUPT) || !strstr(error->message, changes[i].key))
      fail_msg("%s: %s", changes[i].to, error->message);
  }
}

static void
test_newer_version_is_refused_and_unknown_keys_are_not(void **state G_GNUC_UNUSED)
{
  g_autoptr(GError) error = NULL;
  assert_null(decode_changed("\"version\" : 1", "\"version\" : 2", &error));
  assert_true(g_error_matches(error, CBT_ERROR, CBT_ERROR_UNSUPPORTED));
  g_autoptr(StoreChainIndex) index =
      decode_changed("\"vm\"", "\"later\" : {\"a\" : [\"[[[[[[[[[[\\\"\"]}, \"vm\"", NULL);
  assert_non_null(index);
}

static void
expect_no_json(const char *text, gsize length)
{
  g_autoptr(GError) error = NULL;
  assert_null(store_chain_index_decode(text, length, &error));
  assert_true(g_error_matches(error, CBT_ERROR, CBT_ERROR_CORRUPT));
}

static void
test_text_that_is_cut_off_or_nested_deeply_is_refused(void **state G_GNUC_UNUSED)
{
  g_autoptr(StoreChainIndex) index = make_index();
  g_autofree char *text = store_chain_index_encode(index);
  for (gsize length = 0; length < strlen(text) - 2; length++)
    expect_no_json(text, length);
  g_autofree char *deep = g_strnfill(4 << 20, '[');
  expect_no_json(deep, strlen(deep));
  g_autofree char *behind_comment = g_strconcat("{ // \"\n \"a\": ", deep, NULL);
  expect_no_json(behind_comment, strlen(behind_comment));
  expect_no_json("[]", 2);
  expect_no_json("{\"format\": \"\xff\"}", 15);
  expect_no_json("{}\0{}", 5);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_text_is_the_golden_one_and_is_read_back),
      cmocka_unit_test(test_point_takes_the_place_of_its_older_entry),
      cmocka_unit_test(test_wrong_value_is_refused_by_key),
      cmocka_unit_test(test_newer_version_is_refused_and_unknown_keys_are_not),
      cmocka_unit_test(test_text_that_is_cut_off_or_nested_deeply_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
