#!/usr/bin/env bash
# Installs the package in a small Debian of its own, uses it as a person would, and removes it again. As root.
#   deploy/debian/test.sh [target/debian/flowarc_*.deb]
# systemd does not run in there; the service's user, capability and environment file are used without it.
set -euo pipefail
cd "$(dirname "$0")/../.."
source deploy/root.sh

main() {
    deb=$(realpath "${1:-$(ls -t target/debian/flowarc_*.deb | head -1)}")
    top=$(mktemp -d "${TMPDIR:-/tmp}/flowarc-deb.XXXXXX")
    root=$top/root
    trap cleanup EXIT
    lint
    open_root
    cp testdata/reuse.pcap testdata/reuse.events.jsonl "$root/tmp/"
    cp "$deb" "$root/tmp/flowarc.deb"
    # What the package needs stays when it goes; it is not what is looked for.
    inside apt-get install -y -qq --no-install-recommends adduser libpcap0.8 libgcc-s1 man-db >"$top/log" 2>&1 || fail
    inventory >"$top/before"

    say "install"
    inside apt-get install -y -qq --no-install-recommends /tmp/flowarc.deb >"$top/log" 2>&1 || fail
    inside getent passwd _flowarc
    inside dpkg --verify flowarc
    if ls "$root"/etc/systemd/system/*/flowarc*.service 2>/dev/null; then fail "a service was enabled"; fi
    inside sh -c 'flowarc --version && man -w flowarc-headers' || fail

    say "archive a capture file"
    inside setpriv --reuid _flowarc --regid _flowarc --clear-groups \
        flowarc headers --read /tmp/reuse.pcap --events /tmp/reuse.events.jsonl --datadir /tmp/replay --log.level warn
    [ "$(find "$root/tmp/replay" -name '*.pcap.gz' | wc -l)" = 3 ] || fail "three files should be in /tmp/replay"
    inside flowarc verify /tmp/replay

    say "archive live, as flowarc.service does: its user, its capability alone, its environment"
    # What systemd's StateDirectory= does.
    inside install -d -o _flowarc -g _flowarc -m 750 /var/lib/flowarc
    unshare --net -- deploy/debian/test.sh --live "$root" || fail "live capture"

    say "install again over it; the settings stay"
    echo '# mine' >>"$root/etc/default/flowarc"
    inside apt-get install -y -qq --reinstall /tmp/flowarc.deb >"$top/log" 2>&1 || fail
    grep -q '^# mine$' "$root/etc/default/flowarc" || fail "the settings are gone"

    say "remove: settings and data stay"
    inside apt-get remove -y -qq flowarc >"$top/log" 2>&1 || fail
    [ -e "$root/etc/default/flowarc" ] && [ ! -e "$root/usr/bin/flowarc" ] || fail "remove"

    say "purge: what was archived stays, and the log says so"
    inside apt-get purge -y -qq flowarc >"$top/log" 2>&1 || fail
    grep 'archived data stays' "$top/log" || fail "nothing was said"
    [ ! -e "$root/etc/default/flowarc" ] && find "$root/var/lib/flowarc" -name '*.pcap.gz' | grep -q . || fail "purge"

    say "purge without data: nothing is left"
    rm -r "$root/var/lib/flowarc"
    inside apt-get install -y -qq --no-install-recommends /tmp/flowarc.deb >"$top/log" 2>&1 || fail
    mkdir -p "$root/var/lib/flowarc/pcap/2026/11/21"
    inside apt-get purge -y -qq flowarc >"$top/log" 2>&1 || fail
    inventory >"$top/after"
    diff "$top/before" "$top/after" || fail "the package leaves this behind"
    say "the package installs, archives and goes without a trace: $(basename "$deb"), $(stat -c %s "$deb") bytes"
}

# In a network namespace of its own, so that loopback carries only what is made here.
live() {
    root=$1
    ip link set lo up
    (
        set -a
        . "$root/etc/default/flowarc"
        exec chroot "$root" setpriv --reuid _flowarc --regid _flowarc --clear-groups --bounding-set -all,+net_raw \
            --inh-caps -all,+net_raw --ambient-caps -all,+net_raw --no-new-privs flowarc headers
    ) 2>"$root/tmp/live.log" &
    local flowarc=$!
    for _ in $(seq 100); do
        chroot "$root" flowarc health --ready --prometheusx.listen-address 127.0.0.1:9990 2>/dev/null && break
        sleep 0.1
    done
    grep -E '^(Cap(Prm|Eff|Bnd|Amb)|Uid|NoNewPrivs)' "/proc/$flowarc/status" | paste -sd' '
    deploy/loopback.py
    sleep 0.2
    kill -TERM "$flowarc"
    wait "$flowarc" || { cat "$root/tmp/live.log"; exit 1; }
    # Both ends are here, so each connection has the names of two sockets; health asked by connections of its own.
    local files
    files=$(find "$root/var/lib/flowarc/pcap" -name '*.pcap.gz' -user "$(chroot "$root" id -u _flowarc)" | wc -l)
    echo "$files files"
    [ "$files" -ge 10 ] || { cat "$root/tmp/live.log"; exit 1; }
    chroot "$root" flowarc find /var/lib/flowarc/pcap --since 1h >/dev/null
}

lint() {
    command -v lintian >/dev/null || { say "SKIPPED: lintian is not installed"; return 0; }
    say "lintian"
    lintian --allow-root --fail-on error "$deb" || fail "lintian"
}

# All files but those that apt, dpkg and adduser keep for themselves.
inventory() {
    (cd "$root" && find . -xdev \( -path ./proc -o -path ./dev -o -path ./run -o -path ./tmp -o -path ./var/cache -o -path ./var/log -o -path ./var/lib/apt \
        -o -path ./var/lib/dpkg -o -path './etc/*-' -o -path ./var/lib/systemd \) -prune -o -print | sort
    grep -h flowarc etc/passwd etc/group etc/shadow || true)
}

say() { printf '\n== %s\n' "$*"; }

fail() {
    [ ! -s "$top/log" ] || tail -20 "$top/log" >&2
    echo "test: ${1:-failed}" >&2
    exit 1
}

cleanup() {
    close_root
    rm -rf --one-file-system "$top"
}

if [ "${1:-}" = --live ]; then live "$2"; else main "$@"; fi
