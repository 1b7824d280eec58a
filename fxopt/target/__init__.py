"""Facts about devices: this machine as detected, others from TOML files; cross compilers. No torch.

May import ``support``. Offers :class:`fxopt.Target`, :func:`find_target` and :func:`host`.
"""

from fxopt.target.detect import cuda, host, not_here
from fxopt.target.target import FEATURES, Target, find_target, read_target

__all__ = ["FEATURES", "Target", "cuda", "find_target", "host", "not_here", "read_target"]
