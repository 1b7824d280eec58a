"""What a signal that asks the process to stop raises."""

from __future__ import annotations


class Stopped(BaseException):
    """A signal asked the process to stop: unwinds like Ctrl-C, so that nothing half-written stays."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
