"""A recipe built a second time, and with one option changed at the end: seconds beside those of a build without a cache.

    python tests/bench/second_build.py models/digits.toml --change "quantize(per_channel=False)" --rounds 3

Each build is a process of its own. The three kinds are interleaved, in an order that turns from round to round; each round
has a cache of its own, filled once. Figures are ratios of wall and processor seconds, median (least, most) over the rounds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from fxopt.support.spec import parse_calls

_CODE = """
import json, resource, sys, time
begun = time.perf_counter()
from dataclasses import replace
from fxopt import build
from fxopt.driver.recipe import read_recipe
recipe, out, last, cache = sys.argv[1:]
recipe = read_recipe(recipe)
if last:
    recipe = replace(recipe, passes=(*recipe.passes[:-1], last))
report = build(recipe, out, measure=False, cache=cache == "yes")
used = sum(resource.getrusage(who).ru_utime + resource.getrusage(who).ru_stime
           for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(json.dumps({"wall": time.perf_counter() - begun, "cpu": used, "stages": report.seconds,
                  "cached": [step.cached for step in report.steps], "folder": report.folder}))
"""


def _build(recipe: Path, place: Path, cache: Path, last: str, *, cached: bool) -> dict[str, object]:
    environment = os.environ | {"FXOPT_CACHE": str(cache)}
    command = [sys.executable, "-c", _CODE, str(recipe), str(place), last, "yes" if cached else "no"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    models = sorted(p for p in Path(found["folder"]).iterdir() if p.name not in ("report.json", "manifest.json"))
    return found | {"digest": hashlib.sha256(b"".join(p.read_bytes() for p in models)).hexdigest()}


def main() -> None:
    """Print a row for each kind of build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--change", default="quantize(per_channel=False)", help="the last pass instead of the recipe's")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    passes = tomllib.loads(options.recipe.read_text())["passes"]
    print(f"{options.recipe}, {len(passes)} passes, the last {parse_calls(passes[-1])[0][0]} → {options.change}")
    kinds = {"no cache": ("", False), "second build": ("", True), "last changed, no cache": (options.change, False),
             "last changed": (options.change, True)}  # fmt: skip
    rows: dict[str, list[dict[str, object]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory(prefix="fxopt-") as scratch:
        for number in range(options.rounds):
            cache = Path(scratch) / f"cache{number}"
            first = _build(options.recipe, Path(scratch) / "first", cache, "", cached=True)
            order = list(kinds.items())
            turn = number % len(order)
            for kind, (last, cached) in order[turn:] + order[:turn]:
                found = _build(options.recipe, Path(scratch) / "found", cache, last, cached=cached)
                rows[kind].append(found)
                print(f"  round {number}: {kind}: {found['wall']:.1f} s, {found['cpu']:.1f} CPU-s, {found['stages']}")
            assert rows["second build"][-1]["digest"] == rows["no cache"][-1]["digest"] == first["digest"]
            assert rows["last changed"][-1]["digest"] == rows["last changed, no cache"][-1]["digest"]
    for kind, base in (("second build", "no cache"), ("last changed", "last changed, no cache")):
        cached = rows[kind][-1]["cached"]
        for what in ("wall", "cpu"):
            ratios = [a[what] / b[what] for a, b in zip(rows[base], rows[kind], strict=True)]
            print(f"{kind}: {sum(cached)} of {len(cached)} steps looked up; {base} takes "
                  f"{statistics.median(ratios):.1f} ({min(ratios):.1f}–{max(ratios):.1f}) times its {what} seconds")  # fmt: skip


if __name__ == "__main__":
    main()
