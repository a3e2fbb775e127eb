/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <tests/support/peer.h>

#include <common/fd.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>

struct TestPeer {
  char *folder, *path;
  const TestPeerStep *steps;
  int listener, client;
  int go, stop; /* eventfds */
  pthread_t thread;
  char *complaint;
  char *id, *old_id;
};

/* Waits for EVENTS of FD; FALSE when the peer is to stop. */
static gboolean
wait_for(TestPeer *self, int fd, short events)
{
  struct pollfd fds[2] = {{.fd = self->stop, .events = POLLIN}, {.fd = fd, .events = events}};
  while (poll(fds, 2, -1) < 0)
    continue;
  return fds[0].revents == 0;
}

static gboolean
complain(TestPeer *self, const char *what, const char *expected)
{
  if (!self->complaint)
    self->complaint = g_strdup_printf("%s, not '%s'", what, expected);
  return FALSE;
}

static gboolean
send_text(TestPeer *self, const char *text)
{
  g_autoptr(GString) bytes = g_string_new(text);
  g_string_replace(bytes, "$ID", self->id ? self->id : "0", 0);
  g_string_replace(bytes, "$OLD", self->old_id ? self->old_id : "0", 0);
  for (gsize done = 0; done < bytes->len;) {
    if (!wait_for(self, self->client, POLLOUT))
      return FALSE;
    ssize_t n = send(self->client, bytes->str + done, bytes->len - done, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0)
      return FALSE;
    done += (gsize) n;
  }
  return TRUE;
}

static void
note_id(TestPeer *self, const char *line)
{
  const char *at = strstr(line, "\"id\":");
  if (!at)
    return;
  at += strlen("\"id\":");
  g_free(self->old_id);
  self->old_id = self->id;
  self->id = g_strndup(at, strspn(at, "-0123456789"));
}

static gboolean
expect_line(TestPeer *self, const char *text)
{
  g_autoptr(GString) line = g_string_new(NULL);
  for (char c = 0; c != '\n';) {
    if (!wait_for(self, self->client, POLLIN))
      return complain(self, line->len ? line->str : "nothing came", text);
    if (recv(self->client, &c, 1, 0) != 1)
      return complain(self, "the client is gone", text);
    g_string_append_c(line, c);
  }
  note_id(self, line->str);
  return strstr(line->str, text) ? TRUE : complain(self, line->str, text);
}

static gboolean
play(TestPeer *self, const TestPeerStep *step)
{
  switch (step->action) {
  case TEST_PEER_SEND:
    return send_text(self, step->text);
  case TEST_PEER_FLOOD:
    while (send_text(self, step->text))
      continue;
    return FALSE;
  case TEST_PEER_EXPECT:
    return expect_line(self, step->text);
  case TEST_PEER_WAIT:
    return wait_for(self, self->go, POLLIN);
  case TEST_PEER_CLOSE:
    cbt_clear_fd(&self->client);
    return TRUE;
  default:
    return FALSE;
  }
}

static void *
run(void *data)
{
  TestPeer *self = data;
  if (!wait_for(self, self->listener, POLLIN))
    return NULL;
  self->client = accept4(self->listener, NULL, NULL, SOCK_CLOEXEC);
  for (const TestPeerStep *step = self->steps; step->action != TEST_PEER_END && play(self, step); step++)
    continue;
  return NULL;
}

TestPeer *
test_peer_start(const TestPeerStep *steps)
{
  TestPeer *self = g_new0(TestPeer, 1);
  self->steps = steps;
  self->client = -1;
  self->folder = g_dir_make_tmp("cbt-peer.XXXXXX", NULL);
  self->path = g_build_filename(self->folder, "socket", NULL);
  self->go = eventfd(0, EFD_CLOEXEC);
  self->stop = eventfd(0, EFD_CLOEXEC);
  self->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  g_strlcpy(address.sun_path, self->path, sizeof(address.sun_path));
  if (bind(self->listener, (struct sockaddr *) &address, sizeof(address)) != 0 ||
      listen(self->listener, 1) != 0 || pthread_create(&self->thread, NULL, run, self) != 0)
    g_error("cannot listen on %s", self->path);
  return self;
}

const char *
test_peer_path(TestPeer *self)
{
  return self->path;
}

static void
ring(int fd)
{
  guint64 one = 1;
  if (write(fd, &one, sizeof(one)) != sizeof(one))
    g_error("eventfd");
}

void
test_peer_go(TestPeer *self)
{
  ring(self->go);
}

char *
test_peer_stop(TestPeer *self)
{
  ring(self->stop);
  pthread_join(self->thread, NULL);
  char *complaint = self->complaint;
  unlink(self->path);
  rmdir(self->folder);
  int *fds[] = {&self->listener, &self->client, &self->go, &self->stop};
  for (guint i = 0; i < G_N_ELEMENTS(fds); i++)
    cbt_clear_fd(fds[i]);
  g_free(self->folder);
  g_free(self->path);
  g_free(self->id);
  g_free(self->old_id);
  g_free(self);
  return complaint;
}
