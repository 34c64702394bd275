"""What should never happen and does: broken headers, broken events, addresses in every corner."""

import json
import struct

from . import wire
from .scenario import CLIENT4, CLIENT6, MS, SERVER4, SERVER6, Connection, Scenario
from .wire import ACK, AUTH, DEST_OPTS, HOP_BY_HOP, NOP, PSH, ROUTING, Option, Segment, hidden, option


def hostile():
    yield malformed()
    yield hostile_events()
    yield netblock()


def malformed():
    s = Scenario(
        "malformed",
        "bad data offsets, bad options, IP lengths that contradict the headers, text after the IP packet",
        "one file: 20 bytes of TCP where the data offset lies, never a byte of text; the rest counts as malformed",
    )
    c = Connection(s).handshake()
    s.announce(c)

    def lie(data_offset, text, keep):
        seg = c.segment(True, ACK | PSH, text, options=(), data_offset=data_offset)
        c.capture(True, seg, keep=20 + keep)
        s.wait(MS)

    # Data offset below the minimum, or past the end of the packet: only the fixed header is proven.
    for words in (0, 1, 4):
        lie(words, wire.payload(60), 20)
    lie(15, wire.payload(10), 20)
    lie(6, b"", 20)
    # A data offset that points into what is payload cannot be told from options: it is kept, so it holds no text here.
    lie(8, bytes(12) + wire.payload(60), 32)
    # Options that end badly inside a header of honest length.
    for broken in (b"\x08\x00", b"\x08\xff", b"\x02\x01", b"\x05\x0e", b"\xfd\xfd"):
        c.capture(True, c.segment(True, ACK | PSH, wire.payload(60), options=(Option(broken + bytes(10)),)))
        s.wait(MS)
    # Bytes after the IP packet: an Ethernet trailer.
    for text in (wire.payload(6), wire.payload(400)):
        c.capture(True, c.segment(True, ACK), trailer=text)
        c.capture(False, c.segment(False, ACK | PSH, wire.payload(30)), trailer=text)
        s.wait(MS)

    def refuse(packet, ethertype=0x0800):
        s.other_frame("malformed", ethertype, packet)
        s.wait(MS)

    seg = Segment(c.cport, c.sport, c.next[True], c.next[False], ACK | PSH, payload=wire.payload(60))
    body4 = seg.build(wire.address(CLIENT4), wire.address(SERVER4), False)[0]
    body6 = seg.build(wire.address(CLIENT6), wire.address(SERVER6), False)[0]
    # The IP packet ends within the TCP header, or before it begins, or within its own header.
    refuse(wire.ipv4(CLIENT4, SERVER4, body4, total_len=32)[0])
    refuse(wire.ipv4(CLIENT4, SERVER4, body4, total_len=19)[0])
    refuse(wire.ipv4(CLIENT4, SERVER4, body4, ihl=4)[0])
    refuse(wire.ipv4(CLIENT4, SERVER4, body4, ihl=15, total_len=40)[0])
    refuse(wire.ipv6(CLIENT6, SERVER6, body6, payload_len=12)[0], 0x86DD)
    # EtherType and version disagree.
    refuse(wire.ipv6(CLIENT6, SERVER6, body6)[0], 0x0800)
    refuse(wire.ipv4(CLIENT4, SERVER4, body4)[0], 0x86DD)
    c.close()
    s.tick()
    return s


def hostile_events():
    s = Scenario(
        "hostile-events",
        "names that leave the folder, no names, no sockets, bad addresses, lines that are no events, a line of 64 KiB",
        "three files for the three good announcements, nothing outside the data folder",
    )
    c = Connection(s).handshake()

    def opened(uuid, ident=None, **more):
        default = {"SPort": c.sport, "DPort": c.cport, "SrcIP": c.server, "DstIP": c.client, "Interface": 0, "Cookie": 1}
        event = {"Event": 0, "Timestamp": "2026-11-21T12:00:00.1Z", "UUID": uuid, "ID": {**default, **(ident or {})}, **more}
        return json.dumps(event, separators=(",", ":")).encode()

    # Each names a real connection, so that a reader that believes it writes a file.
    for name in ("../../../../evil", "..", ".hidden", "", "a/b", "/evil", "a\nb", "a b", "a\0b", "x..y", "n" * 201, "caf\u00e9"):
        s.bad_event(opened(name), "baduuid")
    s.bad_event(opened("nil_id", ID=None), "nilid")
    for ip in ("", "192.0.2", "192.0.2.256", "localhost", "2001:db8::g"):
        s.bad_event(opened("bad_ip", {"SrcIP": ip}), "badip")
    for line in (
        b"",
        b" ",
        b"garbage",
        b"{",
        b"[]",
        b"null",
        b"42",
        b'"text"',
        b"\xff\xfe\x00",
        b"{}",
        opened("bad_port", {"SPort": 70_000}),
        opened("bad_kind", Event="open"),
        opened("unknown_kind", Event=7),
        opened("bad_time", Timestamp="yesterday"),
        opened("bad_month", Timestamp="2026-13-21T12:00:00Z"),
        b"[" * 200,
    ):
        s.bad_event(line)
    s.announce_end("close-without-open")
    s.announce(c, uuid="u" * 200)
    c.talk().close()
    # Unknown fields are ignored, however long; the predecessor gave up at 64 KiB.
    longer = Connection(s, cport=51_001).handshake()
    s.announce(longer, uuid="long-line", extra={"Comment": "x" * 65_536})
    longer.talk(1).close()
    last = Connection(s, cport=51_002).handshake()
    s.announce(last, uuid="A-Z.a_z:0-9")
    last.talk(1).close()
    s.tick()
    return s


def netblock():
    s = Scenario(
        "netblock",
        "addresses in IP options, routing headers, home addresses and MPTCP ADD_ADDR; secrets in TCP options",
        "two files; with netblock, all of those and the client's hardware address zeroed, the IP checksum right again, the TCP checksum zero",
    )
    s.netblock = True
    home = "2001:db8:beef:1:2:3:4:5"
    third4, third6 = wire.address("198.51.100.77"), wire.address(home)

    c = Connection(s).handshake()
    s.announce(c)

    def with_tcp(*options):
        length = sum(len(o.sent) for o in options)
        c.capture(True, c.segment(True, ACK | PSH, wire.payload(40), options=(*options, *[NOP] * (-length % 4))))
        s.wait(MS)

    def with_ip(*options):
        length = sum(len(o.sent) for o in options)
        c.capture(True, c.segment(True, ACK | PSH, wire.payload(40)), ip={"options": (*options, *[NOP] * (-length % 4))})
        s.wait(MS)

    # MPTCP (RFC 8684): MP_CAPABLE stays, ADD_ADDR loses the address after its first four bytes.
    with_tcp(option(30, b"\x01\x81" + bytes(range(8))))
    with_tcp(hidden(30, b"\x30\x02" + third4 + bytes(range(8)), keep=2))
    with_tcp(hidden(30, b"\x30\x02" + third6 + bytes(range(8)), keep=2))
    with_tcp(hidden(19, b"md5 of a segment"))
    with_tcp(hidden(29, b"\x01\x02authenticated"))
    with_tcp(hidden(34, b"cookie88"), option(28, b"\x80\x10"), option(27, b"\x01\x02\x03\x04\x05\x06"))
    with_tcp(hidden(253, b"experiment"), hidden(77, b"unknown"))
    with_tcp(option(5, struct.pack("!II", 1000, 2000)), option(4), option(3, b"\x07"))
    # Exactly a multiple of 4, so that no padding follows: all after a malformed option goes.
    with_tcp(NOP, Option(b"\x08\x28" + b"past the end!", bytes(15)))

    # IPv4 options (RFC 791): record route, loose and strict source route, timestamp. Routes are used up when they arrive.
    with_ip(hidden(7, b"\x08" + third4 + bytes(4), keep=1))
    with_ip(hidden(131, b"\x08" + third4, keep=1))
    with_ip(hidden(137, b"\x0c" + third4 + third4, keep=1))
    with_ip(hidden(68, b"\x0d\0" + struct.pack("!II", 43_200_123, 0), keep=2))
    with_ip(option(148, b"\0\0"), option(136, b"\x12\x34"), option(130, b"\0\0\0\0\0\0\0\0\0"))
    with_ip(Option(b"\x5e\x08secret", b"\x01" * 8))
    with_ip(NOP, Option(b"\x07\x27" + third4 + b"!", bytes(7)))
    c.close()

    c = Connection(s, CLIENT6, SERVER6).handshake()
    s.announce(c)
    for chain in (
        ((HOP_BY_HOP, wire.extension(wire.option6(5, b"\0\0", True), wire.option6(0x1E, b"secret", False))),),
        ((ROUTING, wire.routing(2, 0, bytes(4) + third6)),),
        ((ROUTING, wire.routing(4, 0, b"\x01\0\0\0" + third6 + third6)),),
        ((DEST_OPTS, wire.extension(wire.option6(0xC9, third6, False))),),
        ((DEST_OPTS, wire.extension(wire.option6(4, b"\x08", True), Option(b"\0"))),),
        ((AUTH, wire.auth_header(0x100, 1, b"integrity-12")),),
        (
            (HOP_BY_HOP, wire.extension(wire.option6(0xC9, third6, False))),
            (DEST_OPTS, wire.extension(wire.option6(0xC9, third6, False))),
            (ROUTING, wire.routing(0, 0, bytes(4) + third6)),
        ),
    ):
        mobile = any(number == DEST_OPTS and ext.sent[2] == 0xC9 for number, ext in chain)
        c.capture(True, c.segment(True, ACK | PSH, wire.payload(40)), ip={"extensions": chain, "home": home if mobile else None})
        s.wait(MS)
    c.close()
    s.tick()
    return s
