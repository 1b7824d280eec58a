"""The ExecuTorch backend: PyTorch's runtime for phones and boards, with XNNPACK's kernels where it takes a node.

backend.py     the backend and its options
lower.py       program to a ``.pte`` file
kernel_form.py the program as XNNPACK's partitioner wants it
edge_passes.py the same of the graph that ExecuTorch makes
delegation.py  which nodes XNNPACK took, and why not the others
refusal.py     ops that the runtime has no kernel for
runtime.py     loading and running
profile.py     what each kernel takes
"""

from fxopt.backends.executorch.backend import Executorch

__all__ = ["Executorch"]
