"""Connections computed packet by packet over a path of known delay, loss and reordering, captured at a known point.

A server sends data, a client acknowledges. Both follow RFC 5681 with SACK: three duplicate acknowledgements or a timer of
250 ms send again what is missing. What a capture point on the path sees is written as a pcap file, and what really
happened, which no observer can know for sure, is returned beside it.
"""

import heapq
import random
import struct

MSS = 1448
RTO = 0.25
PACE = 0.0002  # seconds between two packets of one sender
SERVER, CLIENT = 1, 0
FILE_HEADER = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1)  # pcap 2.4, nanoseconds, Ethernet


class Path:
    """The server-capture and capture-client parts of a path, in seconds one way, and what happens on them.

    `loss_before` and `loss_after`: indexes of data packets (counted by transmission) that vanish before and after the
    capture point. `late`: indexes that are held up by some seconds before the capture point.
    """

    def __init__(self, near, far, loss_before=(), loss_after=(), late=None, jitter=0.0, seed=1):
        self.near, self.far = near, far
        self.loss_before, self.loss_after, self.late = set(loss_before), set(loss_after), dict(late or {})
        self.jitter, self.random = jitter, random.Random(seed)


def transfer(path, segments=200, window=20, isn=(1_000, 0xFFFFFF00), start=1_795_262_400.0):
    """Runs a transfer of `segments` full segments; returns (packets, truth)."""
    events, packets, order = [], [], 0
    truth = {"rtt_client": 2 * path.far, "rtt_server": 2 * path.near, "fast": 0, "timeout": 0, "late": 0, "upstream": 0}

    def at(time, what, *args):
        nonlocal order
        order += 1
        heapq.heappush(events, (time, order, what, args))

    def see(time, sender, seq, ack, flags, payload=0, sack=(), options=b""):
        packets.append((start + time, sender, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, flags, payload, tuple(sack), options, time))

    client, server = isn[0] + 1, isn[1] + 1
    syn = struct.pack(">BBHBBBBBB", 2, 4, MSS, 4, 2, 1, 3, 3, 7)
    see(path.far, CLIENT, isn[0], 0, 0x02, options=syn)
    see(path.far + 2 * path.near, SERVER, isn[1], client, 0x12, options=syn)
    see(3 * path.far + 2 * path.near, CLIENT, client, server, 0x10)
    opened = 4 * path.far + 3 * path.near  # beyond the handshake for both

    sent = {}  # segment -> time of its last transmission
    state = {"next": 0, "una": 0, "dup": 0, "recover": -1, "count": 0, "rto": 0, "resent": set(), "free": 0.0}
    received, sacked = set(), set()

    def send(now, i, cause=None):
        number = state["count"]
        state["count"] += 1
        now = state["free"] = max(now, state["free"] + PACE)
        sent[i] = now
        if cause:
            truth[cause] += 1
            state["resent"].add(i)
        if number in path.loss_before:
            truth["upstream"] += 1
            return
        held = path.late.get(number, 0.0)
        truth["late"] += 1 if held else 0
        jitter = path.random.uniform(0, path.jitter)
        passes = now + path.near + held
        see(passes, SERVER, server + i * MSS, client, 0x18 if i == segments - 1 else 0x10, MSS)
        if number not in path.loss_after:
            at(passes + path.far + jitter, "data", i)

    def fill(now):
        while state["next"] < segments and state["next"] - state["una"] < window:
            send(now, state["next"])
            state["next"] += 1
        arm(now)

    def arm(now):
        state["rto"] += 1
        if state["una"] < state["next"]:
            at(now + RTO, "timer", state["rto"])

    fill(opened)
    while events:
        now, _, what, args = heapq.heappop(events)
        if what == "data":
            received.add(args[0])
            una = state.get("rcv", 0)
            while una in received:
                una += 1
            state["rcv"] = una
            above = sorted(i for i in received if i >= una)
            blocks, i = [], 0
            while i < len(above):
                j = i
                while j + 1 < len(above) and above[j + 1] == above[j] + 1:
                    j += 1
                blocks.append((above[i], above[j] + 1))
                i = j + 1
            blocks.sort(key=lambda b: not b[0] <= args[0] < b[1])
            blocks = [(server + a * MSS & 0xFFFFFFFF, server + b * MSS & 0xFFFFFFFF) for a, b in blocks[:3]]
            passes = now + path.far
            see(passes, CLIENT, client, server + una * MSS, 0x10, sack=blocks)
            at(passes + path.near, "ack", una, frozenset(above))
        elif what == "ack":
            una, above = args
            sacked |= above
            if una > state["una"]:
                state["una"], state["dup"] = una, 0
                if una <= state["recover"] and una < state["next"] and una not in sacked and una not in state["resent"]:
                    send(now, una, state["cause"])
                elif una > state["recover"]:
                    state["recover"] = -1
                    state["resent"].clear()
                fill(now)
            elif una == state["una"] < state["next"]:
                state["dup"] += 1
                if state["dup"] == 3 and state["recover"] < una:
                    state["recover"], state["cause"] = state["next"] - 1, "fast"
                    send(now, una, "fast")
        elif what == "timer" and args[0] == state["rto"] and state["una"] < state["next"]:
            state["recover"], state["cause"] = state["next"] - 1, "timeout"
            state["resent"].clear()
            sacked.clear()
            send(now, state["una"], "timeout")
            arm(now)
    end = max(p[8] for p in packets) + 0.01
    data_end = server + segments * MSS
    see(end, SERVER, data_end, client, 0x11)
    see(end + 2 * path.far, CLIENT, client, data_end + 1, 0x11)
    see(end + 2 * path.far + 2 * path.near, SERVER, data_end + 1, client + 1, 0x10)
    packets.sort(key=lambda p: p[8])
    return packets, truth


def write(file, packets, port=40_000):
    """Writes packets as a capture in nanoseconds, headers alone, as an archive has them."""
    with open(file, "wb") as out:
        out.write(FILE_HEADER)
        for i, packet in enumerate(packets):
            out.write(record(packet, i, (bytes([192, 0, 2, 2]), port)))


def record(packet, number, client):
    """A packet as a record of a capture; its payload counts on the wire and is not there."""
    time, sender, seq, ack, flags, payload, sack, options, _ = packet
    ends = client, (bytes([192, 0, 2, 1]), 443)
    if sack:
        options = struct.pack(">BBBB", 1, 1, 5, 2 + 8 * len(sack)) + b"".join(struct.pack(">II", *b) for b in sack)
    options += b"\x01" * (-len(options) % 4)
    (src, sport), (dst, dport) = ends[sender], ends[1 - sender]
    offset = (20 + len(options)) // 4 << 4
    tcp = struct.pack(">HHIIBBHHH", sport, dport, seq, ack, offset, flags, 60_000, 0, 0) + options
    total = 20 + len(tcp) + payload
    ip = struct.pack(">BBHHHBBH", 0x45, 0, total, number & 0xFFFF, 0x4000, 64, 6, 0) + src + dst
    frame = b"\x02" * 12 + b"\x08\x00" + ip + tcp
    seconds, nanos = int(time), round(time % 1 * 1e9)
    seconds, nanos = seconds + nanos // 10**9, nanos % 10**9
    return struct.pack("<IIII", seconds, nanos, len(frame), 14 + total) + frame


def scenarios():
    """Name, path: a delay split in different ways, losses on either side of the capture point, reordering, and all of it."""
    yield "clean-near-server", Path(0.0005, 0.020)
    yield "clean-middle", Path(0.030, 0.010)
    yield "clean-near-client", Path(0.050, 0.0002)
    yield "jitter", Path(0.001, 0.025, jitter=0.0004)
    yield "loss-after", Path(0.001, 0.020, loss_after=(30, 77, 130))
    yield "loss-before", Path(0.015, 0.005, loss_before=(25, 90, 140))
    yield "loss-both-sides", Path(0.010, 0.010, loss_before=(40,), loss_after=(90, 150))
    yield "loss-burst", Path(0.002, 0.020, loss_after=(60, 61, 62))
    yield "loss-tail", Path(0.002, 0.020, loss_after=(197, 198, 199))
    yield "loss-of-the-retransmission", Path(0.002, 0.020, loss_after=(50, 70))
    yield "reordering", Path(0.010, 0.010, late={30: 0.0003, 80: 0.0005, 140: 0.0003})
    yield "reordering-and-loss", Path(0.010, 0.010, late={30: 0.0005, 120: 0.0003}, loss_after=(70, 160))
