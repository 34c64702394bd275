#!/usr/bin/env bash
# Builds target/debian/flowarc_VERSION-1_ARCH.deb, and a package of its debug symbols beside it.
#   deploy/debian/build.sh                   builds the program first
#   FLOWARC=path/to/flowarc deploy/debian/build.sh    packs that one
#   MAINTAINER='Name <address>' deploy/debian/build.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
[ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ] && PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH

# cargo-deb looks for the program here.
built=${CARGO_TARGET_DIR:-target}/release/flowarc
out=target/package

if [ -z "${FLOWARC:-}" ]; then
    scripts/build-release.sh
elif ! cmp -s "$FLOWARC" "$built"; then
    install -D "$FLOWARC" "$built"
fi
cargo deb --version >/dev/null 2>&1 || cargo install --locked cargo-deb

rm -rf "$out"
mkdir -p "$out/completions"
"$built" man "$out/man"
"$built" completions bash >"$out/completions/flowarc"
"$built" completions zsh >"$out/completions/_flowarc"
"$built" completions fish >"$out/completions/flowarc.fish"
gzip -9n <CHANGELOG.md >"$out/changelog.gz"
scripts/third-party-licenses.py | gzip -9n >"$out/THIRD-PARTY-LICENSES.gz"

export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}
version=$(cargo metadata --format-version=1 --no-deps --offline | python3 -c '
import json, sys
print(next(p["version"] for p in json.load(sys.stdin)["packages"] if p["name"] == "flowarc"))')
maintainer=${MAINTAINER:-$(sed -n 's/^maintainer = "\(.*\)"/\1/p' Cargo.toml)}
cat >"$out/changelog.Debian" <<EOF
flowarc ($version-1) unstable; urgency=medium

  * Release $version: /usr/share/doc/flowarc/changelog.gz says what is new.

 -- $maintainer  $(date -R -u -d "@$SOURCE_DATE_EPOCH")
EOF

cargo deb --no-build --dbgsym --maintainer "$maintainer" --output target/debian/
ls -l target/debian/
