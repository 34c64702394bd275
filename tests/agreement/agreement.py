#!/usr/bin/env python3
"""How often flowarc, tshark and tcptrace say the same of a connection, figure by figure.

    agreement.py --flowarc BINARY [--corpus FOLDER] [--live] [--markdown] [--differences]

Compares on generated captures, whose truth is known too; with --corpus on every TCP connection of its capture files; with
--live (as root) on real connections through a forwarding process of this program, between two network namespaces, that
delays and drops. Exit status: 0 if the generated and live figures are as they must be, 1 if not, 77 where a tool is missing.
"""

import argparse
import collections
import csv
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import synth

TSHARK_FLAGS = {
    "retransmitted": ("retransmission", "fast_retransmission", "spurious_retransmission"),
    "spurious": ("spurious_retransmission",),
    "out of order": ("out_of_order",),
    "duplicate ACKs": ("duplicate_ack",),
    "zero windows": ("zero_window",),
    "keep-alives": ("keep_alive",),
}
FLAGS = sorted({flag for flags in TSHARK_FLAGS.values() for flag in flags})


def run(*args):
    return subprocess.run(args, capture_output=True, text=True, check=False).stdout


# ------------------------------------------------------------------------------------------------------- the tools
#
# Each returns a list of connections: {"key": frozenset of two ends, "packets": n, ends: {figure: value}}.


def flowarc(binary, file):
    flows = []
    for line in run(binary, "show", file, "--json").splitlines():
        tcp = json.loads(line)["tcp"]
        flow = {"packets": 0}
        for own, other in (("client", "server"), ("server", "client")):
            end, peer = tcp[own], tcp[other]
            flow["packets"] += end["packets"]
            flow[end["endpoint"]] = {
                "packets": end["packets"],
                "payload bytes": end["payload_bytes"],
                "unique bytes": end["unique_bytes"],
                "data packets": end["data_packets"],
                "MSS": (end["syn"] or {}).get("mss"),
                "retransmitted": end["retransmitted_packets"],
                "retransmitted + out of order": end["retransmitted_packets"] + end["out_of_order_packets"],
                "spurious": end["spurious_retransmits"],
                "out of order": end["out_of_order_packets"],
                "duplicate ACKs": end["duplicate_acks"],
                "zero windows": end["zero_windows"],
                "keep-alives": end["keep_alives"],
                "FINs": end["fin_packets"],
                "resets": end["rst_packets"],
                # Theirs is of the sender of the data: the time to the other end.
                "RTT samples": peer["rtt"]["samples"],
                "RTT minimum": peer["rtt"]["min_ns"],
                "handshake RTT": tcp["handshake_rtt_ns"],
                "unseen": end["unseen_bytes"],
            }
        flow["key"] = frozenset((tcp["client"]["endpoint"], tcp["server"]["endpoint"]))
        flows.append(flow)
    return flows


def tshark(file):
    fields = ["tcp.stream", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "tcp.srcport", "tcp.dstport", "tcp.len", "tcp.flags"]
    fields += ["tcp.analysis.ack_rtt", "tcp.analysis.initial_rtt", "tcp.options.mss_val", "_ws.malformed"]
    fields += [f"tcp.analysis.{flag}" for flag in FLAGS]
    args = [arg for field in fields for arg in ("-e", field)]
    # Ports decide what runs over TCP; dissecting that costs time and changes nothing here.
    out = run("tshark", "-n", "-r", file, "-Y", "tcp && !icmp && !icmpv6", "-o", "tcp.desegment_tcp_streams:FALSE", "-T", "fields", "-E", "occurrence=f", *args)
    flows = {}
    for line in out.splitlines():
        row = dict(zip(fields, line.split("\t")))
        v6 = bool(row["ipv6.src"])
        src = end_of(row["ipv6.src" if v6 else "ip.src"], row["tcp.srcport"])
        dst = end_of(row["ipv6.dst" if v6 else "ip.dst"], row["tcp.dstport"])
        flow = flows.setdefault(row["tcp.stream"], {"key": frozenset((src, dst)), "packets": 0})
        for end in (src, dst):
            flow.setdefault(end, collections.Counter({"RTT minimum": None, "MSS": None, "handshake RTT": None}))
        own, peer = flow[src], flow[dst]
        flow["packets"] += 1
        own["packets"] += 1
        flags = int(row["tcp.flags"] or "0", 16)
        if not flags & 4:
            own["payload bytes"] += int(row["tcp.len"] or 0)
        own["FINs"] += flags & 1
        own["resets"] += flags >> 2 & 1
        if row["tcp.options.mss_val"] and flags & 2:
            own["MSS"] = int(row["tcp.options.mss_val"])
        if row["tcp.analysis.initial_rtt"]:
            own["handshake RTT"] = peer["handshake RTT"] = nanos(row["tcp.analysis.initial_rtt"])
        for figure, names in TSHARK_FLAGS.items():
            own[figure] += any(row[f"tcp.analysis.{name}"] for name in names)
        own["retransmitted + out of order"] += any(row[f"tcp.analysis.{n}"] for n in (*TSHARK_FLAGS["retransmitted"], "out_of_order"))
        if row["tcp.analysis.ack_rtt"]:
            rtt = nanos(row["tcp.analysis.ack_rtt"])
            peer["RTT samples"] += 1
            peer["RTT minimum"] = rtt if peer["RTT minimum"] is None else min(rtt, peer["RTT minimum"])
    return list(flows.values())


TCPTRACE = {
    "packets": "total_packets",
    "unique bytes": "unique_bytes_sent",
    "data packets": "actual_data_pkts",
    "payload bytes": "actual_data_bytes",
    "retransmitted": "rexmt_data_pkts",
    "out of order": "outoforder_pkts",
    "resets": "resets_sent",
    "zero windows": "zero_win_adv",
    "MSS": "mss_requested",
    "duplicate ACKs": "duplicate_acks",
    "RTT samples": "RTT_samples",
    "RTT minimum": "RTT_min",
}


def tcptrace(file, folder):
    # It reads classic pcap in microseconds only, and no later link types.
    plain = folder / "plain.pcap"
    run("editcap", "-F", "pcap", file, plain)
    out = run("tcptrace", "-n", "-l", "-r", "-W", "--csv", plain)
    rows = [line for line in out.splitlines() if line and not line.startswith("#")]
    flows = []
    for row in csv.DictReader(io.StringIO("\n".join(rows)), skipinitialspace=True):
        row = {(k or "").strip(): (v or "").strip() for k, v in row.items() if k is not None and not isinstance(v, list)}
        if not row.get("host_a"):
            continue
        a, b = (end_of(row[f"host_{x}"], row[f"port_{x}"]) for x in "ab")
        flow = {"key": frozenset((a, b)), "packets": int(row["total_packets_a2b"]) + int(row["total_packets_b2a"])}
        for end, way, back in ((a, "a2b", "b2a"), (b, "b2a", "a2b")):
            figures = {}
            for figure, column in TCPTRACE.items():
                text = row.get(f"{column}_{way}", "")
                if text in ("", "NA"):
                    continue
                figures[figure] = round(float(text) * 1e6) if figure == "RTT minimum" else int(float(text))
            if not figures.get("RTT samples"):
                figures["RTT minimum"] = None
            if not figures.get("MSS"):
                figures["MSS"] = None
            # Duplicate acknowledgements stand with the sender of the data.
            text = row.get(f"duplicate_acks_{back}", "")
            if text.isdigit():
                figures["duplicate ACKs"] = int(text)
            figures["retransmitted + out of order"] = figures.get("retransmitted", 0) + figures.get("out of order", 0)
            flow[end] = figures
        flows.append(flow)
    return flows


def end_of(address, port):
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def nanos(seconds):
    whole, _, part = seconds.partition(".")
    return int(whole) * 10**9 + int(part.ljust(9, "0")[:9])


# --------------------------------------------------------------------------------------------------------- compare

FIGURES = (
    "packets", "payload bytes", "unique bytes", "data packets", "MSS", "FINs", "resets", "handshake RTT", "RTT samples",
    "RTT minimum", "retransmitted", "out of order", "retransmitted + out of order", "spurious", "duplicate ACKs", "zero windows",
    "keep-alives",
)  # fmt: skip
BEYOND_DOUBT = (
    "packets", "payload bytes", "unique bytes", "data packets", "MSS", "FINs", "handshake RTT", "RTT minimum",
    "retransmitted + out of order",
)  # fmt: skip

# Nanoseconds: tshark is exact to the microseconds that many captures have, tcptrace prints tenths of a millisecond.
TOLERANCE = {("tshark", "RTT minimum"): 1_000, ("tshark", "handshake RTT"): 1_000, ("tcptrace", "RTT minimum"): 100_000}


class Table:
    def __init__(self, differences):
        self.same, self.compared = collections.Counter(), collections.Counter()
        self.flows, self.unmatched = collections.Counter(), collections.Counter()
        self.differences = differences

    def add(self, tool, file, ours, theirs):
        """Compares connections of one file; those that were split differently are counted and left out."""
        by_key = collections.defaultdict(lambda: ([], []))
        for side, flows in enumerate((ours, theirs)):
            for flow in flows:
                by_key[flow["key"]][side].append(flow)
        for key, (mine, other) in by_key.items():
            if not mine:
                continue
            if len(mine) != len(other) or len(key) != 2 or [f["packets"] for f in mine] != [f["packets"] for f in other]:
                self.unmatched[tool] += len(mine)
                continue
            for one, two in zip(mine, other):
                self.flows[tool] += 1
                for end in key:
                    self.compare(tool, file, end, one[end], two[end])

    def compare(self, tool, file, end, mine, other):
        for figure in FIGURES:
            if figure not in other and not isinstance(other, collections.Counter) or (tool == "tshark" and figure in ("unique bytes", "data packets")):
                continue
            a, b = mine[figure], other[figure]
            same = a == b or (a is not None and b is not None and abs(a - b) <= TOLERANCE.get((tool, figure), 0))
            # Nobody agrees by saying nothing: where all say zero, there was nothing to find.
            if a in (0, None) and b in (0, None):
                continue
            self.compared[tool, figure] += 1
            self.same[tool, figure] += same
            if not same and self.differences:
                print(f"{tool}\t{figure}\t{a}\t{b}\t{end}\t{file}")

    def must(self, figures):
        """Where one of these figures differs, something is wrong: they are no matter of judgement."""
        keys = ((tool, figure) for tool in ("tshark", "tcptrace") for figure in figures)
        return [f"{figure} differs from {tool}'s" for tool, figure in keys if self.same[tool, figure] != self.compared[tool, figure]]

    def print(self):
        tools = ("tshark", "tcptrace")
        print("| figure | " + " | ".join(f"as {t}" for t in tools) + " |\n|---|---|---|")
        for figure in FIGURES:
            cells = []
            for tool in tools:
                n, same = self.compared[tool, figure], self.same[tool, figure]
                cells.append(f"{same} of {n} ({100 * same / n:.1f} %)" if n else "-")
            print(f"| {figure} | " + " | ".join(cells) + " |")
        for tool in tools:
            print(f"\n{tool}: {self.flows[tool]} connections compared, {self.unmatched[tool]} split differently or not read.")


def compare_file(args, table, file, folder):
    ours = flowarc(args.flowarc, file)
    if ours:
        table.add("tshark", file, ours, tshark(file))
        table.add("tcptrace", file, ours, tcptrace(file, folder))
    return ours


# ------------------------------------------------------------------------------------------------------- generated


def generated(args, table, folder):
    """Compares with what is known to have happened; returns what is not as it must be."""
    wrong = []
    print("| capture | retransmitted: fast, timeout | seen by flowarc | late | seen | RTT client, server | measured (median) |")
    print("|---|---|---|---|---|---|---|")
    for name, path in synth.scenarios():
        packets, truth = synth.transfer(path)
        file = folder / f"{name}.pcap"
        synth.write(file, packets)
        compare_file(args, table, str(file), folder)
        tcp = json.loads(run(args.flowarc, "show", str(file), "--json"))["tcp"]
        client, server = tcp["client"], tcp["server"]
        fast, timeout, late = (server[f] for f in ("fast_retransmits", "timeout_retransmits", "out_of_order_packets"))
        median = {who: tcp[who]["rtt"]["median_ns"] / 1e6 for who in ("client", "server")}
        print(
            f"| {name} | {truth['fast']}, {truth['timeout']} | {fast}, {timeout} | {truth['late']} | {late} "
            f"| {truth['rtt_client'] * 1e3:g}, {truth['rtt_server'] * 1e3:g} ms | {median['client']:.2f}, {median['server']:.2f} ms |"
        )
        if (fast, timeout, late) != (truth["fast"], truth["timeout"], truth["late"]):
            wrong.append(f"{name}: fast, timeout, late {fast, timeout, late}, in truth {truth}")
        if server["retransmitted_packets"] != fast + timeout:
            wrong.append(f"{name}: {server['retransmitted_packets']} retransmissions of {fast} + {timeout}")
        for who in ("client", "server"):
            if abs(median[who] - truth[f"rtt_{who}"] * 1e3) > 1 or abs(tcp[who]["rtt"]["min_ns"] / 1e6 - truth[f"rtt_{who}"] * 1e3) > 0.1:
                wrong.append(f"{name}: RTT to the {who} {median[who]} ms, configured {truth[f'rtt_{who}'] * 1e3} ms")
        if client["unseen_bytes"] or server["unseen_bytes"]:
            wrong.append(f"{name}: bytes unseen, though none were")
    print()
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flowarc", required=True)
    parser.add_argument("--corpus", type=pathlib.Path)
    parser.add_argument("--live", action="store_true")
    parser.add_argument("--differences", action="store_true")
    args = parser.parse_args()
    missing = [tool for tool in ("tshark", "editcap", "tcptrace") if not shutil.which(tool)]
    if missing:
        print(f"missing: {', '.join(missing)}", file=sys.stderr)
        sys.exit(77)
    wrong = []
    with tempfile.TemporaryDirectory(prefix="flowarc-agreement-") as top:
        folder = pathlib.Path(top)
        table = Table(args.differences)
        print("## Generated captures, and what really happened\n")
        wrong += generated(args, table, folder)
        if args.live:
            import livepath

            wrong += livepath.compare(args, lambda file: compare_file(args, table, file, folder), folder)
        print("## Generated and live captures\n")
        table.print()
        wrong += table.must(BEYOND_DOUBT)
        if args.corpus:
            table = Table(args.differences)
            for file in sorted(p for p in args.corpus.rglob("*") if p.is_file() and p.suffix != ".csv"):
                compare_file(args, table, str(file), folder)
            print("\n## Corpus\n")
            table.print()
    for text in wrong:
        print(f"WRONG: {text}", file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    os.environ["TZ"] = "UTC"
    main()
