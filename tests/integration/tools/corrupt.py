# SPDX-License-Identifier: LGPL-2.1-or-later
"""corrupt.py BUILD STATE WORK TRIALS SEED: damages one thing in a copy of a state directory, again and again.

Each trial flips a bit of a file, or cuts or removes one, and then asks whoever would notice: `store check`, the start
of the daemon, `verify --all`, and a restore of each disk of each point. Required is that

- damage is found and named, or else everything is as it was: all points listed alike and restored byte for byte;
- a point that nobody calls damaged restores, and one that is called so restores right or not at all;
- no process dies of a signal or of an assertion.
"""
import collections, glob, hashlib, http.client, json, os, random, re, shutil, signal, socket, subprocess, sys, time

build, pristine, work = sys.argv[1:4]
trials, seed = int(sys.argv[4]), int(sys.argv[5])
rand = random.Random(seed)
state, run = os.path.join(work, "trial"), os.path.join(work, "trial.run")
store = os.path.join(state, "store")
log_path = os.path.join(work, "trial.log")
UNNAMED = {"verified", "damaged"}  # of a point: what verify changes


class Wrong(Exception):
    pass


def expect(condition, text):
    if not condition:
        raise Wrong(text)


# ---- the daemon ----

class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(120)
        self.sock.connect(os.path.join(run, "api.sock"))


def request(method, path, body=None):
    connection = Connection("localhost")
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json"} if text else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def get(path):
    status, body = request("GET", path)
    expect(status == 200, f"GET {path}: {status} {body[:500]}")
    return json.loads(body)


def log_text():
    with open(log_path, errors="replace") as file:
        return file.read()


def end(daemon, stop):
    """Its exit status; a signal that it did not catch, or an assertion, is wrong."""
    if stop:
        daemon.send_signal(signal.SIGTERM)
    try:
        result = daemon.wait(60)
    except subprocess.TimeoutExpired:
        daemon.kill()
        raise Wrong("the daemon does not end")
    expect(result >= 0, f"the daemon died of signal {-result}")
    bad = re.search(r".*(CRITICAL|ERROR \*\*|[Aa]ssertion|Sanitizer|runtime error).*", log_text())
    expect(not bad, f"the log says: {bad and bad.group(0)}")
    return result


def start(*options):
    """The daemon once it answers, or None and its exit status."""
    command = [os.path.join(build, "bin/cbt-backupd"), "--state-dir", state, "--runtime-dir", run, *options]
    with open(log_path, "ab") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log)
    for _ in range(6000):
        if daemon.poll() is not None:
            return None, end(daemon, False)
        try:
            request("GET", "/v1/status")
            return daemon, 0
        except (OSError, http.client.HTTPException):
            time.sleep(0.005)
    daemon.kill()
    raise Wrong("the daemon does not answer")


def restore(uuid, disk):
    """The digest of what comes, or None if it says that it cannot."""
    try:
        status, body = request("GET", f"/v1/points/{uuid}/archive?format=raw&disk={disk}")
    except http.client.HTTPException:
        return None  # it broke off
    return hashlib.sha256(body).hexdigest() if status == 200 else None


def list_points():
    points = get("/v1/points")
    return {point["uuid"]: {key: point[key] for key in point if key not in UNNAMED} for point in points}


def list_vms():
    return {vm["name"]: [(disk["name"], disk["path"]) for disk in vm["disks"]] for vm in get("/v1/vms")}


def restore_all(points):
    return {(uuid, disk["name"]): restore(uuid, disk["name"]) for uuid, point in points.items()
            for disk in point["disks"]}


def verify_all():
    status, body = request("POST", "/v1/verify", {"all": True})
    expect(status == 202, f"verify: {status} {body[:500]}")
    job = get(f"/v1/jobs/{json.loads(body)['id']}?wait-ms=100000")
    expect(job["status"] in ("done", "error"), f"verify does not end: {job}")
    return job


def check():
    done = subprocess.run([os.path.join(build, "bin/cbt-backup"), "store", "check", "--store", store, "--json"],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    expect(done.returncode in (0, 1, 6), f"store check ended with {done.returncode}: {done.stderr}")
    return done.returncode, json.loads(done.stdout)


# ---- damage ----

HARMLESS = ", of zeros"  # ends what is said of damage that need not be noticed


def records(path):
    """(offset, type, length of header and payload) of each record of a pack."""
    with open(path, "rb") as file:
        data = file.read()
    at = 64
    while data[at:at + 4] == b"CBTR":
        length = 48 + int.from_bytes(data[at + 12:at + 16], "little")
        yield at, data[at + 4], length
        at += (length + 15) // 16 * 16


def flip(path, at):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ (1 << rand.randrange(8))]))


def flip_any(path):
    at = rand.randrange(os.path.getsize(path))
    flip(path, at)
    return f"a bit at {at}"


def cut(path):
    """Of a database whose last page ends in zeros, nothing may be lost: SQLite reads zeros behind the end of a page."""
    length = rand.randrange(os.path.getsize(path))
    with open(path, "r+b") as file:
        file.seek(length)
        lost = file.read()
        file.truncate(length)
    return f"cut to {length}" + ("" if len(lost) >= 4096 or any(lost) else HARMLESS)


def remove(path):
    os.remove(path)
    return "missing"


def flip_record(kind):
    def flip_in(path):
        found = [record for record in records(path) if record[1] == kind]
        if not found:
            return None
        at, _, length = rand.choice(found)
        at += rand.randrange(length)
        flip(path, at)
        return f"a bit at {at}"
    return flip_in


def flip_tail(path):
    """In the table of contents or the footer."""
    end_of_records = max(at + (length + 15) // 16 * 16 for at, _, length in records(path))
    if end_of_records >= os.path.getsize(path):
        return None
    at = rand.randrange(end_of_records, os.path.getsize(path))
    flip(path, at)
    return f"a bit at {at}"


def flip_head(path):
    at = rand.randrange(64)
    flip(path, at)
    return f"a bit at {at}"


PACKS, POINTS, VMS = "store/packs/*.pack", "store/points/*.point", "store/vms/*.vm"
# What is damaged, how; whether that must be noticed whatever is hit (all of it is checked, and it is needed).
KINDS = [
    ("pack: a bit of a cluster", PACKS, flip_record(1), True),
    ("pack: a bit of a page", PACKS, flip_record(2), True),
    ("pack: a bit of a table", PACKS, flip_tail, True),
    ("pack: a bit of the header", PACKS, flip_head, True),
    ("pack: any bit", PACKS, flip_any, False),
    ("pack: cut", PACKS, cut, False),
    ("pack: missing", PACKS, remove, True),
    ("index: a bit", "store/index", flip_any, False),
    ("index: cut", "store/index", cut, False),
    ("index: missing", "store/index", remove, False),
    ("point: a bit", POINTS, flip_any, True),
    ("point: cut", POINTS, cut, True),
    ("point: missing", POINTS, remove, True),
    ("vm: a bit", VMS, flip_any, True),
    ("vm: cut", VMS, cut, True),
    ("vm: missing", VMS, remove, True),
    ("catalogue: a bit", "catalogue.sqlite", flip_any, False),
    ("catalogue: cut", "catalogue.sqlite", cut, True),
    ("catalogue: missing", "catalogue.sqlite", remove, True),
    ("format: a bit", "store/format", flip_any, True),
    ("format: cut", "store/format", cut, True),
    ("format: missing", "store/format", remove, True),
]


def names_of(path):
    """One of these must be in what is said."""
    name = os.path.basename(path)
    stem = name.split(".")[0]
    return [name, f"vm '{stem}'"] if name.endswith(".vm") else [stem]


# ---- a trial ----

def said_by_check(report):
    return [json.dumps(item) for item in report.get("damage", [])] + \
        ([json.dumps(report["error"])] if "error" in report else [])


def points_of_check(report):
    found = set()
    for item in report.get("damage", []):
        found.update(use["point"] for use in item.get("used-by", []))
        if "point" in item:
            found.add(item["point"])
    return found


def warnings():
    words = ("WARNING", "made again", "taken into the catalogue")
    return [line for line in log_text().splitlines() if any(word in line for word in words)]


def start_again(kind):
    """It did not start: what its message asks for is done."""
    if not kind.startswith("catalogue"):
        return None
    daemon, result = start("--rebuild-catalogue")
    expect(daemon, f"--rebuild-catalogue ended with {result}: {log_text()[-2000:]}")
    return daemon


def look(kind, said, affected):
    """Asks check, the daemon and its verify; gives points, vms and restores as they are now, None if it does not
    start."""
    result, report = check()
    if result != 0:
        said["check"] += said_by_check(report)
    affected |= points_of_check(report)
    daemon, result = start()
    if not daemon:
        expect(result in (1, 6), f"the daemon ended with {result}")
        said["start"].append(log_text())
        daemon = start_again(kind)
        if not daemon:
            return None
    try:
        said["start"] += warnings()
        job = verify_all()
        if job["status"] == "error":
            said["verify"].append(json.dumps(job))
            affected |= {entry["point"] for entry in job.get("damaged-points", [])}
        points = list_points()
        found = points, list_vms(), restore_all(points)
    except BaseException:
        daemon.kill()
        daemon.wait()
        raise
    result = end(daemon, True)
    expect(result == 0, f"the daemon ended with {result}")
    return found


def judge(found, expected, said, affected, what, must):
    is_found = any(said.values())
    expect(is_found or not must or what.endswith(HARMLESS), f"{what}: nobody noticed")
    if not found:
        return
    points, vms, restores = found
    for key, digest in expected[2].items():
        if key not in restores:
            expect(is_found, f"{what}: point {key[0]} is gone, and nobody says so")
            expect(key[0] in affected or key[0] in json.dumps(said), f"{what}: nobody names point {key[0]}")
        elif restores[key] is None:
            expect(key[0] in affected, f"{what}: {key} does not restore, and nobody names it: {said}")
        else:
            expect(restores[key] == digest, f"{what}: {key} restores to something else")
    if not is_found:
        expect(points == expected[0] and vms == expected[1], f"{what}: something else is listed: {points} {vms}")


def trial(kind, pattern, harm, must, expected):
    shutil.rmtree(state, ignore_errors=True)
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(pristine, state)
    os.mkdir(run)
    open(log_path, "w").close()
    path = rand.choice(sorted(glob.glob(os.path.join(state, pattern))))
    how = harm(path)
    if how is None:
        return None
    what = f"{kind}: {os.path.relpath(path, state)}, {how}"
    said, affected = collections.defaultdict(list), set()
    try:
        found = look(kind, said, affected)
        judge(found, expected, said, affected, what, must)
        texts = [text for texts in said.values() for text in texts]
        expect(not texts or any(name in text for text in texts for name in names_of(path)),
               f"{what}: what is said does not name it: {texts}")
    except Wrong as wrong:
        raise Wrong(f"{what}\n{wrong}\ncheck: {said['check']}\nlog: {log_text()[-3000:]}") from None
    return "+".join(key for key in ("check", "start", "verify") if said[key]) or "harmless"


def main():
    said, affected = collections.defaultdict(list), set()
    shutil.copytree(pristine, state)
    os.mkdir(run)
    expected = look("nothing", said, affected)
    expect(not any(said.values()), f"something is said of a sound store: {dict(said)}")
    expect(None not in expected[2].values(), "a point of a sound store does not restore")
    counts = collections.defaultdict(collections.Counter)
    n = 0
    while n < trials:
        kind, pattern, harm, must = KINDS[n % len(KINDS)]
        outcome = trial(kind, pattern, harm, must, expected)
        if outcome:
            counts[kind][outcome] += 1
            n += 1
    for kind, *_ in KINDS:
        print(f"-- {kind}: " + ", ".join(f"{count} {outcome}" for outcome, count in counts[kind].most_common()))
    print(f"-- {trials} trials, {sum(counter['harmless'] for counter in counts.values())} of them harmless")


try:
    main()
except Wrong as wrong:
    sys.exit(f"FAILED (seed {seed}): {wrong}")
