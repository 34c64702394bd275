#!/usr/bin/env python3
"""Measures what UUIDs from the kernel cost: CPU time of `flowarc headers` for the same connections, with and without them.

    kernel_cost.py target/release/flowarc [--connections 20000] [--rounds 3]

Each round runs the load once with --uuid.source=generated and once with kernel, in this order and then the other way round,
each time on a fresh process in fresh namespaces. Prints microseconds of CPU time for a connection (user and system, as
/proc/PID/stat has them), the median of the rounds, and their ratio. Needs root.
"""

import argparse
import os
import pathlib
import statistics
import sys
import time

sys.dont_write_bytecode = True
from live_headers import Flowarc  # noqa: E402
from live_kernel import connections  # noqa: E402
from netlab import Netlab  # noqa: E402

SAVED = 'flowarc_archive_flows_total{outcome="saved"}'


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(binary, source, count):
    """CPU microseconds for a connection, from before the first to after the last file, and connections a second."""
    with Netlab() as lab:
        flowarc = Flowarc(lab, binary, "--uuid.source", source)
        time.sleep(1)
        before = cpu_seconds(flowarc.process.pid)
        took, _ = connections(lab, count)
        deadline = time.monotonic() + 300
        # Not by looking into the folder: writers would wait for its lock, and burn time.
        while flowarc.alive() and (flowarc.metric(SAVED) or 0) < count and time.monotonic() < deadline:
            time.sleep(1)
        used = cpu_seconds(flowarc.process.pid) - before
        flowarc.terminate()
        return used / count * 1e6, count / took


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("--connections", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("kernel_cost.py: needs root to make network namespaces")
    results = {"generated": [], "kernel": []}
    for number in range(args.rounds):
        for source in sorted(results, reverse=number % 2 == 1):
            used, rate = measure(args.binary.resolve(), source, args.connections)
            results[source].append(used)
            print(f"{source}: {used:.1f} us for a connection, at {rate:.0f} connections/s", flush=True)
    without, with_kernel = (statistics.median(results[source]) for source in ("generated", "kernel"))
    print(f"median: generated {without:.1f} us, kernel {with_kernel:.1f} us, ratio {with_kernel / without:.2f}")


if __name__ == "__main__":
    main()
