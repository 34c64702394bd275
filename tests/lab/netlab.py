"""Two network namespaces joined by a veth pair, and the processes that live in them.

Server side: 192.0.2.1, 2001:db8:77::1. Client side: .2 and ::2. Everything made here has a name of this process's own
and is removed when the context ends, also after an exception.
"""

import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
PORT = 12345
PATIENCE = 15  # seconds that anything may take to become ready


class Netlab:
    """`with Netlab() as lab:` has the namespaces and a temporary folder `lab.top`."""

    def __init__(self):
        mark = f"fa{os.getpid()}"
        self.server_ns, self.client_ns = f"{mark}s", f"{mark}c"
        self.server_if, self.client_if = f"{mark}s", f"{mark}c"
        self.processes = []

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="flowarc-lab-")
        self.top = pathlib.Path(self.folder.name)
        self.top.chmod(0o755)
        try:
            for ns in (self.server_ns, self.client_ns):
                ip("netns", "add", ns)
                ip("-n", ns, "link", "set", "lo", "up")
            self.add_link()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_exc):
        for process in reversed(self.processes):
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()
        for ns in (self.server_ns, self.client_ns):
            subprocess.run(["ip", "netns", "del", ns], stderr=subprocess.DEVNULL, check=False)
        self.folder.cleanup()

    # The link

    def add_link(self):
        peer = ("peer", "name", self.client_if, "netns", self.client_ns)
        ip("link", "add", self.server_if, "netns", self.server_ns, "type", "veth", *peer)
        for ns, link, host in self.ends():
            ip("-n", ns, "link", "set", link, "up")
            self.add_address(ns, link, f"192.0.2.{host}/24")
            self.add_address(ns, link, f"2001:db8:77::{host}/64")

    def delete_link(self):
        ip("-n", self.server_ns, "link", "del", self.server_if)

    def link_down(self):
        ip("-n", self.server_ns, "link", "set", self.server_if, "down")

    def link_up(self):
        ip("-n", self.server_ns, "link", "set", self.server_if, "up")
        # The kernel forgets IPv6 addresses of a link that goes down.
        self.add_address(self.server_ns, self.server_if, "2001:db8:77::1/64")

    def add_addresses(self, pattern):
        """Adds one address to each end; `pattern` has {} for the host number."""
        for ns, link, host in self.ends():
            self.add_address(ns, link, pattern.format(host))

    def add_address(self, ns, link, address):
        ip("-n", ns, "addr", "replace", address, "dev", link, *(["nodad"] if ":" in address else []))

    def ends(self):
        return (self.server_ns, self.server_if, 1), (self.client_ns, self.client_if, 2)

    # Processes

    def start(self, ns, *command, **more):
        # `ip netns exec` becomes the command, so the process id is the command's.
        process = subprocess.Popen(["ip", "netns", "exec", ns, *map(str, command)], **more)
        self.processes.append(process)
        return process

    def server(self, events=None):
        return Server(self, events)

    def client(self, count, *addresses, **more):
        """Makes connections and waits for their end; returns what the client said."""
        addresses = addresses or ("192.0.2.1", "2001:db8:77::1")
        options = [text for key, value in more.items() for text in (f"--{key}", value)]
        command = [sys.executable, HERE / "client.py", "--port", PORT, "--count", count, *options, *addresses]
        done = subprocess.run(
            ["ip", "netns", "exec", self.client_ns, *map(str, command)], stdout=subprocess.PIPE, text=True, timeout=300, check=False
        )
        if done.returncode:
            raise RuntimeError(f"client: {done.stdout.strip()}")
        return done.stdout.strip()

    def client_in_background(self, count, *flags):
        command = [sys.executable, HERE / "client.py", "--port", PORT, "--count", count, *flags, "192.0.2.1", "2001:db8:77::1"]
        return self.start(self.client_ns, *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def reference(self, name="reference.pcap"):
        return Reference(self, self.top / name)


class Server:
    """server.py in the server's namespace."""

    def __init__(self, lab, events):
        self.log = lab.top / f"connections.{len(lab.processes)}"
        command = [sys.executable, HERE / "server.py", "--port", PORT, "--log", self.log]
        command += ["--events", events] if events else []
        self.process = lab.start(lab.server_ns, *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.expect("listening")

    def command(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        self.expect("done")

    def expect(self, word):
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        said = self.process.stdout.readline().strip() if ready else ""
        if said != word:
            raise RuntimeError(f"server said {said!r}, not {word!r}")

    def connections(self):
        """All connections that were accepted so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


class Reference:
    """tcpdump on the server's interface: what an archive is compared with. Use as a context around the traffic."""

    def __init__(self, lab, path):
        self.lab, self.path = lab, path

    def __enter__(self):
        self.said = self.path.with_suffix(".log")
        command = ["tcpdump", "-Z", "root", "-i", self.lab.server_if, "-w", self.path, "-s", 200, "-B", 65536, "-U"]
        command += ["--time-stamp-precision=nano", "tcp"]
        with self.said.open("w") as log:
            self.process = self.lab.start(self.lab.server_ns, *command, stderr=log)
        until("tcpdump listens", lambda: "listening on" in self.said.read_text())
        return self

    def __exit__(self, *_exc):
        # Packets reach tcpdump when its ring block is full or its timer of a second ends.
        time.sleep(1.2)
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)
        said = self.said.read_text()
        self.dropped = sum(int(line.split()[0]) for line in said.splitlines() if "dropped by kernel" in line)


def ip(*args):
    subprocess.run(["ip", *args], check=True)


def until(what, true, patience=PATIENCE):
    """Waits until `true()`; the time that it took, in seconds."""
    begin = time.monotonic()
    while not true():
        if time.monotonic() - begin > patience:
            raise TimeoutError(f"waited {patience} s in vain until {what}")
        time.sleep(0.02)
    return time.monotonic() - begin
