"""Pages of reports in a headless Chromium: bytes, milliseconds to a painted page, messages on the console.

::

    python tests/bench/pages.py build/digits build/resnet18 search/digits     # folders of builds and searches
    python tests/bench/pages.py --ops 10000 --shots shots                     # a graph of so many ops; screenshots to look at

Each page is opened and painted at 390 and at 1440 pixels. The time is that of the whole browser less that of an empty page,
opened in turn with it, the median of ``--rounds``; it is of a browser that starts with nothing in its caches. What axe finds
against the accessibility of a page is counted, and named below the table.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).parents[1]))  # the browser is that of tests/driver/page

from cases.browser import BROWSER, violations

from fxopt.driver.layers import LayerFigures
from fxopt.driver.page.elements import Graph, Page, Section
from fxopt.driver.page.layer_table import graph_rows
from fxopt.driver.page.write import page_text

WIDTHS = (390, 1440)
_EMPTY = "<!doctype html><title>empty</title><body></body>"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--ops", type=int, help="ops of a graph that is made up, in modules of a hundred")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shots", type=Path, help="folder to leave screenshots in")
    options = parser.parse_args()
    if BROWSER is None:
        raise SystemExit("no Chromium is installed: apt-get install chromium")
    shown = Table("page", "kB", *(f"ms at {width}" for width in WIDTHS), "messages", "axe")
    against = []
    with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
        place = Path(folder)
        (place / "empty.html").write_text(_EMPTY)
        for page in pages(options.folders, options.ops, place):
            cells, messages = [], 0
            for width in WIDTHS:
                shot = (options.shots or place) / f"{page.stem}-{width}.png"
                shot.parent.mkdir(parents=True, exist_ok=True)
                took, said = painted(page, place, width, shot, options.rounds)
                cells.append(f"{took:.0f}")
                messages += said
            found = violations(page.read_text(), place)
            against += [f"{page.stem}: {rule} ({impact})" for rule, impact in found.items()]
            size = f"{page.stat().st_size / 1000:,.0f}"
            shown.add_row(page.stem, size, *cells, str(messages), str(len(found)))
    Console().print(shown, *against, sep="\n")


def pages(folders: list[Path], ops: int | None, place: Path) -> list[Path]:
    """The pages' files, as ``fxopt report`` writes them."""
    found = []
    for folder in folders:
        found.append(place / f"{folder.resolve().name}.html")
        command = [sys.executable, "-m", "fxopt", "report", str(folder), "--html", str(found[-1])]
        subprocess.run(command, check=True, capture_output=True)
    if ops is not None:
        layers = [
            LayerFigures(
                name=f"n{i}", op="aten.relu", module=f"stage{i // 1000}.block{i // 100}",
                inputs=(f"n{i - 1}",) if i else (), macs=i,
            )
            for i in range(ops)
        ]  # fmt: skip
        found.append(place / f"graph-{ops}.html")
        page = Page("graph", f"{ops} ops", True, (Section("graph", (Graph({"before": graph_rows(layers)}),)),))
        found[-1].write_text(page_text(page))
    return found


def painted(page: Path, place: Path, width: int, shot: Path, rounds: int) -> tuple[float, int]:
    """Milliseconds until ``page`` is painted beyond those of an empty page, and messages on the console."""
    times: dict[Path, list[float]] = {page: [], place / "empty.html": []}
    messages = 0
    for _ in range(rounds):
        for path, seconds in times.items():
            target = shot if path == page else place / "empty.png"
            command = [
                str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
                f"--user-data-dir={place / 'profile'}", f"--window-size={width},2000", f"--screenshot={target}", path.as_uri(),
            ]  # fmt: skip
            start = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
            seconds.append(time.perf_counter() - start)
            messages += sum(":CONSOLE" in line for line in done.stderr.splitlines())
    ours, empty = (statistics.median(seconds) for seconds in times.values())
    return (ours - empty) * 1000, messages


if __name__ == "__main__":
    main()
