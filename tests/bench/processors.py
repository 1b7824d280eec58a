"""int8 artifacts that are built here for x86-64 before VNNI, on other processors: how far from their quantized programs.

::

    python tests/bench/processors.py                                  # digits to mobilenet_v2, in ONNX Runtime
    python tests/bench/processors.py --nets resnet18 --backend openvino --places native Haswell

A cell has the SQNR in dB of the artifact to the quantized program in torch, and the number of quantized values that were
computed otherwise than the program says, each on its own inputs. The last column is the SQNR of two evaluations of the program
in float, which is what ties that fall the other way make of it. Needs qemu-user-static, and the extras of the backend and zoo.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.append(
    str(Path(__file__).parents[1])
)  # the networks and processors are those of tests/backends/test_processors.py

from cases.int8_nets import KINDS, MAIN, OTHER_SCHEMES, ZOO, Int8Net
from cases.processors import PLACES, build_quantized, run_on

from fxopt.backend import find_backend

NETS = {net.name: net for net in (*MAIN, *KINDS, *OTHER_SCHEMES, *ZOO)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="onnx", help="with its options (%(default)s)")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--places", nargs="+", choices=PLACES, default=list(PLACES))
    options = parser.parse_args()
    for place in options.places:
        if reason := PLACES[place].missing():
            sys.exit(f"{place}: {reason}")
    table = Table(title=f"{options.backend}: dB to the quantized program, and quantized values that are off")
    for column in ("", *options.places, "float"):
        table.add_column(column, justify="right" if column else "left")
    for name in options.nets:
        table.add_row(*row(NETS[name], options.backend, options.places))
        Console(stderr=True).print(f"{name} done")
    Console(width=140).print(table)


def row(net: Int8Net, backend: str, places: list[str]) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
        built = build_quantized(net, find_backend(backend), Path(folder))
        cells = []
        for place in places:
            run_on(PLACES[place], [built])
            off = "" if built.exposed is None else f", {len(built.off(place))} off"
            cells.append(f"{built.got_db(place):.1f}{off}")
        return [net.name, *cells, f"{built.floor_db:.1f}"]


if __name__ == "__main__":
    main()
