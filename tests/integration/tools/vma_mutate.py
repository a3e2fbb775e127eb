#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Makes damaged, hostile and odd VMA archives, and holds a program to what it must do with each.

usage: vma_mutate.py CBT-VMA FOLDER [--memory MIB] [--address-space MIB] [--only PART-OF-A-NAME] [--write | --table]

Each kind says which commands refuse it, and a part of the message; else the disks and files that come out. Never may
there be a signal, more memory than allowed, a file outside the folder, an error without a message, output that a
terminal would obey, or a disk under its own name after an error. With --write the archives are only written into
FOLDER; with --table the kinds are only listed.
"""
import concurrent.futures
import os
import resource
import shutil
import subprocess
import sys
import threading

from vma_build import Archive
from vma_kinds import KINDS
import vma_kinds_header  # they register their kinds
import vma_kinds_body
from vma_kinds_stream import Sums


class Failure(Exception):
    pass


def need(condition, what):
    if not condition:
        raise Failure(what)


def material(made):
    """Bytes of the archive, its checksums or None, expected files or None."""
    if isinstance(made, Archive):
        return made.build(), None, made.expected
    if isinstance(made, Sums):
        return made.data, made, made.archive.expected
    if isinstance(made, tuple):
        return made[0], None, lambda: made[1]
    return made, None, None


class Run:
    """One command: its status, output, message and peak memory."""

    def __init__(self, words, folder):
        with open(os.path.join(folder, "message"), "wb+") as message, open(os.path.join(folder, "output"), "wb+") as output:
            process = subprocess.Popen(words, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=message)
            timer = threading.Timer(120, process.kill)
            timer.start()
            _, status, usage = os.wait4(process.pid, 0)  # at least the memory of this program, from before exec
            timer.cancel()
            process.returncode = self.status = os.waitstatus_to_exitcode(status)
            self.peak_mib = usage.ru_maxrss >> 10
            message.seek(0)
            self.message = message.read().decode(errors="replace")
            output.seek(0)
            self.output = output.read()


def hold(run, command, refused, text, memory_mib):
    need(run.status >= 0, f"{command}: signal {-run.status}: {run.message[-2000:]}")
    need(run.status == (1 if refused else 0), f"{command}: status {run.status}: {run.message}")
    need(run.peak_mib <= memory_mib, f"{command}: took {run.peak_mib} MiB")
    need(not refused or run.message.startswith("cbt-vma: "), f"{command}: says nothing")
    need(not refused or text in run.message, f"{command}: should say '{text}', but says: {run.message}")
    need(all(c.isprintable() or c == "\n" for c in run.message), f"{command}: unprintable: {run.message!r}")
    if command in ("list", "verify"):
        shown = run.output.decode(errors="replace")
        need(all(c.isprintable() and c != "\ufffd" or c == "\n" for c in shown), f"{command}: unprintable: {shown!r}")


def check_files(folder, files):
    need(os.path.isdir(folder), "nothing came out")
    names = sorted(os.listdir(folder))
    need(names == sorted(files), f"there came out {names}")
    for name, content in files.items():
        with open(os.path.join(folder, name), "rb") as file:
            need(file.read() == content, f"{name} has other bytes")


def check_refused(folder, what):
    """What a refused extraction left: nothing that looks like a whole disk."""
    if what in ("header", "names"):
        need(not os.path.exists(folder), "there is a folder")
    elif os.path.exists(folder):
        disks = [name for name in os.listdir(folder) if name.startswith("disk-") or name.startswith("vmstate")]
        need(all(name.endswith(".partial") for name in disks), f"there came out {disks}")


def check_outside(folder, before):
    need(sorted(os.listdir(folder)) == before, f"files outside: {sorted(os.listdir(folder))}")
    out = os.path.join(folder, "out")
    for path, folders, names in os.walk(out):
        need(path == out and not folders, f"folders in the target: {folders}")
        need(not any(os.path.islink(os.path.join(path, name)) for name in names), "a link")


def write_material(path, made):
    """Returns a function that makes the expected files, or None."""
    data, sums, files = material(made)
    with open(path, "wb") as file:
        file.write(data)
    if sums is not None:
        with open(path + ".xxh3", "wb") as file:
            last = sums.text.rfind(b"\n", 0, len(sums.text) - 1) + 1 if sums.hole else len(sums.text)
            file.write(sums.text[:last])
            file.seek(sums.hole, os.SEEK_CUR)
            file.write((b"\n" if sums.hole else b"") + sums.text[last:])
    return files


def check_config(run, refused):
    need(run.status in ((1,) if refused else (0, 1)), f"config: status {run.status}: {run.message}")
    need(refused or run.status == 0 or "has no configuration file" in run.message, f"config: says: {run.message}")


def check_kind(program, folder, made, what, text, memory_mib):
    files = write_material(os.path.join(folder, "a.vma"), made)
    del made
    refused = {"ok": (), "names": ("extract",), "body": ("verify", "extract"), "sums": ("verify", "extract"),
               "header": ("list", "config", "verify", "extract")}[what]
    before = sorted(os.listdir(folder) + ["message", "out", "output"])
    peak = 0
    for command, words in {"list": [], "verify": [], "extract": ["out"]}.items():
        run = Run([program, command, "a.vma", *words], folder)
        hold(run, command, command in refused, text, memory_mib)
        peak = max(peak, run.peak_mib)
    check_config(Run([program, "config", "a.vma"], folder), "config" in refused)
    run = Run([program, "verify", "a.vma", "-v"], folder)
    need(run.status == (1 if "verify" in refused else 0), f"verify -v: status {run.status}: {run.message}")
    if not os.path.exists(os.path.join(folder, "out")):
        before.remove("out")
    check_outside(folder, before)
    if what == "ok":
        check_files(os.path.join(folder, "out"), files())
    else:
        check_refused(os.path.join(folder, "out"), what)
    return peak


def check_in_folder(program, top, name, memory_mib):
    """Whether all is as it should be, and the peak of memory."""
    function, what, text = KINDS[name]
    folder = os.path.join(top, name, "inner", "inner")
    os.makedirs(folder)
    try:
        peak = check_kind(program, folder, function(), what, text, memory_mib)
        need(os.listdir(os.path.join(top, name)) == ["inner"], "files outside")
        need(os.listdir(os.path.join(top, name, "inner")) == ["inner"], "files outside")
        return True, peak
    except Failure as failure:
        print(f"FAILED: {name}: {failure}")
        return False, 0
    finally:
        shutil.rmtree(os.path.join(top, name))


def write_all(folder, only):
    os.makedirs(folder, exist_ok=True)
    for name, (function, _, _) in KINDS.items():
        if only in name:
            write_material(os.path.join(folder, name + ".vma"), function())


def print_table():
    verdicts = {"ok": "accepted", "names": "extract refuses", "body": "verify and extract refuse",
                "sums": "verify and extract refuse", "header": "refused"}
    for name, (_, what, text) in KINDS.items():
        print(f"{name:60} {verdicts[what]:26} {text}")


def option(words, name, default):
    return words[words.index(name) + 1] if name in words else default


def main(words):
    program, top = os.path.abspath(words[0]), words[1]
    memory_mib, address_space = int(option(words, "--memory", "150")), int(option(words, "--address-space", "0"))
    if address_space:  # of this program too
        resource.setrlimit(resource.RLIMIT_AS, (address_space << 20, address_space << 20))
    only = option(words, "--only", "")
    if "--write" in words:
        write_all(top, only)
        return
    if "--table" in words:
        print_table()
        return
    names = [name for name in KINDS if only in name]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(lambda name: check_in_folder(program, top, name, memory_mib), names))
    failed, peak = sum(not ok for ok, _ in results), max(peak for _, peak in results)
    n, n_accepted = len(names), sum(KINDS[name][1] == "ok" for name in names)
    need(not os.path.exists("/tmp/cbt-evil") and not os.path.exists("/tmp/evil"), "a file in /tmp")
    print(f"{n} kinds of archives, {n_accepted} to accept and {n - n_accepted} to refuse: {failed} failed; at most {peak} MiB")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
