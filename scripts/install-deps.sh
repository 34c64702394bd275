#!/usr/bin/env bash
# Installs what building, testing and the demo need on Debian. Does nothing where all of it is there.
#   scripts/install-deps.sh packages     what making and testing packages and images needs, too
set -euo pipefail

# command, Debian package
tools='
tcpdump    tcpdump
tshark     tshark
tcptrace   tcptrace
zstd       zstd
ip         iproute2
python3    python3
pkg-config pkg-config
gcc        gcc
make       make
curl       curl
iperf3     iperf3
ethtool    ethtool
valgrind   valgrind
setcap     libcap2-bin
setpriv    util-linux
man        man-db
systemd-analyze  systemd
'

# The same, for packages and images.
packaging='
buildah         buildah
debootstrap     debootstrap
lintian         lintian
runc            runc
systemd-nspawn  systemd-container
'

main() {
    local missing
    [ "${1:-}" != packages ] || tools+=$packaging
    missing=$(missing_packages)
    if [ -n "$missing" ]; then
        # shellcheck disable=SC2086
        install_packages $missing
    fi
    need_cargo
    # Two tests ask a real Prometheus; who lacks one is told that they were skipped.
    [ "${CI:-}" != true ] || unpack_prometheus
}

missing_packages() {
    local command package
    # ip, ethtool and tcpdump live in sbin, which is not in every user's PATH.
    local PATH=$PATH:/usr/sbin:/sbin
    while read -r command package; do
        [ -z "$command" ] || command -v "$command" >/dev/null || echo "$package"
    done <<<"$tools"
    pkg-config --exists libpcap 2>/dev/null || [ -e /usr/include/pcap/pcap.h ] || echo libpcap-dev
    python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv
    # One test looks at a page in a browser; who lacks one is told that it was skipped.
    [ "${CI:-}" != true ] || command -v chromium >/dev/null || echo chromium
    [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
}

install_packages() {
    command -v apt-get >/dev/null || stop "missing: $*; this is no Debian, so install them by your system's means"
    echo "installing: $*"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

# Debian's prometheus, unpacked and not installed: the package would start a service.
unpack_prometheus() {
    local folder
    folder=${CARGO_TARGET_DIR:-$(dirname "$0")/../target}/tmp/prometheus
    command -v promtool >/dev/null || [ -x "$folder/usr/bin/promtool" ] && return
    mkdir -p "$folder"
    as_root apt-get update -qq
    (cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download prometheus && dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb)
}

need_cargo() {
    local wanted have
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml" | head -1)
    [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ] && PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    if ! command -v cargo >/dev/null; then
        apt-cache policy rustup 2>/dev/null | grep -q 'Candidate: [^(]' ||
            stop "cargo is missing and Debian $(cat /etc/debian_version 2>/dev/null) has no rustup: install Rust $wanted or later as https://rustup.rs says, then repeat"
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq rustup
        rustup default stable
    fi
    have=$(cargo --version | cut -d' ' -f2)
    [ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -1)" = "$wanted" ] ||
        stop "cargo is $have, and $wanted is needed: rustup update stable"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        stop "not root and no sudo; as root: $*"
    fi
}

stop() {
    echo "install-deps: $*" >&2
    exit 1
}

main "$@"
