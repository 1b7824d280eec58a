"""A graph module that generates its Python code only when it is called.

Most programs of a pipeline are copies that a pass edits and a proof runs node by node: generating code for each of them took
a tenth of a build.
"""

from __future__ import annotations

from typing import Any

from torch import fx


class _Ungenerated:
    """Stands for ``forward`` on the class of a module, until it is asked for. An attribute of the instance goes before it."""

    def __get__(self, module: fx.GraphModule | None, owner: type[fx.GraphModule]) -> Any:
        if module is None:
            return self
        fx.GraphModule.recompile(module)
        return module.forward


class LazyModule(fx.GraphModule):
    """A GraphModule whose :meth:`recompile` only marks the code as out of date; a call generates it anew.

    Each instance has a class of its own, as of every GraphModule, and that class has its ``forward``. A pickle of it is one
    of a plain GraphModule.
    """

    forward: Any = _Ungenerated()

    def recompile(self) -> Any:
        """Mark the code as out of date, after an edit of the graph. Returns None: there is no code yet."""
        type(self).forward = LazyModule.forward

    def _generated(self) -> None:
        _ = self.forward

    @property
    def code(self) -> str:
        """The Python code of ``forward``."""
        self._generated()
        return super().code

    def __str__(self) -> str:
        self._generated()
        return super().__str__()

    def __reduce__(self) -> Any:
        return fx.GraphModule(self, self.graph, type(self).__name__).__reduce__()
