"""The console script. Exit codes: 0 done, 1 a budget or check missed, 2 usage, 3 a pass or proof failed, 4 a backend
failed, or a disk or memory is full; 5 a crash; 128 and the signal's number when stopped.

Each command imports what it needs when it runs, so that listing and help stay quick; and this module imports next to
nothing before it answers signals, so that Ctrl-C during an import is answered as well.
"""

from __future__ import annotations

import _thread
import importlib.machinery
import signal
import sys
import threading
from types import FrameType

from fxopt.cli.stopped import Stopped

_stopped: list[int] = []
"""Signals that asked the process to stop: what they raise may come out of an import as another error."""


_AGAIN = 0.05
"""Seconds until a signal is looked at again that came while a native module was loaded."""


def _stop(number: int, frame: FrameType | None) -> None:
    if _loads_native_code(frame):  # which ends the process of an exception that it does not expect
        again = threading.Timer(_AGAIN, _thread.interrupt_main, (number,))
        again.daemon = True
        again.start()
        return
    _stopped.append(number)
    raise Stopped(number)


def _loads_native_code(frame: FrameType | None) -> bool:
    """Whether a native module is being initialized, which runs Python here and there."""
    while frame is not None:
        if frame.f_code.co_name in ("create_module", "exec_module"):
            loader = frame.f_locals.get("self")
            if isinstance(loader, importlib.machinery.ExtensionFileLoader):
                return True
        frame = frame.f_back
    return False


def main() -> None:
    """Run the command line; an error that fxopt raised on purpose is one message and an exit code, no traceback."""
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    _stopped.clear()
    before = {number: signal.signal(number, _stop) for name in names if (number := getattr(signal, name, None))}
    try:
        _run()
    except BaseException as error:
        # the stop may have come too late, or been swallowed by a callback of a native library
        done = isinstance(error, SystemExit) and (not error.code or error.code == 128 + (_stopped or [0])[0])
        if done or not _stopped:
            sys.exit(_told(error))
        print("stopped; nothing was written", file=sys.stderr)
        sys.exit(128 + _stopped[0])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run() -> None:
    from fxopt.cli import (  # noqa: F401  (they add their commands to the application)
        build,
        cache,
        debug,
        diff,
        doctor,
        graph,
        listing,
        nas,
        profile,
        report,
        schema,
        search,
        tools,
    )
    from fxopt.cli.app import app

    app(prog_name="fxopt")  # whatever it was started by, so that what it says can be typed


def _told(error: BaseException) -> int | str | None:
    """Say what went wrong; the exit code for it."""
    import json

    from fxopt.errors import BudgetError, FxoptError, PassCrashError
    from fxopt.support.resources import resource_error

    if isinstance(error, SystemExit):
        return error.code
    if not isinstance(error, FxoptError):
        error = resource_error(error) or error
    if not isinstance(error, FxoptError):
        from fxopt.cli.crash import told_crash

        told_crash(error)
        return 5
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    if isinstance(error, PassCrashError):
        from fxopt.cli.crash import told_place

        told_place(error)
    if "--json" in sys.argv[1:] and not isinstance(error, BudgetError):  # the report has what was missed
        print(json.dumps(error.to_dict()))
    return error.exit_code
