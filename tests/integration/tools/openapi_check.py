#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Holds a running daemon against the document that it serves: routes, methods, parameters, keys, fields, status codes.

Usage: openapi_check.py SOCKET FILE FOLDER: FILE is the document in the tree; FOLDER has disk.img, other.img and vm.conf.
"""
import json
import sys

from openapi import Client, Mismatch


def names_known(client, method, url, body):
    """The names that an error about an unknown one lists."""
    status, _, text = client.raw(method, url, body)
    client.document.check_error(text, f"{method} {url}")
    message = json.loads(text)["error"]["message"]
    if status != 400 or "nope" not in message:
        raise Mismatch(f"{method} {url}: an unknown name gives {status}: {message}")
    return message.partition("known are: ")[2].split()


def check_names(client, operation):
    values = {name: "1" if name == "id" else "none" for name in operation.path_parameters}
    url = operation.url(values, {"nope": 1})
    known = names_known(client, operation.method, url, b"{}" if operation.body else None)
    assert known == list(operation.query), (operation.id, known)
    if operation.method != "GET":
        known = names_known(client, operation.method, operation.url(values, None), b'{"nope":1}')
        assert known == list(operation.body["properties"] if operation.body else ()), (operation.id, known)
    if operation.body_is_required:
        status, headers, text = client.raw(operation.method, operation.url(values, None), None, {"Content-Length": ""})
        assert status in (400, 411), (operation.id, status, text)


def check_methods(client):
    by_path = {}
    for operation in client.document.operations.values():
        by_path.setdefault(operation.path, []).append(operation)
    for path, operations in by_path.items():
        url = operations[0].url({name: "1" for name in operations[0].path_parameters}, None)
        for other in "OPTIONS", "TRACE", "PUT", "PATCH":
            if other in [o.method for o in operations]:
                continue
            status, headers, text = client.raw(other, url, b"")
            client.document.check_error(text, f"{other} {path}")
            assert status == 405, (path, other, status)
            assert sorted(headers["Allow"].split(", ")) == sorted(o.method for o in operations), (path, headers["Allow"])
        status, _, text = client.raw("GET", url + "/nope")
        assert status in (404, 405), (path, status, text)


class Scenario:
    """One life of a vm, through every operation."""

    def __init__(self, client, folder):
        self.client, self.folder = client, folder
        self.call = client.call
        self.vm, self.disk = {"vm": "vm1"}, {"vm": "vm1", "disk": "root"}
        self.bitmap = {**self.disk, "bitmap": "extra"}

    def job(self, id_, *arguments, end="done", **more):
        job = self.call(id_, *arguments, expect=202, **more)
        job = self.call("showJob", {"id": job["id"]}, {"wait-ms": 60000}, expect=200)
        assert job["status"] == end, job
        return job

    def vms(self):
        self.call("addVm", body={"name": "vm1", "disks": [{"name": "root", "path": f"{self.folder}/disk.img"}],
                                 "configs": [f"{self.folder}/vm.conf"], "granularity": "64K"}, expect=201)
        self.call("addVm", body={"name": "vm1", "disks": [{"name": "a", "path": f"{self.folder}/other.img"}]}, expect=409)
        self.call("addVm", body={"name": "vm2", "disks": [{"name": "a", "path": f"{self.folder}/none"}]}, expect=404)
        self.call("addVm", body={"name": "vm2", "disks": [{"name": "a", "path": "/x", "nope": 1}]}, expect=400)
        self.call("showVm", self.vm, expect=200)
        self.call("showVm", {"vm": "nope"}, expect=404)
        assert len(self.call("listVms")) == 1
        self.call("startExports", self.vm, expect=201)
        self.call("startExports", self.vm)
        assert len(self.call("listExports")) == 1 and len(self.call("showExports", self.vm)) == 1
        self.call("removeVm", self.vm, expect=409)

    def backups(self):
        self.full = self.job("startBackup", self.vm, body={"kind": "full", "note": "n", "disks": ["root"]})
        self.job("startBackup", self.vm, body={"kind": "incremental", "archive": f"{self.folder}/b.vma"})
        slow = self.call("startBackup", self.vm, body={"kind": "full", "speed": 8192}, expect=202)
        self.call("startBackup", self.vm, body={"kind": "full"}, expect=409)
        self.call("cancelJob", {"id": slow["id"]}, expect=202)
        events = self.call("followJob", {"id": slow["id"]}, expect=200).decode()
        ends = [block for block in events.split("\n\n") if block.startswith("event: end\n")]
        self.client.document.check({"$ref": "#/components/schemas/Job"}, json.loads(ends[0].split("data: ")[1]), "end")
        self.call("cancelJob", {"id": slow["id"]}, expect=409)
        self.call("showJob", {"id": 4711}, expect=404)
        self.call("listJobs", query={"vm": "vm1", "limit": 2}, expect=200)
        self.call("listJobs", query={"limit": "x"}, expect=400)

    def points(self):
        point = {"uuid": self.full["uuid"]}
        assert len(self.call("listPoints", query={"vm": "vm1"})) == 2
        self.call("listPoints", query={"vm": "nope"}, expect=404)
        self.call("showPoint", point, expect=200)
        self.call("showPoint", {"uuid": "vm1@7"}, expect=404)
        self.call("changePoint", point, body={"note": "x", "protected": True}, expect=200)
        self.call("removePoint", point, expect=409)
        self.call("changePoint", point, body={"protected": False}, expect=200)
        self.call("streamArchive", point, {"format": "qcow2", "disk": "root"}, expect=200)
        self.call("streamArchive", point, {"format": "chain"}, expect=400)
        self.job("startArchive", point, body={"format": "raw", "path": f"{self.folder}/a.raw"})
        self.job("startRestore", point, body={"to": f"{self.folder}/restored"})
        self.call("startRestore", point, body={"targets": [{"disk": "root", "path": "/x", "nope": 1}]}, expect=400)
        self.call("startRestore", point, body={"to": f"{self.folder}/restored"}, expect=409)
        self.job("startImport", {"vm": "imported"}, body={"path": f"{self.folder}/b.vma", "note": "i"})
        self.call("listChanges", self.disk, {"from": "vm1@latest", "to": "live", "limit": 1}, expect=200)
        self.call("listChanges", self.disk, {"bitmap": "default"}, expect=200)
        self.call("listChanges", self.disk, {"bitmap": "default", "from": "x"}, expect=400)

    def bitmaps(self):
        self.call("addBitmap", self.disk, body={"name": "extra", "granularity": "64K"}, expect=201)
        self.call("addBitmap", self.disk, body={"name": "extra"}, expect=409)
        self.call("listBitmaps", self.disk, expect=200)
        self.call("showBitmap", self.bitmap, expect=200)
        frozen = self.call("freezeBitmap", self.bitmap, body={"lease": "10m"}, expect=200)
        self.call("renewLease", self.bitmap, body={"lease": frozen["lease-id"], "seconds": 60}, expect=200)
        self.call("reclaimBitmap", self.bitmap, body={"lease": frozen["lease-id"]}, expect=200)
        self.call("freezeBitmap", self.bitmap, expect=200)
        self.call("abdicateBitmap", self.bitmap, expect=200)
        for id_ in "clearBitmap", "disableBitmap", "enableBitmap":
            self.call(id_, self.bitmap, expect=200)
        self.call("mergeBitmap", self.bitmap, body={"from": "default"}, expect=200)
        self.call("mergeBitmap", self.bitmap, body={"from": "none"}, expect=404)
        self.call("removeBitmap", self.bitmap, expect=204)

    def upkeep(self):
        self.call("showPolicy", self.vm, expect=404)
        self.call("setPolicy", self.vm, body={"gc": True}, expect=400)
        self.call("setPolicy", self.vm, body={"schedule": "daily 02:00", "keep-last": 3, "speed": "1M"}, expect=200)
        self.call("showPolicy", self.vm, expect=200)
        assert len(self.call("listPolicies")) == 1
        self.call("showStatus", expect=200)
        self.call("showOpenapi", expect=200)
        self.call("showMetrics", expect=200)
        self.call("runDoctor", expect=200)
        self.call("runDoctor", query={"vm": "vm1"}, expect=200)
        self.call("runDoctor", query={"vm": "nope"}, expect=404)
        self.call("removePolicy", self.vm, expect=204)
        self.job("startVerify", body={"all": True})
        self.call("startVerify", body={}, expect=400)
        self.call("prune", body={"vm": "vm1", "keep-last": 1, "dry-run": True}, expect=200)
        self.call("removePoint", {"uuid": "vm1@0"}, expect=200)
        self.call("removePoint", {"uuid": "vm1@0"}, expect=204)
        self.job("startGc")
        self.call("rebuildCatalogue", expect=200)

    def end(self):
        self.call("stopExports", self.vm, expect=204)
        self.call("removeVm", self.vm, {"forget-points": "true"}, expect=204)


def check_seen(client):
    """Each operation has done what it is for."""
    for operation in client.document.operations.values():
        wanted = {status for status in operation.responses if status < 300}
        assert wanted <= operation.seen, (operation.id, "never answered", wanted - operation.seen)


def main():
    socket_path, file, folder = sys.argv[1:]
    client = Client(socket_path)
    with open(file, "rb") as stream:
        assert stream.read() == client.text, "the daemon serves another document than the tree has"
    for operation in client.document.operations.values():
        check_names(client, operation)
    check_methods(client)
    scenario = Scenario(client, folder)
    for step in scenario.vms, scenario.backups, scenario.points, scenario.bitmaps, scenario.upkeep, scenario.end:
        step()
    check_seen(client)
    seen = sorted({status for o in client.document.operations.values() for status in o.seen})
    print(f"{len(client.document.operations)} operations, answers with {', '.join(map(str, seen))}")


main()
