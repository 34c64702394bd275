#!/usr/bin/env python3
"""Instructions per packet of each stage of the bench `path`; scripts/instructions.sh builds it and calls this."""
import pathlib
import re
import subprocess
import sys
import tempfile

KEPT = pathlib.Path("benches/instructions.txt")
# What is counted: calls of these functions, with all that they call.
STAGES = {
    "parse": "*Frames::parse*",
    "scrub": "*Frames::scrub*",
    "append": "*Append::run*",
    "shard": "*Load::handle*",
    "compress": "*compress_all*",
}
MOST = 1.25


def count(bench, stage, function):
    with tempfile.NamedTemporaryFile() as out:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out.name}", f"--toggle-collect={function}"]
        done = subprocess.run([*command, bench, "--count", stage], capture_output=True, text=True, check=True)
    instructions = int(re.search(r"Collected : (\d+)", done.stderr)[1])
    return instructions / int(done.stdout)


def main():
    bench, update = sys.argv[1], sys.argv[2:] == ["--update"]
    before = dict(line.split() for line in KEPT.read_text().splitlines()) if KEPT.exists() else {}
    now = {stage: round(count(bench, stage, function)) for stage, function in STAGES.items()}
    print(f"{'instructions a packet':22} {'kept':>7} {'now':>7} {'ratio':>6}")
    for stage, n in now.items():
        kept = int(before.get(stage, n))
        print(f"{stage:22} {kept:7} {n:7} {n / kept:6.2f}")
    if update:
        KEPT.write_text("".join(f"{stage} {n}\n" for stage, n in now.items()))
        return
    worse = [stage for stage, n in now.items() if n > MOST * int(before[stage])]
    if worse:
        sys.exit(f"slower than a quarter more: {', '.join(worse)}; find out why, or run scripts/instructions.sh --update")


if __name__ == "__main__":
    main()
