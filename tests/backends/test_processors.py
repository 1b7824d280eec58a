"""int8 artifacts for x86-64 before VNNI give the numbers of their programs, there and on other processors.

``-s`` shows the tables; ``tests/bench/processors.py`` has the same one with larger networks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import pytest
from cases.int8_nets import KINDS, MAIN, OTHER_SCHEMES
from cases.processors import PLACES, Built, build_quantized, run_on

from fxopt.backend import find_backend
from fxopt.runtime.artifact import read_manifest
from fxopt.target import find_target

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:TF32 acceleration")]  # of an option of torch
PLACES_OF = {"onnx": tuple(PLACES), "openvino": ("native", "Haswell"), "tvm": ("native", "Haswell")}
NETS_OF = {"onnx": (*MAIN, *KINDS, *OTHER_SCHEMES), "openvino": KINDS, "tvm": (*MAIN[:1], *KINDS)}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Callable[[str], Sequence[Built]]:
    """The networks built by a backend, once."""

    @functools.cache
    def built(name: str) -> Sequence[Built]:
        backend, folder = find_backend(f"{name}(threads=1)"), tmp_path_factory.mktemp(name)
        return [build_quantized(net, backend, folder / str(i)) for i, net in enumerate(NETS_OF[name])]

    return built


@pytest.mark.parametrize(
    ("backend", "place"), [(name, place) for name, places in PLACES_OF.items() for place in places]
)
def test_int8_gives_the_numbers_of_the_quantized_program(backend, place, built):
    if reason := find_backend(backend).missing() or PLACES[place].missing():
        pytest.skip(reason)
    nets = built(backend)
    run_on(PLACES[place], nets)
    print(f"\n{backend + ', ' + place:24}      dB   least   float  values off")
    wrong = []
    for net in nets:
        found, off = net.got_db(place), net.off(place)
        line = f"{net.net.name:24} {found:7.1f} {net.least_db:7.1f} {net.floor_db:7.1f} {len(off):11}"
        print(line)
        if net.net not in OTHER_SCHEMES:
            assert read_manifest(net.folder / "artifact").facts["float_contractions"] == 0
        wrong += ["\n  ".join([line, *off])] * (found < net.least_db or bool(off))
    assert not wrong, "\n".join(wrong)


def test_weights_that_overflow_on_a_processor_are_refused_there(tmp_path):
    if reason := PLACES["Haswell"].missing():
        pytest.skip(reason)
    net = next(net for net in KINDS if net.name == "linear")
    built = build_quantized(net, find_backend("onnx"), tmp_path, find_target("x86_64_vnni"))
    with pytest.raises(RuntimeError, match=r"was built for x86_64_vnni: int8 weights of 2 layer"):
        run_on(PLACES["Haswell"], [built])
