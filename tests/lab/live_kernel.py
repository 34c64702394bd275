#!/usr/bin/env python3
"""Runs `flowarc headers` with UUIDs from the real kernel, on connections between two namespaces.

    live_kernel.py target/debug/flowarc [SCENARIO...] [--long]

One line per scenario, PASS or FAIL with figures; exit 1 if any failed. Needs root: without it, it says so and
exits 0, or 1 where CI=true promised root. Scenarios: see the functions below.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
from live_headers import Failed, Flowarc, main  # noqa: E402
from netlab import PATIENCE, ip, until  # noqa: E402

import archive_file  # noqa: E402  (live_headers.py made it importable)

NOBODY = 65534
CUT_OFF = "flowarc_eventsocket_clients_cut_off_total"
ONLY_CAP_NET_RAW = ["--bounding-set=-all,+net_raw", "--inh-caps=-all,+net_raw", "--ambient-caps=-all,+net_raw"]
NO_CAPABILITY = ["--bounding-set=-all", "--inh-caps=-all"]


# Scenarios: each takes the lab, the binary and whether to be thorough, and returns its figures.


def brief(lab, binary, long):
    """Connections shorter than a millisecond: each file has its socket's cookie for a name, and the kernel's last word."""
    count = 10_000 if long else 2_000
    flowarc = Flowarc(lab, binary, "--uuid.source", "kernel")
    took, cookies = connections(lab, count)
    waited = all_named(flowarc, cookies)
    words = silent = 0
    for path in flowarc.data.rglob("*.pcap.gz"):
        word = archive_file.last_word(path.read_bytes())
        words, silent = words + bool(word), silent + (word is None)
        if word and f"{word[0]:016X}" != cookie_of(path):
            raise Failed(f"{path.name} has the last word on socket {word[0]:016X}")
    if words < count * 99 // 100:
        raise Failed(f"{silent} of {count} files have no last word of the kernel")
    flowarc.terminate()
    return f"{count} connections in {took:.1f} s, each file named by the cookie of the socket that accepted it and {words} with TCP_INFO; the last after {waited:.1f} s"


def serve(lab, binary, _long, count=10_000):
    """10,000 connections while clients of the served event socket read, do not read, and die: who reads hears all."""
    path = lab.top / "served.sock"
    flowarc = Flowarc(lab, binary, "--uuid.source", "kernel", "--eventsocket.serve", path)
    reader, deaf = Listener(path), connect(path)
    dead = [connect(path) for _ in range(5)]
    until("the server has its clients", lambda: flowarc.metric("flowarc_eventsocket_clients") == 7)
    for client in dead:
        client.close()
    took, cookies = connections(lab, count)
    until("each connection is told as closed", lambda: len(reader.closed) >= count)
    until("who does not read is cut off", lambda: flowarc.metric(CUT_OFF) == 1)
    if flowarc.metric("flowarc_eventsocket_clients") != 1:
        raise Failed("who reads was cut off, or who died was not noticed")
    all_named(flowarc, cookies)
    drops = flowarc.metric(f'flowarc_kernel_drops_total{{interface="{lab.server_if}"}}')
    flowarc.terminate()
    deaf.close()
    reader.check(cookies)
    if drops:
        raise Failed(f"capture lost {drops} frames")
    lag = sorted(reader.lags)
    return f"{count} connections in {took:.1f} s: {len(reader.opened)} opens, {len(reader.closed)} closes, half of them heard within {lag[len(lag) // 2] * 1000:.1f} ms, all within {lag[-1] * 1000:.0f} ms; one client cut off"


def both(lab, binary, _long, count=200):
    """Event socket and kernel: what agrees is counted, what differs too, and then the file has the event socket's name."""
    results = []
    for prefix, told in (("lab_1", "agreed"), ("other_1", "disagreed")):
        folder = lab.top / prefix
        folder.mkdir()
        (folder / "prefix").write_text(prefix)
        server = lab.server(folder / "events.sock")
        flags = ("--uuid.source", "both", "--uuid.prefix-file", folder / "prefix")
        flowarc = Flowarc(lab, binary, *flags, events=folder / "events.sock")
        server.command("events wait")
        lab.client(count)
        wanted = {c["uuid"] for c in server.connections()}
        grown(flowarc, "files by the event socket's names", lambda: len(wanted & names(flowarc)), count)
        _, cookies = connections(lab, 20)
        grown(flowarc, "files by the kernel's names", lambda: len({f"{prefix}_{c}" for c in cookies} & names(flowarc)), 20)
        until("both have told all", lambda: flowarc.metric(series(told)) == count)
        until("the kernel alone has told the rest", lambda: flowarc.metric(series("kernel_only")) == 20)
        others = [by for by in ("agreed", "disagreed", "eventsocket_only") if by != told and flowarc.metric(series(by))]
        if others:
            raise Failed(f"with prefix {prefix}: {others[0]} is {flowarc.metric(series(others[0]))}")
        complaints = flowarc.log.read_text().count("the event socket calls a connection lab_1_")
        if (complaints > 0) != (told == "disagreed") or complaints > 30:
            raise Failed(f"with prefix {prefix} {complaints} complaints")
        flowarc.terminate()
        server.process.kill()
        server.process.wait()
        if extra := names(flowarc) - wanted - {f"{prefix}_{c}" for c in cookies}:
            raise Failed(f"nobody's file: {extra.pop()}")
        shutil.rmtree(flowarc.data)
        flowarc.log.unlink()
        results.append(f"{count} {told}, 20 by the kernel alone")
    return "; ".join(results)


def series(by):
    return f'flowarc_names_told_total{{by="{by}"}}'


def unprivileged(lab, binary, _long, count=500):
    """As uid 65534 with CAP_NET_RAW and nothing else; without it, one line says what is missing."""
    binary = for_everybody(lab, binary)
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    bare = [*command, *NO_CAPABILITY, binary, "headers", "--interface", lab.server_if, "--datadir", lab.top / "data"]
    done = subprocess.run(["ip", "netns", "exec", lab.server_ns, *map(str, bare)], capture_output=True, text=True, timeout=PATIENCE, check=False)
    said = [line for line in done.stderr.splitlines() if "CAP_NET_RAW" in line]
    if done.returncode != 1 or len(said) != 1:
        raise Failed(f"without the capability exit {done.returncode}: {done.stderr}")
    flowarc = Flowarc(lab, binary, "--uuid.source", "kernel", before=[*command, *ONLY_CAP_NET_RAW])
    status = pathlib.Path(f"/proc/{flowarc.process.pid}/status").read_text()
    if f"Uid:\t{NOBODY}\t" not in status or "CapEff:\t0000000000002000" not in status:
        raise Failed(f"it runs with other rights: {status}")
    _, cookies = connections(lab, count)
    all_named(flowarc, cookies)
    flowarc.terminate()
    return f"{count} connections named as uid {NOBODY} with CAP_NET_RAW; without: {said[0]!r}"


def older(lab, binary, _long, count=50):
    """Connections older than the process have the names of their sockets, from the list at the start."""
    held = Held(lab, count)
    flowarc = Flowarc(lab, binary, "--uuid.source", "kernel")
    until("they are announced", lambda: flowarc.metric("flowarc_kernel_sockets_announced") >= count)
    held.say("talk")
    until("none has lost its name", lambda: flowarc.metric('flowarc_events_total{outcome="claimed"}') == count)
    held.say("close")
    all_named(flowarc, held.cookies)
    if beginners := [name for name, file in flowarc.files().items() if "MIDSTREAM" not in file.flags]:
        raise Failed(f"{beginners[0]} claims to have the beginning")
    flowarc.terminate()
    return f"{count} connections named"


def both_ends(lab, binary, _long, count=200):
    """Both ends on the host: one file under the names of both sockets."""
    flowarc = Flowarc(lab, binary, "--uuid.source", "kernel", interface="lo")
    server = start(lab, lab.server_ns, SERVER, count, "127.0.0.1")
    client = start(lab, lab.server_ns, CLIENT, count, "127.0.0.1", 0, "cookies", 0)
    pairs = list(zip(server.communicate(timeout=PATIENCE)[0].split(), client.communicate(timeout=PATIENCE)[0].split()))
    wanted = {cookie for pair in pairs for cookie in pair}
    # Our own questions by HTTP are connections of this kind too.
    until("every name has its file", lambda: flowarc.alive() and wanted <= cookies_of(flowarc))
    paths = {cookie_of(path): path for path in flowarc.data.rglob("*.pcap.gz")}
    if apart := [pair for pair in pairs if not paths[pair[0]].samefile(paths[pair[1]])]:
        raise Failed(f"{len(apart)} of {count} connections have two files")
    if other := [c for c in wanted if "BOTH_LOCAL" not in archive_file.read(paths[c]).flags]:
        raise Failed(f"{paths[other[0]]} does not say that both ends are here")
    flowarc.terminate()
    return f"{count} connections, {2 * count} names, {count} files"


def reuse(lab, binary, _long, count=300):
    """One 4-tuple, used again after 5 ms, many times: each connection has its file."""
    flowarc = Flowarc(lab, binary, "--uuid.source", "kernel")
    took, in_order = ordered_connections(lab, count, port=40_000, pause=0.005)
    all_named(flowarc, set(in_order))
    by_time = sorted(flowarc.data.rglob("*.pcap.gz"), key=lambda path: archive_file.read(path).records[0].ts)
    if wrong := sum(cookie_of(path) != cookie for path, cookie in zip(by_time, in_order)):
        raise Failed(f"{wrong} of {count} files have the name of another connection")
    short = [name for name, file in flowarc.files().items() if len(file.records) < 6]
    if short:
        raise Failed(f"{short[0]} has {len(flowarc.files()[short[0]].records)} packets")
    flowarc.terminate()
    return f"{count} connections on one 4-tuple in {took:.2f} s, {count} files"


def storm(lab, binary, _long):
    """More ends than the netlink buffer holds: counted, made good by a new list, and what stays nameless is counted."""
    # Only without CAP_NET_ADMIN does the kernel's bound on the buffer hold. It is doubled, and an end takes 1,300 bytes of it.
    count = 2 * int(pathlib.Path("/proc/sys/net/core/rmem_max").read_text()) // 1000
    if count > 20_000:
        return f"not run: net.core.rmem_max lets the buffer hold {count} ends"
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *ONLY_CAP_NET_RAW]
    flowarc = Flowarc(lab, for_everybody(lab, binary), "--uuid.source", "kernel", "--ring.size", "128MB", before=command)
    early = Held(lab, 20)
    until("they have names", lambda: flowarc.metric('flowarc_events_total{outcome="claimed"}') == 20)
    lists = flowarc.metric("flowarc_kernel_lists_total")
    flowarc.process.send_signal(signal.SIGSTOP)
    late = Held(lab, 20, port=7779)
    early.say("close")
    _, cookies = connections(lab, count, first="client")
    # A kernel thread tells the ends, and may be late: on a busy machine some hundred a second.
    grown(flowarc, "lost ends", lambda: lost_ends(lab), 1, lambda: waiting_ends(lab))
    flowarc.process.send_signal(signal.SIGCONT)
    until("the overflow is counted", lambda: (flowarc.metric("flowarc_kernel_overflows_total") or 0) >= 1)
    until("a new list is made", lambda: flowarc.metric("flowarc_kernel_lists_total") > lists)
    # What was open all the time is named, what has closed meanwhile is closed, though nobody was told.
    grown(flowarc, "files of who closed in the storm", lambda: len(early.cookies & cookies_of(flowarc)), 20)
    late.say("talk")
    late.say("close")
    grown(flowarc, "files of who came in the storm", lambda: len(late.cookies & cookies_of(flowarc)), 20)
    flows = lambda outcome: flowarc.metric(f'flowarc_flows_total{{outcome="{outcome}"}}') or 0
    # A ring is given back by time too: on a busy machine the storm is long, and the ring of a process that stands still loses frames.
    drops = flowarc.metric(f'flowarc_kernel_drops_total{{interface="{lab.server_if}"}}')
    seen = flowarc.metric("flowarc_flows_started_total") - flows("half_open") if drops else count + 40
    grown(flowarc, "flows that are done with", lambda: flows("archived") + flows("no_uuid"), seen)
    _, after = connections(lab, 200)
    grown(flowarc, "files of who came afterwards", lambda: len(after & cookies_of(flowarc)), 200)
    overflows, nameless = flowarc.metric("flowarc_kernel_overflows_total"), flows("no_uuid")
    flowarc.terminate()
    if strange := cookies_of(flowarc) - cookies - after - early.cookies - late.cookies:
        raise Failed(f"{len(strange)} files are nobody's")
    # Where frames were lost too, they may be those of the same connections.
    if nameless == 0 and not drops:
        raise Failed("no name was lost: nothing was tested")
    return f"{overflows:.0f} overflows, {seen - 40 - nameless:.0f} of {count} connections of the storm named, {nameless:.0f} counted as nameless, {drops:.0f} frames lost, 240 others whole"


def lost_ends(lab):
    """Messages that netlink sockets of the server's namespace have lost."""
    return netlink_sum(lab, 8)


def waiting_ends(lab):
    """Bytes of messages that wait in them."""
    return netlink_sum(lab, 4)


def netlink_sum(lab, column):
    table = subprocess.run(["ip", "netns", "exec", lab.server_ns, "cat", "/proc/net/netlink"], capture_output=True, text=True, check=True)
    return sum(int(row.split()[column]) for row in table.stdout.splitlines()[1:])


def silent(lab, binary, _long, count=20):
    """Connections that end without a packet, idle for a while: their files are there within 2 s."""
    flowarc = Flowarc(lab, binary, "--uuid.source", "kernel")
    vanishing, killed = Held(lab, count), Held(lab, count, port=7779)
    vanishing.say("talk")
    killed.say("talk")
    time.sleep(1)
    if cookies_of(flowarc):
        raise Failed("a file before the end")
    # One half is disconnected by its program, of which the kernel has no last word; the other is killed while no reset gets out.
    vanishing.say("vanish")
    ip("-n", lab.server_ns, "route", "add", "blackhole", "192.0.2.2/32")
    ss = ["ip", "netns", "exec", lab.server_ns, "ss", "-K", "-t", "sport", "=", "7779"]
    subprocess.run(ss, stdout=subprocess.DEVNULL, check=True)
    begin = time.monotonic()
    # The kernel lets a socket go when its program has.
    killed.say("close")
    until("every connection has its file", lambda: flowarc.alive() and len(cookies_of(flowarc)) >= 2 * count)
    waited = time.monotonic() - begin
    all_named(flowarc, vanishing.cookies | killed.cookies)
    files = flowarc.files()
    if odd := [name for name, file in files.items() if file.end != "Closed"]:
        raise Failed(f"{odd[0]} ended with {files[odd[0]].end}")
    words = {cookie_of(path) for path in flowarc.data.rglob("*.pcap.gz") if archive_file.last_word(path.read_bytes())}
    if words != killed.cookies:
        raise Failed(f"{len(words & killed.cookies)} of {count} files have a last word, and {len(words - killed.cookies)} that cannot have one")
    if waited > 2:
        raise Failed(f"the last file came after {waited:.2f} s")
    flowarc.terminate()
    return f"{2 * count} idle connections destroyed without a packet, all files after {waited:.2f} s"


# Helpers


class Listener:
    """A client of the event socket: notes each open and close, in the order of coming."""

    def __init__(self, path):
        self.socket, self.opened, self.closed, self.lags, self.bad = connect(path), [], [], [], []
        self.others = set()
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        with self.socket.makefile("rb") as lines:
            for line in lines:
                event = json.loads(line)
                cookie = event["UUID"].rsplit("_", 1)[1]
                if event["Event"] == 0:
                    # The lab asks for metrics by HTTP, on loopback.
                    if event["ID"]["SrcIP"] == "127.0.0.1":
                        self.others.add(cookie)
                        continue
                    self.opened.append(cookie)
                    self.lags.append(time.time() - seconds(event["Timestamp"]))
                    expected = ["SPort", "DPort", "SrcIP", "DstIP", "Interface", "Cookie"]
                    if list(event["ID"]) != expected or event["ID"]["Cookie"] != int(cookie, 16):
                        self.bad.append(line)
                elif cookie not in self.others:
                    self.closed.append(cookie)
                    if event["ID"] is not None:
                        self.bad.append(line)
                if list(event) != ["Event", "Timestamp", "UUID", "ID"]:
                    self.bad.append(line)

    def check(self, cookies):
        if self.bad:
            raise Failed(f"a bad line: {self.bad[0]}")
        # What was open before this client came was told to others: the lab's look at /readyz may be among it.
        opened = set(self.opened)
        closed = [cookie for cookie in self.closed if cookie in opened]
        for what, told in (("opened", self.opened), ("closed", closed)):
            if sorted(told) != sorted(cookies):
                raise Failed(f"{len(cookies - set(told))} connections were not {what}, {len(told) - len(set(told))} twice, {len(set(told) - cookies)} are nobody's")


def seconds(stamp):
    whole, fraction = stamp.removesuffix("Z").partition(".")[::2]
    return time.mktime(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) - time.timezone + float("0." + (fraction or "0"))


def connect(path):
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    return client


class Held:
    """Connections that stay open until told otherwise; `cookies` are those of the sockets that accepted them."""

    def __init__(self, lab, count, port=7778):
        self.client = start(lab, lab.client_ns, HELD_CLIENT, count, port, wait=False)
        self.server = start(lab, lab.server_ns, HELD_SERVER, count, port)
        self.cookies = set(self.server.stdout.readline().split())

    def say(self, word):
        """talk: some bytes on each; close: the ordinary end; vanish: the sockets go without a packet."""
        self.server.stdin.write(word + "\n")
        self.server.stdin.flush()
        if self.server.stdout.readline().strip() != word:
            raise Failed(f"the server could not {word}")


def connections(lab, count, **how):
    """Makes brief connections one after the other; returns the time it took and the cookies of the sockets that accepted them."""
    took, cookies = ordered_connections(lab, count, **how)
    return took, set(cookies)


def ordered_connections(lab, count, first="server", port=0, pause=0):
    """The same, the cookies in the order of the connections."""
    address = "192.0.2.1"
    server = start(lab, lab.server_ns, SERVER, count, address, first)
    begin = time.monotonic()
    client = start(lab, lab.client_ns, CLIENT, count, address, port, first, pause, wait=False)
    if client.wait(60):
        raise Failed("the client failed")
    took = time.monotonic() - begin
    return took, server.communicate(timeout=PATIENCE)[0].split()


def start(lab, namespace, program, *args, wait=True):
    command = [sys.executable, "-c", program, *map(str, args)]
    process = lab.start(namespace, *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if wait and program != CLIENT:
        process.stdout.readline()
    return process


def names(flowarc):
    return {path.name.removesuffix(".pcap.gz") for path in flowarc.data.rglob("*.pcap.gz")}


def cookie_of(path):
    return path.name.removesuffix(".pcap.gz").rsplit("_", 1)[1]


def cookies_of(flowarc):
    return {cookie_of(path) for path in flowarc.data.rglob("*.pcap.gz")}


def grown(flowarc, what, figure, least, progress=None):
    """Waits until a figure is so large, as long as it grows or there is progress, which is new files if nothing else is said: on a
    busy machine much takes a while, and what is lost does not come."""
    progress = progress or (lambda: len(names(flowarc)))
    seen, last = None, time.monotonic()
    while (now := figure()) < least:
        flowarc.alive()
        if (state := (now, progress())) != seen:
            seen, last = state, time.monotonic()
        elif time.monotonic() - last > PATIENCE:
            raise Failed(f"{now:.0f} of {least:.0f} {what}, and no more come: {flowarc.counted()}")
        time.sleep(0.02)


def all_named(flowarc, cookies):
    """Waits until there are as many files, or no more come, and compares their names; returns the time that it took."""
    there, begin = cookies_of(flowarc), time.monotonic()
    last = begin
    # Writers yield to all others: on a busy machine thousands of files take a while.
    while len(there) < len(cookies) and flowarc.alive() and time.monotonic() - last < PATIENCE:
        time.sleep(0.02)
        now = cookies_of(flowarc)
        last = time.monotonic() if len(now) > len(there) else last
        there = now
    waited = time.monotonic() - begin
    if there != cookies:
        raise Failed(f"{len(cookies - there)} of {len(cookies)} names have no file, {len(there - cookies)} files are nobody's: {flowarc.counted()}")
    return waited


def for_everybody(lab, binary):
    """A copy of the program that any user can run, and folders that any user can write to."""
    copy = lab.top / "flowarc"
    shutil.copy(binary, copy)
    for folder in (lab.top / "data", lab.top / "tmp"):
        folder.mkdir()
        folder.chmod(0o777)
    return copy


# Accepts COUNT connections at ADDRESS, and closes first or lets the client; prints their cookies.
SERVER = """
import socket, struct, sys
count, address, first = int(sys.argv[1]), sys.argv[2], (sys.argv + ["server"])[3]
listener = socket.create_server((address, 7777), backlog=4096)
print(flush=True)
cookies = []
for _ in range(count):
    accepted, _ = listener.accept()
    cookies.append(accepted.getsockopt(socket.SOL_SOCKET, 57, 8))
    if first == "client":
        accepted.recv(1)
    accepted.close()
print(*("%016X" % struct.unpack("Q", cookie) for cookie in cookies))
"""

# Makes COUNT connections to ADDRESS, from PORT unless that is 0, with a PAUSE after each; prints its sockets' cookies if asked.
CLIENT = """
import socket, struct, sys, time
count, address, port, word, pause = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4], float(sys.argv[5])
cookies = []
for _ in range(count):
    client = socket.socket()
    if port:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind(("", port))
    client.connect((address, 7777))
    if word == "cookies":
        cookies.append(client.getsockopt(socket.SOL_SOCKET, 57, 8))
    if word != "client":
        client.recv(1)
    client.close()
    time.sleep(pause)
if word == "cookies":
    print(*("%016X" % struct.unpack("Q", cookie) for cookie in cookies))
"""

# Holds COUNT connections at PORT. TCP_REPAIR (19) makes a socket go without a packet (tcp_close in net/ipv4/tcp.c).
HELD_SERVER = """
import socket, struct, sys
count, port = int(sys.argv[1]), int(sys.argv[2])
listener = socket.create_server(("192.0.2.1", port), backlog=4096)
print(flush=True)
held = [listener.accept()[0] for _ in range(count)]
print(*("%016X" % struct.unpack("Q", s.getsockopt(socket.SOL_SOCKET, 57, 8)) for s in held), flush=True)
for line in sys.stdin:
    word = line.strip()
    for s in held:
        if word == "talk":
            s.sendall(b"talk")
            s.recv(4)
        if word == "vanish":
            s.setsockopt(socket.IPPROTO_TCP, 19, 1)
        if word != "talk":
            s.close()
    print(word, flush=True)
"""

HELD_CLIENT = """
import socket, sys, threading, time
count, port = int(sys.argv[1]), int(sys.argv[2])
def hold():
    for _ in range(200):
        try:
            s = socket.create_connection(("192.0.2.1", port))
            break
        except ConnectionRefusedError:
            time.sleep(0.02)
    while data := s.recv(4):
        s.sendall(data)
    s.close()
threads = [threading.Thread(target=hold) for _ in range(count)]
[t.start() for t in threads]
[t.join() for t in threads]
"""

SCENARIOS = {f.__name__.replace("_", "-"): f for f in (brief, serve, both, unprivileged, older, both_ends, reuse, storm, silent)}

if __name__ == "__main__":
    sys.exit(main(SCENARIOS, __doc__.splitlines()[0]))
