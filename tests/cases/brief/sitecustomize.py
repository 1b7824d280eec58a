"""What Python runs as it starts where this folder is in PYTHONPATH: timings of that process are brief."""

import contextlib

with contextlib.suppress(ImportError):  # a Python without fxopt
    from fxopt.runtime.timing import briefly

    kept = briefly()  # a context that is let go would end
    kept.__enter__()
