/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A scripted server on a Unix socket, for clients that must bear what a server may do. It takes one connection, plays its
 * steps, and keeps the connection until it is stopped; further clients wait in the backlog. In what it sends, $ID is the
 * number behind "id": in the line that came last, and $OLD the one in the line before that which had one.
 */
#pragma once

#include <glib.h>

typedef enum {
  TEST_PEER_END,
  TEST_PEER_SEND,   /* text */
  TEST_PEER_FLOOD,  /* text, again and again until the client is gone */
  TEST_PEER_EXPECT, /* reads a line; it has text in it */
  TEST_PEER_WAIT,   /* until test_peer_go() */
  TEST_PEER_CLOSE,
} TestPeerAction;

typedef struct {
  TestPeerAction action;
  const char *text;
} TestPeerStep;

typedef struct TestPeer TestPeer;

/* STEPS end with TEST_PEER_END and outlive the peer. It listens when this returns. */
TestPeer *test_peer_start(const TestPeerStep *steps);
const char *test_peer_path(TestPeer *peer);
void test_peer_go(TestPeer *peer);
/* Ends and frees it. What did not go as the steps say (transfer full), else NULL. */
char *test_peer_stop(TestPeer *peer);
