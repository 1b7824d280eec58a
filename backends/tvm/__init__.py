"""The TVM backend: the whole program compiled, with kernels whose tiles are chosen for the target's vectors.

By stage: ``frontend`` (program to Relax), ``graph`` (Relax to Relax), ``ops`` (tensor expressions), ``tiling`` (their tiles),
``schedule`` (their loops), ``tir`` (TIR to TIR), ``tuning`` (tiles by measurement); ``machine`` knows the processor.
``backend`` is the backend, ``compile`` runs the stages in order, ``runtime`` and ``standalone`` run what they make.
"""

from fxopt.backends.tvm.backend import Tvm

__all__ = ["Tvm"]
