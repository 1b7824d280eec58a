"""Whether the layers of a profile add up: the sum of its kernels over the whole call, timed without the profiler.

``python tests/bench/profile_sum.py [--models …] [--backends …]``: each model in float and in int8 on each backend, with random
weights and inputs. A ratio of 1 says that nothing is missing and that the profiler costs nothing; ``named`` is the share of
the time in kernels that belong to a layer of the program.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from fxopt.driver.build import build
from fxopt.driver.profile import profile
from fxopt.driver.recipe import Recipe

PASSES = {"float": ("fold_batch_norm",), "int8": ("fold_batch_norm", "quantize")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = ["torchvision:resnet18", "torchvision:mobilenet_v2", "timm:vit_tiny_patch16_224"]
    parser.add_argument("--models", nargs="+", default=models)
    parser.add_argument("--backends", nargs="+", default=["onnx", "openvino", "tvm", "executorch"])
    options = parser.parse_args()
    print("| model | backend | precision | sum / whole | named |\n|---|---|---|---|---|", flush=True)
    for model in options.models:
        for backend in options.backends:
            for precision, passes in PASSES.items():
                with tempfile.TemporaryDirectory() as scratch:
                    build(Recipe(model, passes, f"{backend}(threads=1)"), Path(scratch) / "out", measure=False)
                    found = profile(Path(scratch) / "out")
                named = sum(layer.share for layer in found.layers if layer.name)
                ratio = found.sum_ms / found.whole.median_ms
                print(f"| {model} | {backend} | {precision} | {ratio:.2f} | {named:.0%} |", flush=True)


if __name__ == "__main__":
    main()
