#!/usr/bin/env bash
# Runs the image that build.sh made, as a container: as user 65534, with CAP_NET_RAW alone, on a root file system that is read-only.
# By runc, in namespaces of its own, so that no network is there but loopback. As root.
#   deploy/container/test.sh [localhost/flowarc]
set -euo pipefail
cd "$(dirname "$0")/../.."
source deploy/container/buildah.sh

image=${1:-localhost/flowarc}
top=$(mktemp -d "${TMPDIR:-/tmp}/flowarc-container.XXXXXX")
id=flowarc-test-$$

main() {
    trap cleanup EXIT
    container=$(buildah from --pull-never "$image")
    root=$(buildah mount "$container")
    mkdir "$top/volume" "$top/input"
    chown 65534:65534 "$top/volume"
    cp testdata/reuse.pcap testdata/reuse.events.jsonl "$top/input/"
    chmod -R a+rX "$top"

    say "what the image says of itself, and how large it is"
    buildah inspect --type image "$image" | python3 -c '
import json, sys
config = json.load(sys.stdin)["Docker"]["config"]
for key, wanted in {"User": "65534:65534", "Entrypoint": ["/packet-headers"], "WorkingDir": "/var/lib/flowarc"}.items():
    print(key, config[key])
    assert config[key] == wanted, (key, wanted)
print("Healthcheck", config["Healthcheck"]["Test"])
assert config["Healthcheck"]["Test"] == ["CMD", "/usr/bin/flowarc", "health"]'
    du -sb "$root" | cut -f1
    find "$root" -type f -perm /111 -printf '%9s %P\n'

    say "a capture file, in the predecessor's grammar"
    spec -read=/input/reuse.pcap -events=/input/reuse.events.jsonl -datadir=/var/lib/flowarc/replay
    runc run --bundle "$top" "$id"
    files replay 3

    say "the readers, by another entry point"
    entry=/usr/bin/flowarc spec verify /var/lib/flowarc/replay
    runc run --bundle "$top" "$id"

    say "live on loopback; the health check asks without a shell"
    spec -interface=lo -datadir=/var/lib/flowarc/pcap -tcpinfo.eventsocket= -uuid.source=kernel -sigtermwait=1s
    runc run --bundle "$top" --pid-file "$top/pid" "$id" >"$top/log" 2>&1 &
    local running=$!
    for _ in $(seq 100); do
        runc exec "$id" /usr/bin/flowarc health --ready >/dev/null 2>&1 && break
        sleep 0.1
    done
    runc exec "$id" /usr/bin/flowarc health || { cat "$top/log"; exit 1; }
    grep -E '^(Uid|Cap(Prm|Eff|Bnd|Amb))' "/proc/$(cat "$top/pid")/status" | paste -sd' '
    nsenter --net --target "$(cat "$top/pid")" deploy/loopback.py
    sleep 0.2
    runc kill "$id" TERM
    wait "$running" || { cat "$top/log"; exit 1; }
    files pcap 10
    say "the image works"
}

# The container's specification: runc's own, with what an orchestrator would set.
spec() {
    rm -f "$top/config.json"
    (cd "$top" && runc spec)
    ENTRY=${entry:-/packet-headers} python3 - "$top" "$root" "$@" <<'EOF'
import json, os, sys
top, root, *arguments = sys.argv[1:]
path = f"{top}/config.json"
spec = json.load(open(path))
capabilities = ["CAP_NET_RAW"]
spec["process"].update(
    terminal=False, args=[os.environ["ENTRY"], *arguments], cwd="/var/lib/flowarc", env=["PATH=/usr/bin"],
    user={"uid": 65534, "gid": 65534},
    # As containerd and Docker do for a user that is not root: in the bounding set, not effective, not ambient.
    capabilities={"bounding": capabilities, "effective": [], "permitted": [], "inheritable": [], "ambient": []},
    noNewPrivileges=False)
spec["root"] = {"path": root, "readonly": True}
spec["mounts"] = [m for m in spec["mounts"] if m["destination"] != "/sys/fs/cgroup"] + [
    {"destination": "/var/lib/flowarc", "type": "bind", "source": f"{top}/volume", "options": ["bind", "rw"]},
    {"destination": "/input", "type": "bind", "source": f"{top}/input", "options": ["bind", "ro"]}]
spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] != "cgroup"]
json.dump(spec, open(path, "w"))
EOF
}

files() { # folder least
    local count
    count=$(find "$top/volume/$1" -name '*.pcap.gz' -user 65534 | wc -l)
    echo "$count files"
    [ "$count" -ge "$2" ]
}

say() { printf '\n== %s\n' "$*"; }

cleanup() {
    runc delete --force "$id" 2>/dev/null || true
    [ -z "${container:-}" ] || { buildah umount "$container" && buildah rm "$container"; } >/dev/null 2>&1 || true
    rm -rf --one-file-system "$top"
}

main
