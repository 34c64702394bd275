#!/usr/bin/env bash
# Writes target/flowarc.cdx.json: what the program is built of, as CycloneDX 1.5.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo cyclonedx --version >/dev/null 2>&1 || cargo install --locked cargo-cyclonedx
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}
# One for each binary of the workspace; there is one binary.
cargo cyclonedx --quiet --format json --spec-version 1.5 --describe binaries --target "$(rustc -vV | sed -n 's/^host: //p')"
mkdir -p target
# Without the path of this machine.
sed "s#$PWD#/flowarc#g" flowarc_bin.cdx.json >target/flowarc.cdx.json
rm flowarc_bin.cdx.json
python3 -c 'import json; print("target/flowarc.cdx.json:", len(json.load(open("target/flowarc.cdx.json"))["components"]), "components")'
