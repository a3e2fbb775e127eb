/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Threads that wait for the next one, and a count of those not yet answered. */
#include <daemon/task.h>

#include <daemon/threads.h>

struct Tasks {
  GCancellable *cancellable; /* constant after creation */
  guint n_running;           /* main thread */
};

struct Task {
  Daemon *daemon;
  ApiRequest *request;
  TaskFunc func;
  gpointer data;
  GDestroyNotify free_data;
  guint status;
  JsonNode *body;
  GError *error;
};

Tasks *
tasks_new(void)
{
  Tasks *tasks = g_new0(Tasks, 1);
  tasks->cancellable = g_cancellable_new();
  return tasks;
}

GCancellable *
tasks_cancellable(const Tasks *tasks)
{
  return tasks->cancellable;
}

void
tasks_stop(Tasks *tasks)
{
  g_cancellable_cancel(tasks->cancellable);
  /* An answer is on its way only when the loop has nothing more to do. */
  while (tasks->n_running > 0 || g_main_context_pending(NULL))
    g_main_context_iteration(NULL, TRUE);
}

void
tasks_free(Tasks *tasks)
{
  if (!tasks)
    return;
  g_object_unref(tasks->cancellable);
  g_free(tasks);
}

static void
task_answer(gpointer data)
{
  Task *task = data;
  task->daemon->tasks->n_running--;
  if (!task->request) {
    g_clear_error(&task->error);
    g_clear_pointer(&task->body, json_node_unref);
  } else if (task->error)
    api_request_reply_error(task->request, task->error);
  else
    api_request_reply(task->request, task->status, task->body);
  if (task->free_data)
    task->free_data(task->data);
  g_free(task);
}

static void
task_thread(gpointer data)
{
  Task *task = data;
  task->body = task->func(task->daemon, task->data, &task->status, &task->error);
  main_queue_post(task->daemon->queue, task_answer, task);
}

void
task_run(Daemon *daemon, ApiRequest *request, guint status, TaskFunc func, gpointer data,
         GDestroyNotify free_data)
{
  Task *task = g_new0(Task, 1);
  *task = (Task){daemon, request, func, data, free_data, status, NULL, NULL};
  daemon->tasks->n_running++;
  int failed = threads_run(daemon->threads, task_thread, task);
  if (failed == 0)
    return;
  cbt_set_error_errno(&task->error, failed, "cannot start a thread");
  task_answer(task);
}
