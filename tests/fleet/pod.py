#!/usr/bin/env python3
"""Runs the pods of deploy/kubernetes/ as a node would: mounts, users, capabilities, arguments, probes, the end.

    pod.py FLOWARC

Each container has its own mount namespace, with the pod's volumes at its paths and the root file system read-only where
the manifest says so. Images are not there: flowarc is this build with the capability that the image gives it, `flowarc
events serve` stands in for tcp-info, and a line of shell for the program that writes the prefix. Needs root.
"""

import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True
from kustomize import KUBERNETES, REPOSITORY, render  # noqa: E402
from manifests import command, flags_of, of_kind, ours, pod_of, substituted  # noqa: E402

sys.path.insert(0, str(REPOSITORY / "tests/lab"))
from netlab import PATIENCE, Netlab, until  # noqa: E402

ADDRESS = "192.0.2.1"
FIELDS = {"status.podIP": ADDRESS, "metadata.name": "flowarc-x7kq2"}
CONNECTIONS = 20


class Pod:
    """A pod of a kustomization on the server's side of the lab."""

    def __init__(self, lab, name, flowarc):
        self.lab, self.name = lab, name
        self.spec = pod_of(of_kind(render(KUBERNETES / name), "DaemonSet"))
        self.flowarc = ours(self.spec)
        self.bin = lab.top / "bin"
        self.bin.mkdir()
        shutil.copy(flowarc, self.bin / "flowarc")
        (self.bin / "packet-headers").symlink_to("flowarc")
        subprocess.run(["setcap", "cap_net_raw=ep", self.bin / "flowarc"], check=True)
        self.volumes = {volume["name"]: self.volume(volume) for volume in self.spec["volumes"]}

    def volume(self, volume):
        """What the kubelet makes: an emptyDir is everybody's, a hostPath root's."""
        if "emptyDir" in volume:
            folder, mode = self.lab.top / "empty" / volume["name"], 0o777
        else:
            folder, mode = self.lab.top / "host" / volume["hostPath"]["path"].lstrip("/"), 0o755
        folder.mkdir(parents=True)
        folder.chmod(mode)
        return folder

    def start(self):
        for container in self.spec["initContainers"]:
            process = self.container(container)
            assert process.wait(PATIENCE) == 0, f"{self.name}: {container['name']}: {self.said(container)}"
        running = {c["name"]: self.container(c) for c in self.spec["containers"] if c["name"] != "server"}
        self.process = running[self.flowarc["name"]]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            until(f"{self.name}: {probe} succeeds", lambda probe=probe: self.probe(probe))

    def container(self, container, handed_over=False, **security):
        security = container["securityContext"] | security
        environment = {v["name"]: FIELDS[v["valueFrom"]["fieldRef"]["fieldPath"]] for v in container.get("env", [])}
        environment["PATH"] = os.environ["PATH"]
        script = "; ".join(["set -e", *self.mounts(container, security), "exec " + shlex.join(self.confined(container, security, handed_over))])
        with (self.lab.top / f"{container['name']}.log").open("w") as log:
            unshared = ("unshare", "--mount", "--propagation", "private", "sh", "-c", script)
            return self.lab.start(self.lab.server_ns, *unshared, stdout=log, stderr=log, env=environment)

    def mounts(self, container, security):
        yield "mount -t tmpfs pod /var/spool"
        yield "mount -t tmpfs pod /var/local"
        for mount in container["volumeMounts"]:
            path = mount["mountPath"]
            yield f"mkdir -p {path}"
            yield f"mount --bind {self.volumes[mount['name']]} {path}"
            if mount.get("readOnly"):
                yield f"mount -o remount,bind,ro {path}"
        if security.get("readOnlyRootFilesystem"):
            yield "mount -o remount,ro /var/spool"
            yield "mount -o remount,ro /var/local"
            yield "mount -o remount,bind,ro /"

    def confined(self, container, security, handed_over):
        """The container's program, with what its security context leaves it.

        Of capabilities that are added, runtimes give a user other than root the bounding set. Some hand over the permitted
        set too, until the program is executed.
        """
        user, group = (security.get(key, self.spec["securityContext"][key]) for key in ("runAsUser", "runAsGroup"))
        added = "".join(f",+{capability.lower()}" for capability in security["capabilities"].get("add", []))
        setpriv = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", f"--bounding-set=-all{added}"]
        setpriv += ["--inh-caps=-all", "--ambient-caps=-all"]
        # Executed by this one, a second one has nothing permitted, if it is not root's.
        no_new_privs = [] if security["allowPrivilegeEscalation"] else ["--no-new-privs"]
        setpriv += no_new_privs if handed_over else ["setpriv", *no_new_privs]
        return setpriv + [str(word) for word in self.program(container)]

    def program(self, container):
        flags = flags_of(container)
        if container is self.flowarc:
            return command(container, self.bin / "flowarc", self.bin / "packet-headers") + substituted(container, ADDRESS)
        if container["name"] == "tcp-info":
            # Without the file capability, which would not be granted: nothing of it is needed to ask for sockets.
            shutil.copy(self.bin / "flowarc", self.bin / "tcp-info")
            socket, prefix = flags["tcpinfo.eventsocket"], flags["uuid-prefix-file"]
            return [self.bin / "tcp-info", "events", "serve", "--eventsocket.serve", socket, "--uuid.prefix-file", prefix]
        if container["name"] == "set-up-uuid-prefix-file":
            return ["sh", "-c", f'printf %s "${{POD_NAME}}_1795262400" > {flags["filename"]}']
        return container["command"]

    def said(self, container):
        return (self.lab.top / f"{container['name']}.log").read_text()[-1000:]

    def probe(self, name):
        assert self.process.poll() is None, f"{self.name}: ended: {self.said(self.flowarc)}"
        get = self.flowarc[name]["httpGet"]
        port = {port["name"]: port["containerPort"] for port in self.flowarc["ports"]}[get["port"]]
        curl = ("curl", "-sf", "-m", "1", "-o", "/dev/null", f"http://{ADDRESS}:{port}{get['path']}")
        return subprocess.run(["ip", "netns", "exec", self.lab.server_ns, *curl], check=False).returncode == 0

    def stop(self):
        """As the kubelet does; the seconds that it took."""
        begin = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(self.spec["terminationGracePeriodSeconds"])
        assert code == 0, f"{self.name}: exit {code}: {self.said(self.flowarc)}"
        return time.monotonic() - begin

    def files(self):
        data = pathlib.PurePosixPath(flags_of(self.flowarc)["datadir"])
        (mount,) = (m for m in self.flowarc["volumeMounts"] if data.is_relative_to(m["mountPath"]))
        top = self.volumes[mount["name"]] / data.relative_to(mount["mountPath"])
        return [path for path in top.rglob("*") if path.is_file() and ".spool" not in path.parts]


def main(flowarc):
    for name in ("base", "overlays/kernel", "overlays/beside-server", "overlays/capture"):
        with Netlab() as lab:
            lab.server()
            pod = Pod(lab, name, flowarc)
            pod.start()
            lab.client(CONNECTIONS)
            took = pod.stop()
            files = pod.files()
            assert all(path.stat().st_uid == 65534 for path in files), files
            if pod.flowarc["name"] == "packet-headers":
                mine = [path for path in files if path.name.startswith("flowarc-x7kq2_1795262400_") and path.name.endswith(".pcap.gz")]
                assert len(mine) == len(files) >= CONNECTIONS, f"{name}: {files}: {pod.said(pod.flowarc)}"
            else:
                assert files and any(path.name.endswith(".pcap.zst") for path in files), f"{name}: {files}"
            print(f"{name}: ready, {len(files)} files of {CONNECTIONS} connections, ended in {took:.1f} s")
    with Netlab() as lab:
        why_escalation_is_allowed(Pod(lab, "overlays/kernel", flowarc))


def why_escalation_is_allowed(pod):
    """What the comments in the manifest and in the README say."""
    for volume in pod.volumes.values():
        volume.chmod(0o777)
    (pod.volumes["uuid-prefix"] / "prefix").write_text("x")
    without = pod.container(pod.flowarc, allowPrivilegeEscalation=False)
    assert without.wait(PATIENCE) == 1 and "CAP_NET_RAW" in pod.said(pod.flowarc), pod.said(pod.flowarc)
    dropped = pod.container(pod.flowarc, capabilities={"drop": ["ALL"]})
    assert dropped.wait(PATIENCE) not in (0, 1) and "Operation not permitted" in pod.said(pod.flowarc), pod.said(pod.flowarc)
    pod.process = pod.container(pod.flowarc, handed_over=True, allowPrivilegeEscalation=False)
    until("ready without escalation", lambda: pod.probe("readinessProbe"))
    pod.stop()
    print("without escalation it starts only where the runtime hands the capability over; without NET_RAW it does not")


main(pathlib.Path(sys.argv[1]).resolve())
