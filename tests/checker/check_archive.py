#!/usr/bin/env python3
"""Checks flow archives: that every record ends where its headers do, and that masked addresses cannot be had back.

Shares no code with flowarc and uses only Python's standard library, so that a mistake in one is not a mistake in both.

    check_archive.py [--anonymized [--local ADDR,...]] [--json] PATH...
    check_archive.py --self-test

PATH is a .pcap or .pcap.gz file or a folder of them. One line for each violation: file, record, kind, what. Exit status:
0 without violations, 1 with some, 2 for wrong use or when nothing was found to check.
"""

import argparse
import collections
import ipaddress
import json
import os
import struct
import sys
import zlib

ETHERNET, NULL, LOOP, RAW, SLL, SLL2 = 1, 0, 108, 101, 113, 276
TCP, AUTHENTICATION, FRAGMENT, ROUTING, HOP_BY_HOP, DESTINATION = 6, 51, 44, 43, 0, 60
OPAQUE = (135, 139, 140)  # mobility, HIP, Shim6


class Violation(Exception):
    """What is wrong with a record, or with a file from some point on."""

    def __init__(self, kind, text):
        super().__init__(text)
        self.kind = kind


# ---------------------------------------------------------------------------------------------------------- files


def gunzip(data):
    """The content of all members of a gzip file; refuses cut members and anything behind the last."""
    out, members = [], 0
    while data:
        if data[:2] != b"\x1f\x8b":
            raise Violation("gzip", f"{len(data)} bytes behind member {members} are no gzip member")
        member = zlib.decompressobj(wbits=31)
        try:
            out.append(member.decompress(data))
        except zlib.error as e:
            raise Violation("gzip", f"member {members + 1}: {e}") from e
        if not member.eof:
            raise Violation("gzip", f"member {members + 1} is cut")
        data = member.unused_data
        members += 1
    if members == 0:
        raise Violation("gzip", "empty file")
    return b"".join(out)


def records(data):
    """Yields (time in ns, wire length, link type, bytes) of a pcap file; raises where its framing breaks."""
    if len(data) < 24:
        raise Violation("framing", f"file header of {len(data)} bytes")
    magic, major, minor, _, _, snaplen, link = struct.unpack_from("<IHHiIII", data)
    if magic != 0xA1B23C4D:
        raise Violation("magic", f"0x{magic:08x} is not the little-endian nanosecond magic")
    if (major, minor) != (2, 4):
        raise Violation("framing", f"version {major}.{minor}")
    if link not in (ETHERNET, NULL, LOOP, RAW, SLL, SLL2):
        raise Violation("framing", f"link type {link}")
    at = 24
    while at < len(data):
        if len(data) - at < 16:
            raise Violation("framing", f"{len(data) - at} bytes left where a record header should be")
        seconds, nanos, caplen, wire_len = struct.unpack_from("<IIII", data, at)
        at += 16
        if nanos >= 1_000_000_000:
            raise Violation("framing", f"{nanos} nanoseconds within a second")
        if caplen > snaplen:
            raise Violation("snaplen", f"record of {caplen} bytes in a file of snap length {snaplen}")
        if len(data) - at < caplen:
            raise Violation("framing", f"record of {caplen} bytes with {len(data) - at} left")
        yield seconds * 1_000_000_000 + nanos, wire_len, link, data[at : at + caplen]
        at += caplen


# ---------------------------------------------------------------------------------------------------------- headers


class Headers:
    """Where the headers of a kept record are. Raises when they are not those of a TCP packet."""

    def __init__(self, link, data):
        self.data = data
        self.version, self.ip, self.limit = find_ip(link, data)
        self.extensions = []  # (number, start, end)
        self.later_fragment = False
        self.ipv4_options = (0, 0)
        if self.version == 4:
            self.read_ipv4()
        else:
            self.read_ipv6()

    def need(self, start, length, what):
        if start + length > len(self.data):
            raise Violation("cut", f"{what} at {start} of {length} bytes is cut at {len(self.data)}")
        return self.data[start : start + length]

    def read_ipv4(self):
        h = self.need(self.ip, 20, "IPv4 header")
        if h[0] >> 4 != 4:
            raise Violation("not-tcp", f"IPv4 header of version {h[0] >> 4}")
        header_len = (h[0] & 15) * 4
        if header_len < 20:
            raise Violation("not-tcp", f"IPv4 header of {header_len} bytes")
        self.need(self.ip, header_len, "IPv4 header")
        total = struct.unpack_from(">H", h, 2)[0]
        self.end = self.ip + total if total else None
        self.src, self.dst = self.ip + 12, self.ip + 16
        self.address_len = 4
        self.ipv4_header = (self.ip, self.ip + header_len)
        self.ipv4_options = (self.ip + 20, self.ip + header_len)
        self.transport = self.ip + header_len
        protocol = h[9]
        self.later_fragment = struct.unpack_from(">H", h, 6)[0] & 0x1FFF != 0
        if protocol == AUTHENTICATION and not self.later_fragment:
            protocol = self.extension(protocol)
        if protocol != TCP:
            raise Violation("not-tcp", f"IPv4 protocol {protocol}")

    def read_ipv6(self):
        h = self.need(self.ip, 40, "IPv6 header")
        if h[0] >> 4 != 6:
            raise Violation("not-tcp", f"IPv6 header of version {h[0] >> 4}")
        payload = struct.unpack_from(">H", h, 4)[0]
        self.end = self.ip + 40 + payload if payload else None
        self.src, self.dst = self.ip + 8, self.ip + 24
        self.address_len = 16
        self.transport = self.ip + 40
        number = h[6]
        while number != TCP:
            if number not in (HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION, *OPAQUE):
                raise Violation("not-tcp", f"IPv6 next header {number}")
            start = self.transport
            following = self.extension(number)
            if number == FRAGMENT and struct.unpack_from(">H", self.data, start + 2)[0] >> 3:
                self.later_fragment = True
                if following != TCP:
                    raise Violation("not-tcp", f"later fragment of next header {following}")
                return
            number = following

    def extension(self, number):
        start = self.transport
        following, units = self.need(start, 2, "extension header")
        length = 8 if number == FRAGMENT else (units + 2) * 4 if number == AUTHENTICATION else (units + 1) * 8
        self.need(start, length, f"extension header {number}")
        self.transport = start + length
        self.extensions.append((number, start, self.transport))
        return following

    def check_end(self):
        """That the record has no byte beyond its headers."""
        kept = len(self.data)
        ip_end = min(e for e in (self.end, self.limit) if e is not None) if self.end or self.limit else None
        if ip_end is not None and kept > ip_end:
            raise Violation("beyond-headers", f"{kept - ip_end} bytes behind the IP packet")
        if self.later_fragment:
            allowed = self.transport
        else:
            fixed = self.need(self.transport, 20, "TCP header")
            claimed = self.transport + (fixed[12] >> 4) * 4
            possible = claimed >= self.transport + 20 and (self.end is None or claimed <= self.end)
            allowed = claimed if possible else self.transport + 20
        if kept > allowed:
            raise Violation("beyond-headers", f"{kept - allowed} bytes behind the headers")


def find_ip(link, data):
    """(IP version, offset, end that the link layer sets or None)."""
    try:
        if link == RAW:
            return data[0] >> 4, 0, None
        if link in (NULL, LOOP):
            families = {struct.unpack_from(order + "I", data)[0] for order in "<>"}
            if 2 in families:
                return 4, 4, None
            if families & {10, 24, 28, 30}:
                return 6, 4, None
            raise Violation("not-tcp", "loopback frame of another address family")
        at = {ETHERNET: 14, SLL: 16, SLL2: 20}[link]
        kind = struct.unpack_from(">H", data, {ETHERNET: 12, SLL: 14, SLL2: 0}[link])[0]
        if link != ETHERNET and kind == 4:
            return find_snap(data, at, None)
        while kind in (0x8100, 0x88A8, 0x9100):
            kind = struct.unpack_from(">H", data, at + 2)[0]
            at += 4
        if kind == 0x8864:
            length, ppp = struct.unpack_from(">HH", data, at + 4)
            if ppp not in (0x21, 0x57):
                raise Violation("not-tcp", f"PPP protocol 0x{ppp:04x}")
            return (4 if ppp == 0x21 else 6), at + 8, at + 6 + length
        if kind <= 1500:
            return find_snap(data, at, at + kind)
    except (IndexError, struct.error) as e:
        raise Violation("cut", "link layer is cut") from e
    return ip_version(kind), at, None


def find_snap(data, at, end):
    if data[at : at + 6] != b"\xaa\xaa\x03\0\0\0":
        raise Violation("not-tcp", "LLC without SNAP")
    return ip_version(struct.unpack_from(">H", data, at + 6)[0]), at + 8, end


def ip_version(kind):
    if kind not in (0x0800, 0x86DD):
        raise Violation("not-tcp", f"EtherType 0x{kind:04x}")
    return 4 if kind == 0x0800 else 6


# ---------------------------------------------------------------------------------------------------------- masking


def check_masking(link, data, h, local):
    """Yields what is left in a record that tells of the hidden bits of a non-local address."""
    hidden = []
    for name, at in (("source", h.src), ("destination", h.dst)):
        address = data[at : at + h.address_len]
        if ipaddress.ip_address(bytes(address)) not in local:
            hidden.append(name)
            # A 6to4 address (RFC 3056) holds an IPv4 address in its bytes 2 to 5: the last of them is hidden too.
            network = 3 if h.version == 4 else 5 if address[:2] == b"\x20\x02" else 6
            # An IPv4-mapped address (RFC 4291 section 2.5.5.2) is masked as the IPv4 address that it is.
            network = 15 if address[:12] == MAPPED else network
            if any(address[network:]):
                yield "address", f"{name} {ipaddress.ip_address(bytes(address))} is not masked"
    if not hidden:
        return
    if link == ETHERNET:
        for name, at in (("destination", 0), ("source", 6)):
            if name in hidden and any(data[at : at + 6]):
                yield "link-address", f"hardware address of the hidden {name}"
    if link in (SLL, SLL2):
        length_at, address_at = (5, 6) if link == SLL else (11, 12)
        keep = 6 if data[length_at] == 6 and "source" not in hidden else 0
        if any(data[address_at + keep : address_at + 8]):
            yield "link-address", "cooked address of the hidden sender, or none of hardware"
    if h.version == 4:
        start, end = h.ipv4_header
        if ones_complement_sum(data[start:end]) != 0xFFFF:
            yield "ip-checksum", "IPv4 header checksum is not that of the masked header"
        yield from check_ipv4_options(data[slice(*h.ipv4_options)])
    for number, start, end in h.extensions:
        yield from check_extension(number, data[start:end])
    if not h.later_fragment:
        if any(data[h.transport + 16 : h.transport + 18]):
            yield "tcp-checksum", "TCP checksum is not zero"
        yield from check_tcp_options(data[h.transport + 20 :])


def ones_complement_sum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def options(data, kind):
    """Yields the options of an IPv4 or TCP header; a violation where what is no option is not all zero."""
    while data:
        if data[0] == 0:
            if any(data):
                raise Violation(kind, "bytes behind the end of the options")
            return
        if data[0] == 1:
            data = data[1:]
            continue
        if len(data) < 2 or not 2 <= data[1] <= len(data):
            raise Violation(kind, f"option {data[0]} with an impossible length")
        yield data[: data[1]]
        data = data[data[1] :]


def check_ipv4_options(data):
    try:
        for option in options(data, "ipv4-options"):
            number, length = option[0], len(option)
            if number in (7, 131, 137, 68):
                if any(option[3:]):
                    yield "ipv4-options", f"option {number} has data"
            elif not (number in (148, 136) and length == 4 or number == 130 and 3 <= length <= 11):
                yield "ipv4-options", f"option {number} of {length} bytes"
    except Violation as v:
        yield v.kind, str(v)


MAPPED = bytes(10) + b"\xff\xff"
TCP_KEPT = {2: (4,), 3: (3,), 4: (2,), 5: (10, 18, 26, 34), 8: (10,), 27: (8,), 28: (4,)}


def check_tcp_options(data):
    try:
        for option in options(data, "tcp-options"):
            number, length = option[0], len(option)
            if length in TCP_KEPT.get(number, ()):
                continue
            if number == 30:
                subtype = option[2] >> 4 if length > 2 else 0
                open_bytes = 4 if subtype == 3 or subtype > 8 else length
                # A checksum over the payload (RFC 8684): behind MP_CAPABLE's data length, behind a data sequence mapping.
                if subtype == 0 and length == 24:
                    open_bytes = 22
                if subtype == 2 and length > 3:
                    numbers = (8 if option[3] & 2 else 4) if option[3] & 1 else 0
                    mapping = (14 if option[3] & 8 else 10) if option[3] & 4 else 0
                    open_bytes = 4 + numbers + mapping
            else:
                open_bytes = 2
            if any(option[open_bytes:]):
                yield "tcp-options", f"option {number} of {length} bytes has data"
    except Violation as v:
        yield v.kind, str(v)


def check_extension(number, header):
    if number in (HOP_BY_HOP, DESTINATION):
        yield from check_ipv6_options(header[2:])
    elif number != FRAGMENT:
        open_bytes = {ROUTING: 4, AUTHENTICATION: 12}.get(number, 2)
        if any(header[open_bytes:]):
            yield "extension", f"extension header {number} has data"


def check_ipv6_options(data):
    while data:
        if data[0] == 0:
            data = data[1:]
            continue
        if len(data) < 2 or data[1] + 2 > len(data):
            if any(data):
                yield "extension", f"option {data[0]} with an impossible length"
            return
        number, length = data[0], data[1]
        if (number, length) not in ((5, 2), (4, 1), (0xC2, 4)) and any(data[2 : 2 + length]):
            yield "extension", f"option {number} has data"
        data = data[2 + length :]


# ---------------------------------------------------------------------------------------------------------- running


class Checker:
    """Checks files and counts what it finds."""

    def __init__(self, anonymized, local=(), report=print):
        self.anonymized = anonymized
        self.local = {ipaddress.ip_address(a) for a in local}
        self.report = report
        self.files = 0
        self.packets = 0
        self.violations = collections.Counter()

    def violation(self, name, record, kind, text):
        self.violations[kind] += 1
        self.report(f"{name}: {record}: {kind}: {text}")

    def check_path(self, path):
        if not os.path.isdir(path):
            self.check_file(path)
            return
        for folder, folders, files in os.walk(path):
            folders.sort()
            for file in sorted(files):
                if file.endswith((".pcap", ".pcap.gz")):
                    self.check_file(os.path.join(folder, file))

    def check_file(self, path):
        try:
            with open(path, "rb") as f:
                data = f.read()
        except OSError as e:
            self.violation(path, "file", "unreadable", str(e))
            return
        self.check_bytes(path, data, path.endswith(".gz"))

    def check_bytes(self, name, data, compressed):
        self.files += 1
        number = 0
        try:
            latest = None
            for number, record in enumerate(records(gunzip(data) if compressed else data), 1):
                self.packets += 1
                time = record[0]
                if latest is not None and time < latest:
                    self.violation(name, f"record {number}", "time-order", f"{latest - time} ns before an earlier record")
                latest = time if latest is None else max(latest, time)
                self.check_record(name, f"record {number}", *record[1:])
        except Violation as v:
            self.violation(name, f"after record {number}", v.kind, str(v))

    def check_record(self, name, number, wire_len, link, data):
        if len(data) > wire_len:
            self.violation(name, number, "wire-length", f"{len(data)} bytes kept of {wire_len}")
        try:
            headers = Headers(link, data)
            headers.check_end()
        except Violation as v:
            self.violation(name, number, v.kind, str(v))
            return
        if self.anonymized:
            for kind, text in check_masking(link, data, headers, self.local):
                self.violation(name, number, kind, text)

    def summary(self):
        return {"files": self.files, "packets": self.packets, "violations": dict(sorted(self.violations.items()))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", metavar="PATH")
    parser.add_argument("--anonymized", action="store_true", help="addresses must be masked")
    parser.add_argument("--local", default="", metavar="ADDR,...", help="addresses of the capturing host, which stay")
    parser.add_argument("--json", action="store_true", help="end with a line of JSON: counts by kind")
    parser.add_argument("--self-test", action="store_true", help="check that this program finds what is planted")
    args = parser.parse_args()
    if args.self_test:
        return self_test()
    try:
        checker = Checker(args.anonymized, [a.strip() for a in args.local.split(",") if a.strip()])
    except ValueError as e:
        parser.error(f"--local: {e}")
    for path in args.paths:
        checker.check_path(path)
    if args.json:
        print(json.dumps(checker.summary()))
    if checker.violations:
        return 1
    if checker.files == 0:
        print("no .pcap or .pcap.gz file to check", file=sys.stderr)
        return 2
    return 0


# ---------------------------------------------------------------------------------------------------------- self-test


def pcap(*packets, magic=0xA1B23C4D, snaplen=256, link=ETHERNET, times=None):
    out = struct.pack("<IHHiIII", magic, 2, 4, 0, 0, snaplen, link)
    for i, packet in enumerate(packets):
        out += struct.pack("<IIII", 100, times[i] if times else i, len(packet), len(packet) + 100) + packet
    return out


def gzip(data):
    member = zlib.compressobj(wbits=31)
    return member.compress(data) + member.flush()


# Those of hidden ends are zero.
MACS = bytes(12)


def tcp(options=b"", checksum=0, offset=None):
    offset = 5 + len(options) // 4 if offset is None else offset
    return struct.pack(">HHIIBBHHH", 443, 50000, 1, 2, offset << 4, 0x10, 512, checksum, 0) + options


def ipv4(segment, options=b"", src="192.0.2.0", dst="198.51.100.0", total=None, fragment=0, bad_checksum=0, protocol=TCP, payload=100):
    header_len = 20 + len(options)
    total = header_len + len(segment) + payload if total is None else total
    head = struct.pack(">BBHHHBBH", 0x40 + header_len // 4, 0, total, 7, fragment, 64, protocol, 0)
    head += ipaddress.ip_address(src).packed + ipaddress.ip_address(dst).packed + options
    checksum = (ones_complement_sum(head) ^ 0xFFFF) + bad_checksum
    return head[:10] + struct.pack(">H", checksum) + head[12:] + segment


def ipv6(segment, chain=b"", first=TCP, src="2001:db8:1::", dst="2001:db8:2::", payload=100):
    head = struct.pack(">IHBB", 6 << 28, len(chain) + len(segment) + payload if payload is not None else 0, first, 64)
    return head + ipaddress.ip_address(src).packed + ipaddress.ip_address(dst).packed + chain + segment


def ethernet4(packet):
    return MACS + b"\x08\x00" + packet


def ethernet6(packet):
    return MACS + b"\x86\xdd" + packet


def kinds(data, compressed=False, anonymized=True, local=()):
    checker = Checker(anonymized, local, report=lambda line: None)
    checker.check_bytes("planted", data, compressed)
    return set(checker.violations)


def self_test():
    stamps = b"\x01\x01\x08\x0a" + bytes(range(1, 9))
    good4 = ethernet4(ipv4(tcp(stamps)))
    good6 = ethernet6(ipv6(tcp(stamps)))
    add_address = b"\x1e\x08\x30\x05"
    home = b"\x06\x02\xc9\x10" + bytes(16) + b"\x01\x02\0\0"
    routing = b"\x06\x02\x04\x01"
    cases = [
        # (what, violations, file, keyword arguments)
        ("plain packets", set(), pcap(good4, good6), {}),
        ("no packet", set(), pcap(), {}),
        ("two gzip members", set(), gzip(pcap(good4)) + gzip(pcap(good4)[24:]), {"compressed": True}),
        ("a header cut by the snap length", set(), pcap(good4[:-6]), {"anonymized": False}),
        ("a later fragment", set(), pcap(ethernet4(ipv4(b"", fragment=5))), {}),
        ("a super-packet", set(), pcap(ethernet4(ipv4(tcp(stamps), total=0)), ethernet6(ipv6(tcp(), payload=None))), {}),
        ("an impossible data offset", set(), pcap(ethernet4(ipv4(tcp(offset=3))), ethernet4(ipv4(tcp(offset=15), payload=0))), {}),
        ("harmless options", set(), pcap(ethernet4(ipv4(tcp(b"\x02\x04\x05\xb4"), b"\x94\x04\0\0\x07\x07\x08\0\0\0\0\0"))), {}),
        ("a local address", set(), pcap(ethernet4(ipv4(tcp(), src="192.0.2.77"))), {"local": ["192.0.2.77"]}),
        ("two local addresses", set(), pcap(ethernet4(ipv4(tcp(checksum=9), src="192.0.2.7", dst="192.0.2.8"))),
         {"local": ["192.0.2.7", "192.0.2.8"]}),
        ("tags", set(), pcap(MACS + b"\x88\xa8\0\x01\x81\0\0\x02\x08\x00" + ipv4(tcp())), {}),
        ("PPPoE", set(), pcap(MACS + b"\x88\x64\x11\0\0\x01" + struct.pack(">HH", 142, 0x21) + ipv4(tcp())), {}),
        ("SNAP", set(), pcap(MACS + struct.pack(">H", 148) + b"\xaa\xaa\3\0\0\0\x08\0" + ipv4(tcp())), {}),
        ("raw IP", set(), pcap(ipv4(tcp()), ipv6(tcp()), link=RAW), {}),
        ("loopback", set(), pcap(b"\x02\0\0\0" + ipv4(tcp()), b"\0\0\0\x1e" + ipv6(tcp()), link=NULL), {}),
        ("cooked", set(), pcap(b"\0\0\0\1\0\6" + MACS[:6] + b"\0\0\x08\0" + ipv4(tcp()), link=SLL), {}),
        ("extension headers", set(), pcap(
            ethernet6(ipv6(tcp(), home, DESTINATION)), ethernet6(ipv6(tcp(), routing + bytes(20), ROUTING)),
            ethernet6(ipv6(tcp(), b"\x06\x02" + bytes(9) + b"\1" + bytes(4), AUTHENTICATION)),
            ethernet6(ipv6(b"", b"\x06\0\0\x09\0\0\0\1", FRAGMENT))), {}),
        ("the hardware address of a local end", set(), pcap(bytes(6) + b"\2\3\4\5\6\7\x08\0" + ipv4(tcp(), src="192.0.2.77")),
         {"local": ["192.0.2.77"]}),
        ("the cooked address of a local sender", set(),
         pcap(b"\0\4\0\1\0\6" + bytes(range(6)) + b"\0\0\x08\0" + ipv4(tcp(), src="192.0.2.77"), link=SLL), {"local": ["192.0.2.77"]}),
        ("a masked IPv4-mapped address", set(), pcap(ethernet6(ipv6(tcp(), src="::ffff:192.0.2.0"))), {}),
        ("Multipath TCP without checksums", set(),
         pcap(ethernet4(ipv4(tcp(b"\x1e\x12\x20\5" + bytes(range(14)) + b"\1\1" + b"\x1e\x0c\x20\7" + b"\x55" * 8)))), {}),
        # What must be found.
        ("a byte of payload", {"beyond-headers"}, pcap(good4 + b"G"), {}),
        ("a trailer", {"beyond-headers"}, pcap(ethernet4(ipv4(tcp(), payload=0)) + bytes(6)), {}),
        ("payload behind a small data offset", {"beyond-headers"}, pcap(ethernet4(ipv4(tcp(offset=4)) + b"GET ")), {}),
        ("payload behind a large data offset", {"beyond-headers"}, pcap(ethernet4(ipv4(tcp(offset=15), payload=9) + b"GET /")), {}),
        ("payload of a later fragment", {"beyond-headers"}, pcap(ethernet4(ipv4(b"GET /", fragment=5))), {}),
        ("payload of a super-packet", {"beyond-headers"}, pcap(ethernet4(ipv4(tcp() + b"G", total=0))), {}),
        ("payload behind PPPoE's length", {"beyond-headers"},
         pcap(MACS + b"\x88\x64\x11\0\0\x01" + struct.pack(">HH", 42, 0x21) + ipv4(tcp(stamps))), {}),
        ("UDP", {"not-tcp"}, pcap(ethernet4(ipv4(tcp(), protocol=17))), {}),
        ("ARP", {"not-tcp"}, pcap(MACS + b"\x08\x06" + bytes(28)), {}),
        ("half a TCP header", {"cut"}, pcap(ethernet4(ipv4(tcp()))[:50]), {}),
        ("microseconds", {"magic"}, pcap(good4, magic=0xA1B2C3D4), {}),
        ("disorder", {"time-order"}, pcap(good4, good4, times=[5, 4]), {}),
        ("a record above the snap length", {"snaplen"}, pcap(good4, snaplen=60), {}),
        ("a cut record", {"framing"}, pcap(good4)[:-1], {}),
        ("a cut record header", {"framing"}, pcap(good4) + b"\0\0", {}),
        ("an empty file", {"framing"}, b"", {}),
        ("more kept than there was", {"wire-length"},
         pcap(good4)[:36] + struct.pack("<I", 10) + pcap(good4)[40:], {}),
        ("a cut gzip member", {"gzip"}, gzip(pcap(good4))[:-3], {"compressed": True}),
        ("garbage behind a gzip member", {"gzip"}, gzip(pcap(good4)) + b"\0", {"compressed": True}),
        ("a wrong gzip checksum", {"gzip"}, gzip(pcap(good4))[:-8] + bytes(8), {"compressed": True}),
        ("an IPv4 host", {"address"}, pcap(ethernet4(ipv4(tcp(), dst="198.51.100.9"))), {}),
        ("an IPv6 host", {"address"}, pcap(ethernet6(ipv6(tcp(), src="2001:db8:1:1::"))), {}),
        ("an address that is local elsewhere", {"address"}, pcap(ethernet4(ipv4(tcp(), src="192.0.2.77"))), {"local": ["192.0.2.78"]}),
        ("the checksum of another address", {"ip-checksum"}, pcap(ethernet4(ipv4(tcp(), bad_checksum=5))), {}),
        ("a TCP checksum", {"tcp-checksum"}, pcap(ethernet6(ipv6(tcp(checksum=1)))), {}),
        ("a recorded route", {"ipv4-options"}, pcap(ethernet4(ipv4(tcp(), b"\x07\x07\x08\1\2\3\4\0"))), {}),
        ("an unknown IPv4 option", {"ipv4-options"}, pcap(ethernet4(ipv4(tcp(), b"\x5e\x04\0\0"))), {}),
        ("bytes behind the IPv4 options", {"ipv4-options"}, pcap(ethernet4(ipv4(tcp(), b"\0\0\0\x09"))), {}),
        ("a TCP signature", {"tcp-options"}, pcap(ethernet4(ipv4(tcp(b"\x13\x12" + b"\x55" * 16 + b"\0\0")))), {}),
        ("an announced address", {"tcp-options"}, pcap(ethernet4(ipv4(tcp(add_address + b"\xc0\0\2\1")))), {}),
        ("a broken TCP option", {"tcp-options"}, pcap(ethernet4(ipv4(tcp(b"\x08\x63\1\2")))), {}),
        ("a home address", {"extension"}, pcap(ethernet6(ipv6(tcp(), home[:19] + b"\1" + home[20:], DESTINATION))), {}),
        ("a routing header", {"extension"}, pcap(ethernet6(ipv6(tcp(), routing + bytes(19) + b"\1", ROUTING))), {}),
        ("a check value", {"extension"}, pcap(ethernet6(ipv6(tcp(), b"\x06\x02" + bytes(13) + b"\1", AUTHENTICATION))), {}),
        ("a mobility header", {"extension"}, pcap(ethernet6(ipv6(tcp(), b"\x06\0\0\0\1\1\0\0", 135))), {}),
        ("a hardware address", {"link-address"}, pcap(b"\x02\x42\xc0\0\2\x4d" + bytes(6) + b"\x08\0" + ipv4(tcp())), {}),
        ("a cooked hardware address", {"link-address"}, pcap(b"\0\0\0\1\0\6" + bytes(range(6)) + b"\0\0\x08\0" + ipv4(tcp()), link=SLL), {}),
        ("an IPv4-mapped host", {"address"}, pcap(ethernet6(ipv6(tcp(), src="::ffff:192.0.2.9"))), {}),
        ("a checksum over a data sequence", {"tcp-options"},
         pcap(ethernet4(ipv4(tcp(b"\x1e\x14\x20\5" + bytes(14) + b"\xbe\xef")))), {}),
        ("a checksum of capable ends", {"tcp-options"}, pcap(ethernet4(ipv4(tcp(b"\x1e\x18\1\x81" + b"\x55" * 20)))), {}),
        ("a tunnel's outer address", {"link-address"},
         pcap(b"\0\0\3\0\0\4\xc0\0\2\1\0\0\0\0\x08\0" + ipv4(tcp()), link=SLL), {}),
    ]
    failed = 0
    for what, expected, data, arguments in cases:
        found = kinds(data, **arguments)
        if found != expected:
            failed += 1
            print(f"self-test: {what}: expected {sorted(expected)}, found {sorted(found)}")
    print(f"self-test: {len(cases) - failed} of {len(cases)} passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
