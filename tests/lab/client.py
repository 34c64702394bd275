#!/usr/bin/env python3
"""Makes TCP connections of mixed sizes to server.py, to each address in turn, and says how many were whole.

    client.py --count 20 [--concurrency 50] [--rounds N] [--seed 1] [--hold] [--forever] [--port 12345] ADDRESS...

--hold keeps every connection open, idle, after its last round until standard input ends. --forever goes on until then
and does not mind connections that fail.
"""

import argparse
import asyncio
import random
import sys

MARKER = b"PAYLOAD-MUST-NOT-LEAK "
# Answers per round: from less than a segment to many super-packets.
SIZES = (1, 100, 1_000, 10_000, 100_000, 1_000_000)
WEIGHTS = (5, 5, 5, 3, 2, 1)


async def connection(args, number, seed, hold):
    dice = random.Random(seed)
    rounds = args.rounds or dice.randint(1, 4)
    up = dice.choice((1, 200, 3_000))
    down = 100 if args.rounds else dice.choices(SIZES, WEIGHTS)[0]
    reader, writer = await asyncio.open_connection(args.address[number % len(args.address)], args.port)
    writer.write(f"{rounds} {up} {down}\n".encode())
    for _ in range(rounds):
        writer.write((MARKER * (up // len(MARKER) + 1))[:up])
        await writer.drain()
        await reader.readexactly(down)
    if hold:
        print("held", flush=True)
        await hold.wait()
    writer.write_eof()
    await reader.read()
    writer.close()
    await writer.wait_closed()


async def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", nargs="+")
    parser.add_argument("--port", type=int, default=12345)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--concurrency", type=int, default=50)
    parser.add_argument("--rounds", type=int, help="small rounds per connection, instead of a mix")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hold", action="store_true")
    parser.add_argument("--forever", action="store_true")
    args = parser.parse_args()
    over = asyncio.Event()
    if args.hold or args.forever:
        asyncio.get_running_loop().run_in_executor(None, wait_for_end_of_input, over, asyncio.get_running_loop())
    slots = asyncio.Semaphore(args.count if args.hold else args.concurrency)
    whole = failed = 0

    async def one(number):
        nonlocal whole, failed
        async with slots:
            if args.forever and over.is_set():
                return
            try:
                await connection(args, number, f"{args.seed} {number}", over if args.hold else None)
                whole += 1
            except (OSError, asyncio.IncompleteReadError) as e:
                failed += 1
                if not args.forever:
                    print(f"connection {number}: {e}", file=sys.stderr)

    done = 0
    while done == 0 or (args.forever and not over.is_set()):
        await asyncio.gather(*(one(n) for n in range(done, done + args.count)))
        done += args.count
    print(f"{whole} connections whole, {failed} failed", flush=True)
    return 1 if failed and not args.forever else 0


def wait_for_end_of_input(over, loop):
    sys.stdin.read()
    loop.call_soon_threadsafe(over.set)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
