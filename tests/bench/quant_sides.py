"""The sides of quant_accuracy.py: each turns a workload into a quantized model, with the same calibration images."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from int8 import export_fp32, quantize_static

from fxopt import Pipeline, Workload
from fxopt.backend import find_backend
from fxopt.backends.onnx.kernels import kernel_facts
from fxopt.backends.onnx.runtime import MODEL_FILE, make_runner
from fxopt.driver.lower import lower
from fxopt.target.detect import host


@dataclass
class Quantized:
    """Called with images float32 [N,C,H,W], gives scores; ``facts`` are the runtime's, as fxopt's backends report them."""

    run: Callable[[torch.Tensor], Any]
    facts: dict[str, Any] = field(default_factory=dict)


Side = Callable[[Workload, int, Path], Quantized]


def fxopt(passes: str, backend: str = "onnx") -> Side:
    """Passes, in which ``{images}`` is the number of calibration images, lowered to one of the backends."""

    def make(workload: Workload, images: int, folder: Path) -> Quantized:
        lowered, target = find_backend(backend), host()
        pipeline = Pipeline.parse(passes.format(images=images))
        made = pipeline.run(workload.capture(), watchers=(), workload=workload, target=target, backend=lowered).program
        _, artifact = lower(made, lowered, target, folder, workload=workload)
        return Quantized(artifact, artifact.manifest.facts)

    return make


def ort(workload: Workload, images: int, folder: Path) -> Quantized:
    """``quantize_static`` as its documentation says: preprocessed, QDQ, per channel, min-max."""
    quantize_static(workload, images, folder / MODEL_FILE)
    return _session(folder / MODEL_FILE)


def ort_weights(workload: Workload, images: int, folder: Path) -> Quantized:
    """``MatMulNBitsQuantizer``: weights alone, int4 in blocks of 32, rounded to nearest."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    export_fp32(workload, folder / "plain.onnx")
    quantizer = MatMulNBitsQuantizer(onnx.load(folder / "plain.onnx"), block_size=32, is_symmetric=True)
    quantizer.process()
    quantizer.model.save_model_to_file(str(folder / MODEL_FILE), False)
    return _session(folder / MODEL_FILE)


def nncf(workload: Workload, images: int, folder: Path, **options: Any) -> Quantized:
    """``nncf.quantize`` of the OpenVINO model, image by image; layers that stay in float run in float32."""
    import nncf as peer

    model, dataset = _openvino(workload, images, folder)
    if options.pop("transformer", False):
        options["model_type"] = peer.ModelType.TRANSFORMER
    return _compiled(peer.quantize(model, dataset, subset_size=images, **options), folder)


def nncf_weights(workload: Workload, images: int, folder: Path, *, gptq: bool = False) -> Quantized:
    """``nncf.compress_weights``: symmetric int4 in blocks of 32, every linear."""
    import nncf as peer

    model, dataset = _openvino(workload, images, folder)
    made = peer.compress_weights(
        model, mode=peer.CompressWeightsMode.INT4_SYM, group_size=32, all_layers=True,
        dataset=dataset if gptq else None, subset_size=images, gptq=gptq or None,
    )  # fmt: skip
    return _compiled(made, folder)


def torchao(workload: Workload, images: int, folder: Path) -> Quantized:
    """``prepare_pt2e`` and ``convert_pt2e`` with X86InductorQuantizer; the Q/DQ graph as converted, run by torch."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    args, _ = workload.inputs()
    example = (args[0].repeat(2, 1, 1, 1),)
    batch = ({0: torch.export.Dim("batch")},)
    # a relu that a block calls twice cannot be annotated in a graph that was exported otherwise
    exported = torch.export.export(workload.model(), example, dynamic_shapes=batch, strict=True).module()
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(exported, quantizer)
    with torch.no_grad():
        for batch_args in workload.calibration(images, "torchao"):
            prepared(*batch_args)
    return Quantized(convert_pt2e(prepared))


def torchao_weights(workload: Workload, images: int, folder: Path) -> Quantized:
    """``PrototypeInt4WeightOnlyConfig`` in blocks of 32, torchao's int4 for processors; outputs must come in sixteens there."""
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
    from torchao.quantization import quantize_

    def fits(module: torch.nn.Module, name: str) -> bool:
        return isinstance(module, torch.nn.Linear) and module.out_features % 16 == 0

    model = copy.deepcopy(workload.model()).bfloat16()  # its kernels take bfloat16
    quantize_(model, PrototypeInt4WeightOnlyConfig(group_size=32), filter_fn=fits)
    return Quantized(lambda x: model(x.bfloat16()).float())


def torch_float(workload: Workload, images: int, folder: Path) -> Quantized:
    """The model as it is."""
    return Quantized(workload.model())


nncf_transformer: Side = functools.partial(nncf, transformer=True)
nncf_gptq: Side = functools.partial(nncf_weights, gptq=True)


def _session(path: Path) -> Quantized:
    run = make_runner(path, 1, "all", True)
    return Quantized(lambda images: run([images.numpy()])[0], kernel_facts(path, {}))


def _openvino(workload: Workload, images: int, folder: Path) -> tuple[Any, Any]:
    import nncf as peer
    import openvino

    export_fp32(workload, folder / "plain.onnx")
    single = list(_single(workload, images))
    return openvino.Core().read_model(folder / "plain.onnx"), peer.Dataset(single)


def _single(workload: Workload, count: int) -> Iterator[Any]:
    for args in workload.calibration(count, "nncf"):
        for image in args[0].split(1):
            yield image.numpy()


def _compiled(model: Any, folder: Path) -> Quantized:
    import openvino

    from fxopt.backends.openvino.kernels import kernel_facts as facts

    properties = {"INFERENCE_PRECISION_HINT": "f32"}
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
    compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", properties)
    return Quantized(lambda images: compiled(images.numpy())[0].copy(), facts(folder / "model.xml", properties, {}))
