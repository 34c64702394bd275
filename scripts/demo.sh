#!/usr/bin/env bash
# Shows flowarc at work: on a capture file, then live between two network namespaces that are removed again.
#   scripts/demo.sh                      builds first
#   FLOWARC=path/to/flowarc scripts/demo.sh   uses that binary
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin

top=$(mktemp -d "${TMPDIR:-/tmp}/flowarc-demo.XXXXXX")
near=fademo$$n far=fademo$$f
pids=()

main() {
    trap cleanup EXIT
    trap 'exit 130' INT TERM
    if [ -z "${FLOWARC:-}" ]; then
        PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH" cargo build --release
        FLOWARC=${CARGO_TARGET_DIR:-target}/release/flowarc
    fi
    replay
    if [ "$(id -u)" != 0 ]; then
        say "2. Live: needs root to make network namespaces. To see it:  sudo FLOWARC=$FLOWARC scripts/demo.sh"
    elif ! ip netns add "$near" 2>"$top/why"; then
        say "2. Live: left out, no network namespaces here: $(cat "$top/why")"
    else
        live
    fi
}

replay() {
    say "1. A capture file: three connections in one second, all with the same addresses and ports, named by tcp-info's events"
    local command=("$FLOWARC" headers --read testdata/reuse.pcap --events testdata/reuse.events.jsonl --datadir "$top/replay")
    announce "${command[@]}"
    "${command[@]}" --prometheusx.listen-address '' --log.level warn
    show "$top/replay"
}

live() {
    say "2. Live: 20 TCP connections between two namespaces, IPv4 and IPv6; UUIDs from the kernel, no sidecar"
    ip netns add "$far"
    ip link add fad0 netns "$near" type veth peer name fad1 netns "$far"
    address "$near" fad0 1
    address "$far" fad1 2

    local command=("$FLOWARC" headers --interface fad0 --datadir "$top/live")
    announce "${command[@]}"
    ip netns exec "$near" "${command[@]}" --prometheusx.listen-address 127.0.0.1:9990 2>"$top/log" &
    pids+=($!)
    local flowarc=$!
    until_true "flowarc is ready" ip netns exec "$near" "$FLOWARC" health --ready --prometheusx.listen-address 127.0.0.1:9990
    # The server runs until its input ends, and this pipe has no end.
    mkfifo "$top/pipe"
    exec 3<>"$top/pipe"
    ip netns exec "$near" python3 tests/lab/server.py --port 12345 <&3 >"$top/server" &
    pids+=($!)
    until_true "the server listens" grep -q listening "$top/server"
    ip netns exec "$far" python3 tests/lab/client.py --count 20 --seed 1 192.0.2.1 2001:db8:77::1 | sed 's/^/   the client: /'

    say "   Now SIGTERM: every connection still held goes to disk before the program ends"
    kill -TERM "$flowarc"
    local code=0
    wait "$flowarc" || code=$?
    if [ "$code" != 0 ]; then
        tail -5 "$top/log"
        say "flowarc ended with $code"
        exit 1
    fi
    show "$top/live"
}

address() { # namespace interface number
    ip -n "$1" link set lo up
    ip -n "$1" link set "$2" up
    ip -n "$1" addr add "192.0.2.$3/24" dev "$2"
    ip -n "$1" addr add "2001:db8:77::$3/64" dev "$2" nodad
}

show() { # folder: its files, the packets of the first, and what flowarc says of them
    local files first
    mapfile -t files < <(cd "$1" && find . -name '*.pcap.gz' | sort)
    [ ${#files[@]} -gt 0 ] || { say "no files: that is a defect"; exit 1; }
    first=${files[0]#./}
    say "   ${#files[@]} files below the data folder:"
    printf '   %s\n' "${files[@]:0:4}"
    [ ${#files[@]} -le 4 ] || echo "   ... and $((${#files[@]} - 4)) more"
    say "   The first one, $(stat -c %s "$1/$first") bytes, read by tcpdump; the lengths are those on the wire, the payload is not there:"
    gunzip -c "$1/$first" | tcpdump -nr - 2>/dev/null | sed 's/, options \[[^]]*\]//; s/^/   /' | sed -n '1,12p; 13s/.*/   .../p'
    say "   What flowarc says of that connection, and whether all files are sound:"
    announce "$FLOWARC" show "$1/$first"
    "$FLOWARC" show "$1/$first" | sed -n '2,9s/^./   &/p'
    announce "$FLOWARC" verify "$1"
    "$FLOWARC" verify "$1" | sed 's/^/   /'
}

until_true() { # what command...
    local what=$1
    shift
    for _ in $(seq 100); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    [ ! -s "$top/log" ] || tail -5 "$top/log"
    say "waited 10 s in vain until $what"
    exit 1
}

cleanup() {
    for pid in "${pids[@]}"; do
        kill -KILL "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || true
    done
    ip netns del "$near" 2>/dev/null || true
    ip netns del "$far" 2>/dev/null || true
    rm -rf "$top"
}

announce() { echo "   \$ ${*//$top/TMP}"; }

say() { printf '\n%s\n' "$*"; }

main
