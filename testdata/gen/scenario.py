"""A scenario keeps the books: frames as captured, events as announced, and what an archive of them must hold."""

import datetime
import json
import struct
import zlib
from dataclasses import dataclass, field

from . import wire
from .capture import classic, pcapng
from .wire import ACK, FIN, PSH, RST, SYN, NOP, SACK_PERMITTED, Segment

MS = 1_000_000
SECOND = 1_000_000_000
# 2026-11-21T12:00:00Z
BASE = 1_795_262_400 * SECOND

CLIENT4, SERVER4 = "203.0.113.45", wire.LOCAL[0]
CLIENT6, SERVER6 = "2001:db8:77:1:2:3:4:5", wire.LOCAL[1]

ETHERNET = wire.Ethernet()
SKIPS = ("unknown_link", "not_ip", "not_tcp", "truncated", "malformed", "tiny_fragment")


@dataclass
class Frame:
    ts: int
    data: bytes
    wire_len: int
    iface: int
    outcome: str  # "kept", "other" or one of SKIPS
    kept: bytes = b""
    kept_masked: bytes = b""
    kept_wire_len: int = 0


@dataclass
class Flow:
    """One connection and the files that it must become: none if nobody named it."""

    names: list = field(default_factory=list)  # (uuid, date)
    frames: list = field(default_factory=list)
    end: tuple = ()
    set_flags: tuple = ()
    clear_flags: tuple = ()


class Scenario:
    """One capture with its events. `shows` and `outcome` are the README's words."""

    def __init__(self, name, shows, outcome, order="<", nanos=True, snaplen=262144, link=ETHERNET, interfaces=None, args=()):
        self.name, self.shows, self.outcome = name, shows, outcome
        self.order, self.nanos, self.snaplen, self.link = order, nanos, snaplen, link
        self.interfaces, self.args = interfaces, list(args)
        self.packing = None
        self.now = BASE
        self.frames, self.flows, self.events = [], [], []
        self.bad_events = {}
        self.netblock = False
        self.cookie = 0x3E79

    # Frames

    def wait(self, nanos):
        self.now += nanos

    def tcp_frame(self, flow, build, to_server, version, link=None, iface=0, keep=None, wire_len=None, trailer=b"", outcome="kept"):
        """Captures the packet that `build(masked)` gives as (packet, header length); `keep` overrides that length."""
        link = link or self.link
        packet, head = build(False)
        keep = head if keep is None else keep
        link_head = link.head(version, to_server, len(packet))
        whole = link_head + packet + trailer
        wire_len = wire_len or len(whole)
        data = whole[: self.snaplen]
        kept_link = link_head if link.number == 1 else wire.synthetic_ethernet(version)
        # The client is the one who is hidden where anybody is.
        masked_link = kept_link.replace(wire.CLIENT_MAC, bytes(6))
        kept_ip = min(keep, len(data) - len(link_head))
        self.add(
            Frame(
                ts=self.now,
                data=data,
                wire_len=wire_len,
                iface=iface,
                outcome=outcome,
                kept=kept_link + packet[:kept_ip],
                kept_masked=masked_link + build(True)[0][:kept_ip],
                kept_wire_len=wire_len - len(link_head) + len(kept_link),
            ),
            flow,
        )

    def other_frame(self, outcome, ethertype, body, iface=0):
        """Captures an Ethernet frame that no flow gets."""
        data = (wire.SERVER_MAC + wire.CLIENT_MAC + struct.pack("!H", ethertype) + body)[: self.snaplen]
        self.add(Frame(self.now, data, 14 + len(body), iface, outcome), None)

    def add(self, frame, flow):
        frame.ts = self.now = self.now if self.nanos else self.now // 1000 * 1000
        self.frames.append(frame)
        if flow is not None and frame.outcome == "kept":
            flow.frames.append(frame)
        self.now += 41_000

    def tick(self, after=10 * SECOND):
        """Lets capture time go on: a stray SYN that nobody answers or announces, some time later."""
        self.wait(after)
        stray = Connection(self, "198.51.100.254", SERVER4, 40_000 + len(self.frames), 9)
        stray.link, stray.iface = (ETHERNET if self.link.number == 1 else self.link), 0
        stray.syn()

    # Events

    def uuid(self):
        self.cookie += 1
        return f"testdata_{BASE // SECOND}_{self.cookie:016X}"

    def announce(self, conn, uuid=None, at=None, swapped=False, offset_hours=None, extra=None, date=None, mapped=False):
        """Announces a connection's socket and expects a file of that name, dated as the event says."""
        uuid = uuid or self.uuid()
        at = self.now if at is None else at
        local, remote = ((conn.server, conn.sport), (conn.client, conn.cport))
        if swapped:
            local, remote = remote, local
        prefix = "::ffff:" if mapped else ""
        ident = {
            "SPort": local[1],
            "DPort": remote[1],
            "SrcIP": prefix + local[0],
            "DstIP": prefix + remote[0],
            "Interface": 0,
            "Cookie": self.cookie,
        }
        stamp, day = rfc3339(at, offset_hours)
        self.event({"Event": 0, "Timestamp": stamp, "UUID": uuid, "ID": ident, **(extra or {})})
        if (uuid, day) not in conn.flow.names:
            conn.flow.names.append((uuid, day))
        return uuid

    def announce_end(self, uuid, at=None):
        self.event({"Event": 1, "Timestamp": rfc3339(self.now if at is None else at)[0], "UUID": uuid, "ID": None})

    def event(self, value):
        self.events.append(json.dumps(value, separators=(",", ":")).encode())

    def bad_event(self, line, reason=None):
        self.events.append(line)
        if reason:
            self.bad_events[reason] = self.bad_events.get(reason, 0) + 1

    # Results

    @property
    def capture_name(self):
        base = self.name + (".pcapng" if self.interfaces else ".pcap")
        return base + {None: "", "gzip": ".gz", "zstd": ".zst"}[self.packing]

    def capture_bytes(self):
        if self.interfaces:
            return pcapng(self.frames, self.interfaces, self.order)
        return classic(self.frames, self.link.number, self.order, self.nanos, self.snaplen)

    def event_bytes(self):
        return b"".join(line + b"\n" for line in self.events)

    def expected(self):
        outcomes = {label: sum(f.outcome == label for f in self.frames) for label in ("kept", "other", *SKIPS)}
        result = {
            "capture": self.capture_name,
            "events": self.name + ".events.jsonl",
            "args": self.args,
            "frames": {"total": len(self.frames), **{k: n for k, n in outcomes.items() if n}},
            "bad_events": self.bad_events,
            "files": self.files(lambda f: f.kept),
        }
        if self.netblock:
            result["netblock"] = {
                "args": ["--anonymize.ip=netblock", *(f"--local.addr={a}" for a in wire.LOCAL)],
                "files": self.files(lambda f: f.kept_masked, ("ANONYMIZED",)),
            }
        return result

    def files(self, kept, extra_flags=()):
        rows = []
        for flow in self.flows:
            if not flow.frames:
                continue
            frames = sorted(flow.frames, key=lambda f: f.ts)
            crc = 0
            for f in frames:
                crc = zlib.crc32(struct.pack("<QI", f.ts, f.kept_wire_len) + kept(f), crc)
            for uuid, date in flow.names:
                rows.append(
                    {
                        "uuid": uuid,
                        "date": date,
                        "packets": len(frames),
                        "crc32": f"{crc:08x}",
                        "end": list(flow.end),
                        "flags_set": sorted(flow.set_flags + extra_flags),
                        "flags_clear": sorted(set(flow.clear_flags) - set(extra_flags)),
                    }
                )
        return sorted(rows, key=lambda r: r["uuid"])


class Connection:
    """A TCP connection seen from the server's side, with sequence numbers, options and checksums as Linux has them."""

    def __init__(self, scenario, client=CLIENT4, server=SERVER4, cport=51_000, sport=443, link=None, iface=0, isn=None):
        self.scenario, self.client, self.server = scenario, client, server
        self.cport, self.sport, self.link, self.iface = cport, sport, link, iface
        self.version = 6 if ":" in client else 4
        number = len(scenario.flows)
        isn = isn if isn is not None else 0x1000_0000 + number * 0x0111_1111
        self.next = {True: isn, False: isn ^ 0x5A5A_5A5A}
        self.echo = {True: 0, False: 0}
        self.ident = 0x4000 + number * 64
        self.flow = Flow(clear_flags=("ANONYMIZED", "TRUNCATED", "MERGED"))
        scenario.flows.append(self.flow)

    # Shapes

    def handshake(self):
        self.syn()
        self.syn_ack()
        self.scenario.wait(12 * MS)
        self.ack(True)
        return self

    def talk(self, rounds=2, request=90, answer=300):
        for _ in range(rounds):
            self.send(True, request)
            self.ack(False)
            self.scenario.wait(3 * MS)
            self.send(False, answer)
            self.scenario.wait(12 * MS)
            self.ack(True)
        return self

    def close(self):
        """The client closes first: FIN, FIN and ACK in one, ACK."""
        self.emit(True, FIN | ACK)
        self.emit(False, FIN | ACK)
        self.scenario.wait(12 * MS)
        self.ack(True)
        self.ends("Fin")
        return self

    def whole(self):
        """A complete connection that is announced just after its handshake."""
        self.handshake()
        self.scenario.announce(self, at=self.scenario.now + 4 * MS)
        return self.talk().close()

    def ends(self, *reasons):
        self.flow.end = reasons
        return self

    def flags(self, *names):
        self.flow.set_flags += names
        return self

    # Segments

    def syn(self, **more):
        self.emit(True, SYN, options=self.syn_options(True), window=64240, **more)

    def syn_ack(self, **more):
        self.emit(False, SYN | ACK, options=self.syn_options(False), window=65160, **more)
        self.flow.set_flags += ("HANDSHAKE",)
        self.flow.clear_flags += ("MIDSTREAM",)

    def ack(self, to_server, **more):
        self.emit(to_server, ACK, **more)

    def send(self, to_server, length, **more):
        self.emit(to_server, PSH | ACK, data=wire.payload(length), **more)

    def reset(self, to_server):
        self.emit(to_server, RST | ACK)
        self.ends("Reset")

    def syn_options(self, to_server):
        value = 1440 if self.version == 6 else 1460
        return (wire.mss(value), SACK_PERMITTED, self.stamp(to_server), NOP, wire.window_scale(7))

    def stamp(self, to_server):
        """RFC 7323 timestamps in milliseconds, each side with its own offset."""
        value = (self.scenario.now // MS + (0x1234_5678 if to_server else 0x2345_6789)) & 0xFFFFFFFF
        echo, self.echo[not to_server] = self.echo[to_server], value
        return wire.timestamps(value, echo)

    def segment(self, to_server, flags, data=b"", options=None, window=502, data_offset=None):
        """The next segment of one side; moves its sequence number on."""
        if options is None:
            options = (NOP, NOP, self.stamp(to_server))
        ports = (self.cport, self.sport) if to_server else (self.sport, self.cport)
        seq = self.next[to_server]
        ack = self.next[not to_server] if flags & ACK else 0
        self.next[to_server] = (seq + len(data) + bool(flags & SYN) + bool(flags & FIN)) & 0xFFFFFFFF
        return Segment(*ports, seq, ack, flags, window, tuple(options), data, data_offset)

    def ends_of(self, to_server):
        return (self.client, self.server) if to_server else (self.server, self.client)

    def emit(self, to_server, flags, data=b"", options=None, window=502, **more):
        self.capture(to_server, self.segment(to_server, flags, data, options, window), **more)

    def capture(self, to_server, segment, ip=None, **more):
        """Puts a segment into an IP packet, with `ip` as further arguments of its builder, and captures it."""
        self.scenario.tcp_frame(
            self.flow, self.packet(to_server, segment, **(ip or {})), to_server, self.version, self.link, self.iface, **more
        )

    def packet(self, to_server, segment, home=None, **ip):
        """`home` is a mobile sender's home address, which the TCP checksum covers instead of the source (RFC 6275 section 11.3.1)."""
        src, dst = self.ends_of(to_server)
        if self.version == 4:
            self.ident += 1
            ip.setdefault("ident", self.ident)
            # The far side's packets have come some hops.
            ip.setdefault("ttl", 53 if to_server else 64)
        wrap = wire.ipv4 if self.version == 4 else wire.ipv6

        def build(masked):
            body, tcp_head = segment.build(wire.address(home or src), wire.address(dst), masked)
            packet, ip_head = wrap(src, dst, body, masked=masked, **ip)
            return packet, ip_head + tcp_head

        return build


def rfc3339(nanos, offset_hours=None):
    """The timestamp as tcp-info writes it, or in another offset, and its day there."""
    shifted = nanos + (offset_hours or 0) * 3600 * SECOND
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=shifted // SECOND)
    zone = "Z" if offset_hours is None else f"{offset_hours:+03d}:00"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{shifted % SECOND:09d}{zone}", f"{moment:%Y/%m/%d}"
