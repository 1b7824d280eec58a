"""What an architecture search shows at its end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from fxopt.cli.app import from_here
from fxopt.cli.layout import Column, Listing, say

if TYPE_CHECKING:
    from fxopt.automl.nas.report import NasReport, TargetReport


_NAMED = 0.03
"""The least share of the cost that is shown."""


def show_nas(report: NasReport, out: Path, console: Console) -> None:
    """A table of sub-networks for each target, and how well they were predicted."""
    whole = f"the trained whole: {report.metric} {report.original_metric - report.whole_drop:.4f}"
    say(console, f"{report.model}: {report.metric} {report.original_metric:.4f}, {whole}")
    for target in report.targets:
        _show_target(target, out, console)
    for note in report.notes:
        say(console, f"note: {note}")


def _show_target(target: TargetReport, out: Path, console: Console) -> None:
    cost, unit = ("cycles", "cycles") if "cycles" in target.objectives else ("latency_ms", "ms")
    names = ("recipe", "drop", "drop on test data", unit, "predicted", "MACs", "bytes", "proof")
    table = Listing(target.name, [Column(name, right=name != "recipe") for name in names])
    for answer in target.front:
        figures = answer.figures
        table.add(
            from_here(out / target.name / answer.recipe),
            f"{figures['metric_drop']:.4f}" if "metric_drop" in figures else "",
            "" if answer.test_drop is None else f"{answer.test_drop:.4f}",
            f"{figures[cost]:.4g}" if cost in figures else "",
            "" if answer.predicted_cost is None else f"{answer.predicted_cost:.4g}",
            f"{figures['macs']:,.0f}",
            f"{figures['file_bytes']:,.0f}",
            f"{answer.proof:.1e}",
        )
    console.print(table)
    if target.cost_error is not None:
        known = f"from {target.measured} sub-networks that were {'timed' if unit == 'ms' else 'built'}"
        say(console, f"{unit} predicted {known}, {target.cost_error:.0%} off")
        shares = ", ".join(f"{kind} {share:.0%}" for kind, share in target.cost_shares.items() if share >= _NAMED)
        say(console, f"of the whole's {unit}: {shares}")
    say(console, f"hypervolume of divergence and cost: evolved {target.evolved:.4g}, random {target.random:.4g}")
    for note in target.notes:
        say(console, f"note: {note}")
    for failed in target.failed:
        say(console, f"not built: {failed.reason}")
