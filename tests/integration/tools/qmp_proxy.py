#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stands between a QMP client and QEMU, and strikes at one of the commands that change something.

usage: qmp_proxy.py LISTEN TARGET CONTROL [IMAGE...]

CONTROL is a file that is read before each command: "N WHEN ACTION". The N-th changing command since the file was written
is the one; WHEN is "before" it would be passed on, or "after" its answer came, neither of which happens then; ACTION is
"kill PID" (kill -9), or "none". The connection stays as long as anybody has the other end. What was struck, and each changing command, is appended to CONTROL.log. One client at a time, as
with QEMU; descriptors are passed on. To be taken for the QEMU at the other end,
it has each IMAGE open while a client is there, and the last descriptors that it passed on. A number in CONTROL.speed is
the speed of each block-commit.
"""
import array
import collections
import json
import os
import signal
import socket
import stat
import sys
import threading

passed_on = collections.deque(maxlen=4)

ASKING = ("query-", "qom-get", "qom-list", "qmp_capabilities", "human-monitor")


class Strike:
    def __init__(self, path):
        self.path = path
        self.stamp = None
        self.seen = 0

    def look(self, name):
        """Counts a changing command; returns (when, action) if this is the one."""
        if name.startswith(ASKING):
            return None
        try:
            status = os.stat(self.path)
            words = open(self.path).read().split(None, 2)
        except OSError:
            return None
        if status.st_mtime_ns != self.stamp:
            self.stamp, self.seen = status.st_mtime_ns, 0
        self.seen += 1
        with open(self.path + ".log", "a") as log:
            log.write(f"{self.seen} {name}\n")
        return (words[1], words[2].split()) if words and int(words[0]) == self.seen else None


def strike(action):
    if action[0] == "kill":
        os.kill(int(action[1]), signal.SIGKILL)


def slowed(line, command, control):
    try:
        speed = int(open(control + ".speed").read())
    except OSError:
        return line
    if command.get("execute") != "block-commit":
        return line
    command["arguments"]["speed"] = speed
    return json.dumps(command).encode()


def receive(sock):
    data, ancillary, _, _ = sock.recvmsg(1 << 16, socket.CMSG_SPACE(16 * 4))
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return data, fds


def keep(fd):
    """Opened anew, for locks that QEMU has would be kept as well."""
    if stat.S_ISREG(os.fstat(fd).st_mode):
        if len(passed_on) == passed_on.maxlen:
            os.close(passed_on.popleft())
        passed_on.append(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY))


def send(sock, data, fds):
    if fds:
        sent = sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        for fd in fds:
            keep(fd)
            os.close(fd)
        data = data[sent:]
    sock.sendall(data)


def serve(client, target, plan):
    qemu = socket.socket(socket.AF_UNIX)
    try:
        qemu.connect(target)
    except OSError:  # no QEMU
        client.close()
        return
    hold = threading.Event()  # the next answer is for us

    def answers():
        try:
            while True:
                data = qemu.recv(1 << 16)
                if not data:
                    break
                if not hold.is_set():
                    client.sendall(data)
                elif b'"return"' in data or b'"error"' in data:
                    strike(hold.action)
                    hold.clear()
        except OSError:
            pass
        for sock in (client, qemu):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    thread = threading.Thread(target=answers, daemon=True)
    thread.start()
    pending = b""
    try:
        while True:
            data, fds = receive(client)
            if not data:
                break
            pending += data
            while b"\n" in pending:
                line, pending = pending.split(b"\n", 1)
                command = json.loads(line)
                struck = plan.look(command.get("execute", ""))
                if struck and struck[0] == "before":
                    strike(struck[1])
                    continue
                if struck:
                    hold.action = struck[1]
                    hold.set()
                send(qemu, slowed(line, command, plan.path) + b"\n", fds)
                fds = array.array("i")
    except OSError:
        pass
    finally:
        for sock in (qemu, client):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        thread.join(5)
        qemu.close()
        client.close()


def main():
    listen, target, control, *images = sys.argv[1:]
    server = socket.socket(socket.AF_UNIX)
    server.bind(listen)
    server.listen(8)
    plan = Strike(control)
    while True:
        client, _ = server.accept()
        files = [open(image, "rb") for image in images if os.path.exists(image)]
        serve(client, target, plan)
        for file in files:
            file.close()


main()
