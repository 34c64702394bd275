#!/usr/bin/env bash
# Makes a small Debian to build and test packages in, where no registry of images can be reached: debootstrap from the mirror
# that this machine's apt uses (or MIRROR), kept in target/base-SUITE.tar for the next time.
#   deploy/base-system.sh FOLDER     unpacks it there; as root
set -euo pipefail
folder=$(realpath -m "$1")
cd "$(dirname "$0")/.."

suite=${SUITE:-$(. /etc/os-release && echo "$VERSION_CODENAME")}
kept=target/base-$suite.tar

if [ ! -e "$kept" ]; then
    sources=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' |
        awk -v s="$suite" '$2 == s || $2 == s "-updates" || $2 == s "-security"' | sort -u)
    mirror=${MIRROR:-$(awk -v s="$suite" '$2 == s { print $1; exit }' <<<"$sources")}
    [ -n "$mirror" ] || { echo "base-system: apt knows no mirror of $suite: name one as MIRROR" >&2; exit 1; }
    making=$(mktemp -d "${TMPDIR:-/tmp}/flowarc-base.XXXXXX")
    trap 'rm -rf "$making"' EXIT
    debootstrap --variant=minbase "$suite" "$making" "$mirror" >"$making.log" 2>&1 || { tail -20 "$making.log" >&2; exit 1; }
    rm -f "$making.log" "$making"/var/cache/apt/archives/*.deb "$making/etc/apt/sources.list"
    # In the form and place of Debian's own images, with the updates that this machine's apt knows.
    { echo "$mirror $suite"; grep -v " $suite$" <<<"$sources" || true; } | while read -r place name; do
        printf '%s\n' 'Types: deb' "URIs: $place" "Suites: $name" 'Components: main' \
            'Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg' ''
    done >"$making/etc/apt/sources.list.d/debian.sources"
    # Services must not start in a chroot.
    printf '#!/bin/sh\nexit 101\n' >"$making/usr/sbin/policy-rc.d"
    chmod 755 "$making/usr/sbin/policy-rc.d" "$making"
    mkdir -p target
    tar -C "$making" --one-file-system --exclude='./dev/*' -cf "$kept.new" .
    mv "$kept.new" "$kept"
fi

mkdir -p "$folder"
tar -C "$folder" -xpf "$kept"
# How this machine finds the mirror.
cp -L /etc/resolv.conf /etc/hosts "$folder/etc/"
