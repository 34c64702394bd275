#!/usr/bin/env python3
"""Holds each dashboard in deploy/ to Grafana's own model of one, and to a few rules that it leaves open.

    boards.py
"""

import itertools
import json
import pathlib

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

BOARDS = sorted((pathlib.Path(__file__).resolve().parents[2] / "deploy").glob("grafana-*.json"))
UNITS = {"short", "pps", "Bps", "bytes", "s", "percentunit"}
COLUMNS = 24


def main():
    register_default_plugins()
    boards = {path.name: json.loads(path.read_text()) for path in BOARDS}
    assert len(boards) >= 3, boards.keys()
    assert len({board["uid"] for board in boards.values()}) == len(boards), "two boards have one uid"
    for name, board in boards.items():
        known = json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder))
        unknown = list(lost(board, known))
        assert not unknown, f"{name}: Grafana does not know {unknown}"
        assert board["schemaVersion"] >= 39 and board["refresh"] and board["time"], name
        source, *_ = board["templating"]["list"]
        assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus"), name
        panels = board["panels"]
        ids = [panel["id"] for panel in panels]
        assert len(set(ids)) == len(ids), f"{name}: two panels have one id"
        for a, b in itertools.combinations(panels, 2):
            assert not overlap(a["gridPos"], b["gridPos"]), f"{name}: {a['title']} lies on {b['title']}"
        for panel in panels:
            check_panel(f"{name}: {panel['title']}", panel)
    print(f"{len(boards)} dashboards, {sum(len(b['panels']) for b in boards.values())} panels")


def check_panel(name, panel):
    grid = panel["gridPos"]
    assert grid["x"] + grid["w"] <= COLUMNS and grid["h"] > 0, f"{name}: {grid}"
    if panel["type"] == "row":
        return
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, name
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, name
    references = [target["refId"] for target in panel["targets"]]
    assert references and len(set(references)) == len(references), name
    several = len(panel["targets"]) > 1
    assert all(target.get("legendFormat") for target in panel["targets"] if several), f"{name}: which line is which?"


def lost(given, known, path=""):
    """Where two values differ."""
    if isinstance(given, dict) and isinstance(known, dict):
        for key, value in given.items():
            yield from lost(value, known[key], f"{path}.{key}") if key in known else [f"{path}.{key}"]
    elif isinstance(given, list) and isinstance(known, list) and len(given) == len(known):
        for number, (a, b) in enumerate(zip(given, known)):
            yield from lost(a, b, f"{path}[{number}]")
    elif given != known:
        yield f"{path}: {given!r}"


def overlap(a, b):
    return all(a[at] < b[at] + b[size] and b[at] < a[at] + a[size] for at, size in (("x", "w"), ("y", "h")))


main()
