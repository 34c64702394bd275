#!/usr/bin/env python3
"""Replays the captures of testdata/ through a flowarc binary and compares the archives with what must come of them.

    replay_expected.py target/debug/flowarc [SCENARIO...]

One line per scenario; exit 0 if all are as expected, 1 if not, 2 if there was nothing to compare.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
import archive_file  # noqa: E402

TESTDATA = pathlib.Path(__file__).resolve().parent.parent / "testdata"
MARKER = b"MUST-NOT-LEAK"
TIMEOUT = 60  # seconds; a replay takes milliseconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("scenario", nargs="*", help="names; all if none are given")
    parser.add_argument("--shards", default="1", help="passed on as --shards")
    args = parser.parse_args()
    paths = sorted(TESTDATA.glob("*.expect.json"))
    if args.scenario:
        paths = [p for p in paths if p.name.removesuffix(".expect.json") in args.scenario]
    failed = 0
    for path in paths:
        expected = json.loads(path.read_text())
        runs = [("", expected["args"], expected["files"])]
        if "netblock" in expected:
            runs.append((" (netblock)", expected["args"] + expected["netblock"]["args"], expected["netblock"]["files"]))
        for suffix, flags, files in runs:
            problems = replay(args.binary.resolve(), expected, [*flags, f"--shards={args.shards}"], files)
            failed += bool(problems)
            packets = sum(f["packets"] for f in files)
            name = path.name.removesuffix(".expect.json") + suffix
            print(f"{'FAIL' if problems else 'PASS'} {name}: {len(files)} files, {packets} packets", *problems, sep="\n     ")
    print(f"{failed} failed" if failed else f"all as expected: {len(paths)} scenarios")
    return 2 if not paths else 1 if failed else 0


def replay(binary, expected, flags, files):
    """Runs one replay and returns what is wrong with it, in words."""
    with tempfile.TemporaryDirectory(prefix="flowarc-replay-") as top:
        # Deep, so that a name that climbs out of the data folder still lands where it is found.
        data = pathlib.Path(top, "a", "b", "c", "d", "e", "data")
        temporary = pathlib.Path(top, "tmp")
        data.mkdir(parents=True)
        command = [binary, "headers", "--read", TESTDATA / expected["capture"], "--events", TESTDATA / expected["events"]]
        command += ["--datadir", data, "--prometheusx.listen-address", "", "--tmpdir", temporary, *flags]
        # Flags fall back to environment variables: the caller's must not change the result.
        env = {k: os.environ[k] for k in ("PATH", "LD_LIBRARY_PATH", "LLVM_PROFILE_FILE") if k in os.environ}
        try:
            done = subprocess.run(command, capture_output=True, env=env, timeout=TIMEOUT, check=False)
        except subprocess.TimeoutExpired:
            return [f"did not end within {TIMEOUT} s"]
        problems = []
        if done.returncode:
            problems.append(f"exit {done.returncode}: {done.stderr.decode(errors='replace').strip()[-600:]}")
        if MARKER in done.stdout + done.stderr:
            problems.append("payload in the output")
        held = archive_file.files_below(data)
        outside = {p for p in archive_file.files_below(top).values() if data not in p.parents}
        problems += [f"outside the data folder: {p.relative_to(top)}" for p in sorted(outside)]
        for want in files:
            name = f"{want['date']}/{want['uuid']}.pcap.gz"
            path = held.pop(name, None)
            problems += [f"{name}: missing"] if path is None else [f"{name}: {p}" for p in compare(path, want)]
        problems += [f"{name}: not expected" for name in held]
        return problems


def compare(path, want):
    """What is wrong with one file."""
    try:
        got = archive_file.read(path)
    except archive_file.BadFile as e:
        return [str(e)]
    problems = []
    if len(got.records) != want["packets"]:
        problems.append(f"{len(got.records)} packets, not {want['packets']}")
    elif got.crc32() != want["crc32"]:
        problems.append(f"crc {got.crc32()}, not {want['crc32']}: times, lengths or bytes differ")
    if any(MARKER in r.data for r in got.records):
        problems.append("holds payload")
    if got.link != 1:
        problems.append(f"link type {got.link}, not 1")
    if want["end"] and got.end not in want["end"]:
        problems.append(f"end {got.end or 'not stated'}, not {' or '.join(want['end'])}")
    problems += [f"flag {f} is not set" for f in want["flags_set"] if f not in got.flags]
    problems += [f"flag {f} is set" for f in want["flags_clear"] if f in got.flags]
    return problems


if __name__ == "__main__":
    sys.exit(main())
