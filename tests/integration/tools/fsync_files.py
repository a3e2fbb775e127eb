#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A program whose files must survive: `fsync_files.py write FOLDER LOG SEED` makes, replaces and deletes files
until it is told to stop (SIGTERM), each synced with its folder before LOG says so.

`fsync_files.py check FOLDER LOG BEFORE AFTER`: FOLDER is from an instant between the first BEFORE and the first
AFTER lines of LOG. Whatever was durable by BEFORE and was not touched again by AFTER must be there, byte by byte.
Prints how many files were looked at.

A line of LOG: `+ NAME SHA256` is durable, `- NAME` is about to be replaced or deleted.
"""
import hashlib
import os
import random
import signal
import sys


def sync_folder(folder):
    fd = os.open(folder, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def put(folder, name, data):
    with open(os.path.join(folder, name + ".new"), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(os.path.join(folder, name + ".new"), os.path.join(folder, name))
    sync_folder(folder)


def write(folder, log_path, seed):
    rand = random.Random(seed)
    running = [True]
    signal.signal(signal.SIGTERM, lambda *_: running.clear())
    names, n_put, n_kept = [], 0, 0
    with open(log_path, "w", encoding="ascii", buffering=1) as log:
        while running:
            if names and (len(names) >= 400 or rand.random() < 0.15):
                name = names.pop(rand.randrange(len(names)))
                log.write(f"- {name}\n")
                if rand.random() < 0.5:
                    os.unlink(os.path.join(folder, name))
                    sync_folder(folder)
                    continue
            else:
                name = f"f{rand.getrandbits(40):010x}"
            data = rand.randbytes(rand.randrange(1, 200000))
            put(folder, name, data)
            n_put += 1
            if n_put % 10 == 0 and n_kept < 100:
                n_kept += 1  # never touched again: it is to be there from now on, however long a backup takes
            else:
                names.append(name)
            log.write(f"+ {name} {hashlib.sha256(data).hexdigest()}\n")


def check(folder, log_path, before, after):
    with open(log_path, encoding="ascii") as log:
        lines = [line.split() for line in log.readlines()[:after]]
    expected = {}
    for number, line in enumerate(lines):
        if line[0] == "-":
            expected.pop(line[1], None)
        elif number < before:
            expected[line[1]] = line[2]
    for name, digest in expected.items():
        path = os.path.join(folder, name)
        if not os.path.exists(path):
            sys.exit(f"{name} was synced, and is not there")
        with open(path, "rb") as file:
            if hashlib.sha256(file.read()).hexdigest() != digest:
                sys.exit(f"{name} was synced, and holds something else")
    print(len(expected))


if sys.argv[1] == "write":
    write(sys.argv[2], sys.argv[3], sys.argv[4])
else:
    check(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
