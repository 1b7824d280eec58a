"""Workloads: a model's factory, example inputs, data, loss and metric; or inputs recorded in a file.

May import ``frontend``, ``ir`` and ``support``. Offers :class:`fxopt.Workload`, :class:`Data` and :func:`find_workload`.
"""

from fxopt.workload.workload import (
    Args,
    Data,
    Distillable,
    Divisible,
    Split,
    Workload,
    find_workload,
    training_workload,
)

__all__ = ["Args", "Data", "Distillable", "Divisible", "Split", "Workload", "find_workload", "training_workload"]
