#!/usr/bin/env bash
# Lays out the image: the program, the libraries that it loads, and the few files that they look for.
#   deploy/container/rootfs.sh PROGRAM LIBPCAP-FOLDER NOTICES OUT
# PROGRAM was linked on the Debian that this runs on. As root, for owners and the file capability.
set -euo pipefail
program=$1 libpcap=$(realpath "$2") notices=$3 out=$4
here=$(dirname "$0")

main() {
    install -D -m 755 "$program" "$out/usr/bin/flowarc"
    strip --strip-all "$out/usr/bin/flowarc"
    # Called by the predecessor's name, the program speaks its grammar.
    ln -s usr/bin/flowarc "$out/packet-headers"
    libraries
    small_files
    # Last, since every change of the file takes it away. A user that is not root gets an added capability in this way only.
    setcap cap_net_raw=ep "$out/usr/bin/flowarc"
}

# Each lies where it lies on Debian; of libpcap ours, in the place of Debian's.
libraries() {
    local library
    LD_LIBRARY_PATH=$libpcap ldd "$out/usr/bin/flowarc" | grep -o '/[^ ]*' | while read -r library; do
        case $library in
            "$libpcap"/*) install -D -m 644 "$library" "$out/lib/$(gcc -print-multiarch)/${library##*/}" ;;
            *) install -D -m 755 "$(realpath "$library")" "$out$library" && credit "$library" ;;
        esac
    done
    # Ours has the version of Debian's.
    credit_package "$(dpkg-query -S "*/libpcap.so.0.8" | cut -d: -f1)"
}

credit() {
    # Debian knows it by one of the two names.
    credit_package "$( (dpkg-query -S "$1" || dpkg-query -S "/usr$1") 2>/dev/null | head -1 | cut -d: -f1)"
}

# The licence of a library's package, and what scanners for known defects look for.
credit_package() {
    local package=$1
    install -D -m 644 "/usr/share/doc/$package/copyright" "$out/usr/share/doc/$package/copyright"
    mkdir -p "$out/var/lib/dpkg/status.d"
    dpkg-query -s "$package" >"$out/var/lib/dpkg/status.d/$package"
}

small_files() {
    install -D -m 644 "$here/passwd" "$out/etc/passwd"
    install -D -m 644 "$here/group" "$out/etc/group"
    echo 'hosts: files dns' >"$out/etc/nsswitch.conf"
    install -D -m 644 LICENSE "$out/usr/share/doc/flowarc/copyright"
    install -D -m 644 "$notices" "$out/usr/share/doc/flowarc/THIRD-PARTY-LICENSES"
    install -d -m 1777 "$out/tmp"
    # Where files go that no flag sends elsewhere; a volume that is mounted here takes this owner.
    install -d -o 65534 -g 65534 -m 755 "$out/var/lib/flowarc"
    # Object stores are asked over TLS.
    case " ${FEATURES:-} " in
        *' object-store '*) install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$out/etc/ssl/certs/ca-certificates.crt" ;;
    esac
}

main
