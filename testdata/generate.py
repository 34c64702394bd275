#!/usr/bin/env python3
"""Writes the captures of this folder, their events, what an archive of them must hold, and README.md.

    generate.py           write
    generate.py --check   say what differs from what would be written; exit 1 if anything does

Deterministic, Python 3 standard library only; the zstd file needs the zstd command and is left alone without it.
Compressed files are compared by their content, since compressors differ between versions.
"""

import argparse
import gzip
import json
import pathlib
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True
from gen.scenarios import all_scenarios  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
SUFFIXES = {".pcap", ".pcapng", ".gz", ".zst", ".jsonl", ".json"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    scenarios = list(all_scenarios())
    wanted = {"README.md": (None, readme(scenarios))}
    for s in scenarios:
        wanted[s.capture_name] = (s.packing, s.capture_bytes())
        wanted[s.name + ".events.jsonl"] = (None, s.event_bytes())
        wanted[s.name + ".expect.json"] = (None, (lines(s.expected()) + "\n").encode())
    if not check:
        for name, (packing, content) in wanted.items():
            write(HERE / name, packing, content)
        return 0
    stale = [p.name for p in sorted(HERE.iterdir()) if p.suffix in SUFFIXES and p.name not in wanted]
    differing = [name for name, (packing, content) in wanted.items() if not same(HERE / name, packing, content)]
    for name in differing:
        print(f"{name}: differs from what generate.py writes")
    for name in stale:
        print(f"{name}: written by no scenario")
    return 1 if differing or stale else 0


def write(path, packing, content):
    if packing == "gzip":
        path.write_bytes(gzip.compress(content, 9, mtime=0))
    elif packing == "zstd":
        if shutil.which("zstd"):
            path.write_bytes(subprocess.run(["zstd", "-q", "-c"], input=content, stdout=subprocess.PIPE, check=True).stdout)
        else:
            print(f"{path.name}: left alone, no zstd command")
    else:
        path.write_bytes(content)


def same(path, packing, content):
    if not path.exists():
        return False
    held = path.read_bytes()
    if packing == "gzip":
        held = gzip.decompress(held)
    elif packing == "zstd":
        if not shutil.which("zstd"):
            print(f"{path.name}: not compared, no zstd command")
            return True
        held = subprocess.run(["zstd", "-q", "-d", "-c"], input=held, stdout=subprocess.PIPE, check=False).stdout
    return held == content


def lines(value, depth=0):
    """JSON with one line per key of the outer objects and per file."""
    pad = " " * (depth + 1)
    if isinstance(value, dict) and depth < 2 and "uuid" not in value:
        inner = ",\n".join(f"{pad}{json.dumps(k)}: {lines(v, depth + 1)}" for k, v in value.items())
        return "{\n" + inner + "\n" + pad[1:] + "}" if inner else "{}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(pad + json.dumps(v) for v in value) + "\n" + pad[1:] + "]"
    return json.dumps(value)


def readme(scenarios):
    rows = "".join(f"| `{s.capture_name}` | {s.shows} | {s.outcome} | {frames(s)} |\n" for s in scenarios)
    return (README + rows).encode()


def frames(s):
    return ", ".join(f"{count} {label}" for label, count in s.expected()["frames"].items() if label != "total")


README = """# Test captures

Every file here is made by `generate.py`, this one included: no packet in it was ever on a wire. Addresses are those of
documentation (RFC 5737, RFC 3849), checksums are right unless a scenario is about wrong ones, payloads repeat
`PAYLOAD-MUST-NOT-LEAK` so that a leak is found by searching for it.

A scenario `NAME` is three files:

- `NAME.pcap`, `.pcapng`, `.pcap.gz` or `.pcap.zst`: the capture;
- `NAME.events.jsonl`: what tcp-info would have said, one line per event;
- `NAME.expect.json`: what an archive of it must hold. The generator writes it from what it built, and parses nothing.

In `NAME.expect.json`:

- `args`: flags beside the defaults;
- `files`: for each file its UUID, date folder, number of packets, and `crc32`: a CRC-32 over all its records in order, each as
  time in nanoseconds (u64, little-endian), length on the wire (u32, little-endian), kept bytes. `end` lists the end reasons that
  are right (none: any), `flags_set` and `flags_clear` the flags that must and must not be there;
- `frames`: outcomes by label. `kept` frames entered a flow, whether that got a file or not; `other` frames are TCP but no flow
  took them (a fragment before its first, a copy from a second interface, what comes after a flow's end): the shard has labels
  of its own for them;
- `bad_events`: how many announcements at least are unusable, by reason;
- `netblock`: further `args`, and `files`, of a second run that is anonymised and keeps the server's addresses.

Most captures end with a stray SYN some seconds after the story: it lets capture time go on, so that lingering flows end.

To change a scenario, edit `gen/` and run `generate.py`; `generate.py --check` says whether the files are what it writes;
`tests/replay_expected.py` replays them all through a binary.

| capture | what it shows | what must come of it | frames |
|---|---|---|---|
"""

if __name__ == "__main__":
    sys.exit(main())
