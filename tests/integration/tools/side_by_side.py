#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""All that a daemon does with a store, side by side and without a pause: `side_by_side.py SOCKET WORK CHURN SEED SECONDS VM...`.
The vms are registered, exported and filled; the images of one are WORK/VM.DISK.raw. Each job must end well, each request be
answered or refused for a reason that its role may meet; each restore must give what the disks held when its backup began."""

import collections
import json
import os
import random
import subprocess
import sys
import threading
import time
import traceback

from daemon_client import Daemon, Failure, Refused, digest

# What a role may be refused for.
ALLOWED = {
    "back up": set(),
    "restore": {"not-found"},
    "compare": {"not-found"},
    "verify": {"not-found"},
    "prune": set(),
    "forget": {"not-found", "busy", "state"},
    "annotate": {"not-found"},
    "collect": {"busy"},
}
FEW = 9  # points that prunes and removals leave alone
RULES = ("keep-last", "keep-hourly", "keep-daily", "keep-weekly", "keep-monthly", "keep-yearly")


class Guest:
    """A vm with its disks. Only the thread that backs it up writes to them."""

    def __init__(self, daemon, work, churn, seed, vm):
        self.daemon, self.work, self.command, self.vm = daemon, work, [churn, seed], vm
        exports = daemon.call("GET", f"/v1/exports/{vm}")
        self.uris = {export["disk"]: export["uri"] for export in exports}
        self.step = 0

    def write(self):
        self.step += 1
        subprocess.run([*self.command, str(self.step), *self.uris.values()], check=True)

    def digests(self):
        return {disk: digest(os.path.join(self.work, f"{self.vm}.{disk}.raw")) for disk in self.uris}

    def wait_for_freeze(self, job):
        """Until its writes are not part of the backup any more."""
        disk = next(iter(self.uris))
        while self.daemon.call("GET", f"/v1/jobs/{job}")["status"] in ("queued", "active"):
            bitmap = self.daemon.call("GET", f"/v1/vms/{self.vm}/disks/{disk}/bitmaps/default")
            if bitmap["state"] == "frozen":
                return True
        return False


class Run:
    def __init__(self, socket, work, churn, seed, seconds, *vms):
        self.daemon, self.work, self.seed = Daemon(socket), work, seed
        self.guests = [Guest(self.daemon, work, churn, seed, vm) for vm in vms]
        self.seconds = float(seconds)
        self.lock = threading.Lock()
        self.points = {}  # under the lock, as all below: uuid to (vm, digests by disk)
        self.gone = set()  # uuids that were said not to be there
        self.counts = collections.Counter()  # of (role, outcome)
        self.longest = collections.Counter()  # seconds by role
        self.failures = []
        self.ended = threading.Event()

    # ---- what the roles do, once; the uuid that it is about, if it is about one

    def back_up(self, rng, guest):
        if rng.random() < 0.9:
            guest.write()
        digests = guest.digests()
        kind = "full" if rng.random() < 0.05 else "incremental"
        job = self.daemon.start(f"/v1/vms/{guest.vm}/backups", {"kind": kind})
        if rng.random() < 0.5 and guest.wait_for_freeze(job):
            guest.write()
            self.count("back up", "with writes meanwhile")
        job = self.daemon.wait(job)
        if job["reason"]:
            self.count("back up", "reading whole disks")
        with self.lock:
            self.points[job["uuid"]] = (guest.vm, digests)

    def restore(self, rng, uuid):
        folder = os.path.join(self.work, f"restored.{threading.get_ident()}.{rng.random()}")
        digests = self.daemon.restored(uuid, folder)
        if digests != self.points[uuid][1]:
            raise Failure(f"point {uuid} gives {digests}, should give {self.points[uuid][1]}")

    def compare(self, rng, uuid):
        vm = self.points[uuid][0]
        other = rng.choice([point["uuid"] for point in self.daemon.points(vm)] or [uuid])
        disk = rng.choice(list(self.points[uuid][1]))
        self.daemon.call("GET", f"/v1/vms/{vm}/disks/{disk}/changes?from={uuid}&to={other}")

    def verify(self, rng, uuid):
        body = rng.choice([{"all": True}, {"vm": self.points[uuid][0]}, {"point": uuid}])
        job = self.daemon.run("/v1/verify", {**body, "restart": True})
        if job["damaged-count"] or job["points-damaged"]:
            raise Failure(f"verify found damage: {job}")

    def prune(self, rng):
        numbers = {rule: rng.randrange(3) for rule in RULES}
        body = {**numbers, "keep-last": rng.randrange(1, 8)}
        dry = len(self.living()) < FEW or rng.random() < 0.3
        if rng.random() < 0.7:
            body["vm"] = rng.choice(self.guests).vm
        answer = self.daemon.call("POST", "/v1/prune", {**body, "dry-run": dry})
        if not answer["dry-run"]:
            self.gone.update(point["uuid"] for point in answer["points"] if point["action"] == "remove")
        if answer["warning"] and "collected already" not in answer["warning"]:
            raise Failure(f"prune warns: {answer['warning']}")

    def forget(self, _, uuid):
        self.daemon.call("DELETE", f"/v1/points/{uuid}")
        self.gone.add(uuid)

    def annotate(self, rng, uuid):
        change = rng.choice([{"protected": rng.random() < 0.3}, {"note": f"note {rng.random()}"}])
        self.daemon.call("PATCH", f"/v1/points/{uuid}", change)

    def collect(self, _):
        self.daemon.run("/v1/gc")

    # ---- roles

    def count(self, role, outcome):
        with self.lock:
            self.counts[role, outcome] += 1

    def act(self, role, action, *arguments):
        """Once; and what came of it."""
        begun = time.monotonic()
        try:
            action(*arguments)
            outcome = "done"
        except Refused as refusal:
            if refusal.code not in ALLOWED[role]:
                raise
            if refusal.code == "not-found":
                self.check_gone(role, arguments[-1])
            outcome = "refused: " + refusal.code
        self.count(role, outcome)
        self.longest[role] = max(self.longest[role], time.monotonic() - begun)

    def check_gone(self, role, uuid):
        """A point that was said not to be there is not; but of two that are compared it may have been the other."""
        try:
            self.daemon.call("GET", f"/v1/points/{uuid}")
        except Refused:
            self.gone.add(uuid)
        else:
            if role != "compare":
                raise Failure(f"{role}: point {uuid} was said not to be there, but is")

    def living(self):
        """Points that were not seen to go, oldest first."""
        with self.lock:
            return [uuid for uuid in self.points if uuid not in self.gone]

    def choose(self, rng, role):
        """A point that is likely there. Of few the newest are not forgotten, or all backups would read whole disks."""
        known = self.living()
        if role == "forget":
            known = known[: -len(self.guests) * 2] if rng.random() < 0.95 else known
            known = known if len(known) >= FEW else []
        return rng.choice(known) if known else None

    def play(self, role, action, guest=None, of_points=False):
        rng = random.Random(f"{self.seed} {threading.current_thread().name}")
        try:
            while not self.ended.is_set():
                if guest:
                    self.act(role, action, rng, guest)
                elif not of_points:
                    self.act(role, action, rng)
                elif uuid := self.choose(rng, role):
                    self.act(role, action, rng, uuid)
                else:
                    self.ended.wait(0.05)
        except Exception:  # of whatever kind: it is what the test looks for
            self.failures.append(f"{role}: {traceback.format_exc()}")
            self.ended.set()

    def start(self, role, action, number, **options):
        name = f"{role} {number}"
        thread = threading.Thread(target=self.play, args=(role, action), kwargs=options, name=name)
        thread.start()
        return thread

    def run(self):
        rng = random.Random(self.seed)
        for guest in self.guests:
            self.act("back up", self.back_up, rng, guest)
        threads = [self.start("back up", self.back_up, n, guest=guest) for n, guest in enumerate(self.guests)]
        for n in (1, 2):
            threads.append(self.start("restore", self.restore, n, of_points=True))
            threads.append(self.start("collect", self.collect, n))
        for role, action in (("compare", self.compare), ("verify", self.verify), ("annotate", self.annotate)):
            threads.append(self.start(role, action, 1, of_points=True))
        threads.append(self.start("prune", self.prune, 1))
        threads.append(self.start("forget", self.forget, 1, of_points=True))
        self.ended.wait(self.seconds)
        self.ended.set()
        for thread in threads:
            thread.join()
        self.print_figures()
        if self.failures:
            sys.exit("\n".join(self.failures))
        self.check_end()

    def print_figures(self):
        for role in ALLOWED:
            outcomes = {outcome: n for (of, outcome), n in sorted(self.counts.items()) if of == role}
            print(f"-- {role}: {json.dumps(outcomes)}, longest {self.longest[role]:.2f} s", flush=True)

    def check_end(self):
        left = [point["uuid"] for guest in self.guests for point in self.daemon.points(guest.vm)]
        if self.gone & set(left) or not set(left) <= set(self.points):
            raise Failure(f"points that should not be there: {self.gone & set(left)} {set(left) - set(self.points)}")
        self.daemon.run("/v1/verify", {"all": True, "restart": True})
        collected = self.daemon.run("/v1/gc")
        for uuid in left:
            self.restore(random, uuid)
        print(f"-- at the end {len(left)} of {len(self.points)} points are there, and each restores;",
              f"the last collection freed {collected['bytes-freed']} bytes", flush=True)


if __name__ == "__main__":
    Run(*sys.argv[1:]).run()
