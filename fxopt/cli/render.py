"""The report on a console: what each step did, what was left alone and why, before and after."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fxopt.driver.report import BackendChoice, BuildReport, Latency, SkippedNode, StepReport
from fxopt.ir.program import Measurement


def show_report(report: BuildReport, console: Console) -> None:
    """Print a build's report as tables; at most a few skip reasons a step, all of them are in ``report.json``."""
    console.print(f"[bold]{escape(report.model.name)}[/]  {escape(report.model.signature)}")
    for note in report.model.notes:
        console.print(f"  note: {escape(note)}")
    console.print(_steps(report.steps, report.metric))
    if report.cache and report.cache.steps:
        saved = f"{report.cache.seconds_saved:.1f} s of passes"
        console.print(f"  {report.cache.steps} of {report.cache.of} steps from the cache, {saved} when they were made")
    for text in _tolerances(report.steps):
        console.print(f"  {escape(text)}")
    told: set[tuple[str | None, str, str]] = set()
    for step in report.steps:
        _show_choices(step, console)
        _show_measurements(step, console)
        _show_skips(step, told, console)
    if report.choice:
        console.print(_candidates(report.choice))
        console.print(f"  chosen: {escape(report.choice.chosen)}: {escape(report.choice.why)}")
    console.print(_figures(report))
    _show_backend(report, console)
    for line in report.budget:
        mark = "[green]kept[/]" if line.met else "[red]missed[/]"
        console.print(f"  budget {mark}: {escape(line.text)}")


def _steps(steps: list[StepReport], metric: str | None) -> Table:
    rows: list[dict[str, str]] = []
    group = None
    for step in steps:
        if step.part_of not in (None, group):
            rows.append({"pass": escape(str(step.part_of))})
        group = step.part_of
        rows.append(
            {
                "pass": escape(f"  {step.pass_}" if group else step.pass_),
                "left": str(len(step.skips) or ""),
                "MACs": _signed(step.delta.macs if step.delta else 0),
                "weights, kB": _signed(round(step.delta.weight_bytes / 1000) if step.delta else 0),
                "outputs": _effect(step, metric),
                "s": "cached" if step.cached else f"{step.seconds:.2f}",
            }
        )
    table = Table(title="Passes", title_justify="left")
    columns = [name for name in (rows[-1] if rows else ()) if any(row.get(name) for row in rows)]
    for name in columns:
        table.add_column(name, justify="left" if name in ("pass", "outputs") else "right")
    for row in rows:
        table.add_row(*(row.get(name, "") for name in columns))
    return table


def _effect(step: StepReport, metric: str | None) -> str:
    """What a step did to the outputs, as it was verified."""
    if not step.changed:
        return "unchanged"
    text = {"none": "not compared", "own precision": "agrees to 1e-4 in its own precision"}.get(step.proof or "", "")
    if step.error is not None:
        text = f"proved, {step.error:.0e}" if step.error else "proved, the same"
    if step.sqnr_db is not None:
        text = "equal" if step.sqnr_db == math.inf else f"SQNR {step.sqnr_db:.1f} dB"
        text += f", {metric} {step.metric:.4f} (validation)" if step.metric is not None else ""
    return text + (" (but they are constant)" if step.vacuous else "")


def _tolerances(steps: list[StepReport]) -> Iterator[str]:
    """To what exact steps were proved; which of them, where they differ in that."""
    groups: dict[tuple[float, str], list[str]] = {}
    for step in steps:
        if step.tolerance is not None and step.stored_tolerance is not None:
            what = "stored weights" if step.stored == "weights" else "values with the stored weights"
            groups.setdefault((step.tolerance, f"{what} to {step.stored_tolerance:.1e}"), []).append(step.pass_)
    for (tolerance, stored), passes in groups.items():
        names = f"{', '.join(dict.fromkeys(passes))}: " if len(groups) > 1 else ""
        yield f"{names}proved in float64 to {tolerance:.0e}; {stored}"


def _show_choices(step: StepReport, console: Console) -> None:
    for choice in step.choices:
        line = f"{step.pass_} chose {choice.what} = {choice.value}: {choice.why}"
        console.print(f"  {escape(line)}")


def _show_measurements(step: StepReport, console: Console) -> None:
    for measurement in step.measurements:
        console.print(f"  {escape(str(Measurement(**dict(measurement))))}")


def _show_skips(step: StepReport, told: set[tuple[str | None, str, str]], console: Console) -> None:
    """What a step left; of the steps of one pass, the first that says so says it."""
    by_reason: dict[str, list[SkippedNode]] = {}
    for skip in step.skips:
        key = (step.part_of or step.pass_, skip.node, skip.reason)
        if key in told:
            continue
        told.add(key)
        by_reason.setdefault(skip.reason, []).append(skip)
    for reason, skips in by_reason.items():
        first = skips[0]
        where = f"   {first.source}" if first.source else ""
        console.print(f"  [dim]{escape(step.pass_)} left {len(skips)}: {escape(reason)}[/]")
        console.print(f"    [dim]{escape(first.node)}{escape(where)}[/]", soft_wrap=True)


def _candidates(choice: BackendChoice) -> Table:
    """What was tried, the fastest first; blocks tell how long a candidate stayed in the race."""
    table = Table(title="Candidates", title_justify="left")
    for column in ("", "latency, ms", "blocks", "SQNR, dB", "refused"):
        table.add_column(column, justify="left" if column in ("", "refused") else "right")
    for row in choice.tried:
        table.add_row(
            escape(row.candidate),
            _timing(row.latency) if row.latency else "",
            str(row.latency.blocks) if row.latency else "",
            f"{row.agreement.sqnr_db:.1f}" if row.agreement else "",
            escape((row.refused or "").split("\n")[0]),
        )
    return table


def _figures(report: BuildReport) -> Table:
    before, after = report.before, report.after
    table = Table(title="Before and after, by the same backend", title_justify="left")
    for column in ("", "before", "after", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    if before.metric is not None and after.metric is not None:
        change = after.metric - before.metric
        table.add_row(f"{report.metric}, test", f"{before.metric:.4f}", f"{after.metric:.4f}", f"{change:+.4f}")
    for label, a, b, unit in (
        (f"MACs, {report.model.macs_of}", before.macs, after.macs, 1),
        ("parameters", before.parameters, after.parameters, 1),
        ("file, kB", before.file_bytes, after.file_bytes, 1000),
        ("peak memory, MB", before.peak_memory_bytes, after.peak_memory_bytes, 1_000_000),
    ):
        if a and b is not None:
            table.add_row(label, f"{a / unit:,.0f}", f"{b / unit:,.0f}", f"{b / a:.3f}")
    if before.latency and after.latency:
        ratio = after.latency.median_ms / before.latency.median_ms
        table.add_row("latency, ms", _timing(before.latency), _timing(after.latency), f"{ratio:.3f}")
        if report.eager:
            ratio = after.latency.median_ms / report.eager.latency.median_ms
            name = f"  eager, {report.eager.threads} threads"
            table.add_row(name, _timing(report.eager.latency), "", f"{ratio:.3f}")
    return table


def _show_backend(report: BuildReport, console: Console) -> None:
    facts = report.backend
    console.print(f"backend {escape(facts['text'])}: {_agreement(report)}")
    for what, how in report.for_target.items():
        console.print(f"  for {escape(report.target['name'])}: {what}: {escape(how)}")
    if report.not_timed:
        console.print(f"  latency is not measured: {escape(report.not_timed)}")
    for concern in report.concerns:
        console.print(f"  [yellow]{escape(concern.text)}[/]; {escape(concern.way_out)}")
    for note in facts.get("notes", []):
        console.print(f"  {escape(note)}")
    if facts.get("integer_nodes"):
        kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(facts["integer_nodes"]).most_common())
        console.print(f"  integer kernels: {kinds}")
    for place in facts.get("dequantized_at_run_time", []):
        console.print(f"  [yellow]float at run time[/]: {escape(str(place))}")


def _agreement(report: BuildReport) -> str:
    """Whether the artifact gives the program's numbers, and where it was run to see that."""
    agreement = report.agreement
    if agreement is None:
        return f"[yellow]built and not run[/], as it is {escape(str(report.not_run))}"
    text = f"agrees with eager to {agreement.relative_error:.2g} relative, "
    text += "exact" if agreement.sqnr_db == math.inf else f"{agreement.sqnr_db:.1f} dB"
    if (values := agreement.values) and values.codes is not None:
        text += f"; {values.off:,} of {values.codes:,} integers are off on their own inputs"
        text += f", by {values.most_steps} step(s) at most" if values.off else ""
    if device := report.device:
        text += f", on the {'emulated ' * device['emulated']}device at {escape(device['address'])}"
    return text


def _timing(timing: Latency) -> str:
    return f"{timing.median_ms:.3g} ({timing.low_ms:.3g}–{timing.high_ms:.3g})"


def _signed(value: int) -> str:
    return f"{value:+,}" if value else ""


def difference_table(reports: dict[str, BuildReport]) -> Table:
    """What differs between the artifacts of several targets, and why."""
    table = Table(title="What differs between the targets", title_justify="left")
    for column in ("", *reports):
        table.add_column(column)
    sides = {name: _facts(report) for name, report in reports.items()}
    for what in dict.fromkeys(what for facts in sides.values() for what in facts):
        row = [facts.get(what, "") for facts in sides.values()]
        if len(set(row)) > 1:
            table.add_row(what, *map(escape, row))
    return table


def _facts(report: BuildReport) -> dict[str, str]:
    after = report.after
    found = dict(report.for_target)
    for step in report.steps:
        found |= {f"{step.pass_}: {c.what}": f"{c.value}, {c.why}" for c in step.choices}
    found |= {"file, kB": f"{after.file_bytes / 1000:,.0f}", "MACs": f"{after.macs:,}"}
    if after.latency:
        found["latency, ms"] = f"{after.latency.median_ms:.3g}"
    if after.metric is not None:
        found[str(report.metric)] = f"{after.metric:.4f}"
    return found


def bench_table(rows: list[dict[str, Any]]) -> Table:
    """The rows of :func:`bench` as a table."""
    emulated = any(row["emulated"] for row in rows)
    table = Table(caption="emulated: what it takes says nothing, and is not measured" if emulated else None)
    for column in ("artifact", "ms (quartiles)", "ratio", "file, kB", "peak memory, MB", "metric"):
        table.add_column(column, justify="left" if column == "artifact" else "right")
    for row in rows:
        t, ratio = row.get("latency"), row.get("ratio")
        memory = row["peak_memory_bytes"]
        table.add_row(
            row["artifact"],
            f"{t['median_ms']:.3g} ({t['low_ms']:.3g}–{t['high_ms']:.3g})" if t else "-",
            f"{ratio:.3f}" if ratio else "-",
            f"{row['file_bytes'] / 1000:,.0f}",
            f"{memory / 1e6:,.0f}" if memory else "?",
            f"{row['metric']} {row['value']:.4f}" if "metric" in row else "",
        )
    return table
