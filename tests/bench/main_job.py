"""The main job as a user runs it: ``fxopt build models/digits.toml``, in a process of its own.

::

    python tests/bench/main_job.py --runs 3

Shows top-1 on the held-out images before and after, the size of the file, the latency ratios to ONNX Runtime in fp32 and
to eager, each from the report of its own run, and wall seconds of the whole command.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fxopt.driver.report import BuildReport

RECIPES = Path(__file__).parents[2] / "models"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--recipes", nargs="+", default=["digits.toml", "digits_int8.toml"], help="in models/ (%(default)s)"
    )
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    table = Table(title=f"{options.runs} runs of each recipe")
    columns = (
        "recipe",
        "top-1 before",
        "after",
        "file ratio",
        "latency to fp32",
        "to eager",
        "integer",
        "float",
        "wall s",
    )
    for column in columns:
        table.add_column(column, justify="left" if column == "recipe" else "right")
    for recipe in options.recipes:
        for _ in range(options.runs):
            table.add_row(recipe, *figures(*build(RECIPES / recipe)))
    Console(width=120).print(table)


def build(recipe: Path) -> tuple[BuildReport, float]:
    """The report of one build, and its wall seconds, start of the interpreter included."""
    with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
        command = [Path(sys.executable).with_name("fxopt"), "build", recipe, "--out", f"{folder}/out", "--json"]
        start = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return BuildReport.model_validate_json(done.stdout), time.perf_counter() - start


def figures(report: BuildReport, seconds: float) -> list[str]:
    before, after, facts = report.before, report.after, report.backend
    fp32, eager = before.latency.median_ms, report.eager.latency.median_ms
    return [
        f"{before.metric:.4f}", f"{after.metric:.4f}", f"{before.file_bytes / after.file_bytes:.2f}",
        f"{after.latency.median_ms / fp32:.2f}", f"{after.latency.median_ms / eager:.3f}",
        str(facts["integer_contractions"]), str(facts["float_contractions"]), f"{seconds:.1f}",
    ]  # fmt: skip


if __name__ == "__main__":
    main()
