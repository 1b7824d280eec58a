"""What the logger says of a build as it goes, told to a function."""

import contextlib
import logging


@contextlib.contextmanager
def stages_told(function):
    """Call ``function`` with the name of each stage of a build as it begins; what it raises ends the build."""
    log, handler = logging.getLogger("fxopt.driver.build"), logging.Handler()
    handler.emit = lambda record: function(record.getMessage())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
