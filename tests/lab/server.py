#!/usr/bin/env python3
"""A TCP server that announces its own connections as tcp-info does, but all of them and at once.

    server.py --port 12345 [--events SOCKET] [--log FILE]

A client sends one line, `ROUNDS UP DOWN`, and then as often: UP bytes, answered by DOWN bytes. Each accepted
connection is announced with its socket cookie as soon as accept returns, and its end as soon as it is closed.
Lines on standard input: `events stop` closes the event socket and its clients, `events start` opens it again,
`events wait` waits until somebody listens to it. Each is answered by `done`. End of input ends the server.
--log gets one JSON line per connection.
"""

import argparse
import asyncio
import datetime
import json
import os
import pathlib
import socket
import sys

SO_COOKIE = 57  # include/uapi/asm-generic/socket.h
PREFIX = "lab_1"
LISTEN_BACKLOG = 1024
MARKER = b"PAYLOAD-MUST-NOT-LEAK "


class Events:
    """The event socket: broadcasts lines, replays nothing."""

    def __init__(self, path):
        self.path, self.server, self.clients = path, None, set()

    async def start(self):
        if self.path:
            self.server = await asyncio.start_unix_server(self.handle_client, self.path)
            os.chmod(self.path, 0o666)

    async def stop(self):
        if self.server:
            self.server.close()
            for writer in list(self.clients):
                writer.close()
            self.server = None
            # From Python 3.13 on asyncio has done it.
            pathlib.Path(self.path).unlink(missing_ok=True)

    async def wait(self):
        while not self.clients:
            await asyncio.sleep(0.02)

    async def handle_client(self, reader, writer):
        self.clients.add(writer)
        # Nothing is expected from a client: any read means that it has gone, and an error that it was killed.
        try:
            await reader.read(1)
        except ConnectionError:
            pass
        self.clients.discard(writer)
        writer.close()

    def send(self, event):
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        for writer in self.clients:
            writer.write(line)


class Server:
    def __init__(self, events, log):
        self.events, self.log = events, log

    async def handle_connection(self, reader, writer):
        sock = writer.get_extra_info("socket")
        cookie = int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), sys.byteorder)
        uuid = f"{PREFIX}_{cookie:016X}"
        local, remote = (name[:2] for name in (sock.getsockname(), sock.getpeername()))
        src, dst = (a[0].removeprefix("::ffff:") for a in (local, remote))
        stamp = now()
        ident = {"SPort": local[1], "DPort": remote[1], "SrcIP": src, "DstIP": dst, "Interface": 0, "Cookie": cookie}
        self.events.send({"Event": 0, "Timestamp": stamp, "UUID": uuid, "ID": ident})
        if self.log:
            day = stamp[:10].replace("-", "/")
            row = {"uuid": uuid, "date": day, "local": [src, local[1]], "remote": [dst, remote[1]]}
            self.log.write(json.dumps(row) + "\n")
            self.log.flush()
        try:
            rounds, up, down = map(int, (await reader.readline()).split())
            answer = (MARKER * (down // len(MARKER) + 1))[:down]
            for _ in range(rounds):
                await reader.readexactly(up)
                writer.write(answer)
                await writer.drain()
            await reader.read()
            writer.close()
            await writer.wait_closed()
        except (OSError, ValueError, asyncio.IncompleteReadError):
            writer.close()
        self.events.send({"Event": 1, "Timestamp": now(), "UUID": uuid, "ID": None})


def now():
    return f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H:%M:%S.%f}Z"


async def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=12345)
    parser.add_argument("--events")
    parser.add_argument("--log", type=argparse.FileType("w"))
    args = parser.parse_args()
    events = Events(args.events)
    await events.start()
    server = Server(events, args.log)
    # One socket for both families, so that IPv4 peers have mapped addresses, as in most servers.
    dual = socket.create_server(("::", args.port), family=socket.AF_INET6, backlog=LISTEN_BACKLOG, dualstack_ipv6=True)
    async with await asyncio.start_server(server.handle_connection, sock=dual, backlog=LISTEN_BACKLOG):
        print("listening", flush=True)
        await commands(events)


async def commands(events):
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        await {b"events stop\n": events.stop, b"events start\n": events.start, b"events wait\n": events.wait}[line]()
        print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
