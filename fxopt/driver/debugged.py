"""What the accuracy debugger finds: a row for each value, and what leaving a layer in float wins."""

from __future__ import annotations

from pydantic import Field

from fxopt.driver.part import Document, Part, Real

SCHEMA_VERSION = 2
_HALF = 0.5
"""Share of a value's noise from which it counts as originating in its layer."""


class LayerError(Part):
    """A value: ``name`` is its node, ``layer`` that of its layer, where the value is after an activation; it ``reads`` others.

    ``alone_db``: SQNR of the worst output if the error that this layer makes were the only one. ``made_db``: SQNR of the layer
    by itself, for the inputs that it had. ``out_db``: that of the value in all. ``in_db``: that of the worst operand, None where
    it reads inputs alone. ``share``: how much of the value's noise originates in this layer, 0 to 1. ``low`` and ``high`` are
    the range in float, ``clipped`` the share of elements outside that of the integers. ``histogram`` counts the elements in
    float that are below that range, in 24 equal parts of it, and above; empty for a value that is no integer.
    """

    name: str
    layer: str
    module: str = ""
    op: str = ""
    source: str = ""
    reads: list[str] = Field(default_factory=list)
    alone_db: Real
    in_db: Real | None = None
    out_db: Real
    made_db: Real
    share: Real
    cosine: Real
    low: Real
    high: Real
    clipped: float = 0.0
    histogram: list[int] = Field(default_factory=list)

    @property
    def makes(self) -> bool:
        """Whether most of the value's noise originates in this layer, and does not come with its inputs."""
        return self.share >= _HALF


class Remedy(Part):
    """An option, ``layer`` left in float, with the SQNR of the worst output in torch without it and with it, and the share of
    the multiply-accumulates that leave the integers. ``slower``: latency with it over that without, None where it cannot be
    measured.
    """

    option: str
    layer: str
    before_db: Real
    after_db: Real
    macs_share: float
    slower: float | None = None


class Debugged(Document):
    """The result, with the layer first whose error alone costs the outputs most.

    ``folder``: that of the artifact, empty where it was built to be looked at. ``values_of``: what computed the values;
    ``against``: what they were compared with. ``examples`` of the validation split were run, or the example inputs where there
    is no data (``random``). ``remedies``: what leaving the worst layers in float wins. ``stays``: layers that quantization left
    in float, and why. ``unmatched``: values of the artifact without a counterpart.
    """

    schema_version: int = SCHEMA_VERSION
    folder: str = ""
    values_of: str = ""
    against: str = ""
    examples: int
    random: bool = False
    out_db: Real
    layers: list[LayerError]
    remedies: list[Remedy] = Field(default_factory=list)
    stays: list[str] = Field(default_factory=list)
    unmatched: list[str] = Field(default_factory=list)
