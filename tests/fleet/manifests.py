#!/usr/bin/env python3
"""Holds deploy/kubernetes/ to the API's schemas, to the program, and to itself.

    manifests.py FLOWARC
"""

import os
import pathlib
import re
import subprocess
import sys
import tomllib

import kubernetes_validate
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator

sys.dont_write_bytecode = True
from kustomize import KUBERNETES, REPOSITORY, kubectl, render  # noqa: E402
import yaml  # noqa: E402

API = "1.32"
OVERLAYS = sorted(path.parent for path in KUBERNETES.glob("overlays/*/kustomization.yaml"))
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
# What the README of the manifests says that a limit has room for beside -maxheap, or beside --queue.bytes.
BESIDE = {"packet-headers": 256 * 10**6, "capture": 128 * 2**20 + 512 * 10**6}


def main(flowarc):
    version = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    rendered = {folder.name: render(folder) for folder in (KUBERNETES / "base", *OVERLAYS, KUBERNETES / "example")}
    assert len(rendered) >= 5, rendered.keys()
    for name, objects in rendered.items():
        kinds = [check_schema(obj) for obj in objects]
        assert kinds.count("DaemonSet") == 1 and "Namespace" in kinds and "ServiceAccount" in kinds, f"{name}: {kinds}"
        check_daemonset(name, flowarc, version, of_kind(objects, "DaemonSet"))
        for obj in objects:
            assert obj["kind"] == "Namespace" or obj["metadata"]["namespace"] == "flowarc", f"{name}: {obj['kind']}"
    check_readme()
    check_variants(rendered)
    print(f"{len(rendered)} kustomizations, {sum(map(len, rendered.values()))} objects of API {API}")


def check_schema(obj):
    """Strictly: what a schema does not name is an error."""
    kind = obj["kind"]
    if obj["apiVersion"] == "monitoring.coreos.com/v1":
        # The model leaves out what it does not know.
        known = getattr(prometheus_operator, kind).model_validate(obj)
        assert known.model_dump(by_alias=True, exclude_unset=True, mode="json") == obj, f"{kind}: {known}"
    else:
        kubernetes_validate.validate(obj, API, strict=True)
    return kind


def check_readme():
    """What the commands in the README would apply."""
    readme = (KUBERNETES / "README.md").read_text()
    block = re.search(r"```sh\n(\(printf .*?)```", readme, re.DOTALL)[1]
    path = f"{pathlib.Path(kubectl()).parent}:{os.environ['PATH']}"
    applied = []
    for pipeline in block.split("| kubectl apply -f -\n")[:-1]:
        done = subprocess.run(["sh", "-ec", pipeline], cwd=REPOSITORY, env={"PATH": path}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        applied.append(yaml.safe_load(done.stdout))
    assert [check_schema(obj) for obj in applied] == ["PrometheusRule", "ConfigMap"]
    rules, boards = applied
    assert rules["spec"] == yaml.safe_load((REPOSITORY / "deploy/prometheus/rules.yaml").read_text())
    assert boards["data"].keys() == {path.name for path in REPOSITORY.glob("deploy/grafana-*.json")}


def check_daemonset(name, flowarc, version, daemonset):
    template = daemonset["spec"]["template"]
    pod = template["spec"]
    assert daemonset["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items(), name
    assert template["metadata"]["labels"]["app.kubernetes.io/part-of"] == "flowarc", f"{name}: the PodMonitor does not find it"
    assert pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False, name
    security = pod["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"], security["runAsGroup"]) == (True, 65534, 65534), name
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name

    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    everything = pod["containers"] + pod.get("initContainers", [])
    used = {mount["name"] for container in everything for mount in container.get("volumeMounts", [])}
    assert used == set(volumes), f"{name}: {used ^ set(volumes)}"
    for container in everything:
        who = f"{name}: {container['name']}"
        known = {variable["name"] for variable in container.get("env", [])}
        assert set(re.findall(r"\$\((\w+)\)", str(container.get("args")))) <= known, who
        capabilities = container["securityContext"]["capabilities"]
        assert capabilities["drop"] == ["ALL"], who
        if container is not ours(pod):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, who
            assert "NET_RAW" not in capabilities.get("add", []), who
        if not container["securityContext"].get("runAsNonRoot", True):
            assert container in pod["initContainers"], f"{who} runs as root"
    check_flowarc(name, flowarc, version, pod, ours(pod), volumes)
    assert daemonset["metadata"]["name"] in ("flowarc", "flowarc-capture")
    assert template["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"] == ours(pod)["name"], name


def check_flowarc(name, flowarc, version, pod, container, volumes):
    flags = flags_of(container)
    assert container["image"].rpartition(":")[2] == version, f"{name}: {container['image']}, and this is {version}"
    security = container["securityContext"]
    # Tested in pod.py: without escalation the file's capability is not there.
    assert security == {
        "allowPrivilegeEscalation": True,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]},
    }, f"{name}: {security}"

    # The program takes every flag: the first that it does not know is one that it cannot.
    unknown = "-no.such.flag=1" if not container.get("command") else "--no.such.flag=1"
    args = [*command(container, flowarc), *substituted(container, "192.0.2.1"), unknown]
    done = subprocess.run(args, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "no.such.flag" in done.stderr, f"{name}: {done.returncode} {done.stderr}"

    port = {port["name"]: port["containerPort"] for port in container["ports"]}["metrics"]
    assert flags["prometheusx.listen-address"] == f"$(PRIVATE_IP):{port}", name
    paths = {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    for probe, path in paths.items():
        assert container[probe]["httpGet"] == {"path": path, "port": "metrics"}, f"{name}: {probe}"

    limits, requests = container["resources"]["limits"], container["resources"]["requests"]
    assert "cpu" not in limits, f"{name}: a limit on CPU loses frames"
    need = bytes_of(flags.get("maxheap") or flags["queue.bytes"]) + BESIDE[container["name"]]
    assert quantity(requests["memory"]) <= need <= quantity(limits["memory"]), f"{name}: {need} bytes of {limits['memory']}"
    drain = float(flags.get("sigtermwait", "0s").removesuffix("s")) + 10
    assert drain <= pod["terminationGracePeriodSeconds"], f"{name}: {drain} s"

    data = pathlib.PurePosixPath(flags["datadir"])
    where = mount_of(container, data)
    assert "hostPath" in volumes[where["name"]] and not where.get("readOnly"), f"{name}: {where}"
    if container["name"] == "packet-headers":
        assert data.parent.is_relative_to(where["mountPath"]), f"{name}: the temporary folder beside {data} is on another mount"
        check_names(name, pod, container, flags, volumes)


def check_names(name, pod, container, flags, volumes):
    """The event socket and the prefix file are the same for all that use them."""
    prefix_files = {}
    for other in pod["containers"] + pod["initContainers"]:
        its = flags_of(other)
        for flag in ("filename", "uuid-prefix-file", "uuid.prefix-file"):
            if flag in its:
                prefix_files[other["name"]] = (its[flag], mount_of(other, its[flag])["name"])
    assert "set-up-uuid-prefix-file" in prefix_files and len(prefix_files) > 1, f"{name}: {prefix_files}"
    assert len(set(prefix_files.values())) == 1, f"{name}: {prefix_files}"
    sidecars = [other for other in pod["containers"] if other["name"] == "tcp-info"]
    if sidecars:
        path = flags["tcpinfo.eventsocket"]
        assert flags_of(sidecars[0])["tcpinfo.eventsocket"] == path, name
        mounts = [mount_of(user, path) for user in (container, sidecars[0])]
        assert mounts[0]["name"] == mounts[1]["name"] and not any(mount.get("readOnly") for mount in mounts), f"{name}: {mounts}"
        assert volumes[mounts[0]["name"]]["emptyDir"] == {}, name
    else:
        assert flags["uuid.source"] == "kernel" and "tcpinfo.eventsocket" not in flags, name
        assert not mount_of(container, flags["eventsocket.serve"]).get("readOnly"), name


def check_variants(rendered):
    """What differs between them, and what must not."""
    base, kernel, capture = (of_kind(rendered[name], "DaemonSet") for name in ("base", "kernel", "capture"))
    data = [flags_of(ours(pod_of(d)))["datadir"] for d in (base, kernel)]
    assert data[0] == data[1] == "/var/spool/ndt/pcap"
    # Capture runs on the same node: a name, labels, a port and a folder of its own.
    assert base["metadata"]["name"] != capture["metadata"]["name"]
    assert not base["spec"]["selector"]["matchLabels"].items() & capture["spec"]["selector"]["matchLabels"].items()
    ports = [{p["containerPort"] for c in pod_of(d)["containers"] for p in c["ports"]} for d in (base, capture)]
    paths = [{v["hostPath"]["path"] for v in pod_of(d)["volumes"] if "hostPath" in v} for d in (base, capture)]
    assert not ports[0] & ports[1] and not paths[0] & paths[1]
    assert pod_of(base)["hostNetwork"] is True
    beside = rendered["beside-server"]
    assert "hostNetwork" not in pod_of(of_kind(beside, "DaemonSet"))
    policy = of_kind(beside, "NetworkPolicy")["spec"]
    named = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    assert named == {p["name"] for c in pod_of(of_kind(beside, "DaemonSet"))["containers"] for p in c["ports"]}
    monitor = of_kind(rendered["example"], "PodMonitor")["spec"]
    assert {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]} == {"metrics", "tcpinfo"}
    example = of_kind(rendered["example"], "DaemonSet")
    assert "-maxflows=150" in ours(pod_of(example))["args"] and pod_of(example)["nodeSelector"]


def pod_of(daemonset):
    return daemonset["spec"]["template"]["spec"]


def of_kind(objects, kind):
    (found,) = (obj for obj in objects if obj["kind"] == kind)
    return found


def ours(pod):
    (found,) = (container for container in pod["containers"] if "/flowarc:" in container["image"])
    return found


def command(container, flowarc, as_predecessor=None):
    """The image's entry point, or what stands in its place."""
    return [flowarc, *container["command"][1:]] if container.get("command") else [as_predecessor or flowarc]


def substituted(container, address):
    return [arg.replace("$(PRIVATE_IP)", address) for arg in container.get("args", [])]


def flags_of(container):
    flags = [arg.lstrip("-").partition("=") for arg in container.get("args", [])]
    assert len({name for name, *_ in flags}) == len(flags), f"{container['name']}: a flag is there twice"
    return {name: value for name, _, value in flags}


def mount_of(container, path):
    """The mount that a path lies on, below its top."""
    above = [m for m in container["volumeMounts"] if pathlib.PurePosixPath(m["mountPath"]) in (pathlib.PurePosixPath(path), *pathlib.PurePosixPath(path).parents)]
    assert above, f"{container['name']}: {path} is in the image"
    return max(above, key=lambda mount: len(mount["mountPath"]))


def quantity(text):
    """Bytes, as Kubernetes writes them."""
    number, unit = re.fullmatch(r"(\d+)(\w*)", text).groups()
    return int(number) * UNITS[unit]


def bytes_of(text):
    """Bytes, as flags write them: powers of ten."""
    number, unit = re.fullmatch(r"(\d+)([KMG]?)B?", text).groups()
    return int(number) * UNITS[unit]


if __name__ == "__main__":
    main(*sys.argv[1:])
