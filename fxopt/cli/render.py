"""The report on a console: what each step did, what was left alone and why, before and after."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.text import Text

from fxopt.cli.layout import Column, Listing, say, styled
from fxopt.driver.page.verdict import verdict
from fxopt.driver.report import BackendChoice, BuildReport, Latency, SkippedNode, StepReport
from fxopt.ir.program import Measurement


def show_report(report: BuildReport, console: Console) -> None:
    """Print a build's report, what came of it first; of places left alone one for each reason, all are in ``report.json``."""
    missed = "yellow" if report.missed else "green"
    say(console, styled((report.model.name, "bold"), ": ", (verdict(report), missed)), hang=2)
    say(console, report.model.signature, indent=2, hang=4)
    for note in report.model.notes:
        say(console, f"note: {note}", indent=2, hang=4)
    for line in report.budget:
        mark = ("kept", "green") if line.met else ("missed", "red")
        say(console, styled("budget ", mark, f": {line.text}"), indent=2, hang=4)
    console.print(_figures(report))
    console.print(_steps(report.steps, report.metric))
    if report.cache and report.cache.steps:
        saved = f"{report.cache.seconds_saved:.1f} s of passes"
        text = f"{report.cache.steps} of {report.cache.of} steps from the cache, {saved} when they were made"
        say(console, text, indent=2)
    for text in _tolerances(report.steps):
        say(console, text, indent=2)
    for step in report.steps:
        for choice in step.choices:
            say(console, f"{step.pass_} chose {choice.what} = {choice.value}: {choice.why}", indent=2)
        for measurement in step.measurements:
            say(console, str(Measurement(**dict(measurement))), indent=2)
    _show_left_alone(report.steps, console)
    if report.choice:
        console.print(_candidates(report.choice))
        say(console, f"chosen: {report.choice.chosen}: {report.choice.why}", indent=2)
    _show_backend(report, console)


def _steps(steps: list[StepReport], metric: str | None) -> Listing:
    numbers = ("left", "MACs", "weights, kB", "s")
    table = Listing(
        "Passes",
        [Column(name, right=name in numbers) for name in ("pass", "left", "MACs", "weights, kB", "outputs", "s")],
    )
    if any(step.metric is not None for step in steps):
        table.caption = f"{metric} of steps is that of the validation split"
    group = None
    for step in steps:
        if step.part_of not in (None, group):
            table.add(str(step.part_of))
        group = step.part_of
        table.add(
            f"  {step.pass_}" if group else step.pass_,
            str(len(step.skips) or ""),
            _signed(step.delta.macs if step.delta else 0),
            _signed(round(step.delta.weight_bytes / 1000) if step.delta else 0),
            _effect(step, metric),
            "cached" if step.cached else f"{step.seconds:.2f}",
        )
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
        text += f", {metric} {step.metric:.4f}" if step.metric is not None else ""
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


def _show_left_alone(steps: list[StepReport], console: Console) -> None:
    """What passes left alone, a line for each reason: how many places, of which pass, and the first of them."""
    groups: dict[tuple[str, str], dict[str, SkippedNode]] = {}
    for step in steps:
        for skip in step.skips:
            groups.setdefault((step.part_of or step.pass_, skip.reason), {}).setdefault(skip.node, skip)
    if groups:
        console.print(Text("Left alone, by reason", style="bold"))
    for (pass_, reason), places in groups.items():
        first = next(iter(places.values()))
        where = f" ({first.source})" if first.source else ""
        count = f"{len(places)} places" if len(places) > 1 else "1 place"
        more = "first " if len(places) > 1 else ""
        name = pass_.partition("(")[0]
        line = styled(f"{count}, {name}: {reason}; ", (f"{more}{first.node}{where}", "dim"))
        say(console, line, indent=2, hang=6)


def _candidates(choice: BackendChoice) -> Listing:
    """What was tried, the fastest first; blocks tell how long a candidate stayed in the race."""
    columns = [Column(name, right=bool(name)) for name in ("", "latency, ms", "blocks", "SQNR, dB")]
    table = Listing("Candidates", [*columns, Column("refused", apart=True)])
    for row in choice.tried:
        table.add(
            row.candidate,
            _timing(row.latency) if row.latency else "",
            str(row.latency.blocks) if row.latency else "",
            f"{row.agreement.sqnr_db:.1f}" if row.agreement else "",
            (row.refused or "").split("\n")[0],
        )
    return table


def _figures(report: BuildReport) -> Listing:
    before, after = report.before, report.after
    columns = [Column(name, right=bool(name)) for name in ("", "before", "after", "ratio")]
    table = Listing("Before and after, by the same backend", columns)
    if before.metric is not None and after.metric is not None:
        change = after.metric - before.metric
        table.add(f"{report.metric}, test", f"{before.metric:.4f}", f"{after.metric:.4f}", f"{change:+.4f}")
    for label, a, b, unit in (
        (f"MACs, {report.model.macs_of}", before.macs, after.macs, 1),
        ("parameters", before.parameters, after.parameters, 1),
        ("weights, kB", before.weight_bytes, after.weight_bytes, 1000),
        ("file, kB", before.file_bytes, after.file_bytes, 1000),
        ("peak memory, MB", before.peak_memory_bytes, after.peak_memory_bytes, 1_000_000),
    ):
        if a and b is not None:
            table.add(label, f"{a / unit:,.0f}", f"{b / unit:,.0f}", f"{b / a:.3f}")
    if before.latency and after.latency:
        ratio = after.latency.median_ms / before.latency.median_ms
        table.add("latency, ms", _timing(before.latency), _timing(after.latency), f"{ratio:.3f}")
        if report.eager:
            ratio = after.latency.median_ms / report.eager.latency.median_ms
            name = f"  eager, {report.eager.threads} threads"
            table.add(name, _timing(report.eager.latency), "", f"{ratio:.3f}")
    return table


def _show_backend(report: BuildReport, console: Console) -> None:
    facts = report.backend
    say(console, f"backend {facts['text']}: {_agreement(report)}", style="" if report.agreement else "yellow")
    for what, how in report.for_target.items():
        say(console, f"for {report.target['name']}: {what}: {how}", indent=2)
    if report.not_timed:
        say(console, f"latency is not measured: {report.not_timed}", indent=2)
    for concern in report.concerns:
        say(console, styled((concern.text, "yellow"), f"; {concern.way_out}"), indent=2)
    for note in facts.get("notes", []):
        say(console, str(note), indent=2)
    if facts.get("integer_nodes"):
        kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(facts["integer_nodes"]).most_common())
        say(console, f"integer kernels: {kinds}", indent=2)
    for place in facts.get("dequantized_at_run_time", []):
        say(console, styled(("float at run time", "yellow"), f": {place!s}"), indent=2)


def _agreement(report: BuildReport) -> str:
    """Whether the artifact gives the program's numbers, and where it was run to see that."""
    agreement = report.agreement
    if agreement is None:
        return f"built and not run, as it is {report.not_run}"
    text = f"agrees with eager to {agreement.relative_error:.2g} relative, "
    text += "exact" if agreement.sqnr_db == math.inf else f"{agreement.sqnr_db:.1f} dB"
    if (values := agreement.values) and values.codes is not None:
        text += f"; {values.off:,} of {values.codes:,} integers are off on their own inputs"
        text += f", by {values.most_steps} step(s) at most" if values.off else ""
    if device := report.device:
        text += f", on the {'emulated ' * device['emulated']}device at {device['address']}"
    return text


def _timing(timing: Latency) -> str:
    return f"{timing.median_ms:.3g} ({timing.low_ms:.3g}–{timing.high_ms:.3g})"


def _signed(value: int) -> str:
    return f"{value:+,}" if value else ""


def difference_table(reports: dict[str, BuildReport]) -> Listing:
    """What differs between the artifacts of several targets, and why."""
    table = Listing("What differs", [Column(""), *map(Column, reports)])
    sides = {name: _facts(report) for name, report in reports.items()}
    for what in dict.fromkeys(what for facts in sides.values() for what in facts):
        row = [facts.get(what, "") for facts in sides.values()]
        if len(set(row)) > 1:
            table.add(what, *row)
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


def bench_table(rows: list[dict[str, Any]]) -> Listing:
    """The rows of :func:`bench` as a table."""
    emulated = any(row["emulated"] for row in rows)
    names = ("artifact", "ms (quartiles)", "ratio", "file, kB", "peak memory, MB", "metric")
    table = Listing("", [Column(name, right=name != "artifact") for name in names])
    table.caption = "emulated: what it takes says nothing, and is not measured" if emulated else ""
    for row in rows:
        t, ratio = row.get("latency"), row.get("ratio")
        memory = row["peak_memory_bytes"]
        table.add(
            row["artifact"],
            f"{t['median_ms']:.3g} ({t['low_ms']:.3g}–{t['high_ms']:.3g})" if t else "-",
            f"{ratio:.3f}" if ratio else "-",
            f"{row['file_bytes'] / 1000:,.0f}",
            f"{memory / 1e6:,.0f}" if memory else "?",
            f"{row['metric']} {row['value']:.4f}" if "metric" in row else "",
        )
    return table


def bench_verdict(rows: list[dict[str, Any]]) -> str:
    """Which artifact is the fastest, in one line; empty where nothing was timed, or only one."""
    timed = sorted((row for row in rows if "latency" in row), key=lambda row: row["latency"]["median_ms"])
    if len(timed) < 2:
        return ""
    first, second = timed[:2]
    a, b = first["latency"], second["latency"]
    if a["high_ms"] >= b["low_ms"]:
        return f"{first['artifact']} and {second['artifact']} are as fast: their quartiles meet"
    return f"{first['artifact']} is the fastest, {b['median_ms'] / a['median_ms']:.3g} times {second['artifact']}"
