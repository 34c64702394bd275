# shellcheck shell=bash
# For the tests of the package: a small Debian in the folder $root, and commands in it.
open_root() {
    deploy/base-system.sh "$root"
    mount -t proc proc "$root/proc"
    mount -t tmpfs tmpfs "$root/dev"
    mknod -m 666 "$root/dev/null" c 1 3
    mknod -m 666 "$root/dev/urandom" c 1 9
    inside apt-get update -qq
}

inside() { chroot "$root" env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"; }

close_root() { umount "$root/proc" "$root/dev" 2>/dev/null || true; }
