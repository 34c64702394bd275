#!/usr/bin/env bash
# Counts the instructions of each stage of a packet's way, with valgrind, and compares them with benches/instructions.txt:
# times vary on a shared machine, instructions hardly do. Fails where a stage takes a quarter more than it did.
# The build is the tests' (opt-level 1), so that nothing is built twice: the counts show a change, not the program's speed.
#
#   scripts/instructions.sh            compare
#   scripts/instructions.sh --update   write the file anew
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v valgrind >/dev/null; then
    [[ ${CI:-} != true ]] || { echo "CI promised valgrind" >&2; exit 1; }
    echo "SKIPPED: no valgrind" >&2
    exit 0
fi
bench=$(cargo bench --profile dev --bench path --no-run --message-format=json |
    python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == "path":
        print(message["executable"])')
exec python3 scripts/instructions.py "$bench" "$@"
