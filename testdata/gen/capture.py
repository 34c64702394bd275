"""Capture files: classic pcap in its four byte orders and resolutions, and pcapng."""

import struct


def classic(frames, link, order="<", nanos=True, snaplen=262144):
    """A classic pcap file (libpcap's pcap-savefile(5))."""
    magic = 0xA1B23C4D if nanos else 0xA1B2C3D4
    out = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snaplen, link)]
    for f in frames:
        sub = f.ts % 10**9
        out.append(struct.pack(order + "IIII", f.ts // 10**9, sub if nanos else sub // 1000, len(f.data), f.wire_len))
        out.append(f.data)
    return b"".join(out)


def pcapng(frames, interfaces, order="<"):
    """A pcapng file of one section; `interfaces` are (name, link type, if_tsresol or None for microseconds)."""

    def block(kind, body):
        body += bytes(-len(body) % 4)
        return struct.pack(order + "II", kind, len(body) + 12) + body + struct.pack(order + "I", len(body) + 12)

    def opt(code, value):
        return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)

    out = [block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1) + opt(4, b"generate.py") + opt(0, b""))]
    for name, link, resolution in interfaces:
        options = opt(2, name.encode())
        if resolution is not None:
            options += opt(9, bytes([resolution]))
        out.append(block(1, struct.pack(order + "HHI", link, 0, 262144) + options + opt(0, b"")))
    # A block of a type that nobody assigned: readers must step over it (pcapng section 4).
    out.append(block(0x0BADBEEF, b"step over me"))
    for f in frames:
        resolution = interfaces[f.iface][2]
        ticks = f.ts // 10 ** (9 - (6 if resolution is None else resolution))
        head = struct.pack(order + "IIIII", f.iface, ticks >> 32, ticks & 0xFFFFFFFF, len(f.data), f.wire_len)
        out.append(block(6, head + f.data))
    for number in range(len(interfaces)):
        out.append(block(5, struct.pack(order + "III", number, 0, 0)))
    return b"".join(out)
