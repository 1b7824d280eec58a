"""Which calls OpenVINO cannot convert from ONNX, or gives other numbers for, known before the build."""

from __future__ import annotations

from torch import fx

from fxopt.ir.op_table import arguments, family
from fxopt.ir.printer import op_name

_DRAWN = ("aten.bernoulli", "aten.dropout", "aten.feature_dropout", "aten.alpha_dropout", "aten.native_dropout")
_WRONG = ("aten._upsample_bilinear2d_aa", "aten._upsample_bilinear2d_aa.vec")
_ONE_SIDED = ("aten.fft_rfft", "aten.fft_irfft", "aten.fft_hfft", "aten.fft_ihfft")


def refuses(node: fx.Node) -> str | None:
    """Why a call that ONNX has a form of cannot be had in OpenVINO; None if it can."""
    name = op_name(node)
    if name in _DRAWN and family(node) == "random":
        return f"OpenVINO draws no numbers for {name}; capture the model after model.eval()"
    if name in _WRONG:
        return f"OpenVINO smooths otherwise than {name}; resize without antialias=True, or use the backend onnx"
    if name == "aten.stft":
        return f"OpenVINO has no {name} as ONNX writes it; convolve with the windowed sines and cosines, or use the backend onnx"
    if name.startswith(_ONE_SIDED):
        return f"OpenVINO gives half a spectrum a dim too many ({name}); take torch.fft.fft and slice it, or the backend onnx"
    if name.startswith("aten.embedding_bag"):
        return f"OpenVINO has no {name} as ONNX writes it; use nn.Embedding and a mean or sum, or the backend onnx"
    if name == "aten.pad" and arguments(node).get("mode") == "circular":
        return "OpenVINO pads with constants, edges and reflections alone; concatenate slices instead, or use the backend onnx"
    if name in ("aten.grid_sampler", "aten.grid_sampler_3d") and node.meta["val"].dim() == 5:
        return "OpenVINO samples grids of images alone; use the backend onnx"
    if name == "aten.gather" and op_name(node.args[0]) == "aten.slice.Tensor":  # type: ignore[arg-type]
        return "OpenVINO gathers from what it was before the slice; use the backend onnx"
    return None
