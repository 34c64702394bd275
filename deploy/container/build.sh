#!/usr/bin/env bash
# Builds the Dockerfile with buildah, where no registry of images can be reached and no Docker runs. As root.
#   deploy/container/build.sh                            the whole Dockerfile
#   FLOWARC=path/to/flowarc deploy/container/build.sh    with a program that was built on this Debian before
#   ARCHIVE=file.tar deploy/container/build.sh           writes the image there too, for docker load
# In the place of the Rust image it uses a Debian made by debootstrap, with this machine's Rust (Debian's, or rustup's mounted into it)
# and cargo's downloads; the rest is what the Dockerfile says. Arguments go to buildah. The image is kept in target/images: see test.sh beside this.
set -euo pipefail
cd "$(dirname "$0")/../.."
source deploy/container/buildah.sh

name=${IMAGE:-localhost/flowarc}
cargo_home=${CARGO_HOME:-$HOME/.cargo}
rust=$(rustc --print sysroot)
base=localhost/flowarc-base
arguments=(--build-arg "BUILDER=$base" --build-arg "GIT_COMMIT=$(git rev-parse --short=7 HEAD)" --build-arg "FEATURES=${FEATURES:-}")

if ! buildah inspect --type image "$base" >/dev/null 2>&1; then
    folder=$(mktemp -d "${TMPDIR:-/tmp}/flowarc-image.XXXXXX")
    trap 'rm -rf --one-file-system "$folder"' EXIT
    deploy/base-system.sh "$folder"
    if [ "$rust" = /usr ]; then
        package=$(dpkg-query -S "$(realpath "$(command -v cargo)")" | cut -d: -f1)
        chroot "$folder" sh -c "apt-get update -qq && apt-get install -y -qq --no-install-recommends $package" >/dev/null
    fi
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$folder" / >/dev/null
    buildah config --env CARGO_HOME=/usr/local/cargo \
        --env PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    buildah commit --quiet --rm "$container" "$base"
fi

if [ -n "${FLOWARC:-}" ]; then
    prebuilt=$(mktemp -d prebuilt.XXXXXX)
    trap 'rm -rf "$prebuilt" ${folder:+"$folder"}' EXIT
    cp "$FLOWARC" "$prebuilt/flowarc"
    scripts/third-party-licenses.py --features "${FEATURES:-}" >"$prebuilt/THIRD-PARTY-LICENSES"
    arguments+=(--build-arg "PREBUILT=$prebuilt")
else
    mkdir -p "$cargo_home/registry"
    arguments+=(--volume "$cargo_home/registry:/usr/local/cargo/registry")
    [ "$rust" = /usr ] || arguments+=(--volume "$rust:/usr/local/rust:ro")
fi

# Docker's form, since OCI's has no health check. No layers on the way, which would be copies here; a fixed time, for the same image
# from the same source.
buildah build --format docker --layers=false --timestamp "$(git log -1 --format=%ct)" --tag "$name" "${arguments[@]}" "$@" .
[ -z "${ARCHIVE:-}" ] || buildah push --quiet "$name" "docker-archive:$ARCHIVE:flowarc:latest"
