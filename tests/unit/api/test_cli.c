/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * cbt-backup against a daemon that is made up: this program again, as a child, with routes that echo what
 * they got or play a job. What a job does is in the name of its vm.
 */
#include <api/json.h>
#include <api/server.h>

#include <glib-unix.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define JOB_TIME_MS 30

/* The daemon */

typedef struct {
  int id;
  char *vm;
  const char *status;
  GPtrArray *waiting; /* ApiRequest */
} Job;

static GPtrArray *jobs;

static JsonNode *
node_of(const char *format, ...)
{
  va_list args;
  va_start(args, format);
  g_autofree char *text = g_strdup_vprintf(format, args);
  va_end(args);
  g_autoptr(GError) error = NULL;
  JsonNode *node = api_json_from_text(text, -1, &error);
  g_assert_no_error(error);
  return node;
}

static JsonNode *
job_to_json(Job *job)
{
  gboolean is_error = strcmp(job->status, "error") == 0;
  return node_of(
      "{\"id\":%d,\"type\":\"backup\",\"vm\":\"%s\",\"kind\":\"full\",\"status\":\"%s\",\"errmsg\":%s,"
      "\"code\":%s,"
      "\"hint\":%s,\"waiting\":%u,\"total\":2048,\"dirty\":1024,\"transferred\":1024,\"zero-bytes\":0,"
      "\"reused\":0,"
      "\"stored\":512,"
      "\"start-time\":1700000000,\"end-time\":1700000061,\"uuid\":\"1b4e28ba-2fa1-11d2-883f-0016d3cca427\","
      "\"reason\":\"no earlier backup\"}",
      job->id, job->vm, job->status, is_error ? "\"The disk is damaged\"" : "null",
      is_error ? "\"corrupt\"" : "null", is_error ? "\"Run verify.\"" : "null", job->waiting->len);
}

static void
job_end(Job *job, const char *status)
{
  job->status = status;
  for (guint i = 0; i < job->waiting->len; i++)
    api_request_reply(job->waiting->pdata[i], 200, job_to_json(job));
  g_ptr_array_set_size(job->waiting, 0);
}

static gboolean
on_job_time(gpointer user_data)
{
  Job *job = user_data;
  job_end(job, strcmp(job->vm, "damaged") == 0 ? "error" : "done");
  return G_SOURCE_REMOVE;
}

static void
job_free(gpointer user_data)
{
  Job *job = user_data;
  g_ptr_array_unref(job->waiting);
  g_free(job->vm);
  g_free(job);
}

static void
handle_start(ApiRequest *request, gpointer user_data)
{
  (void) user_data;
  Job *job = g_new0(Job, 1);
  job->id = (int) jobs->len;
  job->vm = g_strdup(api_request_param(request, "name"));
  job->status = "active";
  job->waiting = g_ptr_array_new();
  g_ptr_array_add(jobs, job);
  if (strcmp(job->vm, "endless") != 0)
    g_timeout_add(JOB_TIME_MS, on_job_time, job);
  api_request_reply(request, 202, job_to_json(job));
}

static Job *
find_job(ApiRequest *request)
{
  guint id = (guint) atoi(api_request_param(request, "id"));
  if (id < jobs->len)
    return jobs->pdata[id];
  GError *error = NULL;
  cbt_set_error(&error, CBT_ERROR_NOT_FOUND, NULL, "There is no job %u", id);
  api_request_reply_error(request, error);
  return NULL;
}

static void
handle_job(ApiRequest *request, gpointer user_data)
{
  (void) user_data;
  Job *job = find_job(request);
  if (job && api_request_query(request, "wait-ms") && strcmp(job->status, "active") == 0)
    g_ptr_array_add(job->waiting, request);
  else if (job)
    api_request_reply(request, 200, job_to_json(job));
}

static void
handle_cancel(ApiRequest *request, gpointer user_data)
{
  (void) user_data;
  Job *job = find_job(request);
  if (!job)
    return;
  job_end(job, "cancelled");
  api_request_reply(request, 202, job_to_json(job));
}

/* Three pages of one extent each. */
static void
handle_changes(ApiRequest *request, gpointer user_data)
{
  (void) user_data;
  int offset = atoi(api_request_query(request, "offset"));
  g_autofree char *next = offset < 2000 ? g_strdup_printf("%d", offset + 1000) : g_strdup("null");
  if (g_strcmp0(api_request_query(request, "from"), "stuck") == 0) {
    g_free(next);
    next = g_strdup("0");
  }
  api_request_reply(
      request, 200,
      node_of(
          "{\"granularity\":65536,\"size-from\":4096,\"size-to\":4096,\"extents\":[{\"offset\":%d,"
          "\"length\":500,\"kind\":\"data\"}],\"next-offset\":%s,\"source\":\"index\",\"proof\":\"exact\","
          "\"generation\":%d}",
          offset, next,
          g_strcmp0(api_request_query(request, "bitmap"), "moving") == 0 && offset > 1000 ? 4 : 3));
}

/* Answers with the body, so that the tests see what was sent. */
static void
handle_echo(ApiRequest *request, gpointer user_data)
{
  (void) user_data;
  JsonNode *node = json_node_new(JSON_NODE_OBJECT);
  json_node_set_object(node, api_request_body(request));
  api_request_reply(request, 200, node);
}

static void
handle_uris(ApiRequest *request, gpointer user_data)
{
  (void) user_data;
  api_request_reply(request, 201,
                    node_of("[{\"uri\":\"nbd+unix:///?socket=/a\"},{\"uri\":\"nbd+unix:///?socket=/b\"}]"));
}

static void
handle_points(ApiRequest *request, gpointer user_data)
{
  (void) user_data;
  api_request_reply(
      request, 200,
      node_of(
          "[{\"uuid\":\"1b4e28ba-2fa1-11d2-883f-0016d3cca427\",\"vm\":\"%s\",\"kind\":\"full\",\"time\":0,"
          "\"disks\":[{\"size\":1024,\"dirty\":512,\"stored\":1},{\"size\":1024,\"dirty\":0,\"stored\":1}],"
          "\"note\":\"two\\nlines\",\"protected\":true}]",
          api_request_query(request, "vm") ? api_request_query(request, "vm") : "any"));
}

static void
handle_nothing(ApiRequest *request, gpointer user_data)
{
  (void) user_data;
  api_request_reply(request, 204, NULL);
}

static void
handle_conflict(ApiRequest *request, gpointer user_data)
{
  (void) user_data;
  GError *error = NULL;
  cbt_set_error(&error, CBT_ERROR_BUSY, "Wait.", "The vm is being backed up");
  api_request_reply_error(request, error);
}

static void
handle_nonsense(ApiRequest *request, gpointer user_data)
{
  (void) user_data;
  api_request_reply(request, 200, node_of("[1,null,{\"vms\":7}]"));
}

static const ApiRoute routes[] = {
    {"POST", "/v1/vms", handle_echo, "name disks configs granularity", NULL},
    {"GET", "/v1/vms", handle_nonsense, NULL, NULL},
    {"GET", "/v1/status", handle_nonsense, NULL, NULL},
    {"DELETE", "/v1/vms/{vm}", handle_nothing, NULL, "forget-points"},
    {"POST", "/v1/vms/{name}/backups", handle_start, "kind bitmap speed disks note", NULL},
    {"GET", "/v1/jobs/{id}", handle_job, NULL, "wait-ms"},
    {"DELETE", "/v1/jobs/{id}", handle_cancel, NULL, NULL},
    {"GET", "/v1/vms/{vm}/disks/{disk}/changes", handle_changes, NULL, "from to bitmap lease offset limit"},
    {"GET", "/v1/points", handle_points, NULL, "vm"},
    {"PATCH", "/v1/points/{uuid}", handle_echo, "note protected", NULL},
    {"DELETE", "/v1/points/{uuid}", handle_conflict, NULL, NULL},
    {"POST", "/v1/vms/{vm}/disks/{disk}/bitmaps", handle_echo, "name granularity", NULL},
    {"POST", "/v1/vms/{vm}/disks/{disk}/bitmaps/{b}/merge", handle_echo, "from", NULL},
    {"POST", "/v1/vms/{vm}/disks/{disk}/bitmaps/{b}/create-successor", handle_echo, "?lease", NULL},
    {"POST", "/v1/vms/{vm}/disks/{disk}/bitmaps/{b}/reclaim", handle_echo, "?lease", NULL},
    {"POST", "/v1/vms/{vm}/disks/{disk}/bitmaps/{b}/renew", handle_echo, "lease seconds", NULL},
    {"POST", "/v1/prune", handle_echo, "vm keep-last keep-weekly dry-run", NULL},
    {"POST", "/v1/exports/{vm}", handle_uris, NULL, NULL},
    {"POST", "/v1/points/{name}/restore", handle_start, "to targets in-place", NULL},
    {0},
};

static gboolean
on_term(gpointer loop)
{
  g_main_loop_quit(loop);
  return G_SOURCE_CONTINUE;
}

static void
serve(const char *path, int ready_fd)
{
  g_autoptr(GError) error = NULL;
  ApiServerOptions options = {.socket_path = path};
  g_autoptr(GMainLoop) loop = g_main_loop_new(NULL, FALSE);
  guint term = g_unix_signal_add(SIGTERM, on_term, loop);
  jobs = g_ptr_array_new_with_free_func(job_free);
  ApiServer *server = api_server_new(&options, routes, NULL, &error);
  if (!server || write(ready_fd, "r", 1) != 1)
    exit(99);
  g_main_loop_run(loop);
  api_server_free(server);
  g_ptr_array_unref(jobs);
  g_source_remove(term);
}

/* The tests */

typedef struct {
  char *dir;
  char *socket;
  char *program;
  pid_t daemon;
} Fixture;

static int
set_up(void **state)
{
  int ready[2];
  char byte;
  Fixture *f = g_new0(Fixture, 1);
  f->dir = g_dir_make_tmp("cbt-cli-XXXXXX", NULL);
  f->socket = g_build_filename(f->dir, "api.sock", NULL);
  g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
  g_autofree char *tests = g_path_get_dirname(self), *build = g_path_get_dirname(tests);
  f->program = g_build_filename(build, "bin", "cbt-backup", NULL);
  g_setenv("CBT_BACKUP_SOCKET", f->socket, TRUE);
  *state = f;
  if (pipe(ready) != 0)
    return 1;
  f->daemon = fork();
  if (f->daemon == 0) {
    g_autofree char *fd = g_strdup_printf("%d", ready[1]);
    execl("/proc/self/exe", "test_cli", "--serve", f->socket, fd, NULL);
    _exit(98);
  }
  close(ready[1]);
  int failed = read(ready[0], &byte, 1) != 1;
  close(ready[0]);
  return failed;
}

static int
tear_down(void **state)
{
  Fixture *f = *state;
  int status;
  kill(f->daemon, SIGTERM);
  int failed = waitpid(f->daemon, &status, 0) != f->daemon || status != 0;
  failed |= rmdir(f->dir) != 0;
  g_free(f->dir);
  g_free(f->socket);
  g_free(f->program);
  g_free(f);
  return failed;
}

/* Runs "cbt-backup LINE"; its exit status and what it wrote (transfer full). */
static int
run(Fixture *f, const char *line, char **out, char **err)
{
  int status;
  g_autoptr(GError) error = NULL;
  g_auto(GStrv) argv = NULL;
  g_autofree char *command = g_strdup_printf("%s %s", f->program, line);
  assert_true(g_shell_parse_argv(command, NULL, &argv, NULL));
  g_spawn_sync(f->dir, argv, NULL, G_SPAWN_DEFAULT, NULL, NULL, out, err, &status, &error);
  assert_null(error);
  assert_true(WIFEXITED(status));
  return WEXITSTATUS(status);
}

static void
assert_run(Fixture *f, const char *line, int status, const char *wanted_out, const char *part_of_err)
{
  g_autofree char *out = NULL, *err = NULL;
  int got = run(f, line, &out, &err);
  if (got != status || (wanted_out && strcmp(out, wanted_out) != 0) || !strstr(err, part_of_err))
    fail_msg("cbt-backup %s ended with %d\n%s%s", line, got, out, err);
}

/* The one JSON document of "cbt-backup --json LINE". */
static JsonObject *
run_json(Fixture *f, const char *line, int status)
{
  g_autofree char *out = NULL, *err = NULL, *full = g_strdup_printf("--json %s", line);
  assert_int_equal(run(f, full, &out, &err), status);
  g_autoptr(GError) error = NULL;
  g_autoptr(JsonNode) node = api_json_from_text(out, -1, &error);
  if (!node)
    fail_msg("cbt-backup %s printed %s", line, out);
  return json_node_dup_object(node);
}

static void
test_a_backup_prints_the_finished_job(void **state)
{
  Fixture *f = *state;
  assert_run(f, "--full good", 0,
             "good: full backup 1b4e28ba-2fa1-11d2-883f-0016d3cca427\n"
             "  1.0 KiB dirty of 2.0 KiB: 512 B stored, 0 B reused, 0 B zero, in 1:01\n"
             "  Reason: no earlier backup\n",
             "");
  assert_run(f, "--quiet --incremental good", 0, "1b4e28ba-2fa1-11d2-883f-0016d3cca427\n", "");
  g_autoptr(JsonObject) job = run_json(f, "--full good", 0);
  assert_string_equal(json_object_get_string_member(job, "status"), "done");
}

static void
test_a_failed_job_gives_its_message_and_the_exit_status_of_its_code(void **state)
{
  Fixture *f = *state;
  assert_run(f, "--full damaged", 6, "", "cbt-backup: The disk is damaged\nRun verify.\n");
  g_autoptr(JsonObject) job = run_json(f, "--full damaged", 6);
  assert_string_equal(json_object_get_string_member(job, "status"), "error");
}

static void
test_no_wait_leaves_the_job_running(void **state)
{
  Fixture *f = *state;
  assert_run(f, "--no-wait --full endless", 0, "Job 0, backup of endless, is active\n", "");
  assert_run(f, "--no-wait --quiet --full endless", 0, "1\n", "");
  assert_run(f, "job cancel 1", 0, "Job 1 is being cancelled\n", "");
  assert_run(f, "job wait 1", 1, "", "was cancelled");
  assert_run(f, "job wait 7", 3, "", "There is no job 7");
}

static void
test_an_interrupt_cancels_the_job(void **state)
{
  Fixture *f = *state;
  int status, err;
  GPid pid;
  char *argv[] = {f->program, (char *) "--full", (char *) "endless", NULL};
  assert_true(g_spawn_async_with_pipes(NULL, argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL, &pid, NULL,
                                       NULL, &err, NULL));
  gboolean is_waiting = FALSE;
  for (int tries = 0; tries < 1000 && !is_waiting; tries++) {
    g_autofree char *out = NULL, *ignored = NULL;
    is_waiting = run(f, "--json job show 0", &out, &ignored) == 0 && strstr(out, "\"waiting\":1");
    g_usleep(5000);
  }
  assert_true(is_waiting);
  kill(pid, SIGINT);
  char text[4096] = {0};
  gsize length = 0;
  gssize got;
  while ((got = read(err, text + length, sizeof text - 1 - length)) > 0)
    length += (gsize) got;
  close(err);
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), 1);
  assert_non_null(strstr(text, "Cancelling the job"));
  assert_non_null(strstr(text, "Job 0 was cancelled"));
}

static void
test_all_pages_of_changes_become_one_document(void **state)
{
  Fixture *f = *state;
  g_autoptr(JsonObject) changes = run_json(f, "changes web/root --from web@1", 0);
  assert_int_equal(json_array_get_length(json_object_get_array_member(changes, "extents")), 3);
  assert_true(json_object_get_null_member(changes, "next-offset"));
  assert_run(f, "changes web/root", 0,
             "OFFSET  LENGTH  KIND\n"
             "     0     500  data\n"
             "  1000     500  data\n"
             "  2000     500  data\n"
             "3 extents, 1.5 KiB of 4.0 KiB; from the index, exact\n",
             "");
}

static void
test_pages_that_do_not_go_on_are_no_endless_loop(void **state)
{
  assert_run(*state, "changes web/root --from stuck", 1, "", "not of the expected form");
  assert_run(*state, "changes web/root --bitmap moving", 4, "", "changed its state while it was read");
}

static void
test_paths_are_sent_as_absolute_ones(void **state)
{
  Fixture *f = *state;
  g_autoptr(JsonObject) vm =
      run_json(f, "vm add web --disk root=./a.img --disk data=/dev/x --config sub/c --granularity 128K", 0);
  g_autofree char *path = g_build_filename(f->dir, "a.img", NULL),
                  *config = g_build_filename(f->dir, "sub/c", NULL);
  JsonArray *disks = json_object_get_array_member(vm, "disks");
  assert_string_equal(json_object_get_string_member(json_array_get_object_element(disks, 0), "path"), path);
  assert_string_equal(json_object_get_string_member(json_array_get_object_element(disks, 1), "path"),
                      "/dev/x");
  assert_string_equal(json_array_get_string_element(json_object_get_array_member(vm, "configs"), 0), config);
  assert_int_equal(json_object_get_int_member(vm, "granularity"), 131072);
}

static void
test_commands_send_what_was_typed(void **state)
{
  assert_run(*state, "--json note web@latest 'two words'", 0, "{\"note\":\"two words\"}\n", "");
  assert_run(*state, "--json note web@latest -- --json", 0, "{\"note\":\"--json\"}\n", "");
  assert_run(*state, "protect 1b4e --json", 0, "{\"protected\":true}\n", "");
  assert_run(*state, "unprotect 1b4e --json", 0, "{\"protected\":false}\n", "");
  assert_run(*state, "bitmap add web/root:b2 --granularity=1M --json", 0,
             "{\"name\":\"b2\",\"granularity\":1048576}\n", "");
  assert_run(*state, "prune --json", 0, "{}\n", "");
  assert_run(*state, "prune web --keep-weekly=4 --dry-run --keep-last 0 --json", 0,
             "{\"keep-last\":0,\"keep-weekly\":4,\"vm\":\"web\",\"dry-run\":true}\n", "");
  assert_run(*state, "prune --keep-last -1", 2, "", "--keep-last: '-1' is no whole number");
  assert_run(*state, "prune --keep-last 3x", 2, "", "--keep-last: '3x' is no whole number");
  assert_run(*state, "bitmap merge web/root --from b2 --json", 0, "{\"from\":\"b2\"}\n", "");
  assert_run(*state, "bitmap create-successor web/root --json", 0, "{}\n", "");
  assert_run(*state, "bitmap create-successor web/root --lease 2h --json", 0, "{\"lease\":7200}\n", "");
  assert_run(*state, "bitmap reclaim web/root --lease x --json", 0, "{\"lease\":\"x\"}\n", "");
  assert_run(*state, "bitmap renew web/root --lease x --json", 0, "{\"lease\":\"x\"}\n", "");
  assert_run(*state, "bitmap renew web/root --for 90s --lease x --json", 0,
             "{\"lease\":\"x\",\"seconds\":90}\n", "");
}

static void
test_quiet_prints_nothing_but_results(void **state)
{
  assert_run(*state, "vm remove web --forget-points", 0, "Removed vm web, with its bitmaps and any policy; recovery points are forgotten\n", "");
  assert_run(*state, "vm remove web --quiet", 0, "", "");
  assert_run(*state, "vm remove web --json", 0, "{}\n", "");
  assert_run(*state, "export start web --quiet", 0, "nbd+unix:///?socket=/a\nnbd+unix:///?socket=/b\n", "");
}

static void
test_tables_are_aligned(void **state)
{
  assert_run(*state, "list a-long-name", 0,
             "POINT     VM           TIME  KIND     SIZE  DIRTY  STORED  PROTECTED  VERIFIED  NOTE\n"
             "1b4e28ba  a-long-name  -     full  2.0 KiB  512 B     2 B  yes        -         two lines\n",
             "");
}

static void
test_errors_of_the_daemon_keep_their_exit_status(void **state)
{
  Fixture *f = *state;
  assert_run(f, "forget web@0", 4, "", "cbt-backup: The vm is being backed up\nWait.\n");
  g_autoptr(JsonObject) answer = run_json(f, "forget web@0", 4);
  assert_string_equal(json_object_get_string_member(json_object_get_object_member(answer, "error"), "code"),
                      "busy");
  assert_run(f, "vm show web", 1, "", "not possible here");
}

static void
test_answers_of_another_form_are_no_crash(void **state)
{
  assert_run(*state, "vm list", 0, NULL, "");
  assert_run(*state, "status", 1, "", "not of the expected form");
}

static void
test_a_result_that_cannot_be_written_is_a_failure(void **state)
{
  Fixture *f = *state;
  g_autofree char *command = g_strdup_printf("%s list > /dev/full 2> /dev/null", f->program);
  int status = system(command);
  assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
}

#define WITH_DAEMON(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int
main(int argc, char **argv)
{
  if (argc > 3 && strcmp(argv[1], "--serve") == 0) {
    serve(argv[2], atoi(argv[3]));
    return 0;
  }
  /* Children need not wait for reports of threads at their end. */
  g_autofree char *tsan = g_strconcat("atexit_sleep_ms=0:", g_getenv("TSAN_OPTIONS"), NULL);
  g_setenv("TSAN_OPTIONS", tsan, TRUE);
  const struct CMUnitTest tests[] = {
      WITH_DAEMON(test_a_backup_prints_the_finished_job),
      WITH_DAEMON(test_a_failed_job_gives_its_message_and_the_exit_status_of_its_code),
      WITH_DAEMON(test_no_wait_leaves_the_job_running),
      WITH_DAEMON(test_an_interrupt_cancels_the_job),
      WITH_DAEMON(test_all_pages_of_changes_become_one_document),
      WITH_DAEMON(test_pages_that_do_not_go_on_are_no_endless_loop),
      WITH_DAEMON(test_paths_are_sent_as_absolute_ones),
      WITH_DAEMON(test_commands_send_what_was_typed),
      WITH_DAEMON(test_quiet_prints_nothing_but_results),
      WITH_DAEMON(test_tables_are_aligned),
      WITH_DAEMON(test_errors_of_the_daemon_keep_their_exit_status),
      WITH_DAEMON(test_answers_of_another_form_are_no_crash),
      WITH_DAEMON(test_a_result_that_cannot_be_written_is_a_failure),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
