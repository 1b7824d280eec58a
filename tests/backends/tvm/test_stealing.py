"""Loops in threads of the TVM backend: each round is done once, and no thread waits for another that has more to do."""

from __future__ import annotations

import time

import numpy as np
import pytest

from fxopt.backends.tvm import Tvm, runtime
from fxopt.backends.tvm.tir import blocks
from fxopt.backends.tvm.tir import work_stealing as stealing

if reason := Tvm().missing():
    pytest.skip(reason, allow_module_level=True)


def _shared_by(cores: int, rows: int, pause: int = 0):
    """Adds 1 to each of ``rows`` in threads that steal, and sleeps for ``pause`` microseconds in each of the first half."""
    tvm = runtime.need_tvm()
    from tvm import tirx
    from tvm.script import tirx as T

    half = rows // 2

    @T.prim_func
    def main(x: T.Buffer((rows,), "int32")):
        for i in T.parallel(rows):
            if i < half:
                T.evaluate(T.call_extern("int32", "usleep", pause))
            x[i] = x[i] + 1

    def shared(loop):
        return stealing.share(loop, cores) if int(loop.kind) == tirx.ForKind.PARALLEL else loop

    return tvm.compile(blocks.map_kernels(tvm.IRModule({"main": main}), tirx.For, shared), target="llvm")["main"]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("cores", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [1, 3, 64, 1000])
def test_each_round_is_done_once_whoever_takes_it(rows, cores, threads):
    tvm = runtime.need_tvm()
    x = tvm.runtime.tensor(np.zeros(rows, np.int32))
    runtime.use_threads(threads)
    run = _shared_by(cores, rows)
    for _ in range(20):
        run(x)
    assert (x.numpy() == 20).all()


def test_a_thread_that_is_done_takes_rounds_of_the_others():
    """All the sleep is in the rounds that are the first thread's by right."""
    tvm = runtime.need_tvm()
    run, x, seconds = _shared_by(2, 8, pause=30_000), tvm.runtime.tensor(np.zeros(8, np.int32)), {}
    for threads in (1, 2):
        runtime.use_threads(threads)
        begun = time.perf_counter()
        run(x)
        seconds[threads] = time.perf_counter() - begun
    assert seconds[2] < 0.75 * seconds[1]
