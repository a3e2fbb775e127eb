/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the main thread hands to threads, and what these hand back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <daemon/main-queue.h>
#include <daemon/threads.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#define N_SENDERS  4
#define N_MESSAGES 5000

typedef struct {
  MainQueue *queue;
  Threads *threads;
  guint n_run;              /* main thread */
  guint last[N_SENDERS];    /* main thread: the last message of each */
  guint n_out_of_order;     /* main thread */
  guint n_ended;            /* main thread */
  atomic_uint n_calls_late; /* calls that returned before their message was run */
} Fixture;

static int
setup(void **state)
{
  Fixture *fixture = g_new0(Fixture, 1);
  fixture->queue = main_queue_new();
  fixture->threads = threads_new();
  *state = fixture;
  return 0;
}

static int
teardown(void **state)
{
  Fixture *fixture = *state;
  threads_free(fixture->threads);
  main_queue_free(fixture->queue);
  g_free(fixture);
  return 0;
}

typedef struct {
  Fixture *fixture;
  guint sender, number;
  gboolean was_run;
} Note;

static void
take_note(gpointer data)
{
  Note *note = data;
  Fixture *fixture = note->fixture;
  fixture->n_run++;
  fixture->n_out_of_order += note->number != fixture->last[note->sender] + 1;
  fixture->last[note->sender] = note->number;
  note->was_run = TRUE;
}

static void
take_posted(gpointer note)
{
  take_note(note);
  g_free(note);
}

static void
note_end(gpointer data)
{
  ((Fixture *) data)->n_ended++;
}

typedef struct {
  Fixture *fixture;
  guint number;
} Sender;

/* Posts and calls in turn. */
static void
send_messages(gpointer data)
{
  const Sender *sender = data;
  Fixture *fixture = sender->fixture;
  for (guint i = 1; i <= N_MESSAGES; i++) {
    Note note = {fixture, sender->number, i, FALSE};
    if (i % 2 == 0) {
      main_queue_call(fixture->queue, take_note, &note);
      atomic_fetch_add(&fixture->n_calls_late, !note.was_run);
    } else {
      main_queue_post(fixture->queue, take_posted, g_memdup2(&note, sizeof note));
    }
  }
  main_queue_post(fixture->queue, note_end, fixture);
}

static void
test_messages_of_many_threads_are_run_each_in_its_order(void **state)
{
  Fixture *fixture = *state;
  Sender senders[N_SENDERS];
  for (guint i = 0; i < N_SENDERS; i++) {
    senders[i] = (Sender){fixture, i};
    assert_int_equal(threads_run(fixture->threads, send_messages, &senders[i]), 0);
  }
  while (fixture->n_ended < N_SENDERS)
    g_main_context_iteration(NULL, TRUE);
  assert_int_equal(fixture->n_run, N_SENDERS * N_MESSAGES);
  assert_int_equal(fixture->n_out_of_order, 0);
  assert_int_equal(atomic_load(&fixture->n_calls_late), 0);
}

static void
send_end(gpointer data)
{
  Fixture *fixture = data;
  main_queue_post(fixture->queue, note_end, fixture);
}

static void
wait_at(gpointer semaphore)
{
  while (sem_wait(semaphore) != 0)
    continue;
}

static void
test_what_waits_holds_up_nothing_else(void **state)
{
  Fixture *fixture = *state;
  sem_t semaphore;
  sem_init(&semaphore, 0, 0);
  for (guint i = 0; i < 3; i++)
    assert_int_equal(threads_run(fixture->threads, wait_at, &semaphore), 0);
  for (guint i = 1; i <= 1000; i++) {
    assert_int_equal(threads_run(fixture->threads, send_end, fixture), 0);
    while (fixture->n_ended < i)
      g_main_context_iteration(NULL, TRUE);
  }
  for (guint i = 0; i < 3; i++)
    sem_post(&semaphore);
  g_clear_pointer(&fixture->threads, threads_free); /* waits for those three */
  sem_destroy(&semaphore);
  fixture->threads = threads_new();
}

int
main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_messages_of_many_threads_are_run_each_in_its_order, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(test_what_waits_holds_up_nothing_else, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
