#!/usr/bin/env python3
"""Has a real Prometheus scrape real runs of flowarc and evaluate every expression of the dashboards and of the rules.

    expressions.py FLOWARC PROMETHEUS

Between two namespaces; Prometheus listens on the loopback of one of them. Each panel must have series, and so must each
selector of each alert; no alert may be on its way while all is well. Then things are broken, and their alerts must be.
"""

import contextlib
import json
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.parse

import yaml

sys.dont_write_bytecode = True
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests/lab"))
from netlab import Netlab, until  # noqa: E402

RULES = REPOSITORY / "deploy/prometheus/rules.yaml"
BOARDS = sorted((REPOSITORY / "deploy").glob("grafana-*.json"))
HEADERS, CAPTURE, PROMETHEUS = "127.0.0.1:9990", "127.0.0.1:9991", "127.0.0.1:9090"
# What Grafana puts in. The interval is long enough for every scrape interval here.
GRAFANA = {"$__rate_interval": "1m", "$instance": ".*"}
EMPTY_WHEN_ALL_IS_WELL = {"Alerts firing"}
SCRAPES = 8  # seconds, at one scrape a second
# A metric with its labels; other words of PromQL are not followed by a brace, or do not begin so.
SELECTOR = re.compile(r"\b(?:(?:flowarc|pcap|process)_\w+|up\b)(?:\{[^}]*\})?")


class Run:
    """Two daemons, traffic, and a Prometheus that scrapes them each second."""

    def __init__(self, lab, flowarc, prometheus):
        self.lab = lab
        events, self.disk = lab.top / "events.sock", lab.top / "disk"
        self.server = lab.server(events)
        common = ("--interface", lab.server_if)
        # Both sources give a connection one name.
        prefix = lab.top / "prefix"
        prefix.write_text("lab_1")
        self.headers = self.start(
            "headers", flowarc, "headers", *common, "--datadir", self.disk / "archive", "--catalog", lab.top / "catalog",
            "--uuid.source", "both", "--uuid.prefix-file", prefix, "--tcpinfo.eventsocket", events, "--eventsocket.serve", lab.top / "served.sock",
            "--prometheusx.listen-address", HEADERS,
        )  # fmt: skip
        self.capture = self.start(
            "capture", flowarc, "capture", *common, "--datadir", lab.top / "spool", "--cutoff.bytes", "64KB",
            "--class", "lab=port 12345:all", "--retain.bytes", "1GB", "--prometheusx.listen-address", CAPTURE,
        )  # fmt: skip
        config = lab.top / "prometheus.yml"
        config.write_text(
            json.dumps({
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(RULES)],
                "scrape_configs": [{"job_name": "flowarc", "static_configs": [{"targets": [HEADERS, CAPTURE]}]}],
            })
        )
        flags = (f"--config.file={config}", f"--storage.tsdb.path={lab.top / 'tsdb'}", f"--web.listen-address={PROMETHEUS}")
        for address in (HEADERS, CAPTURE):
            until(f"{address} is ready", lambda address=address: self.get(address, "/readyz") is not None)
        self.start("prometheus", prometheus, *flags)
        until("Prometheus is ready", lambda: self.get(PROMETHEUS, "/-/ready") is not None)

    def start(self, name, *command):
        with (self.lab.top / f"{name}.log").open("w") as log:
            return self.lab.start(self.lab.server_ns, *command, stdout=log, stderr=log, cwd=self.lab.top)

    def get(self, address, path):
        """The body, or None if there is none."""
        command = ["ip", "netns", "exec", self.lab.server_ns, "curl", "-sS", "-m", "10", "--fail-with-body", f"http://{address}{path}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
        return done.stdout if done.returncode == 0 or (done.stdout and address == PROMETHEUS) else None

    def query(self, expression):
        """The series of an instant query."""
        answer = json.loads(self.get(PROMETHEUS, "/api/v1/query?" + urllib.parse.urlencode({"query": expression})))
        assert answer["status"] == "success", f"{expression}: {answer['error']}"
        assert not answer.get("warnings"), f"{expression}: {answer['warnings']}"
        return answer["data"]["result"]

    def alerts(self):
        """Alerts that fire, or will when they have lasted."""
        return {series["metric"]["alertname"] for series in self.query("ALERTS")}


def main(flowarc, prometheus):
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    with Netlab() as lab, small_disk(lab.top / "disk"):
        run = Run(lab, flowarc, prometheus)
        end = time.monotonic() + SCRAPES
        while time.monotonic() < end:
            lab.client(20)
            time.sleep(0.5)
        # The last files appear, and a scrape sees them.
        time.sleep(3)
        panels = check_panels(run)
        selectors = check_rules(run, rules)
        assert not run.alerts(), f"while all is well: {run.alerts()}"
        print(f"{panels} expressions of {len(BOARDS)} dashboards have series; {len(rules)} rules evaluate, {selectors} selectors have series")
        broken(run)


@contextlib.contextmanager
def small_disk(folder):
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "flowarc-test", folder], check=True)
    try:
        yield
    finally:
        # flowarc, in another mount namespace, may still have files on it.
        subprocess.run(["umount", "--lazy", folder], check=True)


def check_panels(run):
    count = 0
    for path in BOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                expression = target["expr"]
                for variable, value in GRAFANA.items():
                    expression = expression.replace(variable, value)
                series = run.query(expression)
                assert series or panel["title"] in EMPTY_WHEN_ALL_IS_WELL, f"{path.name}: {panel['title']}: no series: {expression}"
                count += 1
    return count


def check_rules(run, rules):
    groups = json.loads(run.get(PROMETHEUS, "/api/v1/rules"))["data"]["groups"]
    health = {(rule["name"], rule["health"], rule.get("lastError", "")) for group in groups for rule in group["rules"]}
    assert {name for name, *_ in health} == {rule["alert"] for rule in rules}
    assert all(how == "ok" for _, how, _ in health), [bad for bad in health if bad[1] != "ok"]
    count = 0
    for rule in rules:
        selectors = SELECTOR.findall(rule["expr"])
        assert selectors, rule["alert"]
        for selector in selectors:
            assert run.query(selector), f"{rule['alert']}: no series: {selector}"
            count += 1
    return count


def broken(run):
    """What the operator of a real server would see."""
    filler = run.disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    run.lab.client(20)
    until("FlowarcDiskRefuses is on its way", lambda: "FlowarcDiskRefuses" in run.alerts())
    waiting = float(run.query("flowarc_archive_files_waiting")[0]["value"][1])
    filler.unlink()
    until("no file waits for the disk", lambda: "FlowarcDiskRefuses" not in run.alerts())
    print(f"disk full: {waiting:.0f} files waited, and appeared when there was room")

    run.server.command("events stop")
    run.capture.send_signal(signal.SIGKILL)
    run.capture.wait()
    expected = {"FlowarcEventSocketLost", "FlowarcNotReady", "FlowarcDown"}
    until(f"{expected} are on their way", lambda: run.alerts() >= expected)
    print(f"event socket and capture gone: {', '.join(sorted(run.alerts()))}")


main(*(pathlib.Path(program).resolve() for program in sys.argv[1:]))
