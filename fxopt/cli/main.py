"""The console script. Exit codes: 0 done, 1 a budget or check missed, 2 usage, 3 a pass or proof failed, 4 a backend
failed, 5 a crash; 128 and the signal's number when stopped.

Each command imports what it needs when it runs, so that listing and help stay quick.
"""

from __future__ import annotations

import json
import signal
import sys
import traceback

from fxopt.cli import build, cache, listing, search, tools  # noqa: F401  (they add their commands to the application)
from fxopt.cli.app import Stopped, app
from fxopt.errors import BudgetError, FxoptError


def _stop(number: int, frame: object) -> None:
    raise Stopped(number)


def main() -> None:
    """Run the command line; an error that fxopt raised on purpose is one message and an exit code, no traceback."""
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    before = {number: signal.signal(number, _stop) for name in names if (number := getattr(signal, name, None))}
    try:
        app()
    except FxoptError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        if "--json" in sys.argv[1:] and not isinstance(error, BudgetError):  # the report has what was missed
            print(json.dumps(error.to_dict()))
        sys.exit(error.exit_code)
    except Stopped as stop:
        print("stopped; nothing was written", file=sys.stderr)
        sys.exit(128 + stop.number)
    except Exception:
        traceback.print_exc()
        print(
            "this is a mistake in fxopt or in code that it called, not in the command; see the trace", file=sys.stderr
        )
        sys.exit(5)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
