"""Workloads: a model's factory, example inputs, data, loss and metric; or inputs recorded in a file.

May import ``frontend``, ``ir`` and ``support``. Offers :class:`fxopt.Workload`, :class:`Data`,
:func:`find_workload`, and datasets of others as data: :mod:`fxopt.workload.data`.
"""

from fxopt.workload import data
from fxopt.workload.workload import (
    Args,
    Counted,
    Data,
    Distillable,
    Divisible,
    Split,
    Workload,
    find_workload,
    given_workload,
    training_workload,
)

__all__ = [
    "Args",
    "Counted",
    "Data",
    "Distillable",
    "Divisible",
    "Split",
    "Workload",
    "data",
    "find_workload",
    "given_workload",
    "training_workload",
]
