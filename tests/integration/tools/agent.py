#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest agent that may be late, dead or a liar: agent.py SOCKET STATE [KEY=VALUE...]

It takes one client at a time, as QEMU does, and one command after the other, as qemu-ga does. STATE is a file that says
`frozen` or `thawed`; STATE.log has the commands. Keys:
  filesystems=N       how many it has, on /dev/vda, /dev/vdb, ... (2)
  freeze-delay=SEC    the freeze is carried out and answered so late; thaw-delay likewise, once
  freeze-count=N      what it says that it froze; thaw-count likewise
  freeze-error=TEXT   it refuses, frozen all the same
  status=WORD         what it says of itself while it is frozen
  drop-thaws=N        so many thaws are neither carried out nor answered
  dies=SEC            after the freeze it closes the connection, and listens again after so long
  thaw-dies=SEC       it does so instead of a thaw, once
  silent=FILE         after the freeze it answers nothing until FILE is there
"""
import json
import os
import socket
import sys
import time

COMMANDS = ["guest-info", "guest-sync-delimited", "guest-fsfreeze-status", "guest-fsfreeze-freeze",
            "guest-fsfreeze-freeze-list", "guest-fsfreeze-thaw", "guest-get-fsinfo"]
FROZEN_COMMANDS = COMMANDS[:3] + ["guest-fsfreeze-thaw"]


class Refusal(Exception):
    pass


class Hangup(Exception):
    pass


class Agent:
    def __init__(self, path, state, options):
        self.path, self.state, self.options = path, state, options
        self.log = open(state + ".log", "a", encoding="utf-8")
        self.died = False
        self.set_frozen(0)

    def option(self, key, default):
        return type(default)(self.options.get(key, default))

    def set_frozen(self, count):
        self.count = count
        with open(self.state + ".new", "w", encoding="utf-8") as file:
            file.write("frozen\n" if count else "thawed\n")
        os.rename(self.state + ".new", self.state)

    def is_allowed(self, command):
        return command in (FROZEN_COMMANDS if self.count else COMMANDS)

    def freeze(self, count):
        time.sleep(self.option("freeze-delay", 0.0))
        self.set_frozen(count)
        if "freeze-error" in self.options:
            raise Refusal(self.options["freeze-error"])
        if "dies" in self.options and not self.died:
            self.died = True
            raise Hangup(self.option("dies", 0.0))
        return self.option("freeze-count", count)

    def thaw(self):
        drops = self.option("drop-thaws", 0)
        if drops:
            self.options["drop-thaws"] = drops - 1
            return None
        if "thaw-dies" in self.options:
            raise Hangup(float(self.options.pop("thaw-dies")))
        time.sleep(float(self.options.pop("thaw-delay", 0)))
        count = self.option("thaw-count", self.count)
        self.set_frozen(0)
        return count

    def filesystems(self):
        letters = "abcdefgh"[:self.option("filesystems", 2)]
        return [{"name": f"vd{letter}", "mountpoint": f"/mnt/vd{letter}", "type": "ext4", "disk": []}
                for letter in letters]

    def answer(self, command, arguments):
        if command == "guest-sync-delimited":
            return arguments["id"]
        if not self.is_allowed(command):
            raise Refusal(f"Command {command} has been disabled: the agent is in frozen state")
        if command == "guest-info":
            return {"version": "0", "supported_commands":
                    [{"name": name, "enabled": self.is_allowed(name)} for name in COMMANDS]}
        if command == "guest-fsfreeze-status":
            return self.option("status", "frozen") if self.count else "thawed"
        if command == "guest-get-fsinfo":
            return self.filesystems()
        if command == "guest-fsfreeze-freeze":
            return self.freeze(len(self.filesystems()))
        return self.thaw()

    def handle(self, connection, line):
        try:
            request = json.loads(line.split(b"\xff")[-1])
        except ValueError:
            return
        command = request["execute"]
        print(command, file=self.log, flush=True)
        while self.count and "silent" in self.options and not os.path.exists(self.options["silent"]):
            time.sleep(0.02)
        try:
            value = self.answer(command, request.get("arguments", {}))
            if value is None:
                return
            message = {"return": value}
        except Refusal as refusal:
            message = {"error": {"class": "GenericError", "desc": str(refusal)}}
        mark = b"\xff" if command == "guest-sync-delimited" else b""
        connection.sendall(mark + json.dumps(message).encode() + b"\n")

    def serve(self, connection):
        buffer = b""
        while True:
            data = connection.recv(65536)
            if not data:
                return
            buffer += data
            while b"\n" in buffer:
                line, buffer = buffer.split(b"\n", 1)
                self.handle(connection, line)

    def run(self):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen(8)
        while True:
            connection = listener.accept()[0]
            try:
                self.serve(connection)
            except Hangup as hangup:
                connection.close()
                time.sleep(hangup.args[0])
            except OSError:
                pass
            connection.close()


Agent(sys.argv[1], sys.argv[2], dict(argument.split("=", 1) for argument in sys.argv[3:])).run()
