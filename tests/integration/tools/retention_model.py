# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a prune must keep, written from the description of the semantics alone (Proxmox Backup's)."""

import time

# In the order in which the rules are applied; periods are those of the local clock.
RULES = {
    "keep-last": None,
    "keep-hourly": "%Y-%m-%d %H",
    "keep-daily": "%Y-%m-%d",
    "keep-weekly": "%G/%V",
    "keep-monthly": "%Y-%m",
    "keep-yearly": "%Y",
}


def _period(point, form):
    return time.strftime(form, time.localtime(point["time"])) if form else point["uuid"]


def kept(points, numbers):
    """The set of uuids that stay of POINTS (`uuid`, `time`, `protected`), with NUMBERS by rule."""
    protected = {point["uuid"] for point in points if point["protected"]}
    if not any(numbers.values()):
        return {point["uuid"] for point in points}
    counted = sorted((point for point in points if not point["protected"]), key=lambda point: -point["time"])
    marks = {}  # uuid to whether it is kept
    for rule, form in RULES.items():
        before = {_period(point, form) for point in counted if marks.get(point["uuid"])}
        met = set()
        for point in counted:
            period = _period(point, form)
            if point["uuid"] in marks or period in before:
                continue
            if period not in met and len(met) == numbers.get(rule, 0):
                break
            marks[point["uuid"]] = period not in met
            met.add(period)
    return protected | {uuid for uuid, is_kept in marks.items() if is_kept}
