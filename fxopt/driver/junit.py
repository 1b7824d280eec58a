"""Builds as a file that CIs show test by test: JUnit's XML, a suite for each build, a case for each thing that was checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree as xml

from fxopt.driver.report import BuildReport, StepReport
from fxopt.errors import FxoptError

_UNFIT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML has no way to write."""


def junit(reports: Mapping[str, BuildReport], failed: FxoptError | None = None) -> str:
    """XML of builds by name: their steps, the artifact against its program, and every limit; of what failed, an error."""
    root = xml.Element("testsuites", name="fxopt")
    for name, report in reports.items():
        suite = xml.SubElement(root, "testsuite", name=_fit(f"{report.model.name} {name}".strip()))
        for i, step in enumerate(report.steps, 1):
            case = _case(suite, "passes", f"{i} {step.pass_}", step.seconds)
            if step.changed and step.kind == "exact" and step in report.unproved():
                xml.SubElement(case, "skipped", message=_fit(f"not proved in float64: {step.proof}"))
            xml.SubElement(case, "system-out").text = _fit(_told(step))
        case = _case(suite, "artifact", "agrees with its program", report.seconds.get("build", 0.0))
        if report.agreement is None:
            xml.SubElement(case, "skipped", message=_fit(f"not run: {report.not_run}"))
        for line in report.budget:
            case = _case(suite, "budget", line.name, 0.0)
            if not line.met:
                xml.SubElement(case, "failure", message=_fit(line.text))
        _count(suite)
    if failed is not None:
        suite = xml.SubElement(root, "testsuite", name="build")
        xml.SubElement(
            _case(suite, "build", failed.step or "build", 0.0),
            "error", type=type(failed).__name__, message=_fit(failed.what),
        ).text = _fit(str(failed))  # fmt: skip
        _count(suite)
    xml.indent(root)
    return xml.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: xml.Element, kind: str, name: str, seconds: float) -> xml.Element:
    return xml.SubElement(suite, "testcase", classname=f"fxopt.{kind}", name=_fit(name), time=f"{seconds:.3f}")


def _count(suite: xml.Element) -> None:
    suite.set("tests", str(len(suite)))
    for kind, total in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(total, str(sum(case.find(kind) is not None for case in suite)))


def _told(step: StepReport) -> str:
    lines = [f"{step.kind}, {'changed' if step.changed else 'unchanged'}"]
    lines += [
        f"{name} {value}"
        for name in ("error", "sqnr_db", "metric", "proof")
        if (value := getattr(step, name)) is not None
    ]
    return "\n".join([*lines, *(f"left alone: {skip.node}: {skip.reason} {skip.source}" for skip in step.skips)])


def _fit(text: str) -> str:
    return _UNFIT.sub(lambda found: repr(found[0])[1:-1], text)
