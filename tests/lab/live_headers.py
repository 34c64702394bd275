#!/usr/bin/env python3
"""Runs `flowarc headers` on real connections between two namespaces and compares its files with tcpdump's capture.

    live_headers.py target/debug/flowarc [SCENARIO...] [--long]

One line per scenario, PASS or FAIL with figures; exit 1 if any failed. Needs root: without it, it says so and
exits 0, or 1 where CI=true promised root. Scenarios: see the functions below.
"""

import argparse
import gzip
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import zlib

sys.dont_write_bytecode = True
import reference  # noqa: E402
from netlab import PATIENCE, Netlab, until  # noqa: E402

import archive_file  # noqa: E402  (reference.py made it importable)

ADMIN = "127.0.0.1:9990"  # each scenario has a namespace, hence a loopback, of its own
SIGTERM_WAIT = 1.0  # seconds, the default of --sigtermwait
END_SLACK = 2.0  # seconds that writing all held flows may take beyond that


class Failed(Exception):
    """What was seen instead."""


class Flowarc:
    """The program under test on the server's interface, with folders that outlive it."""

    def __init__(self, lab, binary, *flags, events=None, interface=None, before=()):
        self.lab, self.data, self.temporary = lab, lab.top / "data", lab.top / "tmp"
        self.log = lab.top / "flowarc.log"
        self.command = [*before, binary, "headers", "--interface", interface or lab.server_if]
        self.command += ["--datadir", self.data, "--tmpdir", self.temporary]
        self.command += ["--prometheusx.listen-address", ADMIN, *flags]
        self.command += ["--tcpinfo.eventsocket", events] if events else []
        if not events and "--uuid.source" not in flags:
            self.command += ["--uuid.source", "generated"]
        self.start()

    def start(self):
        # Flags fall back to environment variables: the caller's must not change the result.
        env = {k: os.environ[k] for k in ("PATH", "RUST_BACKTRACE", "LLVM_PROFILE_FILE") if k in os.environ}
        with self.log.open("a") as log:
            self.process = self.lab.start(self.lab.server_ns, *self.command, stderr=log, stdout=log, env=env)
        until("flowarc is ready", lambda: self.alive() and self.http("/readyz") is not None)

    def alive(self):
        if self.process.poll() is not None:
            raise Failed(f"flowarc ended with {self.process.returncode}: {self.log.read_text()[-500:]}")
        return True

    def http(self, path):
        """The body, or None if the answer is not 2xx."""
        command = ["ip", "netns", "exec", self.lab.server_ns, "curl", "-sf", "-m", "2", f"http://{ADMIN}{path}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        return done.stdout if done.returncode == 0 else None

    def metric(self, name):
        """The value of a series, by its name and labels as they are written; None if it is not there."""
        # On a busy machine an answer may come too late: that is no missing series.
        body = next((body for body in (self.http("/metrics") for _ in range(5)) if body is not None), "")
        for line in body.splitlines():
            if line.startswith(name + " "):
                return float(line.split()[-1])
        return None

    def counted(self):
        """What is not zero of flows, events, files and the kernel's answers: for the message of a failure."""
        told = ("flowarc_flows_total", "flowarc_events_total", "flowarc_archive_files_total", "flowarc_kernel_")
        return "; ".join(line for line in (self.http("/metrics") or "nothing").splitlines() if line.startswith(told) and not line.endswith(" 0"))

    def interfaces(self):
        return self.metric("pcap_muxer_interfaces_with_captures")

    def terminate(self):
        """SIGTERM; the seconds that the end took."""
        self.alive()
        begin = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failed(f"still running {PATIENCE} s after SIGTERM") from None
        took = time.monotonic() - begin
        if code != 0:
            raise Failed(f"exit {code} after SIGTERM: {self.log.read_text()[-500:]}")
        return took

    def files(self):
        """Every file below the data folder, read whole; anything else fails."""
        result = {}
        for name, path in archive_file.files_below(self.data).items():
            if not name.endswith(".pcap.gz"):
                raise Failed(f"{name} in the data folder")
            try:
                result[name] = archive_file.read(path)
            except archive_file.BadFile as e:
                raise Failed(f"{name} is not whole: {e}") from e
            if any(reference.MARKER in r.data for r in result[name].records):
                raise Failed(f"{name} holds payload")
        return result


# Scenarios: each takes the lab, the binary and whether to be thorough, and returns its figures.


def buffered(lab, binary, long):
    """1,000 connections, IPv4 and IPv6, mixed sizes."""
    return thousand(lab, binary, long)


def stream(lab, binary, long):
    """The same with --stream."""
    return thousand(lab, binary, long, "--stream")


def shards(lab, binary, long):
    """The same with --shards 2."""
    return thousand(lab, binary, long, "--shards", "2")


def thousand(lab, binary, long, *flags, count=1000):
    server, flowarc = with_events(lab, binary, *flags)
    with lab.reference() as capture:
        lab.client(count)
        # All have ended: after their linger, files appear without any signal.
        waited = until_files(flowarc, count)
    took = flowarc.terminate()
    result = compared(flowarc, capture, server.connections(), count)
    if capture.dropped:
        raise Failed(f"the reference lost {capture.dropped} packets: repeat on a quieter machine")
    by_tshark = TSHARK_LONG if long else TSHARK_SAMPLE
    read_by_others(archive_file.files_below(flowarc.data).values(), by_tshark)
    return f"{result}; files after {waited:.1f} s; end took {took:.1f} s; tcpdump reads all, tshark {min(by_tshark, count)}"


def read_by_others(files, by_tshark):
    """tcpdump reads each file, and tshark, which takes a third of a second to start, some: both count the packets that we do."""
    for number, path in enumerate(sorted(files)):
        pcap = gzip.decompress(path.read_bytes())
        packets = len(archive_file.read(path).records)
        lines = subprocess.run(["tcpdump", "-nr", "-"], input=pcap, capture_output=True, check=False)
        if lines.returncode or lines.stdout.count(b"\n") != packets:
            raise Failed(f"tcpdump reads {lines.stdout.count(10)} of {packets} packets of {path.name}: {lines.stderr[-200:]!r}")
        if number < by_tshark:
            lines = subprocess.run(["tshark", "-n", "-r", path], capture_output=True, check=False)
            if lines.returncode or lines.stdout.count(b"\n") != packets:
                raise Failed(f"tshark reads {lines.stdout.count(10)} of {packets} packets of {path.name}: {lines.stderr[-200:]!r}")


TSHARK_SAMPLE = 20
TSHARK_LONG = 1000


def sigterm(lab, binary, _long, count=50):
    """SIGTERM while 50 connections are open: all of them on disk, exit 0 in time."""
    server, flowarc = with_events(lab, binary)
    with lab.reference() as capture:
        client = held(lab, count)
        time.sleep(0.2)
        told = time.time_ns()
        took = flowarc.terminate()
        client.stdin.close()
        client.wait(PATIENCE)
    if took > SIGTERM_WAIT + END_SLACK:
        raise Failed(f"the end took {took:.1f} s")
    return f"{compared(flowarc, capture, server.connections(), count, told)}; end took {took:.1f} s"


def events_restart(lab, binary, _long, count=100):
    """The event socket goes away and comes back: connections announced later have files."""
    server, flowarc = with_events(lab, binary)
    with lab.reference() as capture:
        lab.client(count)
        server.command("events stop")
        lab.client(20)
        unannounced = len(server.connections())
        server.command("events start")
        begin = time.monotonic()
        server.command("events wait")
        back = time.monotonic() - begin
        lab.client(count)
        until_files(flowarc, 2 * count)
    flowarc.terminate()
    all_of_them = server.connections()
    announced = all_of_them[:count] + all_of_them[unannounced:]
    return f"{compared(flowarc, capture, announced, 2 * count)}; reconnected after {back:.2f} s"


def link(lab, binary, _long, count=20):
    """The interface goes down and up, then is deleted and made anew: later connections have files."""
    server, flowarc = with_events(lab, binary)
    phases = []

    def phase(name):
        before = len(server.connections())
        with lab.reference(f"{name}.pcap") as capture:
            lab.client(count)
            until_files(flowarc, count * (len(phases) + 1))
        phases.append((name, capture, server.connections()[before:]))

    phase("before")
    lab.link_down()
    time.sleep(0.5)
    lab.link_up()
    until("flowarc captures after link down and up", lambda: flowarc.alive() and flowarc.interfaces() == 1)
    # The gauge may not have noticed the short absence at all.
    time.sleep(1)
    phase("after down and up")
    lab.delete_link()
    until("flowarc notices that the interface is gone", lambda: flowarc.alive() and flowarc.interfaces() == 0)
    lab.add_link()
    back = until("flowarc captures on the new interface", lambda: flowarc.alive() and flowarc.interfaces() == 1)
    phase("after delete and add")
    flowarc.terminate()
    results = [f"{name}: {compared(flowarc, capture, wanted, count)}" for name, capture, wanted in phases]
    return f"{'; '.join(results)}; new interface after {back:.2f} s"


def address(lab, binary, _long, count=20):
    """Connections to an address that was added while running have files."""
    server, flowarc = with_events(lab, binary)
    lab.add_addresses("198.51.100.{}/24")
    lab.add_addresses("2001:db8:99::{}/64")
    with lab.reference() as capture:
        lab.client(count, "198.51.100.1", "2001:db8:99::1")
        until_files(flowarc, count)
    flowarc.terminate()
    return str(compared(flowarc, capture, server.connections(), count))


def kill(lab, binary, long):
    """kill -9 at random moments with --stream: no partial file appears; what was sealed comes back at the next start."""
    dice, sealed_in_all, salvaged_in_all = random.Random(9), 0, 0
    _server, flowarc = with_events(lab, binary, "--stream")
    rounds = 50 if long else 5
    for number in range(rounds):
        # About 2,500 packets each: several segments.
        client = lab.client_in_background(20, "--forever", "--concurrency", "20", "--rounds", "1200", "--seed", str(number))
        time.sleep(dice.uniform(0.5, 5))
        flowarc.alive()
        flowarc.process.kill()
        flowarc.process.wait()
        client.kill()
        before = flowarc.files()
        sealed = sum(map(has_sealed_segment, archive_file.files_below(flowarc.temporary).values()))
        flowarc.start()

        def salvaged():
            return [name for name in archive_file.files_below(flowarc.data) if name not in before]

        try:
            until("what was sealed is back", lambda: len(salvaged()) >= sealed, 5)
        except TimeoutError:
            raise Failed(f"after kill {number + 1}: {sealed} flows had sealed segments, {len(salvaged())} came back") from None
        after = flowarc.files()
        if odd := [n for n in salvaged() if after[n].end != "Salvaged"]:
            raise Failed(f"{odd[0]} came back with end {after[odd[0]].end or 'not stated'}")
        sealed_in_all += sealed
        salvaged_in_all += len(salvaged())
    flowarc.terminate()
    if sealed_in_all == 0:
        raise Failed("no kill found a sealed segment: nothing was tested")
    whole = len(flowarc.files())
    return f"{rounds} kills, {whole} files whole, {sealed_in_all} flows with sealed segments, {salvaged_in_all} back"


# Helpers


def with_events(lab, binary, *flags):
    """A server that announces its connections, and flowarc listening to it."""
    socket = lab.top / "events.sock"
    server = lab.server(socket)
    flowarc = Flowarc(lab, binary, *flags, events=socket)
    server.command("events wait")
    return server, flowarc


def held(lab, count):
    """Connections that have exchanged data and stay open until their client's standard input is closed."""
    client = lab.client_in_background(count, "--hold")
    for _ in range(count):
        if client.stdout.readline() != "held\n":
            raise Failed("the client could not hold its connections")
    return client


def until_files(flowarc, count):
    """Waits for so many files, but not in vain: what is missing is for the comparison to say."""
    try:
        return until("files", lambda: flowarc.alive() and len(archive_file.files_below(flowarc.data)) >= count)
    except TimeoutError:
        return float("inf")


def compared(flowarc, capture, wanted, count, time_limit=None):
    extra = len(flowarc.files()) - count
    result = reference.compare(flowarc.data, wanted, reference.connections(capture.path), time_limit)
    if not result.all_whole(len(wanted)):
        raise Failed(f"{result} of {len(wanted)}")
    # Several phases share a data folder, so that more files than this phase's are no fault; without a name there are none.
    if extra < 0:
        raise Failed(f"{-extra} files too few")
    return result


def has_sealed_segment(path):
    """Whether a temporary file begins with a whole gzip member that holds at least one packet."""
    inflate = zlib.decompressobj(31)
    try:
        content = inflate.decompress(pathlib.Path(path).read_bytes())
    except zlib.error:
        return False
    return inflate.eof and len(content) > 24 + 16


SCENARIOS = {f.__name__.replace("_", "-"): f for f in (buffered, stream, shards, sigterm, events_restart, link, address, kill)}


def main(scenarios, description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("scenario", nargs="*", metavar="SCENARIO", help=f"all if none are given: {', '.join(scenarios)}")
    parser.add_argument("--long", action="store_true", help="more of everything")
    args = parser.parse_args()
    if unknown := set(args.scenario) - set(scenarios):
        parser.error(f"no scenario {', '.join(sorted(unknown))}: there are {', '.join(scenarios)}")
    if os.geteuid() != 0:
        print("SKIPPED: needs root to make network namespaces")
        return 1 if os.environ.get("CI") == "true" else 0
    failed = 0
    for name in args.scenario or scenarios:
        begin = time.monotonic()
        try:
            with Netlab() as lab:
                verdict, figures = "PASS", scenarios[name](lab, args.binary.resolve(), args.long)
        except (Failed, TimeoutError, RuntimeError) as e:
            verdict, figures = "FAIL", e
            failed += 1
        print(f"{verdict} {name}: {figures} [{time.monotonic() - begin:.0f} s]", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(SCENARIOS, __doc__.splitlines()[0]))
