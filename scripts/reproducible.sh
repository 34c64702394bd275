#!/usr/bin/env bash
# Builds the committed source twice, in folders of different names, and compares: two full builds with link-time optimisation.
#   scripts/reproducible.sh
set -euo pipefail
cd "$(dirname "$0")/.."

commit=$(git rev-parse --short=7 HEAD)
top=$(mktemp -d "${TMPDIR:-/tmp}/flowarc-twice.XXXXXX")
trap 'rm -rf "$top"' EXIT
export FLOWARC_GIT_COMMIT=$commit

for place in one "another place/with a longer name"; do
    mkdir -p "$top/$place"
    git archive HEAD | tar -x -C "$top/$place"
    # What the surroundings may differ in: the clock and the locale.
    (cd "$top/$place" && env -u CARGO_TARGET_DIR SOURCE_DATE_EPOCH="$(date +%s)" scripts/build-release.sh)
    mv "$top/$place/target/release/flowarc" "$top/${place%%/*}.built"
    rm -rf "${top:?}/$place"
done
sha256sum "$top"/*.built | sed 's#  .*/#  #'
cmp "$top"/*.built
echo "$commit gives the same bytes in both folders"
