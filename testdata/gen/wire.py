"""Packets, byte by byte, with the place where their headers end.

Nothing here parses: a builder knows what it put where. Each builder takes `masked`, and then returns what netblock
anonymisation must leave of the same packet; that is how the expected result is made without the code under test.
"""

import ipaddress
import struct
from dataclasses import dataclass

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10

HOP_BY_HOP, ROUTING, FRAGMENT, AUTH, DEST_OPTS = 0, 43, 44, 51, 60
TCP, UDP, ICMP = 6, 17, 1

MARKER = b"PAYLOAD-MUST-NOT-LEAK "


def payload(length):
    """That many bytes of the marker, so that a leak can be searched for."""
    return (MARKER * (length // len(MARKER) + 1))[:length]


def checksum(data):
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


# What a masked run names with --local.addr, and so keeps.
LOCAL = ("192.0.2.10", "2001:db8:1::10")


def address(text, masked=False):
    """Network-order bytes of an address; masked to its netblock, /24 or /48, if asked and not local."""
    raw = ipaddress.ip_address(text).packed
    if not masked or text in LOCAL:
        return raw
    return raw[:3] + b"\0" if len(raw) == 4 else raw[:6] + bytes(10)


@dataclass(frozen=True)
class Option:
    """An option as sent, and as netblock anonymisation leaves it."""

    sent: bytes
    masked: bytes = None

    def get(self, masked):
        return self.masked if masked and self.masked is not None else self.sent


def option(kind, data=b""):
    """A kind-length-data option (TCP, or IPv4 with the type as kind) that masking leaves alone."""
    return Option(bytes([kind, len(data) + 2]) + data)


def hidden(kind, data, keep=0):
    """An option whose data masking zeroes, but for its first `keep` bytes."""
    head = bytes([kind, len(data) + 2])
    return Option(head + data, head + data[:keep] + bytes(len(data) - keep))


NOP = Option(b"\x01")


def mss(value):
    return option(2, struct.pack("!H", value))


def window_scale(shift):
    return option(3, bytes([shift]))


SACK_PERMITTED = option(4)


def timestamps(value, echo):
    return option(8, struct.pack("!II", value, echo))


def options_bytes(options, masked):
    return b"".join(o.get(masked) for o in options)


@dataclass(frozen=True)
class Segment:
    """A TCP segment. `data_offset` overrides the true one, in 32-bit words: a lie for the malformed cases."""

    sport: int
    dport: int
    seq: int
    ack: int
    flags: int
    window: int = 502
    options: tuple = ()
    payload: bytes = b""
    data_offset: int = None

    def build(self, src, dst, masked):
        """The segment's bytes and the length of its header."""
        opts = options_bytes(self.options, masked)
        assert len(opts) % 4 == 0, "pad TCP options with NOP"
        words = self.data_offset if self.data_offset is not None else 5 + len(opts) // 4
        head = struct.pack("!HHIIBBHHH", self.sport, self.dport, self.seq, self.ack, words << 4, self.flags, self.window, 0, 0)
        whole = head + opts + self.payload
        if not masked:
            rest = struct.pack("!BBH", 0, TCP, len(whole)) if len(src) == 4 else struct.pack("!IxxxB", len(whole), TCP)
            pseudo = src + dst + rest
            whole = whole[:16] + struct.pack("!H", checksum(pseudo + whole)) + whole[18:]
        return whole, 20 + len(opts)


def ipv4(src, dst, body, proto=TCP, ident=0, options=(), masked=False, more=False, offset=0, total_len=None, ihl=None, ttl=64):
    """An IPv4 header and `body`. `total_len` and `ihl` override the true values."""
    opts = options_bytes(options, masked)
    assert len(opts) % 4 == 0, "pad IPv4 options"
    true_ihl = 5 + len(opts) // 4
    fragment = (0x2000 if more else 0) | offset // 8
    if not more and not offset:
        fragment = 0x4000
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x40 | (ihl if ihl is not None else true_ihl),
        0,
        total_len if total_len is not None else true_ihl * 4 + len(body),
        ident,
        fragment,
        ttl,
        proto,
        0,
        address(src, masked),
        address(dst, masked),
    )
    head = head[:10] + struct.pack("!H", checksum(head + opts)) + head[12:] + opts
    return head + body, len(head)


def ipv6(src, dst, body, proto=TCP, extensions=(), masked=False, payload_len=None, flow_label=0x12345, hop_limit=64):
    """An IPv6 header, extension headers as (number, Option) in order, and `body`."""
    numbers = [n for n, _ in extensions] + [proto]
    chain = b"".join(bytes([nxt]) + ext.get(masked)[1:] for nxt, (_, ext) in zip(numbers[1:], extensions))
    head = struct.pack(
        "!IHBB16s16s",
        0x6000_0000 | flow_label,
        payload_len if payload_len is not None else len(chain) + len(body),
        numbers[0],
        hop_limit,
        address(src, masked),
        address(dst, masked),
    )
    return head + chain + body, len(head) + len(chain)


def extension(*options):
    """A hop-by-hop or destination options header made of options, padded to a multiple of 8 (RFC 8200 section 4.3)."""
    sent, masked = (b"".join(o.get(m) for o in options) for m in (False, True))
    pad = -(2 + len(sent)) % 8
    padding = b"" if pad == 0 else b"\0" if pad == 1 else bytes([1, pad - 2]) + bytes(pad - 2)
    head = bytes([0, (2 + len(sent) + pad) // 8 - 1])
    return Option(head + sent + padding, head + masked + padding)


def option6(kind, data, keep_data):
    """An option of an options header; those not known to be harmless lose their data."""
    head = bytes([kind, len(data)])
    return Option(head + data, head + (data if keep_data else bytes(len(data))))


def routing(kind, segments_left, data):
    """A routing header: all after its first four bytes can hold addresses."""
    assert (4 + len(data)) % 8 == 0
    head = bytes([0, (4 + len(data)) // 8 - 1, kind, segments_left])
    return Option(head + data, head + bytes(len(data)))


def auth_header(spi, seq, icv):
    """An authentication header (RFC 4302): its length is in words of 4 bytes, minus 2."""
    assert (12 + len(icv)) % 8 == 0
    head = bytes([0, (12 + len(icv)) // 4 - 2, 0, 0]) + struct.pack("!II", spi, seq)
    return Option(head + icv, head + bytes(len(icv)))


def fragment_header(ident, offset, more):
    return Option(struct.pack("!BBHI", 0, 0, offset | more, ident))


CLIENT_MAC, SERVER_MAC = bytes.fromhex("020000000045"), bytes.fromhex("02000000000a")
ETHERTYPE = {4: 0x0800, 6: 0x86DD}


def synthetic_ethernet(version):
    """What stands for a link layer that is not Ethernet in an archived file."""
    return bytes(12) + struct.pack("!H", ETHERTYPE[version])


class Ethernet:
    """Ethernet, with VLAN tags as (ethertype, id) from the outside in, and PPPoE if asked."""

    number = 1

    def __init__(self, *tags, pppoe=False):
        self.tags, self.pppoe = tags, pppoe

    def head(self, version, to_server, length):
        macs = SERVER_MAC + CLIENT_MAC if to_server else CLIENT_MAC + SERVER_MAC
        tags = b"".join(struct.pack("!HH", kind, vid) for kind, vid in self.tags)
        if not self.pppoe:
            return macs + tags + struct.pack("!H", ETHERTYPE[version])
        # RFC 2516 section 4; PPP protocol numbers 0x0021 and 0x0057.
        return macs + tags + struct.pack("!HBBHHH", 0x8864, 0x11, 0, 7, length + 2, 0x0021 if version == 4 else 0x0057)


class LinuxSll:
    """LINKTYPE_LINUX_SLL: what `tcpdump -i any` used to give."""

    number = 113

    def head(self, version, to_server, _length):
        mac = CLIENT_MAC if to_server else SERVER_MAC
        return struct.pack("!HHH8sH", 0 if to_server else 4, 1, 6, mac, ETHERTYPE[version])


class LinuxSll2:
    """LINKTYPE_LINUX_SLL2: what `tcpdump -i any` gives since libpcap 1.10."""

    number = 276

    def head(self, version, to_server, _length):
        mac = CLIENT_MAC if to_server else SERVER_MAC
        return struct.pack("!HHIHBB8s", ETHERTYPE[version], 0, 2, 1, 0 if to_server else 4, 6, mac)


class Raw:
    """LINKTYPE_RAW: tun, WireGuard, ppp."""

    number = 101

    def head(self, _version, _to_server, _length):
        return b""


class Null:
    """LINKTYPE_NULL: BSD loopback; family in the capturing machine's order, here little-endian; 30 is Darwin's IPv6."""

    number = 0

    def head(self, version, _to_server, _length):
        return struct.pack("<I", {4: 2, 6: 30}[version])


class Loop:
    """LINKTYPE_LOOP: OpenBSD loopback; family in network order; 24 is OpenBSD's IPv6."""

    number = 108

    def head(self, version, _to_server, _length):
        return struct.pack("!I", {4: 2, 6: 24}[version])


class User0:
    """LINKTYPE_USER0: private use, so nobody can know what is in it."""

    number = 147

    def head(self, _version, _to_server, _length):
        return b"private "
