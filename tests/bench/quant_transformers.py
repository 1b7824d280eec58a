"""What rotation and activation-aware scales bring before int8 activations and 4-bit weights, on small_vit and small_lm.

::

    python tests/bench/quant_transformers.py [--models small_vit small_lm] [--images 128]

Nothing is trained. Each program is evaluated as it is, with the policy of ONNX Runtime on this machine: top-1 of the vision
transformer and perplexity of the language model on the test data, and the SQNR of the outputs over 64 validation examples.
"""

from __future__ import annotations

import argparse

import torch
from torch.utils import _pytree as pytree

from fxopt import Pipeline, Program
from fxopt.backends.onnx import Onnx
from fxopt.errors import FxoptError
from fxopt.models.next_token import NextToken
from fxopt.numerics.error_metrics import sqnr
from fxopt.target.detect import host
from fxopt.workload import Data, find_workload

RMS = "layer_norm_to_rms_norm"
HADAMARD = f"{RMS}, rotate_stream(basis='hadamard')"
PRINCIPAL = f"{RMS}, rotate_stream"
AWQ = "scale_salient_channels(images={images})"
INT8, DYNAMIC, FOUR = "quantize(images={images})", "quantize_dynamic", "quantize_weights"
GPTQ = "quantize_weights(rounding='gptq', images={images})"
WAYS = {
    "int8": INT8,
    "int8, rms norms": f"{RMS}, {INT8}",
    "int8, principal": f"{PRINCIPAL}, {INT8}",
    "int8, hadamard": f"{HADAMARD}, {INT8}",
    "int8, hadamard heads": f"rotate_heads(basis='hadamard'), {INT8}",
    "int8, smoothed": f"smooth_activations, {INT8}",
    "int8, hadamard, smoothed": f"{HADAMARD}, smooth_activations, {INT8}",
    "int8 dynamic": DYNAMIC,
    "int8 dynamic, hadamard": f"{HADAMARD}, {DYNAMIC}",
    "int8 dynamic, smoothed": f"smooth_activations, {DYNAMIC}",
    "4 bits": FOUR,
    "4 bits, hadamard": f"{HADAMARD}, {FOUR}",
    "4 bits, hadamard heads": f"rotate_heads(basis='hadamard'), {FOUR}",
    "4 bits, awq": f"{AWQ}, {FOUR}",
    "4 bits, gptq": GPTQ,
    "4 bits, hadamard, gptq": f"{HADAMARD}, {GPTQ}",
    "4 bits, awq, gptq": f"{AWQ}, {GPTQ}",
    "4 bits by rows": f"{FOUR}(block=0)",
    "4 bits by rows, awq": f"{AWQ.replace('images', 'block=0, images', 1)}, {FOUR}(block=0)",
}


def line(program: Program, original: Program, data: Data) -> str:
    """Perplexity or top-1, and SQNR of the first output."""
    signal, noise = [], []
    for i, (args, _) in enumerate(data.batches("validation", batch_size=16)):
        if i == 4:
            break
        with torch.no_grad():
            signal.append(pytree.tree_leaves(original(*args))[0])
            noise.append(pytree.tree_leaves(program(*args))[0])
    judged = data.perplexity(program) if isinstance(data, NextToken) else data.evaluate(program)
    return f"{judged:7.4f} {sqnr(signal, noise):6.1f} dB"


def compare(name: str, images: int) -> None:
    """Print one model's tables."""
    workload = find_workload(name)
    data, program = workload.need_data("the bench"), workload.capture()
    print(f"\n{name}\n{'float':26} {line(program, program, data)}", flush=True)
    for way, text in WAYS.items():
        passes = Pipeline.parse(text.format(images=images))
        try:
            outcome = passes.run(program, workload=workload, backend=Onnx(), target=host(), watchers=())
            told = line(outcome.program, program, data)
        except FxoptError as error:
            told = error.what.splitlines()[0]
        print(f"{way:26} {told}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["small_vit", "small_lm"])
    parser.add_argument("--images", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for model in options.models:
        compare(model, options.images)
