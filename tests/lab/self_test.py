#!/usr/bin/env python3
"""Tests the lab itself against tcpdump alone: namespaces, real connections, announcements, reference, clean-up."""

import gzip
import json
import os
import socket
import struct
import subprocess
import sys
import threading

sys.dont_write_bytecode = True
import reference  # noqa: E402
from netlab import Netlab  # noqa: E402

COUNT = 200


def main():
    if os.geteuid() != 0:
        print("SKIPPED: needs root to make network namespaces")
        return 1 if os.environ.get("CI") == "true" else 0
    with Netlab() as lab:
        events_path = lab.top / "events.sock"
        server = lab.server(events_path)
        listener = Listener(events_path)
        with lab.reference() as capture:
            said = lab.client(COUNT)
        wanted = server.connections()
        flows = reference.connections(capture.path)
        check("the client's connections are whole", said == f"{COUNT} connections whole, 0 failed", said)
        check("all of them were accepted", len(wanted) == COUNT, len(wanted))
        check("tcpdump saw each one", all(reference.key_of(c) in flows for c in wanted), len(flows))
        check("tcpdump lost nothing", capture.dropped == 0, capture.dropped)
        check("each has both SYNs, data and both FINs", all(complete(flows[reference.key_of(c)]) for c in wanted), "")
        both = {":" in c["local"][0] for c in wanted}
        check("IPv4 and IPv6", both == {True, False}, both)

        server.command("events stop")
        check("each was announced once", sorted(listener.of_kind(0)) == sorted(c["uuid"] for c in wanted), len(listener.of_kind(0)))
        check("each end was announced once", sorted(listener.of_kind(1)) == sorted(listener.of_kind(0)), len(listener.of_kind(1)))
        server.command("events start")
        again = Listener(events_path)
        lab.client(1)
        server.command("events stop")
        check("a restarted event socket announces again", len(again.of_kind(0)) == 1, len(again.of_kind(0)))

        archive = lab.top / "archive"
        write_archive(archive, wanted, flows)
        good = reference.compare(archive, wanted, flows)
        check("an archive of the reference is whole", good.all_whole(COUNT), good)
        flows[reference.key_of(wanted[0])].pop()
        spoilt = reference.compare(archive, wanted, flows)
        check("a difference of one packet is seen", spoilt.different == 1, spoilt)

        held = lab.client_in_background(10, "--hold")
        for _ in range(10):
            check("a connection is held", held.stdout.readline() == "held\n", "", quiet=True)
        check("held connections are still open", held.poll() is None, "")
        held.stdin.close()
        check("held connections end when told", held.wait(10) == 0, held.returncode)

        lab.link_down()
        lab.link_up()
        check("connections after link down and up", lab.client(2).startswith("2 "), "")
        lab.delete_link()
        lab.add_link()
        check("connections after the link is made anew", lab.client(2).startswith("2 "), "")
        lab.add_addresses("198.51.100.{}/24")
        check("connections to an address added later", lab.client(2, "198.51.100.1").startswith("2 "), "")
        names = (lab.server_ns, lab.client_ns)
    left = subprocess.run(["ip", "netns", "list"], stdout=subprocess.PIPE, text=True, check=True).stdout
    check("no namespace is left", not any(n in left for n in names), left)
    return 0


class Listener:
    """Reads an event socket to its end."""

    def __init__(self, path):
        self.lines = []
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(path))
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        with self.sock, self.sock.makefile("rb") as lines:
            self.lines += (json.loads(line) for line in lines)

    def of_kind(self, kind):
        self.thread.join(10)
        return [e["UUID"] for e in self.lines if e["Event"] == kind]


def complete(records):
    flags = [r.data[(14 + 20 if r.data[12:14] == b"\x08\x00" else 54) + 13] for r in records]
    return flags[0] == 0x02 and flags[1] == 0x12 and sum(f & 1 for f in flags) >= 2


def write_archive(folder, wanted, flows):
    """What flowarc should write, in the plainest form."""
    for c in wanted:
        day = folder / c["date"]
        day.mkdir(parents=True, exist_ok=True)
        raw = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 256, 1)
        for r in sorted(flows[reference.key_of(c)], key=lambda r: r.ts):
            raw += struct.pack("<IIII", r.ts // 10**9, r.ts % 10**9, len(r.data), r.wire_len) + r.data
        (day / f"{c['uuid']}.pcap.gz").write_bytes(gzip.compress(raw, 1))


def check(what, true, seen, quiet=False):
    if not true:
        print(f"FAIL {what}: {seen}")
        sys.exit(1)
    if not quiet:
        print(f"PASS {what}")


if __name__ == "__main__":
    sys.exit(main())
