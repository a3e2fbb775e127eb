#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sends wild requests, made from the OpenAPI document, and holds each answer against it.

Usage: openapi_fuzz.py SOCKET SEED N PID FOLDER

Half of the requests are right HTTP with values for parameters and keys that are right, nearly right, or wild; the others are
broken: bytes changed, cut off, unknown methods and versions, odd headers, lengths that lie, JSON that is none. The daemon with
id PID must answer all that can be answered, only as documented, and not grow. FOLDER is where paths may lead to.
"""
import json
import random
import socket
import sys
import time
import urllib.parse

from openapi import Client, Mismatch

WILD_TEXTS = ["", " ", "default", "vm1", "root", "vm1@latest", "vm1@0", "vm1@99999999999999999999", "..", "../../x", "/nonexistent/x", "a" * 64, "b" * 5000, "\u0000", "\u202e\U0001f4a5", "%s%n%x", "'; DROP TABLE vms; --", "-1", "64K",
              "9999999999999999999999", "1e400", "NaN", "true", "null", "\n", "\\", "\"", "daily 25:61", "0", "1970-01-01", "{}", "[]"]
WILD_NUMBERS = [0, 1, -1, 2, 511, 4096, 65536, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, -2**63, 1.5, 1e308, -0.0]
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "get", "BREW", "G\u00c9T", "PO\x1fT", "A" * 300, ""]
# Each would change what the daemon is, or take long, more often than it is worth.
RARE = {"removeVm": 0.02, "stopExports": 0.1, "rebuildCatalogue": 0.1, "startExports": 0.2, "startVerify": 0.3, "startGc": 0.3}


class Fuzzer:
    def __init__(self, client, rand, folder):
        self.client, self.rand, self.folder = client, rand, folder
        self.document = client.document
        self.operations = list(self.document.operations.values())
        self.statuses = {}
        self.n_unanswered = 0

    # -- values

    def wild(self):
        rand = self.rand
        return rand.choice([
            lambda: rand.choice(WILD_TEXTS), lambda: rand.choice(WILD_NUMBERS), lambda: None, lambda: True, lambda: [], lambda: {},
            lambda: [self.wild() for _ in range(rand.randrange(4))], lambda: {rand.choice(WILD_TEXTS): self.wild()},
            lambda: "".join(chr(rand.randrange(1, 0xd800)) for _ in range(rand.randrange(40)))])()

    def value(self, schema):
        """One that the schema allows, as a rule."""
        rand = self.rand
        schema = self.document.follow(schema)
        if rand.random() < 0.12:
            return self.wild()
        if "enum" in schema:
            return rand.choice(schema["enum"])
        if "anyOf" in schema:
            return self.value(rand.choice(schema["anyOf"]))
        kind = schema.get("type", "string")
        kind = rand.choice(kind) if isinstance(kind, list) else kind
        if kind == "object":
            required = schema.get("required", [])
            return {k: self.value(s) for k, s in schema.get("properties", {}).items() if k in required or rand.random() < 0.3}
        if kind == "array":
            return [self.value(schema["items"]) for _ in range(rand.randrange(3))]
        if kind == "integer":
            return rand.choice([schema.get("minimum", 0), schema.get("maximum", 100), rand.randrange(200), rand.choice(WILD_NUMBERS)])
        if kind == "boolean":
            return rand.random() < 0.5
        if schema.get("pattern") == "^/":
            return f"{self.folder}/{rand.choice(['disk.img', 'new', 'none/x', '.', 'wild'])}{rand.randrange(5)}"
        if "pattern" in schema:
            return rand.choice(["vm1", "root", "default", "fuzz"])
        return rand.choice(WILD_TEXTS)

    def text(self, name, schema):
        known = {"vm": "vm1", "disk": "root", "bitmap": rand_bitmap(self.rand), "uuid": "vm1@0", "id": self.rand.randrange(1, 40)}
        value = known[name] if name in known and self.rand.random() < 0.7 else self.value(schema)
        return str(value).lower() if isinstance(value, bool) else str(value)

    # -- requests

    def right(self):
        """An operation and the bytes of a request for it."""
        rand = self.rand
        operation = rand.choice(self.operations)
        while rand.random() > RARE.get(operation.id, 1):
            operation = rand.choice(self.operations)
        path = operation.path
        for name, schema in operation.path_parameters.items():
            path = path.replace("{" + name + "}", urllib.parse.quote(self.text(name, schema), safe="@"))
        query = {name: self.text(name, schema) for name, schema in operation.query.items() if rand.random() < 0.4}
        if "wait-ms" in query:
            query["wait-ms"] = rand.choice(["0", "1", "x", "-1"])
        if query.get("speed") in ("4096", "65536"):
            query["speed"] = "16777216"  # a stream would last for minutes, as was asked
        if rand.random() < 0.05:
            query[rand.choice(WILD_TEXTS)] = rand.choice(WILD_TEXTS)
        body = b""
        if operation.body or rand.random() < 0.05:
            body = json.dumps(self.value(operation.body) if operation.body else self.wild()).encode()
        if rand.random() < 0.05:
            body = bytes(rand.randrange(256) for _ in range(rand.randrange(200)))
        url = path + ("?" + urllib.parse.urlencode(query) if query else "")
        head = f"{operation.method} {url} HTTP/1.1\r\nHost: localhost\r\n"
        if body or operation.method in ("POST", "PUT", "PATCH"):
            head += f"Content-Length: {len(body)}\r\n"
        return operation, head.encode("utf-8", "replace") + b"\r\n" + body

    def broken(self):
        rand = self.rand
        _, data = self.right()
        kind = rand.randrange(9)
        if kind == 0:  # bytes changed
            data = bytearray(data)
            for _ in range(rand.randrange(1, 6)):
                data[rand.randrange(len(data))] = rand.randrange(256)
        elif kind == 1:
            data = data[:rand.randrange(len(data))]
        elif kind == 2:
            data = data.replace(data.split(b" ")[0], rand.choice(METHODS).encode(), 1)
        elif kind == 3:
            data = data.replace(b"HTTP/1.1", rand.choice([b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9", b"HTTP/1.1.1", b"", b"FTP/1.1"]), 1)
        elif kind == 4:  # headers
            line = rand.choice([b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"Content-Length: x", b"Content-Length: 5\r\nContent-Length: 6", b"Content-Length: -1",
                                b"Content-Length: 99999999999999999999", b"Expect: 100-continue", b"Expect: wonders", b"Range: bytes=0-0",
                                b"Connection: keep-alive", b"Upgrade: websocket\r\nConnection: Upgrade", b"Host: x\r\nHost: y",
                                b"X: " + b"y" * rand.choice([100, 10000, 200000]), b"\x00: \x00", b" folded", b"no colon",
                                b"\r\n".join(b"X%d: y" % n for n in range(3000))])
            data = data.replace(b"Host: localhost", line, 1)
        elif kind == 5:
            data = b"GET /" + rand.choice([b"%", b"%zz", b"%00", b"\xff\xfe", b"a" * 100000, b"//" * 500, b"v1/../v1/status", b"v1/status#x"]) + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        elif kind == 6:
            data = data.replace(b"\r\n", rand.choice([b"\n", b"\r", b"\r\r\n"]))
        elif kind == 7:
            deep = rand.choice([b"[" * 5000, b'{"a":' * 2000, b'"' + b"\\u0000" * 10, b'{"kind":"full","kind":"x"}', b"1" * 400, b"nul", b"\xef\xbb\xbf{}"])
            data = b"POST /v1/prune HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(deep) + deep
        else:
            data = bytes(rand.randrange(256) for _ in range(rand.randrange(1, 400)))
        return bytes(data)

    # -- answers

    def exchange(self, data):
        """All that comes back; what a peer that closes early does not read is no matter."""
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(60)
            peer.connect(self.client.path)
            answer = b""
            try:
                peer.sendall(data)
                peer.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, ConnectionResetError):
                pass
            try:
                while block := peer.recv(1 << 16):
                    answer += block
            except ConnectionResetError:
                pass
            return answer

    def parse(self, answer):
        head, _, text = answer.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        headers = {name.title(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        if headers.get("Transfer-Encoding") == "chunked":
            if status == 200 and not text.endswith(b"0\r\n\r\n"):
                raise Mismatch("a stream that was cut off")
            parts, rest = [], text
            while rest:
                size, _, rest = rest.partition(b"\r\n")
                parts.append(rest[:int(size, 16)])
                rest = rest[int(size, 16) + 2:]
            text = b"".join(parts)
        return status, headers, text

    def check_right(self, operation, data):
        answer = self.exchange(data)
        if not answer:
            raise Mismatch("no answer")
        status, headers, text = self.parse(answer)
        self.count(status)
        if status == 404 and status not in operation.responses or status == 405:  # a wild value made another path of it
            self.document.check_error(text, f"{status}")
        else:
            self.client.check_answer(operation, status, headers, text)

    def check_broken(self, data):
        answer = self.exchange(data)
        if not answer:
            self.n_unanswered += 1
            return
        status, headers, text = self.parse(answer)
        self.count(status)
        if status >= 400 and text:
            self.document.check_error(text, f"{status}")
        if status >= 400 and status not in (400, 403, 404, 405, 409, 411, 413, 417, 500, 503, 505, 507):
            raise Mismatch(f"status {status} is not documented")

    def count(self, status):
        self.statuses[status] = self.statuses.get(status, 0) + 1

    def once(self):
        operation = None
        if self.rand.random() < 0.5:
            operation, data = self.right()
        else:
            data = self.broken()
        try:
            self.check_right(operation, data) if operation else self.check_broken(data)
        except (Mismatch, OSError, ValueError, IndexError) as error:
            sys.exit(f"{error!r}\nafter the request {data[:1500]!r}")


def rand_bitmap(rand):
    return rand.choice(["default", "extra"])


def resident_kib(client, pid):
    """At rest: a job that runs has buffers of its own, and one that was asked to be slow has them for minutes."""
    while at_work := [job for job in client.call("listJobs", query={"limit": 1000}, expect=200) if job["status"] in ("queued", "active")]:
        for job in at_work:
            client.call("cancelJob", path={"id": job["id"]})
        time.sleep(0.02)
    with open(f"/proc/{pid}/status", encoding="utf-8") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith("VmRSS"))


def main():
    path, seed, n, pid, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    client = Client(path)
    fuzzer = Fuzzer(client, random.Random(seed), folder)
    memory = []
    for i in range(n):
        fuzzer.once()
        if i % max(1, n // 10) == n // 10 - 1:
            memory.append(resident_kib(client, pid))
    client.call("showStatus", expect=200)
    print(json.dumps({"requests": n, "seed": seed, "statuses": dict(sorted(fuzzer.statuses.items())),
                      "unanswered": fuzzer.n_unanswered, "resident-kib": memory}))


main()
