"""Ctrl-C, whose handler Z3 replaces while it proves bounds in TVM's passes."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def interrupts_kept() -> Iterator[None]:
    """Restore the handler of Ctrl-C afterwards.

    Z3 restores it so that it no longer interrupts system calls: one that waits for a compiler or a device would go on
    for as long as that takes.
    """
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGINT)
            if handler is not None:  # None is one that Python did not set
                signal.signal(signal.SIGINT, handler)
