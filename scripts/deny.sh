#!/usr/bin/env bash
# Licences, bans, sources and known defects of the dependencies, by deny.toml. All but known defects needs no network.
#   ADVISORIES=required scripts/deny.sh     fails where the advisory database cannot be fetched: for a release
set -euo pipefail
cd "$(dirname "$0")/.."

cargo deny --version >/dev/null 2>&1 || cargo install --locked cargo-deny
cargo deny --locked --offline check --hide-inclusion-graph licenses bans sources
if reason=$(cargo deny --locked fetch db 2>&1); then
    cargo deny --locked check advisories
else
    printf '%s\n' "$reason" '' \
        '################################################################################' \
        '# NOT CHECKED: known defects of the dependencies.                              #' \
        '# The advisory database cannot be fetched from here, for the reason above.     #' \
        '# Run `make deny` where https://github.com can be reached, before a release    #' \
        '# and every week: advisories appear for versions that were sound when locked.  #' \
        '################################################################################' >&2
    [ "${ADVISORIES:-}" != required ]
fi
