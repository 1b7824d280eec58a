"""A headless Chromium: what a page says of itself, and what axe finds against it."""

import json
import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def evaluated(text: str, expression: str, place: Path, *, scripts: str = "") -> tuple[Any, list[str]]:
    """The value of an expression, or of a promise, in a page whose HTML is ``text``, and the messages on its console."""
    path = place / "page.html"
    tell = f"Promise.resolve({expression}).then((v) => {{ document.title = 'ANSWER' + JSON.stringify(v) + 'END'; }})"
    path.write_text(text.replace("</body>", f"{scripts}<script>{tell};</script></body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=60000"]
    command = [str(BROWSER), *options, f"--user-data-dir={place / 'profile'}", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    answer = re.search(r"ANSWER(.*?)END", done.stdout)[1].replace("&amp;", "&").replace("&gt;", ">")
    return json.loads(answer), [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def violations(text: str, place: Path) -> dict[str, str]:
    """What axe finds against a page, by rule, with how serious it is."""
    axe = (resources.files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")
    found = "axe.run().then((r) => r.violations.map((v) => [v.id, v.impact]))"
    return dict(evaluated(text, found, place, scripts=f"<script>{axe}</script>")[0])
