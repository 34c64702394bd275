"""What an archive must hold, from tcpdump's capture of plain Ethernet, IPv4 and IPv6 without options or extensions."""

import ipaddress
import pathlib
import struct
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import archive_file  # noqa: E402

MARKER = b"MUST-NOT-LEAK"


def connections(pcap):
    """Header records by connection: {(address, port) pair as a frozenset: [Record]}; a reused 4-tuple is refused."""
    raw = pathlib.Path(pcap).read_bytes()
    magic, *_, link = struct.unpack("<IHHiIII", raw[:24])
    assert (magic, link) == (0xA1B23C4D, 1), f"{magic:x} {link}"
    flows, first_syn = defaultdict(list), {}
    at = 24
    while at + 16 <= len(raw):
        secs, nanos, kept, wire_len = struct.unpack("<IIII", raw[at : at + 16])
        data = raw[at + 16 : at + 16 + kept]
        at += 16 + kept
        key, syn, header_len = header(data)
        if syn is not None and first_syn.setdefault(key, syn) != syn:
            raise ValueError("a 4-tuple was used twice: make fewer connections")
        flows[key].append(archive_file.Record(secs * 10**9 + nanos, wire_len, data[:header_len]))
    return dict(flows)


def header(data):
    """Key, initial sequence number if this is a client's SYN, and where the headers end."""
    ethertype = struct.unpack("!H", data[12:14])[0]
    if ethertype == 0x0800:
        ip_end, addresses = 14 + (data[14] & 15) * 4, (data[26:30], data[30:34])
    else:
        assert ethertype == 0x86DD and data[20] == 6, data[:64].hex()
        ip_end, addresses = 54, (data[22:38], data[38:54])
    tcp = data[ip_end:]
    ends = zip((str(ipaddress.ip_address(a)) for a in addresses), struct.unpack("!HH", tcp[:4]))
    syn = tcp[4:8] if tcp[13] & 0x12 == 0x02 else None
    return frozenset(ends), syn, ip_end + (tcp[12] >> 4) * 4


def key_of(connection):
    return frozenset((tuple(connection["local"]), tuple(connection["remote"])))


@dataclass
class Comparison:
    """Counts of connections by how well they are archived; `whole` is what they should all be."""

    whole: int = 0
    missing: int = 0
    short: int = 0
    different: int = 0
    broken: int = 0
    leaks: int = 0
    packets: int = 0
    notes: list = field(default_factory=list)

    def all_whole(self, count):
        return self.whole == count and not (self.missing or self.short or self.different or self.broken or self.leaks)

    def __str__(self):
        bad = {k: getattr(self, k) for k in ("missing", "short", "different", "broken", "leaks") if getattr(self, k)}
        rest = "".join(f", {n} {k}" for k, n in bad.items()) + (f" ({self.notes[0]})" if self.notes else "")
        return f"{self.whole} connections whole with {self.packets} packets{rest}"


def compare(archive, wanted, flows, until=None):
    """Compares the archive with the reference for each of the connections `wanted`.

    Packets are compared without their order, because two sockets can see the two directions of a link in different order;
    that a file is in order of time is checked where it is read. With `until` (nanoseconds), what came later may be missing.
    """
    result = Comparison()
    for connection in wanted:
        reference = flows.get(key_of(connection), [])
        path = pathlib.Path(archive, connection["date"], connection["uuid"] + ".pcap.gz")
        if not path.exists():
            result.missing += 1
            result.notes.append(f"{path.name} is missing")
            continue
        try:
            records = archive_file.read(path).records
        except archive_file.BadFile as e:
            result.broken += 1
            result.notes.append(f"{path.name}: {e}")
            continue
        result.leaks += any(MARKER in r.data for r in records)
        got = Counter((r.wire_len, r.data) for r in records)
        want = Counter((r.wire_len, r.data) for r in reference)
        needed = want if until is None else Counter((r.wire_len, r.data) for r in reference if r.ts <= until)
        absent, strange = needed - got, got - want
        if strange:
            result.different += 1
            result.notes.append(f"{path.name}: {strange.total()} of {len(records)} packets are not in the reference")
        elif absent:
            result.short += 1
            result.notes.append(f"{path.name}: {absent.total()} of {needed.total()} packets are missing")
        else:
            result.whole += 1
            result.packets += len(records)
    return result
