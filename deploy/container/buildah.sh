# shellcheck shell=bash
# For the scripts beside it: buildah that works without a daemon, without overlay mounts, and keeps what it makes in target/images.
buildah() {
    local storage=$PWD/target/images
    command buildah --storage-driver vfs --root "$storage/root" --runroot "$storage/run" "$@"
}
export BUILDAH_ISOLATION=chroot
