"""What rotation and activation-aware scales bring before int8 activations and 4-bit weights, on small_vit and small_lm.

::

    python tests/bench/quant_transformers.py [--models small_vit small_lm] [--images 128]

Nothing is trained. Each recipe's program is evaluated as it is, with the policy of ONNX Runtime on this machine: the metric on
the test data, the perplexity of the language model, and the SQNR of the outputs over 64 validation examples.
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
BEFORE = {
    "int8": {
        "as it is": "",
        "rms norms": RMS,
        "principal": PRINCIPAL,
        "hadamard": HADAMARD,
        "smoothed": "smooth_activations",
        "hadamard, smoothed": f"{HADAMARD}, smooth_activations",
    },
    "4-bit weights": {
        "as it is": "",
        "hadamard": HADAMARD,
        "awq": AWQ,
        "hadamard, awq": f"{HADAMARD}, {AWQ}",
    },
}
ROUNDED = {
    "int8": {"": "quantize(images={images})", "dynamic": "quantize_dynamic"},
    "4-bit weights": {
        "nearest": "quantize_weights",
        "gptq": "quantize_weights(rounding='gptq', images={images})",
        "nearest, rows": "quantize_weights(block=0)",
    },
}


def line(program: Program, original: Program, data: Data) -> str:
    """Metric, perplexity where there is one, and SQNR of the first output."""
    signal, noise = [], []
    for i, (args, _) in enumerate(data.batches("validation", batch_size=16)):
        if i == 4:
            break
        with torch.no_grad():
            signal.append(pytree.tree_leaves(original(*args))[0])
            noise.append(pytree.tree_leaves(program(*args))[0])
    lost = f"{data.perplexity(program):8.3f}" if isinstance(data, NextToken) else " " * 8
    return f"{data.evaluate(program):.4f} {lost} {sqnr(signal, noise):6.1f} dB"


def compare(name: str, images: int) -> None:
    """Print one model's tables."""
    workload = find_workload(name)
    data, program = workload.need_data("the bench"), workload.capture()
    print(f"\n{name}: {data.metric}, perplexity, SQNR\n{'float':40} {line(program, program, data)}", flush=True)
    for kind, ways in BEFORE.items():
        for rounding, last in ROUNDED[kind].items():
            for way, first in ways.items():
                if rounding == "nearest, rows" and "awq" in way:
                    first = first.replace("(images", "(block=0, images")
                text = ", ".join(filter(None, (first, last))).format(images=images)
                try:
                    outcome = Pipeline.parse(text).run(
                        program, workload=workload, backend=Onnx(), target=host(), watchers=()
                    )
                    told = line(outcome.program, program, data)
                except FxoptError as error:
                    told = error.what.splitlines()[0]
                print(f"{', '.join(filter(None, (kind, rounding, way))):40} {told}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["small_vit", "small_lm"])
    parser.add_argument("--images", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for model in options.models:
        compare(model, options.images)
