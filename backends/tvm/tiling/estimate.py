"""How long a call takes by the rule that chooses tiles, for a processor that is not at hand.

``tests/bench/tvm_estimate.py`` holds it against the clock: models of 0.3 to 74 million multiply-adds of vectors, in float and in
int8, for AVX2 and AVX-512 on a processor that has both and was busy, were off by 6 to 14 % on the mean and by 44 % at most.
"""

from __future__ import annotations

from fxopt.backends.tvm.tiling.task import CYCLES, Choices, cost

_CALL = 3000.0
"""Cycles of a kernel besides its sums: TVM's virtual machine calls it, and it reads and writes. Fitted, as above."""


def estimated_cycles(choices: Choices, kernels: int) -> float:
    """Cycles of one thread for one example: of ``kernels`` calls, and of the sums of all tasks in the tiles that were chosen.

    Values that no cache holds cost more, and so do processors with one unit for multiply-adds: compare models on one target.
    """
    sums = sum(choices.uses[key] * cost(task, choices.chosen[key]) for key, task in choices.tasks.items())
    return CYCLES * sums + _CALL * kernels
