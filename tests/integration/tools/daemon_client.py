# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon's HTTP API over its Unix socket, for the drivers of long tests."""

import hashlib
import http.client
import json
import os
import shutil
import socket


class Failure(Exception):
    """What the test is about does not hold."""


class Refused(Exception):
    """An error answer, or a job that ended with an error: `code` is its stable name."""

    def __init__(self, what, status, error):
        super().__init__(f"{what}: {status}: {error}")
        self.status = status
        self.code = error.get("code")


class _Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=600)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Daemon:
    """Threads may share one: each request has a connection of its own."""

    def __init__(self, path):
        self.path = path

    def call(self, method, path, body=None):
        connection = _Connection(self.path)
        text = None if body is None and method != "POST" else json.dumps(body or {})
        connection.request(method, path, text, {"Content-Type": "application/json"} if text else {})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        parsed = json.loads(data) if data else None
        if answer.status >= 400:
            raise Refused(f"{method} {path} {body or ''}", answer.status, parsed["error"])
        return parsed

    def start(self, path, body=None):
        return self.call("POST", path, body)["id"]

    def wait(self, job_id):
        """The job, done; else its error as Refused."""
        while True:
            job = self.call("GET", f"/v1/jobs/{job_id}?wait-ms=60000")
            if job["status"] == "done":
                return job
            if job["status"] in ("error", "cancelled"):
                error = {"code": job["code"], "message": job["errmsg"]}
                raise Refused(f"job {job_id}, {job['type']}", job["status"], error)

    def run(self, path, body=None):
        return self.wait(self.start(path, body))

    def points(self, vm):
        return self.call("GET", f"/v1/points?vm={vm}")

    def restored(self, uuid, folder):
        """Restores a point into FOLDER, which goes again. Digests of its disks by name."""
        try:
            self.run(f"/v1/points/{uuid}/restore", {"to": folder})
            return {name[:-4]: digest(os.path.join(folder, name)) for name in os.listdir(folder)}
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
