#!/usr/bin/env python3
"""Writes the licences and notices of the libraries that are linked into flowarc, for those who ship the binary.

    scripts/third-party-licenses.py [--features LIST] > THIRD-PARTY-LICENSES

Most of them ask that their copyright lines and texts go with a binary. The texts come from the packages that cargo downloaded;
one that ships no text is listed with what its manifest says. A text that several packages share is printed once.
"""

import argparse
import collections
import json
import pathlib
import re
import subprocess
import sys

TEXTS = re.compile(r"(licen[cs]e|copying|notice|copyright|unlicense)", re.IGNORECASE)
HERE = pathlib.Path(__file__).resolve().parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", default="")
    packages = linked(parser.parse_args().features)
    texts = collections.defaultdict(list)
    print("flowarc is linked with these libraries. Their licences follow, each text once.\n")
    for package in packages:
        name = f"{package['name']} {package['version']}"
        print(f"{name}: {package['license'] or 'see its text'}; {package['repository'] or package['homepage'] or 'no address'}")
        for text in own_texts(pathlib.Path(package["manifest_path"]).parent):
            texts[text].append(name)
        if package["authors"] and not any(name in names for names in texts.values()):
            print(f"    by {', '.join(re.sub(' *<[^>]*>', '', author) for author in package['authors'])}")
    for text, names in texts.items():
        print(f"\n{'=' * 78}\n{', '.join(names)}\n{'-' * 78}\n{text}")
    print(f"{len(packages)} libraries, {len(texts)} texts", file=sys.stderr)


def linked(features):
    """The packages that are linked, without flowarc's own: what only builds or tests need is not in the binary."""
    tree = cargo("tree", "--edges=normal,no-proc-macro", "--prefix=none", "--format={p}", f"--features={features}")
    # Lines such as "aes v0.9.4", with a path behind those of the workspace and (*) behind what was there before.
    names = {tuple(line.split()[:2]) for line in tree.splitlines() if line.strip()}
    packages = json.loads(cargo("metadata", "--format-version=1"))["packages"]
    found = [p for p in packages if p["source"] and (p["name"], f"v{p['version']}") in names]
    return sorted(found, key=lambda p: (p["name"], p["version"]))


def cargo(*arguments):
    return subprocess.run(["cargo", *arguments, "--locked"], cwd=HERE, stdout=subprocess.PIPE, text=True, check=True).stdout


def own_texts(folder):
    """The licence texts of a package, also those of C sources in it."""
    for path in sorted(folder.rglob("*")):
        depth = len(path.relative_to(folder).parts)
        if depth <= 2 and path.is_file() and TEXTS.match(path.name) and path.suffix not in {".rs", ".html", ".toml", ".py"}:
            yield path.read_text(encoding="utf-8", errors="replace").strip() + "\n"


main()
