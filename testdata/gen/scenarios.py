"""The stories: links, shapes of packets, lives of connections and names. `hostile` has what should never happen."""

import struct

from . import wire
from .scenario import BASE, CLIENT4, CLIENT6, MS, SECOND, SERVER4, SERVER6, Connection, Scenario
from .wire import ACK, AUTH, DEST_OPTS, FRAGMENT, HOP_BY_HOP, ROUTING, SYN, Ethernet


def six(s, **more):
    return Connection(s, CLIENT6, SERVER6, **more)


def links():
    """One scenario per link layer, and one per byte order and resolution of classic pcap."""
    s = Scenario("v4", "a whole IPv4 connection between ARP, LLDP, UDP and ICMP; nanoseconds, little-endian", "one file")
    s.netblock = True
    s.other_frame("not_ip", 0x0806, struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + bytes(20))
    s.other_frame("not_ip", 0x88CC, bytes.fromhex("0207040200000000010402050000060200780000"))
    Connection(s).whole()
    udp = struct.pack("!HHHH", 51_000, 9353, 8 + 22, 0) + wire.MARKER
    s.other_frame("not_tcp", 0x0800, wire.ipv4(CLIENT4, SERVER4, udp, proto=wire.UDP, ident=7)[0])
    echo = bytes([8, 0, 0, 0, 0, 1, 0, 1]) + wire.MARKER
    echo = echo[:2] + struct.pack("!H", wire.checksum(echo)) + echo[4:]
    s.other_frame("not_tcp", 0x0800, wire.ipv4(CLIENT4, SERVER4, echo, proto=wire.ICMP)[0])
    s.tick()
    yield s

    s = Scenario("v6", "a whole IPv6 connection; microseconds, little-endian", "one file, in whole microseconds", nanos=False)
    s.netblock = True
    six(s).whole()
    s.tick()
    yield s

    s = Scenario(
        "vlan", "802.1Q tags; microseconds, big-endian", "two files that keep the tag", ">", False, link=Ethernet((0x8100, 42))
    )
    Connection(s).whole()
    six(s).whole()
    s.tick()
    yield s

    s = Scenario(
        "qinq",
        "802.1ad and 802.1Q tags, and the old 0x9100; nanoseconds, big-endian",
        "two files that keep both tags",
        ">",
        link=Ethernet((0x88A8, 100), (0x8100, 42)),
    )
    Connection(s).whole()
    six(s, link=Ethernet((0x9100, 100), (0x8100, 43))).whole()
    s.tick()
    yield s

    s = Scenario("pppoe", "PPPoE session frames", "two files that keep the PPPoE header", link=Ethernet(pppoe=True))
    Connection(s).whole()
    six(s).whole()
    s.tick()
    yield s

    for name, link, words in (
        ("sll", wire.LinuxSll(), "Linux cooked capture"),
        ("sll2", wire.LinuxSll2(), "Linux cooked capture v2"),
        ("raw", wire.Raw(), "no link layer (tun, WireGuard)"),
        ("null", wire.Null(), "BSD loopback, little-endian family, Darwin's number for IPv6"),
        ("loop", wire.Loop(), "OpenBSD loopback"),
    ):
        s = Scenario(name, words, "two files with a synthetic Ethernet header and lengths corrected by it", link=link)
        Connection(s).whole().flags("SYNTHETIC_LINK")
        six(s).whole().flags("SYNTHETIC_LINK")
        s.tick()
        yield s

    s = Scenario(
        "pcapng-links",
        "pcapng with four interfaces: Ethernet in microseconds, raw IP and cooked in nanoseconds, a private link type",
        "three files; the private frames count as unknown_link",
        interfaces=[("eth0", 1, None), ("tun0", 101, 9), ("any", 113, 9), ("secret", 147, 6)],
        nanos=False,
    )
    Connection(s).whole()
    six(s, link=wire.Raw(), iface=1).whole().flags("SYNTHETIC_LINK")
    Connection(s, cport=51_001, link=wire.LinuxSll(), iface=2).whole().flags("SYNTHETIC_LINK")
    hidden = Connection(s, cport=51_002, link=wire.User0(), iface=3)
    for flags in (SYN, ACK):
        hidden.emit(True, flags, outcome="unknown_link")
    s.tick()
    yield s

    for packing in ("gzip", "zstd"):
        s = Scenario(f"v4-{packing}", f"the capture file itself is compressed with {packing}", "one file")
        s.packing = packing
        Connection(s).whole()
        s.tick()
        yield s


def shapes():
    """Packets that are legal and rare: fragments, extension headers, super-packets, a short snap length."""
    for name, connect, words in (
        ("fragments-v4", Connection, "IP header"),
        ("fragments-v6", six, "IP and fragment header"),
    ):
        s = Scenario(
            name,
            "a segment in three fragments; another whose last fragment comes before its first",
            f"later fragments keep their {words}; the early one is in no file",
        )
        c = connect(s).handshake()
        s.announce(c)
        first, second, third = fragments(c)
        for piece in (first, second, third):
            s.tcp_frame(c.flow, piece, True, c.version)
        s.wait(12 * MS)
        first, second, third = fragments(c)
        s.tcp_frame(c.flow, third, True, c.version, outcome="other")
        s.tcp_frame(c.flow, first, True, c.version)
        s.tcp_frame(c.flow, second, True, c.version)
        s.wait(12 * MS)
        c.ack(False)
        c.close()
        s.tick()
        yield s

    s = Scenario(
        "tiny-fragment",
        "a first fragment with 16 bytes of TCP (RFC 3128) beside a good connection",
        "one file; the fragment counts as tiny_fragment",
    )
    c = Connection(s).handshake()
    s.announce(c)
    segment = c.segment(True, ACK, wire.payload(8)).build(wire.address(CLIENT4), wire.address(SERVER4), False)[0]
    s.other_frame("tiny_fragment", 0x0800, wire.ipv4(CLIENT4, SERVER4, segment[:16], ident=9, more=True)[0])
    c.close()
    s.tick()
    yield s

    s = Scenario(
        "ext-headers", "IPv6 hop-by-hop, routing, destination options and authentication headers", "one file, all of them kept"
    )
    c = six(s).handshake()
    s.announce(c)
    hop = (HOP_BY_HOP, wire.extension(wire.option6(5, b"\0\0", True)))
    route = (ROUTING, wire.routing(2, 0, bytes(4) + wire.address("2001:db8:ffff::1")))
    dest = (DEST_OPTS, wire.extension(wire.option6(4, b"\x08", True)))
    auth = (AUTH, wire.auth_header(0x100, 1, b"integrity-12"))
    for chain in ((hop,), (route,), (dest,), (auth,), (hop, dest, route), (hop, dest, route, auth, dest)):
        c.capture(True, c.segment(True, ACK | wire.PSH, wire.payload(300)), ip={"extensions": chain})
        c.ack(False)
        s.wait(5 * MS)
    c.close()
    s.tick()
    yield s

    s = Scenario(
        "super-packets",
        "GSO: the sender's own machine sees segments before they are cut, of 64 KB, or more with length 0; snapped at 128",
        "two files, lengths on the wire beyond any MTU",
        snaplen=128,
    )
    c = Connection(s).handshake()
    s.announce(c)
    for length in (1448 * 10, 1448 * 45, 65535 - 52):
        c.send(False, length)
        s.wait(12 * MS)
        c.ack(True)
    c.close()
    # BIG TCP: the length does not fit its field, so that the kernel writes 0.
    c = six(s).handshake()
    s.announce(c)
    c.capture(False, c.segment(False, ACK | wire.PSH, wire.payload(180_000)), ip={"payload_len": 0})
    s.wait(12 * MS)
    c.ack(True)
    c.close()
    s.tick()
    yield s

    s = Scenario(
        "snapped",
        "a capture of 70 bytes per packet: cuts IPv4's SYN options, and IPv6 before the 20th TCP byte",
        "the IPv4 file with short SYNs; IPv6 packets count as truncated",
        snaplen=70,
    )
    c = Connection(s).handshake()
    s.announce(c)
    c.talk().close()
    lost = six(s)
    for flags in (SYN, ACK):
        lost.emit(True, flags, outcome="truncated")
    s.announce(lost)
    s.tick()
    yield s


def fragments(c):
    """The next segment of the client in three fragments, the first two of 240 bytes: a builder for each."""
    segment = c.segment(True, ACK | wire.PSH, wire.payload(600))
    src, dst = c.ends_of(True)
    c.ident += 1
    ident = c.ident

    def part(start, end, more):
        def build(masked):
            body, tcp_head = segment.build(wire.address(src), wire.address(dst), masked)
            if c.version == 4:
                packet, head = wire.ipv4(src, dst, body[start:end], ident=ident, more=more, offset=start, masked=masked, ttl=53)
            else:
                chain = ((FRAGMENT, wire.fragment_header(ident, start, more)),)
                packet, head = wire.ipv6(src, dst, body[start:end], extensions=chain, masked=masked)
            return packet, head + (tcp_head if start == 0 else 0)

        return build

    return part(0, 240, True), part(240, 480, True), part(480, None, False)


def lives():
    """How connections begin and end."""
    s = Scenario("midstream", "a connection that is older than the capture", "one file, marked as without its SYN")
    c = Connection(s)
    c.talk(1)
    s.announce(c)
    c.talk(2).close().flags("MIDSTREAM")
    c.flow.clear_flags += ("HANDSHAKE",)
    s.tick()
    yield s

    s = Scenario(
        "half-open",
        "30 SYNs that nobody answers, some retransmitted; one retransmitted SYN that is answered",
        "one file with both SYNs; the others leave nothing",
    )
    strays = [Connection(s, f"198.51.100.{n}", cport=40_000 + n) for n in range(1, 31)]
    for stray in strays:
        stray.syn()
    c = Connection(s)
    c.syn()
    s.wait(SECOND)
    for stray in strays[::3]:
        retransmit_syn(stray)
    retransmit_syn(c)
    c.syn_ack()
    s.wait(12 * MS)
    c.ack(True)
    s.announce(c)
    c.talk(1).close()
    s.tick()
    yield s

    s = Scenario(
        "reset",
        "a connection that the client resets; a SYN that is refused",
        "one file that ends with the reset; the refused one leaves nothing",
    )
    c = Connection(s).handshake()
    s.announce(c)
    c.talk(1)
    c.reset(True)
    refused = Connection(s, cport=51_001, sport=81)
    refused.syn()
    refused.reset(False)
    s.tick()
    yield s

    s = Scenario("closed", "a connection whose FIN was not captured, and a Close event", "one file, ended by the event")
    c = Connection(s).handshake()
    uuid = s.announce(c)
    c.talk(1).ends("Closed")
    s.announce_end(uuid)
    s.tick()
    s.tick()
    yield s

    s = Scenario("open-at-end", "the capture ends while the connection goes on", "one file, ended by the input")
    c = Connection(s).handshake()
    s.announce(c)
    c.talk(3).ends("EndOfInput")
    yield s

    s = Scenario(
        "idle",
        "40 silent seconds in a connection, then more of it; capture duration of 5 minutes",
        "one file with what came before the silence",
        args=["--captureduration=5m"],
    )
    c = Connection(s).handshake()
    s.announce(c)
    c.talk(2).ends("Idle")
    s.tick(40 * SECOND)
    for _ in range(3):
        c.emit(True, ACK | wire.PSH, data=wire.payload(100), outcome="other")
        c.emit(False, ACK, outcome="other")
    s.tick()
    yield s

    s = Scenario(
        "capture-window",
        "two connections of 40 seconds; one was announced 2 s before its SYN, so that its 30 s began then",
        "two files that stop 30 s after SYN and announcement",
    )
    early = Connection(s, cport=51_001)
    s.announce(early, at=BASE - 2 * SECOND)
    early.handshake().ends("CaptureWindow")
    c = Connection(s).handshake().ends("CaptureWindow")
    s.announce(c)
    s.wait(500 * MS)
    for second in range(40):
        for conn, last in ((c, 29), (early, 27)):
            outcome = "kept" if second <= last else "other"
            conn.emit(True, ACK | wire.PSH, data=wire.payload(22), outcome=outcome)
            conn.emit(False, ACK, outcome=outcome)
        s.now = BASE + (second + 1) * SECOND + 500 * MS
    s.tick()
    yield s

    s = Scenario(
        "reuse", "three connections on one 4-tuple within a second, each with its own UUID", "three files, none with another's packets"
    )
    for number in range(3):
        c = Connection(s, isn=0x2000_0000 * (number + 1))
        c.handshake()
        s.announce(c)
        c.talk(1, request=60).close().ends("Fin", "Reused")
        s.wait(200 * MS)
    s.tick()
    yield s

    s = Scenario(
        "out-of-order",
        "two rings merged badly: data packets up to 30 ms out of order in the file",
        "one file, sorted by time",
    )
    c = Connection(s).handshake()
    s.announce(c)
    start = len(s.frames)
    c.talk(4)
    s.frames[start:] = [f for a, b in zip(s.frames[start::2], s.frames[start + 1 :: 2]) for f in (b, a)]
    c.close().flags("SORTED")
    s.tick()
    yield s

    s = Scenario(
        "duplicates",
        "every packet seen on a bridge and on its port, 2 microseconds apart; one real retransmission",
        "one file with each packet once, the retransmission kept",
        interfaces=[("port0", 1, 9), ("br0", 1, 9)],
    )
    c = Connection(s).handshake()
    s.announce(c)
    c.talk(2)
    again = c.segment(False, ACK | wire.PSH, wire.payload(700))
    c.capture(False, again)
    s.wait(210 * MS)
    c.capture(False, again)
    s.wait(12 * MS)
    c.ack(True)
    c.close().flags("DEDUPLICATED")
    s.frames = [copy for f in s.frames for copy in (f, twin(f))]
    s.tick()
    yield s


def retransmit_syn(c):
    c.next[True] -= 1
    c.syn()


def twin(frame):
    """The same packet, as the bridge saw it right after its port."""
    return type(frame)(frame.ts + 2_000, frame.data, frame.wire_len, 1, "other")


def names():
    """When and how connections are announced."""
    s = Scenario("uuid-before", "the announcement comes 2 s before the first packet", "one file")
    c = Connection(s)
    s.announce(c, at=BASE - 2 * SECOND)
    c.handshake().talk().close()
    s.tick()
    yield s

    s = Scenario("uuid-after", "a connection of 40 ms, announced 2 s after its end", "one file: it waits 5 s for a name")
    c = Connection(s).handshake()
    c.talk(1).close()
    s.announce(c, at=s.now + 2 * SECOND)
    s.tick()
    s.tick()
    yield s

    s = Scenario(
        "uuid-late",
        "the announcement comes 8 s after the first packet, past the wait of 5 s; nothing was sent in between",
        "one file, marked as late",
    )
    c = Connection(s).handshake()
    c.talk(1)
    s.tick(3 * SECOND)
    s.tick(3 * SECOND)
    s.announce(c, at=BASE + 8 * SECOND)
    s.now = BASE + 9 * SECOND
    c.talk(1).close().flags("LATE_UUID")
    s.tick()
    yield s

    s = Scenario("uuid-never", "a connection that nobody announces, beside one that is", "one file: the other's")
    Connection(s, cport=51_001).handshake().talk().close()
    Connection(s).whole()
    s.tick()
    yield s

    s = Scenario("uuid-twice", "the same announcement three times, as after a reconnect", "one file")
    c = Connection(s).handshake()
    uuid = s.announce(c)
    s.announce(c, uuid=uuid)
    c.talk()
    s.announce(c, uuid=uuid)
    c.close()
    s.tick()
    yield s

    s = Scenario("mapped", "an IPv4 connection that a dual-stack socket announces with ::ffff: addresses", "one file")
    c = Connection(s).handshake()
    s.announce(c, mapped=True)
    c.talk().close()
    s.tick()
    yield s

    s = Scenario(
        "both-local",
        "client and server are sockets of this host: two announcements for one connection",
        "two names of one file",
    )
    c = Connection(s, "192.0.2.10", "192.0.2.10").handshake()
    s.announce(c)
    s.announce(c, swapped=True)
    c.talk().close().flags("BOTH_LOCAL")
    s.tick()
    yield s

    s = Scenario(
        "date-offset",
        "at 01:30 UTC on 2026-11-22, an announcement in UTC and one with offset -02:00",
        "two files: one for the 22nd, one for the 21st",
    )
    s.now = BASE + 13 * 3600 * SECOND + 1800 * SECOND
    c = Connection(s).handshake()
    s.announce(c)
    c.talk(1).close()
    c = Connection(s, cport=51_001).handshake()
    s.announce(c, offset_hours=-2)
    c.talk(1).close()
    s.tick()
    yield s


def all_scenarios():
    from . import hostile

    for part in (links, shapes, lives, names, hostile.hostile):
        yield from part()
