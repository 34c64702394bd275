"""Reads archived files the slow and obvious way, for tests: shares nothing with the program under test."""

import gzip
import pathlib
import struct
import zlib
from dataclasses import dataclass

END_REASONS = dict(
    enumerate(("Fin", "Reset", "Closed", "CaptureWindow", "Idle", "Reused", "Shutdown", "EndOfInput", "Budget", "Salvaged"), 1)
)
FLAGS = (
    "ANONYMIZED",
    "MIDSTREAM",
    "HANDSHAKE",
    "TRUNCATED",
    "LATE_UUID",
    "SORTED",
    "DEDUPLICATED",
    "MERGED",
    "SYNTHETIC_LINK",
    "BOTH_LOCAL",
    "SCRUBBED",
    "REPLACED",
)


class BadFile(Exception):
    """A file that is not what the archive format says."""


@dataclass(frozen=True)
class Record:
    ts: int  # nanoseconds
    wire_len: int
    data: bytes


@dataclass(frozen=True)
class ArchiveFile:
    link: int
    records: list
    end: str  # "" if the file has no metadata
    flags: frozenset

    def crc32(self):
        crc = 0
        for r in self.records:
            crc = zlib.crc32(struct.pack("<QI", r.ts, r.wire_len) + r.data, crc)
        return f"{crc:08x}"


def read(path):
    """A whole archived file; raises BadFile for anything partial or odd."""
    packed = pathlib.Path(path).read_bytes()
    try:
        raw = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as e:
        raise BadFile(f"gzip: {e}") from e
    if len(raw) < 24:
        raise BadFile(f"pcap header: {len(raw)} of 24 bytes")
    magic, major, minor, zone, sigfigs, snaplen, link = struct.unpack("<IHHiIII", raw[:24])
    if (magic, major, minor, zone, sigfigs) != (0xA1B23C4D, 2, 4, 0, 0):
        raise BadFile(f"pcap header: {raw[:24].hex()}")
    records, at = [], 24
    while at < len(raw):
        head = raw[at : at + 16]
        if len(head) < 16:
            raise BadFile(f"record {len(records)}: header cut")
        secs, nanos, kept, wire_len = struct.unpack("<IIII", head)
        data = raw[at + 16 : at + 16 + kept]
        if len(data) < kept or kept > snaplen or kept > wire_len or nanos >= 10**9:
            raise BadFile(f"record {len(records)}: kept {kept}, there {len(data)}, on the wire {wire_len}, snaplen {snaplen}")
        records.append(Record(secs * 10**9 + nanos, wire_len, data))
        at += 16 + kept
    if any(a.ts > b.ts for a, b in zip(records, records[1:])):
        raise BadFile("records not in order of time")
    end, flags = metadata(packed)
    return ArchiveFile(link, records, end, flags)


def metadata(packed):
    """End reason and flags from the gzip extra field (docs/FORMAT.md)."""
    if not packed[3] & 4:
        return "", frozenset()
    extra = packed[12 : 12 + struct.unpack("<H", packed[10:12])[0]]
    while len(extra) >= 4:
        ident, length = struct.unpack("<2sH", extra[:4])
        data, extra = extra[4 : 4 + length], extra[4 + length :]
        if ident == b"FA" and len(data) >= 4:
            bits = struct.unpack("<H", data[2:4])[0]
            return END_REASONS.get(data[1], str(data[1])), frozenset(f for n, f in enumerate(FLAGS) if bits >> n & 1)
    return "", frozenset()


def last_word(packed):
    """What the kernel said of the connection at its end (docs/FORMAT.md): (cookie, rtt, bytes_acked, bytes_received), or None."""
    if not packed[3] & 4:
        return None
    extra = packed[12 : 12 + struct.unpack("<H", packed[10:12])[0]]
    while len(extra) >= 4:
        ident, length = struct.unpack("<2sH", extra[:4])
        data, extra = extra[4 : 4 + length], extra[4 + length :]
        if ident == b"FT" and len(data) >= 128 and data[0] > 0:
            return struct.unpack("<8xQI52xQQ40x", data[:128])
    return None


def files_below(folder):
    """All regular files below a folder, by their path relative to it."""
    folder = pathlib.Path(folder)
    return {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}
