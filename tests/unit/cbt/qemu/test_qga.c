/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Against scripted agents that are late, dead or liars; the real one is met in
 * tests/integration/test_guest_agent.sh. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cbt/qemu/json.h>
#include <cbt/qemu/qga.h>
#include <string.h>
#include <tests/support/peer.h>

#define LONG_MS  60000 /* is never waited for */
#define SHORT_MS 50    /* is waited for */

#define SYNC(before, after)                                                                                  \
  {TEST_PEER_EXPECT, "\xff{\"execute\":\"guest-sync-delimited\""},                                           \
  {                                                                                                          \
    TEST_PEER_SEND, before "\xff{\"return\": $ID}\n" after                                                   \
  }
#define INFO                                                                                                 \
  {TEST_PEER_EXPECT, "\"guest-info\""},                                                                      \
  {                                                                                                          \
    TEST_PEER_SEND, "{\"return\": {\"version\": \"7.2.22\", \"supported_commands\": "                        \
                    "[{\"name\": \"guest-ping\", \"enabled\": true}, 5, {\"enabled\": true}, "               \
                    "{\"name\": \"guest-exec\", \"enabled\": false}]}}\n"                                    \
  }
#define OPENED SYNC("", ""), INFO
#define END                                                                                                  \
  {                                                                                                          \
    TEST_PEER_END, NULL                                                                                      \
  }
#define ASKED(command)                                                                                       \
  {                                                                                                          \
    TEST_PEER_EXPECT, "{\"execute\":\"" command "\""                                                         \
  }
#define SAYS(text)                                                                                           \
  {                                                                                                          \
    TEST_PEER_SEND, text                                                                                     \
  }

static void
stop(TestPeer *peer)
{
  g_autofree char *complaint = test_peer_stop(peer);
  assert_string_equal(complaint ? complaint : "", "");
}

static Qga *
open_peer(TestPeer *peer)
{
  g_autoptr(GError) error = NULL;
  Qga *qga = qga_open(test_peer_path(peer), LONG_MS, NULL, &error);
  assert_string_equal(error ? error->message : "", "");
  assert_non_null(qga);
  return qga;
}

static void
expect_error(GError *error, CbtErrorCode code, const char *fragment)
{
  assert_non_null(error);
  if (!strstr(error->message, fragment))
    fail_msg("'%s' does not say '%s'", error->message, fragment);
  assert_int_equal(cbt_error_code(error), code);
}

static void
expect_thaw(Qga *qga, guint expected)
{
  g_autoptr(GError) error = NULL;
  guint count = 1000;
  gboolean done = qga_fsfreeze_thaw(qga, LONG_MS, &count, &error);
  assert_string_equal(error ? error->message : "", "");
  assert_true(done);
  assert_int_equal(count, expected);
}

static void
expect_thaw_fails(Qga *qga, guint timeout_ms, CbtErrorCode code, const char *fragment)
{
  g_autoptr(GError) error = NULL;
  guint count;
  assert_false(qga_fsfreeze_thaw(qga, timeout_ms, &count, &error));
  expect_error(error, code, fragment);
}

static void
test_open_passes_over_what_others_left_and_learns_what_the_agent_can(void **state)
{
  static const TestPeerStep steps[] = {
      SYNC("{\"return\": 4}\nhalf a {\"ret\xff{\"return\": 7}\n]]]\xff\xff", ""), INFO, END};
  (void) state;
  TestPeer *peer = test_peer_start(steps);
  g_autoptr(Qga) qga = open_peer(peer);
  assert_string_equal(qga_version(qga), "7.2.22");
  assert_true(qga_supports(qga, "guest-ping"));
  assert_false(qga_supports(qga, "guest-exec"));
  assert_false(qga_supports(qga, "guest-fsfreeze-freeze"));
  stop(peer);
}

static void
test_late_answer_is_not_taken_for_that_of_the_next_command(void **state)
{
  static const TestPeerStep steps[] = {
      OPENED,       ASKED("guest-fsfreeze-thaw"), {TEST_PEER_WAIT, NULL},    SAYS("{\"return\": 77}\n"),
      SYNC("", ""), ASKED("guest-fsfreeze-thaw"), SAYS("{\"return\": 2}\n"), END};
  (void) state;
  TestPeer *peer = test_peer_start(steps);
  g_autoptr(Qga) qga = open_peer(peer);
  expect_thaw_fails(qga, SHORT_MS, CBT_ERROR_UNREACHABLE, "It may still carry it out");
  assert_true(qga_is_open(qga));
  test_peer_go(peer);
  expect_thaw(qga, 2);
  stop(peer);
}

static void
test_late_answer_to_a_sync_is_not_taken_for_that_of_the_next_one(void **state)
{
  static const TestPeerStep steps[] = {
      OPENED,
      ASKED("guest-fsfreeze-thaw"),
      {TEST_PEER_EXPECT, "guest-sync-delimited"},
      {TEST_PEER_WAIT, NULL},
      {TEST_PEER_EXPECT, "guest-sync-delimited"},
      SAYS("{\"return\": 77}\n\xff{\"return\": $OLD}\n{\"return\": 78}\xff{\"return\": $ID}\n"),
      ASKED("guest-fsfreeze-thaw"),
      SAYS("{\"return\": 3}\n"),
      END};
  (void) state;
  TestPeer *peer = test_peer_start(steps);
  g_autoptr(Qga) qga = open_peer(peer);
  expect_thaw_fails(qga, SHORT_MS, CBT_ERROR_UNREACHABLE, "no answer in time");
  expect_thaw_fails(qga, SHORT_MS, CBT_ERROR_UNREACHABLE, "No guest agent answers on");
  test_peer_go(peer);
  expect_thaw(qga, 3);
  stop(peer);
}

static void
test_answer_that_nobody_asked_for_is_dropped(void **state)
{
  static const TestPeerStep steps[] = {
      OPENED,       ASKED("guest-fsfreeze-thaw"), SAYS("{\"return\": 1}\n{\"return\": 77}\n"),
      SYNC("", ""), ASKED("guest-fsfreeze-thaw"), SAYS("{\"return\": 0}\n"),
      END};
  (void) state;
  TestPeer *peer = test_peer_start(steps);
  g_autoptr(Qga) qga = open_peer(peer);
  expect_thaw(qga, 1);
  expect_thaw(qga, 0);
  stop(peer);
}

static void
test_nonsense_is_an_error_and_the_next_command_works(void **state)
{
  static const struct {
    const char *text;
    CbtErrorCode code;
  } cases[] = {{"{\"return\": -1}\n", CBT_ERROR_CORRUPT},
               {"{\"return\": \"7\"}\n", CBT_ERROR_CORRUPT},
               {"{\"return\": {}}\n", CBT_ERROR_CORRUPT},
               {"{\"return\": 99999999999}\n", CBT_ERROR_CORRUPT},
               {"{\"hello\": 1}\n", CBT_ERROR_CORRUPT},
               {"<html>\n", CBT_ERROR_CORRUPT},
               {"{\"error\": {\"class\": \"GenericError\", \"desc\": \"odd\"}}\n", CBT_ERROR_FAILED},
               {"{\"error\": {\"class\": \"CommandNotFound\"}}\n", CBT_ERROR_UNSUPPORTED}};
  (void) state;
  for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
    gboolean is_form_good = i < 4 || i > 5; /* the stream is still in step */
    const TestPeerStep good[] = {OPENED,
                                 ASKED("guest-fsfreeze-thaw"),
                                 {TEST_PEER_SEND, cases[i].text},
                                 ASKED("guest-fsfreeze-thaw"),
                                 SAYS("{\"return\": 5}\n"),
                                 END};
    const TestPeerStep bad[] = {OPENED,       ASKED("guest-fsfreeze-thaw"), {TEST_PEER_SEND, cases[i].text},
                                SYNC("", ""), ASKED("guest-fsfreeze-thaw"), SAYS("{\"return\": 5}\n"),
                                END};
    TestPeer *peer = test_peer_start(is_form_good ? good : bad);
    g_autoptr(Qga) qga = open_peer(peer);
    expect_thaw_fails(qga, LONG_MS, cases[i].code, "guest agent");
    expect_thaw(qga, 5);
    stop(peer);
  }
}

static void
test_endless_answer_is_too_large_and_the_next_command_works(void **state)
{
  g_autofree char *block = g_strnfill(QGA_MAX_MESSAGE_BYTES, 'x');
  const TestPeerStep steps[] = {
      OPENED,          ASKED("guest-fsfreeze-thaw"), SAYS("{\"return\": \""),   {TEST_PEER_SEND, block},
      SYNC("\"}", ""), ASKED("guest-fsfreeze-thaw"), SAYS("{\"return\": 5}\n"), END};
  (void) state;
  TestPeer *peer = test_peer_start(steps);
  g_autoptr(Qga) qga = open_peer(peer);
  expect_thaw_fails(qga, LONG_MS, CBT_ERROR_TOO_LARGE, "too long");
  expect_thaw(qga, 5);
  stop(peer);
}

static void
test_endless_garbage_does_not_outlast_the_deadline(void **state)
{
  static const TestPeerStep steps[] = {{TEST_PEER_FLOOD, "\xff{\"return\": 1}\n[[["}, END};
  (void) state;
  TestPeer *peer = test_peer_start(steps);
  g_autoptr(GError) error = NULL;
  assert_null(qga_open(test_peer_path(peer), SHORT_MS, NULL, &error));
  expect_error(error, CBT_ERROR_UNREACHABLE, "No guest agent answers on");
  stop(peer);
}

static void
test_no_agent_and_a_taken_socket_are_told_apart(void **state)
{
  static const TestPeerStep silent[] = {END}, opened[] = {OPENED, END};
  (void) state;
  g_autoptr(GError) absent = NULL, taken = NULL, none = NULL;
  TestPeer *peer = test_peer_start(silent);
  assert_null(qga_open(test_peer_path(peer), SHORT_MS, NULL, &absent));
  expect_error(absent, CBT_ERROR_UNREACHABLE, "See whether qemu-guest-agent runs");
  stop(peer);
  peer = test_peer_start(opened);
  g_autoptr(Qga) first = open_peer(peer);
  assert_null(qga_open(test_peer_path(peer), SHORT_MS, NULL, &taken));
  expect_error(taken, CBT_ERROR_UNREACHABLE, "somebody else is connected to it");
  stop(peer);
  assert_null(qga_open("/nonexistent/qga.sock", SHORT_MS, NULL, &none));
  expect_error(none, CBT_ERROR_UNREACHABLE, "Nobody listens");
}

static void
test_agent_that_goes_away_is_unreachable(void **state)
{
  static const TestPeerStep steps[] = {
      OPENED, ASKED("guest-fsfreeze-thaw"), SAYS("{\"ret"), {TEST_PEER_CLOSE, NULL}, END};
  (void) state;
  TestPeer *peer = test_peer_start(steps);
  g_autoptr(Qga) qga = open_peer(peer);
  expect_thaw_fails(qga, LONG_MS, CBT_ERROR_UNREACHABLE, "closed at the other end");
  assert_false(qga_is_open(qga));
  expect_thaw_fails(qga, LONG_MS, CBT_ERROR_UNREACHABLE, "closed at the other end");
  stop(peer);
}

static void
test_freeze_asks_for_what_is_meant(void **state)
{
  static const TestPeerStep steps[] = {
      OPENED,
      ASKED("guest-fsfreeze-freeze"),
      SAYS("{\"return\": 2}\n"),
      {TEST_PEER_EXPECT,
       "{\"execute\":\"guest-fsfreeze-freeze-list\",\"arguments\":{\"mountpoints\":[\"/\",\"/mnt/a\"]}}"},
      SAYS("{\"return\": 1}\n"),
      ASKED("guest-fsfreeze-status"),
      SAYS("{\"return\": \"frozen\"}\n"),
      ASKED("guest-fsfreeze-status"),
      SAYS("{\"return\": \"thawed\"}\n"),
      ASKED("guest-fsfreeze-status"),
      SAYS("{\"return\": \"melting\"}\n"),
      END};
  static const char *const mountpoints[] = {"/", "/mnt/a", NULL};
  (void) state;
  TestPeer *peer = test_peer_start(steps);
  g_autoptr(Qga) qga = open_peer(peer);
  guint count = 0;
  gboolean is_frozen = FALSE;
  g_autoptr(GError) error = NULL;
  assert_true(qga_fsfreeze_freeze(qga, NULL, LONG_MS, &count, NULL));
  assert_int_equal(count, 2);
  assert_true(qga_fsfreeze_freeze(qga, mountpoints, LONG_MS, &count, NULL));
  assert_int_equal(count, 1);
  assert_true(qga_fsfreeze_status(qga, LONG_MS, &is_frozen, NULL));
  assert_true(is_frozen);
  assert_true(qga_fsfreeze_status(qga, LONG_MS, &is_frozen, NULL));
  assert_false(is_frozen);
  assert_false(qga_fsfreeze_status(qga, LONG_MS, &is_frozen, &error));
  expect_error(error, CBT_ERROR_CORRUPT, "guest-fsfreeze-status");
  stop(peer);
}

static void
test_fsinfo_and_disks_keep_what_can_be_used(void **state)
{
  static const TestPeerStep steps[] = {OPENED,
                                       ASKED("guest-get-fsinfo"),
                                       SAYS("{\"return\": [{\"name\": \"vda1\", \"mountpoint\": \"/\", "
                                            "\"type\": \"ext4\", \"disk\": [{\"serial\": \"s0\", "
                                            "\"bus-type\": \"virtio\", \"bus\": 0, \"unit\": 0, \"target\": "
                                            "0, \"dev\": \"/dev/vda\", \"pci-controller\": "
                                            "{\"domain\": 0, \"bus\": 1, \"slot\": 4, \"function\": 2}}, "
                                            "{\"pci-controller\": {\"domain\": -1, \"bus\": -1, "
                                            "\"slot\": -1, \"function\": -1}}, 8]}, {\"name\": \"no mount "
                                            "point\"}, 4, {\"mountpoint\": \"/b\"}]}\n"),
                                       ASKED("guest-get-disks"),
                                       SAYS("{\"return\": [{\"name\": \"/dev/dm-0\", \"partition\": false, "
                                            "\"dependencies\": [\"/dev/vda1\", 3], \"alias\": "
                                            "\"vg-root\"}, {\"name\": \"/dev/vda\", \"address\": "
                                            "{\"bus-type\": \"virtio\"}}, {\"name\": 5}]}\n"),
                                       ASKED("guest-get-disks"),
                                       SAYS("{\"return\": {}}\n"),
                                       END};
  (void) state;
  TestPeer *peer = test_peer_start(steps);
  g_autoptr(Qga) qga = open_peer(peer);
  g_autoptr(GError) error = NULL;
  g_autoptr(GPtrArray) filesystems = qga_get_fsinfo(qga, LONG_MS, NULL);
  assert_int_equal(filesystems->len, 2);
  QgaFilesystem *root = filesystems->pdata[0];
  assert_string_equal(root->type, "ext4");
  assert_int_equal(root->disks->len, 2);
  QgaDiskAddress *address = root->disks->pdata[0];
  assert_string_equal(address->serial, "s0");
  assert_true(address->has_pci && address->pci_bus == 1 && address->pci_slot == 4 &&
              address->pci_function == 2);
  assert_false(((QgaDiskAddress *) root->disks->pdata[1])->has_pci);
  g_autoptr(GPtrArray) disks = qga_get_disks(qga, LONG_MS, NULL);
  assert_int_equal(disks->len, 2);
  QgaDisk *mapped = disks->pdata[0], *plain = disks->pdata[1];
  assert_int_equal(g_strv_length(mapped->dependencies), 1);
  assert_string_equal(mapped->alias, "vg-root");
  assert_null(mapped->address);
  assert_string_equal(plain->address->bus_type, "virtio");
  assert_null(qga_get_disks(qga, LONG_MS, &error));
  expect_error(error, CBT_ERROR_CORRUPT, "guest-get-disks");
  stop(peer);
}

static void
test_exec_waits_for_the_end_and_reads_the_result(void **state)
{
  static const TestPeerStep steps[] = {
      OPENED,
      {TEST_PEER_EXPECT,
       "\"arguments\":{\"path\":\"/bin/sh\",\"arg\":[\"-c\",\"true\"],\"capture-output\":true}"},
      SAYS("{\"return\": {\"pid\": 41}}\n"),
      {TEST_PEER_EXPECT, "\"guest-exec-status\",\"arguments\":{\"pid\":41}"},
      SAYS("{\"return\": {\"exited\": false}}\n"),
      ASKED("guest-exec-status"),
      SAYS("{\"return\": {\"exited\": true, \"exitcode\": 3, \"out-data\": \"aGVsbG8=\", \"err-data\": "
           "\"gYE=\", "
           "\"out-truncated\": true}}\n"),
      ASKED("guest-exec"),
      SAYS("{\"return\": {\"pid\": 42}}\n"),
      ASKED("guest-exec-status"),
      SAYS("{\"return\": {\"exited\": true, \"signal\": 9}}\n"),
      END};
  static const char *const argv[] = {"/bin/sh", "-c", "true", NULL};
  (void) state;
  TestPeer *peer = test_peer_start(steps);
  g_autoptr(Qga) qga = open_peer(peer);
  g_auto(QgaExecResult) result = {0}, killed = {0};
  assert_true(qga_exec(qga, argv, LONG_MS, &result, NULL));
  assert_int_equal(result.exit_status, 3);
  assert_string_equal(result.out, "hello");
  assert_true(g_utf8_validate(result.err, -1, NULL));
  assert_true(result.is_cut);
  assert_true(qga_exec(qga, argv, LONG_MS, &killed, NULL));
  assert_int_equal(killed.exit_status, -1);
  assert_int_equal(killed.signal, 9);
  assert_string_equal(killed.out, "");
  stop(peer);
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_open_passes_over_what_others_left_and_learns_what_the_agent_can),
      cmocka_unit_test(test_late_answer_is_not_taken_for_that_of_the_next_command),
      cmocka_unit_test(test_late_answer_to_a_sync_is_not_taken_for_that_of_the_next_one),
      cmocka_unit_test(test_answer_that_nobody_asked_for_is_dropped),
      cmocka_unit_test(test_nonsense_is_an_error_and_the_next_command_works),
      cmocka_unit_test(test_endless_answer_is_too_large_and_the_next_command_works),
      cmocka_unit_test(test_endless_garbage_does_not_outlast_the_deadline),
      cmocka_unit_test(test_no_agent_and_a_taken_socket_are_told_apart),
      cmocka_unit_test(test_agent_that_goes_away_is_unreachable),
      cmocka_unit_test(test_freeze_asks_for_what_is_meant),
      cmocka_unit_test(test_fsinfo_and_disks_keep_what_can_be_used),
      cmocka_unit_test(test_exec_waits_for_the_end_and_reads_the_result),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
