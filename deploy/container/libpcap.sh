#!/usr/bin/env bash
# Builds Debian's own libpcap anew with nothing in it but packet sockets and files, into a folder.
#   deploy/container/libpcap.sh FOLDER
# Debian's libpcap can also capture from D-Bus, USB, Bluetooth, RDMA and netlink monitors, and so loads eight more libraries into a
# process that reads hostile packets: libdbus, libsystemd, libcap, libgcrypt, libgpg-error, liblzma, libzstd and liblz4. flowarc uses
# none of that. Same source, patches and soname, so the program that was linked with Debian's runs with this one.
set -euo pipefail
out=$(realpath -m "$1")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
# Beside apt's own lists, so that the machine's stay as they are.
sed 's/^Types: .*/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >sources.sources
mkdir -p lists/partial
apt=(apt-get -qq -o "Dir::Etc::SourceList=$work/sources.sources" -o Dir::Etc::SourceParts=- -o "Dir::State::Lists=$work/lists" -o APT::Sandbox::User=root)
"${apt[@]}" update
"${apt[@]}" source libpcap
cd libpcap-*/
CFLAGS="-O2 -fstack-protector-strong -D_FORTIFY_SOURCE=2" LDFLAGS='-Wl,-z,relro,-z,now' \
    ./configure --prefix=/usr --disable-dbus --disable-usb --disable-bluetooth --disable-rdma --disable-remote --disable-netmap \
    --without-libnl --without-dag --without-septel --without-snf --without-turbocap --without-dpdk \
    >configure.log
make -s libpcap.so >make.log 2>&1 || { tail -20 make.log >&2; exit 1; }
install -D -m 644 "$(ls libpcap.so.*.* | head -1)" "$out/libpcap.so.0.8"
strip --strip-unneeded "$out/libpcap.so.0.8"
