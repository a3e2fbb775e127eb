/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <store/chunk.h>
#include <string.h>

static void
fill_secret(guint8 secret[STORE_SECRET_SIZE])
{
  for (guint i = 0; i < STORE_SECRET_SIZE; i++)
    secret[i] = (guint8) (i * 7 + 1);
}

static void
test_id_is_the_same_for_ever(void **state G_GNUC_UNUSED)
{
  guint8 secret[STORE_SECRET_SIZE];
  char text[STORE_CHUNK_ID_TEXT_SIZE];
  static const guint8 zeros[STORE_CHUNK_LENGTH_MAX];
  fill_secret(secret);
  StoreChunkId id = store_chunk_id(secret, "changed blocks", 14);
  assert_string_equal(store_chunk_id_format(&id, text), "5ca55c02b3e7c036e7f9ab387440a900");
  id = store_chunk_id(secret, zeros, sizeof zeros);
  assert_string_equal(store_chunk_id_format(&id, text), "9a0be0b772e75c534eaa83e5d8407000");
}

static void
test_id_depends_on_content_length_and_secret(void **state G_GNUC_UNUSED)
{
  guint8 secret[STORE_SECRET_SIZE];
  guint8 data[1000] = {0};
  fill_secret(secret);
  StoreChunkId id = store_chunk_id(secret, data, 1000);
  StoreChunkId shorter = store_chunk_id(secret, data, 999);
  data[500] ^= 1;
  StoreChunkId changed = store_chunk_id(secret, data, 1000);
  data[500] ^= 1;
  secret[0] ^= 1;
  secret[100] ^= 1;
  StoreChunkId other_secret = store_chunk_id(secret, data, 1000);
  assert_false(store_chunk_id_equal(&id, &shorter));
  assert_false(store_chunk_id_equal(&id, &changed));
  assert_false(store_chunk_id_equal(&id, &other_secret));
  assert_int_equal(id.bytes[15], 0);
}

static void
test_text_round_trips_and_bad_text_is_refused(void **state G_GNUC_UNUSED)
{
  StoreChunkId id, parsed;
  char text[STORE_CHUNK_ID_TEXT_SIZE];
  for (guint i = 0; i < STORE_CHUNK_ID_SIZE; i++)
    id.bytes[i] = (guint8) (i * 17 + 3);
  assert_true(store_chunk_id_parse(store_chunk_id_format(&id, text), &parsed));
  assert_true(store_chunk_id_equal(&id, &parsed));
  assert_false(store_chunk_id_parse("", &parsed));
  assert_false(store_chunk_id_parse("00112233445566778899aabbccddee", &parsed));
  assert_false(store_chunk_id_parse("00112233445566778899aabbccddeefg", &parsed));
  assert_false(store_chunk_id_parse("00112233445566778899aabbccddeeff0", &parsed));
}

static void
test_only_sixteen_zero_bytes_are_the_zero_id(void **state G_GNUC_UNUSED)
{
  StoreChunkId id = {{0}};
  assert_true(store_chunk_id_is_zero(&id));
  for (guint i = 0; i < STORE_CHUNK_ID_SIZE; i++) {
    id.bytes[i] = 1;
    assert_false(store_chunk_id_is_zero(&id));
    id.bytes[i] = 0;
  }
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_id_is_the_same_for_ever),
      cmocka_unit_test(test_id_depends_on_content_length_and_secret),
      cmocka_unit_test(test_text_round_trips_and_bad_text_is_refused),
      cmocka_unit_test(test_only_sixteen_zero_bytes_are_the_zero_id),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
