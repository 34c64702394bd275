#!/usr/bin/env bash
# Installs on Debian what is missing of the tools that are needed to
#   scripts/install-deps.sh build       build, and make the sample capture
#   scripts/install-deps.sh deb         build, and make the package
#   scripts/install-deps.sh demo        build, and run scripts/demo.sh
#   scripts/install-deps.sh test        do all that, and run the tests; without an argument it is this
#   scripts/install-deps.sh package     do all that, make the image, and test package and image
# Does nothing where all of it is there, and never removes a package. Rust comes from Debian where that is new enough, and from
# rustup where Debian has rustup.
set -euo pipefail

# command, Debian package
build='
gcc        gcc
pkg-config pkg-config
python3    python3
'

deb='
dpkg-shlibdeps  dpkg-dev
'

demo='
ip         iproute2
tcpdump    tcpdump
'

test='
curl       curl
ethtool    ethtool
iperf3     iperf3
make       make
man        man-db
setcap     libcap2-bin
setpriv    util-linux
systemd-analyze  systemd
tcptrace   tcptrace
tshark     tshark
valgrind   valgrind
zstd       zstd
'

package='
buildah         buildah
debootstrap     debootstrap
lintian         lintian
runc            runc
systemd-nspawn  systemd-container
'

main() {
    local tools missing
    case "${1:-test}" in
        build) tools=$build ;;
        deb) tools=$build$deb ;;
        demo) tools=$build$demo ;;
        test) tools=$build$deb$demo$test ;;
        package) tools=$build$deb$demo$test$package ;;
        *) stop "no such purpose: $1" ;;
    esac
    missing=$(missing_packages "${1:-test}")
    if [ -n "$missing" ]; then
        # shellcheck disable=SC2086
        install_packages $missing
    fi
    need_cargo
    # Two tests ask a real Prometheus; who lacks one is told that they were skipped.
    [ "${CI:-}" != true ] || unpack_prometheus
}

missing_packages() { # purpose
    local command package
    # ip, ethtool and tcpdump live in sbin, which is not in every user's PATH.
    local PATH=$PATH:/usr/sbin:/sbin
    while read -r command package; do
        [ -z "$command" ] || command -v "$command" >/dev/null || echo "$package"
    done <<<"$tools"
    pkg-config --exists libpcap 2>/dev/null || [ -e /usr/include/pcap/pcap.h ] || echo libpcap-dev
    [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
    case $1 in build | deb | demo) return ;; esac
    python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv
    # One test looks at a page in a browser; who lacks one is told that it was skipped.
    [ "${CI:-}" != true ] || command -v chromium >/dev/null || echo chromium
}

install_packages() {
    command -v apt-get >/dev/null || stop "missing: $*; this is no Debian, so install them by your system's means"
    echo "installing: $*"
    update_lists
    # What goes wrong is told on standard error.
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-remove --no-install-recommends "$@" >/dev/null
}

update_lists() {
    [ -n "${updated:-}" ] || as_root apt-get update -qq
    updated=yes
}

# Debian's prometheus, unpacked and not installed: the package would start a service.
unpack_prometheus() {
    local folder
    folder=${CARGO_TARGET_DIR:-$(dirname "$0")/../target}/tmp/prometheus
    command -v promtool >/dev/null || [ -x "$folder/usr/bin/promtool" ] && return
    mkdir -p "$folder"
    update_lists
    (cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download prometheus && dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb)
}

need_cargo() {
    local wanted have
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml" | head -1)
    [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ] && PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    command -v cargo >/dev/null || install_cargo
    have=$(cargo --version | cut -d' ' -f2)
    [ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -1)" = "$wanted" ] ||
        stop "cargo is $have, and $wanted is needed. If it came from rustup: rustup update stable." \
            "If from Debian: apt-get install cargo-web rustfmt-web rust-web-clippy, which take the place of cargo and rustc"
}

install_cargo() {
    local packages
    command -v apt-get >/dev/null || stop "cargo is missing: install Rust $wanted or later as https://rustup.rs says, then repeat"
    update_lists
    # cargo stays what it was when its Debian was released; cargo-web is renewed as Firefox needs it. Both bring the same commands.
    for packages in 'cargo rustfmt rust-clippy' 'cargo-web rustfmt-web rust-web-clippy'; do
        if dpkg --compare-versions "$(candidate "${packages%% *}")" ge "$wanted"; then
            # shellcheck disable=SC2086
            install_packages $packages
            return
        fi
    done
    [ -n "$(candidate rustup)" ] ||
        stop "cargo is missing, and Debian $(cat /etc/debian_version) has neither a cargo of $wanted nor rustup (are its security updates" \
            "among apt's sources?): install Rust $wanted or later as https://rustup.rs says, then repeat"
    install_packages rustup
    rustup default stable
}

candidate() { # package: the version that apt would install; nothing where there is none
    apt-cache policy "$1" | sed -n 's/^ *Candidate: \([^(].*\)/\1/p'
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
