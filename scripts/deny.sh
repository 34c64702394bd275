#!/usr/bin/env bash
# Licences, bans, sources and known defects of the dependencies, by deny.toml. All but known defects needs no network.
#   ADVISORIES=required scripts/deny.sh     fails where the advisory database cannot be fetched: for a release
set -euo pipefail
cd "$(dirname "$0")/.."

cargo deny --version >/dev/null 2>&1 || cargo install --locked cargo-deny
cargo deny --locked --offline check --hide-inclusion-graph licenses bans sources
if cargo deny --locked fetch db >/dev/null 2>&1; then
    cargo deny --locked check advisories
elif [ "${ADVISORIES:-}" = required ]; then
    echo "deny: the advisory database cannot be fetched" >&2
    exit 1
else
    echo "NOT CHECKED: known defects (advisories): their database cannot be fetched from here"
fi
