"""Pages that are made of docstrings when the site is built: one for each pass, backend, block and target, and the API.

A hook of mkdocs, see ``mkdocs.yml``. Nothing of it is written into the repository.
"""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))

from drawing import drawn

from fxopt import registry
from fxopt.cli.explain import Manual, explain
from fxopt.cli.lines import flowed
from fxopt.ir.parser import parse_program
from fxopt.testing.examples import find_example

_KINDS = {"pass": "passes", "backend": "backends", "block": "blocks", "analysis": "analyses", "target": "targets"}
_API = {
    "Capture": ["fxopt.frontend.capture.capture", "fxopt.frontend.pt2.save_program", "fxopt.frontend.pt2.load_program"],
    "Programs": ["fxopt.ir.program.Program"],
    "Passes": ["fxopt.pass_manager.pass_base.graph_pass", "fxopt.pass_manager.pass_base.Pass"],
    "Pipelines": ["fxopt.pass_manager.pipeline.Pipeline", "fxopt.pass_manager.pipeline.Outcome"],
    "Builds": ["fxopt.driver.build.build", "fxopt.driver.recipe.Recipe", "fxopt.driver.report.BuildReport"],
    "Artifacts": ["fxopt.runtime.artifact.load", "fxopt.runtime.artifact.Artifact"],
    "Workloads": ["fxopt.workload.workload.Workload", "fxopt.workload.workload.Data"],
    "Targets and backends": ["fxopt.target.target.Target", "fxopt.backend.backend.Backend"],
    "Errors": ["fxopt.errors.FxoptError"],
}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages."""
    for kind, folder in _KINDS.items():
        rows = []
        for entry in registry.entries(kind):
            if entry.origin == "fxopt" and not entry.value.startswith(
                "fxopt.target.detect:"
            ):  # which differ by machine
                rows.append(f"| [`{entry.name}`]({entry.name}.md) | {_cell(entry.summary)} |")
                path = f"reference/{folder}/{entry.name}.md"
                files.append(File.generated(config, path, content=_page(kind, explain(entry.name))))
        text = "\n".join([f"# {folder.capitalize()}", "", "| name | |", "|---|---|", *rows]) + "\n"
        files.append(File.generated(config, f"reference/{folder}/index.md", content=text))
    api = ["# API", "", "What `import fxopt` gives, read from the source.", ""]
    for title, names in _API.items():
        api += [f"## {title}", "", *(f"::: {name}\n" for name in names)]
    files.append(File.generated(config, "reference/api.md", content="\n".join(api)))
    return files


def _page(kind: str, manual: Manual) -> str:
    head = ", ".join(f"{name} {value}" for name, value in manual.facts.items())
    lines = [f"# {manual.name}", "", f"*{manual.kind}{', ' + head if head else ''}*", ""]
    lines += [_marked(line) for line in _prose(manual.doc)]
    if kind == "pass":
        lines += ["", *_example(manual.name)]
    if manual.options:
        lines += ["", "## Options", "", "| option | type | default | |", "|---|---|---|---|"]
        for option in manual.options:
            cells = (f"`{option['name']}`", option["type"], f"`{option['default']}`", option.get("help", ""))
            lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(lines) + "\n"


def _prose(doc: str) -> list[str]:
    """The docstring up to its example."""
    text = re.split(r"^(?:before|behind):", doc, maxsplit=1, flags=re.MULTILINE)[0]
    return list(flowed(text, 10_000))


def _marked(line: str) -> str:
    """A line of a docstring as Markdown, in which brackets and stars are what they are."""
    return line if line.startswith("    ") else re.sub(r"([\[\]<>*_])", r"\\\1", line)


def _example(name: str) -> list[str]:
    example = find_example(registry.get("pass", name))
    if example is None:
        return []
    lines = ["## Example", "", f"Behind `{example.behind}`:", ""] if example.behind else ["## Example", ""]
    lines += [drawn(parse_program(example.before), parse_program(example.after)), ""]
    for title, text in (("before", example.before), ("after", example.after)):
        lines += [f"{title}:", "", f"<pre><code>{html.escape(text.strip())}</code></pre>", ""]
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("[", "\\[").replace("\n", " ")
