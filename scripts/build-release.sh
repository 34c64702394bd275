#!/usr/bin/env bash
# Builds target/release/flowarc for distribution: the same bytes from the same source, whatever the folder it lies in.
#   FEATURES="object-store" scripts/build-release.sh
# No path of this machine stays in the binary: panics and line tables name sources as /flowarc, /cargo and /rust. The compiler,
# the linker and libc's headers must be the same ones for the same bytes; scripts/reproducible.sh builds twice and compares.
set -euo pipefail
cd "$(dirname "$0")/.."

top=$PWD
cargo_home=${CARGO_HOME:-$HOME/.cargo}
[ -x "$cargo_home/bin/cargo" ] && PATH=$cargo_home/bin:$PATH
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
sysroot=$(rustc --print sysroot)

# The last mapping that fits counts.
rust=() c=()
for pair in "$cargo_home=/cargo" "$sysroot=/rust" "$top=/flowarc" "$target=/flowarc/target"; do
    rust+=("--remap-path-prefix=$pair")
    c+=("'-ffile-prefix-map=$pair'")
done
# In the forms that let a folder's name have spaces.
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; echo "${rust[*]}")
export CARGO_ENCODED_RUSTFLAGS
export CFLAGS="${c[*]}" CC_SHELL_ESCAPED_FLAGS=1
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}
# What `flowarc --version` and the metric git_short_commit say; nothing where the source is not a clone.
if [ -z "${FLOWARC_GIT_COMMIT:-}" ] && commit=$(git rev-parse --short=7 HEAD 2>/dev/null); then
    export FLOWARC_GIT_COMMIT=$commit
fi

cargo build --release --locked --bin flowarc --features "${FEATURES:-}"
