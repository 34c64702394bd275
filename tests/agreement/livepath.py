"""Real connections over a path of known delay and loss: two namespaces, and between them a process that forwards frames.

The kernel here may have no netem, so the delay is made by this program: it holds each frame back, and drops or delays the
data packets that it is told to. Needs root; everything has names of this process's own and is removed at the end.
"""

import heapq
import json
import os
import select
import socket
import struct
import subprocess
import sys
import time

BYTES = 600_000
PORT = 12346
TCP_INFO_TOTAL_RETRANS = 100  # offset of tcpi_total_retrans in struct tcp_info (include/uapi/linux/tcp.h)

# Name, one-way delay in seconds, data packets that are dropped, data packets that are held up and for how long.
PATHS = (
    ("live-20-ms", 0.010, (), {}),
    ("live-50-ms-loss", 0.025, (40, 41, 150, 290), {}),
    ("live-30-ms-reordering", 0.015, (), {60: 0.003, 200: 0.003}),
)


def compare(args, compare_file, folder):
    """Runs each path and returns what is not as configured."""
    wrong = []
    print("## Live connections, and what the kernel and the path know\n")
    print("| path | RTT | measured: min, median | retransmitted by the kernel | seen | out of order | seen |\n|---|---|---|---|---|---|---|")
    for name, delay, drops, late in PATHS:
        file, retransmitted = capture(folder / f"{name}.pcap", delay, drops, late)
        compare_file(str(file))
        shown = subprocess.run([args.flowarc, "show", file, "--flow", "1", "--json"], capture_output=True, check=True)
        tcp = json.loads(shown.stdout)["tcp"]
        client, server = tcp["client"], tcp["server"]
        rtt = {k: client["rtt"][f"{k}_ns"] / 1e6 for k in ("min", "median")}
        # The capture is at the sender: what it saw out of order was never, and what the path held up comes back as D-SACK at most.
        print(
            f"| {name} | {2e3 * delay:g} ms | {rtt['min']:.2f}, {rtt['median']:.2f} ms | {retransmitted} "
            f"| {server['retransmitted_packets']} | 0 | {server['out_of_order_packets']} |"
        )
        if not 0 <= rtt["min"] - 2e3 * delay <= 1:
            wrong.append(f"{name}: RTT {rtt['min']} ms, configured {2e3 * delay} ms")
        if server["retransmitted_packets"] != retransmitted:
            wrong.append(f"{name}: {server['retransmitted_packets']} retransmissions, the kernel counts {retransmitted}")
        if server["unique_bytes"] != BYTES or server["unseen_bytes"] or tcp["handshake"] != "complete":
            wrong.append(f"{name}: {server['unique_bytes']} of {BYTES} bytes, {server['unseen_bytes']} unseen")
    print()
    return wrong


def capture(file, delay, drops, late):
    """One transfer from a server to a client; returns the capture at the server, and what its kernel retransmitted."""
    mark = f"fl{os.getpid()}"
    names = [f"{mark}{x}" for x in "scp"]
    server_ns, client_ns, path_ns = names
    started = []

    def inside(ns, *command, **more):
        process = subprocess.Popen(["ip", "netns", "exec", ns, *command], text=True, **more)
        started.append(process)
        return process

    try:
        for ns in names:
            ip("netns", "add", ns)
        for ns, address, end in ((server_ns, "192.0.2.1/24", "s"), (client_ns, "192.0.2.2/24", "c")):
            ip("link", "add", "end", "netns", ns, "type", "veth", "peer", "name", f"path{end}", "netns", path_ns)
            ip("-n", ns, "address", "add", address, "dev", "end")
            ip("-n", ns, "link", "set", "end", "up")
            ip("-n", path_ns, "link", "set", f"path{end}", "up")
            # Frames as they are on a wire: no segments for a card to cut, no checksums for it to fill in.
            ethtool = ("ethtool", "-K", "end", "tx", "off", "gso", "off", "tso", "off", "gro", "off")
            subprocess.run(["ip", "netns", "exec", ns, *ethtool], check=True, capture_output=True)
        me = (sys.executable, __file__)
        plan = json.dumps({"delay": delay, "drops": drops, "late": late})
        path = inside(path_ns, *me, "path", plan, stdout=subprocess.PIPE)
        path.stdout.readline()
        dump = inside(server_ns, "tcpdump", "-i", "end", "--immediate-mode", "-s", "128", "-w", str(file), "-U", "tcp", stderr=subprocess.PIPE)
        while "listening" not in (line := dump.stderr.readline()):
            assert line, "tcpdump did not start"
        server = inside(server_ns, *me, "serve", stdout=subprocess.PIPE)
        server.stdout.readline()
        subprocess.run(["ip", "netns", "exec", client_ns, *me, "fetch"], check=True, timeout=60)
        retransmitted = int(server.communicate(timeout=30)[0])
        time.sleep(4 * delay + 0.3)
        dump.terminate()
        dump.wait(timeout=10)
        return file, retransmitted
    finally:
        for process in started:
            process.kill()
            process.wait()
        for ns in names:
            subprocess.run(["ip", "netns", "del", ns], capture_output=True, check=False)


def ip(*args):
    subprocess.run(["ip", *args], check=True, capture_output=True)


def serve():
    listener = socket.create_server(("192.0.2.1", PORT))
    print("ready", flush=True)
    peer, _ = listener.accept()
    peer.sendall(bytes(BYTES))
    peer.shutdown(socket.SHUT_WR)
    peer.recv(1)
    info = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    print(struct.unpack_from("I", info, TCP_INFO_TOTAL_RETRANS)[0], flush=True)


def fetch():
    with socket.create_connection(("192.0.2.1", PORT), timeout=30) as peer:
        left = BYTES
        while got := peer.recv(65536):
            left -= len(got)
        assert left == 0


def path(plan):
    """Forwards frames between the two links until it is killed."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    plan = json.loads(plan)
    late = {int(k): v for k, v in plan["late"].items()}
    every_protocol = socket.htons(3)
    links = []
    for name in ("paths", "pathc"):
        link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, every_protocol)
        link.bind((name, 0))
        links.append(link)
    print("ready", flush=True)
    waiting, data = [], 0
    while True:
        patience = max(0, waiting[0][0] - time.monotonic()) if waiting else None
        for link in select.select(links, [], [], patience)[0]:
            frame, (*_, kind, _, _) = link.recvfrom(65536)
            if kind == socket.PACKET_OUTGOING:
                continue
            # The time of arrival would be that of the kernel; reading it here adds what this loop takes, microseconds.
            due = time.monotonic() + plan["delay"]
            if link is links[0] and len(frame) > 1000:
                data += 1
                if data in plan["drops"]:
                    continue
                due += late.get(data, 0)
            heapq.heappush(waiting, (due, time.monotonic_ns(), links[1] if link is links[0] else links[0], frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, out, frame = heapq.heappop(waiting)
            out.send(frame)


if __name__ == "__main__":
    {"serve": serve, "fetch": fetch, "path": path}[sys.argv[1]](*sys.argv[2:])
