#!/usr/bin/env python3
"""Writes a capture to learn with: 200 downloads from one server, before and after its path got better.

scripts/sample.py OUT.pcap

The connections are computed, not captured (tests/agreement/synth.py), so the file is the same everywhere, and what an
analysis must find is known. From 10:00 to 11:00 UTC of 2026-11-21 the path to the clients takes 40 ms there and back
and loses one packet in 100; from 11:00 to 12:00 it takes 25 ms and loses one in 500. The capture point is 1 ms from the server.
"""

import pathlib
import random
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "agreement"))
import synth  # noqa: E402

TEN_O_CLOCK = 1_795_255_200.0
HOUR = 3600.0
CONNECTIONS = 200
NEAR = 0.0005  # seconds one way


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    dice = random.Random(1)
    records = []
    for number in range(CONNECTIONS):
        before = number < CONNECTIONS // 2
        rtt, loss = (0.040, 0.01) if before else (0.025, 0.002)
        start = TEN_O_CLOCK + 2 * HOUR * number / CONNECTIONS + dice.random()
        segments = 40 + int(dice.random() * 200)
        lost = [i for i in range(2 * segments) if dice.random() < loss]
        # Clients are up to 20 % nearer or farther than the path says.
        far = rtt / 2 * (0.8 + 0.4 * dice.random()) - NEAR
        numbers = (int(dice.random() * 2**32), int(dice.random() * 2**32))
        path = synth.Path(NEAR, far, loss_after=lost, jitter=0.0005, seed=number)
        packets, _ = synth.transfer(path, segments, isn=numbers, start=start)
        network = (203, 0, 113) if dice.random() < 0.5 else (198, 51, 100)
        client = bytes([*network, 1 + int(dice.random() * 250)]), 40_000 + number
        records += [(packet[0], synth.record(packet, i, client)) for i, packet in enumerate(packets)]
    with open(sys.argv[1], "wb") as out:
        out.write(synth.FILE_HEADER)
        out.writelines(record for _, record in sorted(records))


if __name__ == "__main__":
    main()
