#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The life of a store over more than a year: `year.py SOCKET WORK CHURN VM STEPS SEED` drives a daemon whose wall clock
is shifted by the file WORK/shift. VM is registered, exported and filled; its images are WORK/DISK.raw."""

import os
import random
import struct
import subprocess
import sys
import time
from calendar import timegm

from daemon_client import Daemon, Failure, digest
from retention_model import kept

RULES = {"keep-last": 3, "keep-hourly": 4, "keep-daily": 7, "keep-weekly": 5, "keep-monthly": 7, "keep-yearly": 2}
HOUR, DAY = 3600, 86400
FIRST, DAYS = timegm((2024, 10, 20, 9, 30, 0)), 375
# The hour that comes twice in Berlin, the one that is left out, and an ISO week that begins in the old year.
SPECIAL = [
    timegm(moment)
    for moment in (
        (2024, 10, 27, 0, 20, 0),
        (2024, 10, 27, 0, 50, 0),
        (2024, 10, 27, 1, 20, 0),
        (2024, 12, 29, 22, 50, 0),
        (2024, 12, 30, 10, 0, 0),
        (2025, 1, 1, 5, 0, 0),
        (2025, 3, 30, 0, 30, 0),
        (2025, 3, 30, 1, 10, 0),
    )
]
MIN_GAP = 180


def timeline(steps):
    """When the backups are: minutes to days apart."""
    gaps = [600 * (4 * DAY / 600) ** random.random() for _ in range(steps - len(SPECIAL))]
    room = DAYS * DAY - sum(gap for gap in gaps if gap < 3 * HOUR)
    scale = room / sum(gap for gap in gaps if gap >= 3 * HOUR)
    moments, now = list(SPECIAL), FIRST
    for gap in gaps:
        now += int(gap if gap < 3 * HOUR else gap * scale)
        while any(abs(now - other) < MIN_GAP for other in moments):
            now += MIN_GAP
        moments.append(now)
    return sorted(moments)


class Clock:
    def __init__(self, path):
        self.file = open(path, "r+b", buffering=0)
        self.shift = None

    def set(self, moment):
        """To MOMENT, and never back."""
        wanted = moment - int(time.time())
        self.shift = wanted if self.shift is None else max(self.shift, wanted)
        os.pwrite(self.file.fileno(), struct.pack("<q", self.shift), 0)


class Year:
    def __init__(self, socket, work, churn, vm, steps, seed):
        self.daemon = Daemon(socket)
        self.work, self.churn, self.vm, self.seed = work, churn, vm, seed
        self.steps = int(steps)
        self.moments = timeline(self.steps)
        self.clock = Clock(os.path.join(work, "shift"))
        self.uris = {export["disk"]: export["uri"] for export in self.daemon.call("GET", f"/v1/exports/{vm}")}
        self.living = []  # points: uuid, time, protected, digests
        self.n = dict.fromkeys(("pruned", "gcs", "restores", "verifies", "freed", "copied", "stored"), 0)

    def back_up(self, step):
        self.clock.set(self.moments[step])
        before = time.time() + self.clock.shift
        if step > 0:
            subprocess.run([self.churn, self.seed, str(step), *self.uris.values()], check=True)
        digests = {disk: digest(os.path.join(self.work, disk + ".raw")) for disk in self.uris}
        kind = "incremental" if step > 0 else "full"
        job = self.daemon.run(f"/v1/vms/{self.vm}/backups", {"kind": kind})
        if step > 0 and (job["kind"], job["reason"]) != ("incremental", None):
            raise Failure(f"step {step}: not an incremental: {job}")
        point = self.daemon.call("GET", f"/v1/points/{job['uuid']}")
        if not int(before) <= point["time"] <= time.time() + self.clock.shift:
            raise Failure(f"step {step}: the point's time {point['time']} is not that of the clock")
        self.n["stored"] += job["stored"]
        self.living.append({"uuid": job["uuid"], "time": point["time"], "protected": False, "digests": digests})

    def protect_some(self):
        point = random.choice(self.living)
        point["protected"] = not point["protected"]
        self.daemon.call("PATCH", f"/v1/points/{point['uuid']}", {"protected": point["protected"]})

    def prune(self, step):
        expected = kept(self.living, RULES)
        answer = self.daemon.call("POST", "/v1/prune", {"vm": self.vm, **RULES})
        said = {point["uuid"] for point in answer["points"] if point["action"] == "keep"}
        left = {point["uuid"] for point in self.daemon.points(self.vm)}
        if said != expected or left != expected:
            raise Failure(f"step {step}: kept should be {sorted(expected)}, said {sorted(said)}, left {sorted(left)}")
        self.n["pruned"] += len(self.living) - len(expected)
        self.living = [point for point in self.living if point["uuid"] in expected]

    def collect(self):
        job = self.daemon.run("/v1/gc")
        self.n["gcs"] += 1
        self.n["freed"] += job["bytes-freed"]
        self.n["copied"] += job["bytes-copied"]
        return job

    def verify(self):
        job = self.daemon.run("/v1/verify", {"all": True, "restart": True})
        self.n["verifies"] += 1
        if job["points-verified"] != len(self.living):
            raise Failure(f"verify: {job}")

    def restore(self, point):
        self.n["restores"] += 1
        digests = self.daemon.restored(point["uuid"], os.path.join(self.work, "restored"))
        if digests != point["digests"]:
            when = time.ctime(point["time"])
            raise Failure(f"point {point['uuid']} of {when}: {digests}, should be {point['digests']}")

    def run(self):
        begun = time.time()
        self.back_up(0)
        for step in range(1, self.steps):
            self.back_up(step)
            if random.random() < 0.05:
                self.protect_some()
            self.prune(step)
            if step % 10 == 0:
                self.collect()
            if random.random() < 0.2:
                self.restore(random.choice(self.living))
            if step % max(self.steps // 8, 10) == 0:
                self.verify()
            if step % 50 == 0:
                print(f"-- {step}: {time.ctime(self.moments[step])}, {len(self.living)} points", flush=True)
        last = self.collect()
        for point in self.living:
            self.restore(point)
        self.verify()
        self.report(time.time() - begun, last)

    def report(self, seconds, last):
        n, mib = self.n, {key: self.n[key] >> 20 for key in ("stored", "freed", "copied")}
        days = (self.living[-1]["time"] - self.moments[0]) // DAY
        protected = sum(point["protected"] for point in self.living)
        print(f"-- {self.steps - 1} incrementals over {days} days in {seconds:.0f} s, {mib['stored']} MiB stored")
        print(f"-- {n['pruned']} points pruned, {len(self.living)} left ({protected} protected)")
        print(f"-- {n['restores']} restores and {n['verifies']} verifies were right")
        print(f"-- {n['gcs']} collections freed {mib['freed']} MiB and copied {mib['copied']} MiB")
        print(f"-- the last says that {last['chunks-live']} chunks of {last['bytes-live']} bytes are live", flush=True)


if __name__ == "__main__":
    random.seed(sys.argv[6])
    time.tzset()
    Year(*sys.argv[1:]).run()
