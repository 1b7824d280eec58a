"""How the time and memory of the coupling analysis grow with the graph.

    python tests/bench/prune_scale.py [--sizes 1000 3000 10000 30000]

Synthetic nets of residual blocks, concatenations and splits, as text. Prints seconds of the whole analysis (coupling,
groups, liveness) and of shrink, the peak memory of its arrays, and the exponent of growth fitted over all sizes.
"""

from __future__ import annotations

import argparse
import itertools
import time
import tracemalloc

import numpy as np

from fxopt.ir.parser import parse_program
from fxopt.ir.program import Program
from fxopt.passes.prune.coupling.analysis import couple, needed
from fxopt.passes.prune.coupling.groups import find_groups

BLOCK = """
%wa{i} = param "b{i}.a" : f32[16,16,3,3]
%a{i} = aten.conv2d(%x{i}, %wa{i}, None, [1, 1], [1, 1])
%g{i} = param "b{i}.g" : f32[16]
%c{i} = param "b{i}.c" : f32[16]
%m{i} = param "b{i}.running_mean" : f32[16]
%v{i} = param "b{i}.running_var" : f32[16]
%n{i} = aten.batch_norm(%a{i}, %g{i}, %c{i}, %m{i}, %v{i}, False, 0.1, 1e-05, True)
%r{i} = aten.relu(%n{i})
%s{i} = aten.split.Tensor(%r{i}, 8, 1)
%p{i} = getitem(%s{i}, 0)
%q{i} = getitem(%s{i}, 1)
%k{i} = aten.cat([%q{i}, %p{i}], 1)
%wb{i} = param "b{i}.b" : f32[16,16,1,1]
%d{i} = aten.conv2d(%k{i}, %wb{i})
%x{j} = aten.add.Tensor(%x{i}, %d{i})
"""


def net(nodes: int) -> Program:
    """A chain of blocks of 15 nodes; a fresh stream begins every 20, as between the stages of a net."""
    lines = ["%x0 : f32[1,16,4,4]"]
    j = 0
    for i in range(nodes // 15):
        lines.append(BLOCK.format(i=j, j=j + 1))
        j += 1
        if i % 20 == 19:
            weight = f'%wt{j} = param "t{j}" : f32[16,16,1,1]'
            lines += [weight, f"%x{j + 1} = aten.conv2d(%x{j}, %wt{j})"]
            j += 1
    lines.append(f"return %x{j}")
    return parse_program("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 3000, 10000, 30000])
    counts, seconds = [], []
    print(
        "| nodes | atoms | coupling s | groups s | liveness s | all s | peak MB of its arrays |\n" + "| --- " * 7 + "|"
    )
    for size in parser.parse_args().sizes:
        program = net(size)
        times = [time.perf_counter()]
        sweep = couple(program)
        times.append(time.perf_counter())
        find_groups(sweep)
        times.append(time.perf_counter())
        needed(sweep)
        times.append(time.perf_counter())
        tracemalloc.start()
        again = couple(program)
        find_groups(again)
        needed(again)
        peak = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
        counts.append(len(program.graph.nodes))
        seconds.append(times[-1] - times[0])
        parts = " | ".join(f"{b - a:.2f}" for a, b in itertools.pairwise(times))
        print(f"| {counts[-1]} | {len(sweep.atoms)} | {parts} | {seconds[-1]:.2f} | {peak:.0f} |", flush=True)
    exponent = np.polyfit(np.log(counts), np.log(seconds), 1)[0]
    print(f"\nseconds grow with nodes to the power of {exponent:.2f}")


if __name__ == "__main__":
    main()
