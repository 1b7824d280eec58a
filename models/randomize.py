"""Random weights that hide nothing: no constant parameter, no vanishing or exploding layer, no trivial batch norm.

Freshly built models are poor test subjects. A zero head answers 0 to everything, a layer scale of 1e-6 hides a wrong
rule behind it, batch norm with mean 0 and variance 1 lets a wrong folding pass. And without training the signal shrinks
or grows from layer to layer until one class wins on every image. This redraws what is constant, then sends examples
through the network once and sets each layer to a sane scale as they pass (after Mishkin & Matas, "All you need is a
good init", ICLR 2016, section 2).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_SPREAD = (0.3, 3.0)
"""A layer whose output has a standard deviation outside this range is rescaled to 1."""


def randomize(model: nn.Module, args: tuple[Any, ...], *, seed: int, centre: bool = False) -> None:
    """Redraw ``model`` in place, in evaluation mode, by ``seed`` and the example inputs ``args``.

    Batch norm gets the statistics of its own input, disturbed: the mean by a tenth of a deviation, the variance by a
    factor of 0.5 to 1.5; its weight is 0.5 to 1.5, its bias normal around 1 with deviation 0.3. Around 0 a deep network
    would be chaotic (Yang et al., "A mean field theory of batch normalization", ICLR 2019, section 3): rounding would
    grow from layer to layer until it drowns the image, which trained networks do not do. ``args`` should hold two
    examples or more. With ``centre`` the last layer's outputs (the class scores) get zero mean and unit variance over
    the examples, so that which class wins depends on the image. Same seed, same inputs: same weights, up to the
    rounding of the machine's float32 arithmetic.
    """
    generator = torch.Generator().manual_seed(seed)
    model.eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            _redraw_constant(name, parameter, generator)
        last = _settle(model, args, generator)
        if centre and last is not None:
            _centre(model, last, args)


def _redraw_constant(name: str, parameter: torch.Tensor, generator: torch.Generator) -> None:
    """Replace a parameter that is the same everywhere (to 1e-4): it is an initial value, not a random one."""
    if parameter.numel() == 0 or float(parameter.max() - parameter.min()) > 1e-4:
        return
    value, is_vector = float(parameter.mean()), parameter.numel() == max(parameter.shape, default=1)
    leaf = name.rpartition(".")[2]
    if abs(value) > 0.05:
        parameter.uniform_(0.5, 1.5, generator=generator).mul_(value)
    elif "scale" in leaf or "gamma" in leaf:
        parameter.uniform_(0.1, 0.5, generator=generator)
    elif is_vector and leaf == "weight":
        parameter.uniform_(0.5, 1.5, generator=generator)
    elif is_vector or parameter.shape[0] == 1:
        parameter.normal_(0, 0.1, generator=generator)
    else:
        parameter.normal_(0, math.sqrt(parameter.shape[0] / parameter.numel()), generator=generator)


def _settle(model: nn.Module, args: tuple[Any, ...], generator: torch.Generator) -> nn.Module | None:
    """Run once, setting every layer at its first use; return the last layer that has a bias."""
    seen: set[nn.Module] = set()
    last: list[nn.Module] = []

    def before_norm(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if module not in seen:
            seen.add(module)
            _set_statistics(module, inputs[0], generator)

    def after_layer(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
        if module.bias is not None:
            last[:] = [module]
        if module in seen or output.numel() < 2:
            return None
        seen.add(module)
        spread = float(output.std())
        if not math.isfinite(spread) or spread < 1e-12 or _SPREAD[0] <= spread <= _SPREAD[1]:
            return None
        for parameter in (module.weight, module.bias):
            if isinstance(parameter, torch.Tensor):
                parameter.div_(spread)
        return output / spread

    hooks = []
    for module in model.modules():
        # a subclass may standardise its weight on the way, and then rescaling would do nothing
        if type(module) in _LAYERS:
            hooks.append(module.register_forward_hook(after_layer))
        elif isinstance(getattr(module, "running_var", None), torch.Tensor):
            hooks.append(module.register_forward_pre_hook(before_norm))
    try:
        model(*args)
    finally:
        for hook in hooks:
            hook.remove()
    return last[0] if last else None


def _set_statistics(norm: nn.Module, x: torch.Tensor, generator: torch.Generator) -> None:
    mean, var = (t.flatten() for t in (x.mean(_others(x)), x.var(_others(x), correction=0)))
    var = torch.where(var > 1e-4 * var.mean().clamp(min=1e-8), var, var.mean().clamp(min=1e-3))
    tensors = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    running_mean, running_var, weight, bias = (t if isinstance(t, torch.Tensor) else None for t in tensors)
    noise = torch.randn(len(mean), generator=generator)
    factor = torch.rand(len(mean), generator=generator) + 0.5
    if running_mean is not None and running_var is not None:
        running_mean.copy_(mean + 0.1 * var.sqrt() * noise)
        running_var.copy_(var * factor)
    if weight is not None and bias is not None:
        weight.uniform_(0.5, 1.5, generator=generator)
        bias.normal_(1, 0.3, generator=generator)


def _centre(model: nn.Module, last: nn.Module, args: tuple[Any, ...]) -> None:
    caught: list[torch.Tensor] = []
    hook = last.register_forward_hook(lambda module, inputs, output: caught.append(output))
    try:
        model(*args)
    finally:
        hook.remove()
    weight, bias, output = last.weight, last.bias, caught[-1]
    if not isinstance(weight, torch.Tensor) or not isinstance(bias, torch.Tensor):
        return
    dims = _others(output) if output.dim() > 3 else tuple(range(output.dim() - 1))
    mean = output.mean(dims)
    spread = (output - mean.view([-1, 1, 1] if output.dim() == 4 else [-1])).std()
    # the cap keeps float32 rounding of the common part well below the differences
    gain = float(1 / spread.clamp(min=0.01))
    weight.mul_(gain)
    bias.sub_(mean).mul_(gain)


def _others(x: torch.Tensor) -> tuple[int, ...]:
    """All dims but the channels'."""
    return tuple(d for d in range(x.dim()) if d != 1)
