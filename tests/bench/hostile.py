"""How many hostile or damaged files fxopt holds against: ``python tests/bench/hostile.py [--tree FOLDER] [--group NAME]``.

Each case of ``tests/cases/hostile.py`` is a process of its own, of the fxopt in ``--tree``, so that two versions can be
compared. It counts what was tried, what held, and what failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", type=Path, default=TESTS.parent, help="checkout of fxopt (%(default)s)")
    parser.add_argument("--group", action="append", help="only this group; may be given several times")
    parser.add_argument("--every", type=int, default=1, help="only one case of so many")
    options = parser.parse_args()
    if os.environ.get("PYTHONPATH") != str(options.tree.resolve()):  # begin again as that fxopt
        environment = {**os.environ, "PYTHONPATH": str(options.tree.resolve())}
        sys.exit(subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode)
    sys.path.insert(0, str(TESTS))
    _count(options)


def _count(options: argparse.Namespace) -> None:
    from cases import hostile

    tried: Counter[str] = Counter()
    failed: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory(prefix="hostile-") as scratch:
        folder = Path(scratch)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        os.chdir(folder)
        hostile.prepare(folder)
        chosen = [case for case in hostile.cases(folder) if not options.group or case.group in options.group]
        for case in chosen[:: options.every]:
            tried[case.group] += 1
            if problem := hostile.run(case):
                failed.setdefault(case.group, []).append(f"{case.name}: {problem}")
    for group, problems in failed.items():
        print(f"\n{group}", *problems, sep="\n  ")
    print(f"\n{'':<14}{'tried':>6}{'held':>6}{'failed':>7}")
    for group, count in [*tried.items(), ("all", sum(tried.values()))]:
        bad = sum(map(len, failed.values())) if group == "all" else len(failed.get(group, ()))
        print(f"{group:<14}{count:>6}{count - bad:>6}{bad:>7}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
