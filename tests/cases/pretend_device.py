"""A device for tests, ``pretend``: its tensors live on the CPU, but no op takes them together with tensors of the CPU.

Importing this module registers it with torch, for this process and for good, which autograd allows before its first backward
pass alone: so tests that use it run in a process of their own.
"""

import contextlib
import threading

import torch
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend:0"
DEVICE = torch.device("cpu")  # replaced once the device is registered

_MOVES = ("aten::_to_copy", "aten::copy_")


class Pretend:
    """What the device counts, and how it fails. ``limit`` is the most bytes of one tensor; ``dies_in`` counts ops down."""

    to_device = 0
    to_cpu = 0
    ops = 0
    limit = None
    dies_in = None
    double = True

    @classmethod
    @contextlib.contextmanager
    def having(cls, **facts):
        before = {name: getattr(cls, name) for name in facts}
        for name, value in facts.items():
            setattr(cls, name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                setattr(cls, name, value)


class _Module:
    """What torch asks of the module of a device."""

    def __init__(self):
        self.generator = torch.Generator()

    def is_available(self):
        return True

    def device_count(self):
        return 1

    def current_device(self):
        return 0

    def is_initialized(self):
        return True

    def _is_in_bad_fork(self):
        return False

    def manual_seed_all(self, seed):
        self.generator.manual_seed(seed)

    def get_rng_state(self, device=NAME):
        return self.generator.get_state()

    def set_rng_state(self, state, device=NAME):
        self.generator.set_state(state)

    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]

    def get_device_name(self, device=NAME):
        return "a device for tests"


MODULE = _Module()


class PretendTensor(torch.Tensor):
    """A tensor of the device, with its values in ``raw``."""

    @staticmethod
    def __new__(cls, raw):
        return torch.Tensor._make_wrapper_subclass(
            cls, raw.shape, strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype, device=DEVICE
        )

    def __init__(self, raw):
        self.raw = raw

    def __repr__(self, *, tensor_contents=None):
        return f"pretend {self.raw!r}"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


def _run(function, args, kwargs):
    Pretend.ops += 1
    if Pretend.dies_in is not None:
        Pretend.dies_in -= 1
        if Pretend.dies_in < 0 and threading.current_thread() is threading.main_thread():  # autograd's would abort
            raise torch.AcceleratorError("pretend: the device has fallen off the bus")
    name = function._schema.name
    given = [v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, torch.Tensor)]
    strangers = [v for v in given if not isinstance(v, PretendTensor)]
    if name in _MOVES:
        _count(name, args, kwargs)
    elif any(v.dim() for v in strangers):
        raise RuntimeError(
            f"{function}: tensors of the CPU and of {NAME} in one op: {[list(v.shape) for v in strangers]}"
        )
    if name == "aten::_local_scalar_dense":
        Pretend.to_cpu += 1
    plain_args, plain_kwargs = pytree.tree_map(_plain, (args, kwargs))
    if "generator" in plain_kwargs and plain_kwargs["generator"] is None:
        plain_kwargs["generator"] = MODULE.generator
    result = function(*plain_args, **plain_kwargs)
    stays = name == "aten::copy_" and not isinstance(args[0], PretendTensor)
    if stays or torch.device(kwargs.get("device") or DEVICE).type == "cpu":
        return args[0] if stays else result
    known = {id(v.raw): v for v in given if isinstance(v, PretendTensor)}

    def there(value):
        if not isinstance(value, torch.Tensor):
            return value
        return known[id(value)] if id(value) in known else _wrapped(value)

    return pytree.tree_map(there, result)


def _count(name, args, kwargs):
    if name == "aten::copy_":
        target, source = args[0], args[1]
        there, here = isinstance(target, PretendTensor), isinstance(source, PretendTensor)
    else:
        here = isinstance(args[0], PretendTensor)
        there = torch.device(kwargs.get("device") or args[0].device).type != "cpu"
    Pretend.to_device += there and not here
    Pretend.to_cpu += here and not there


def _plain(value):
    if isinstance(value, PretendTensor):
        return value.raw
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _wrapped(raw):
    if Pretend.limit is not None and raw.numel() * raw.itemsize > Pretend.limit:
        raise torch.OutOfMemoryError(f"pretend: {raw.numel() * raw.itemsize} bytes asked for, {Pretend.limit} there")
    if raw.dtype == torch.float64 and not Pretend.double and raw.dim():
        raise TypeError(f"{NAME} has no float64")
    return PretendTensor(raw)


_setup_privateuseone_for_python_backend("pretend", backend_module=MODULE)
DEVICE = torch.device(NAME)
_LIBRARY = torch.library.Library("_", "IMPL")
_LIBRARY.fallback(lambda function, *args, **kwargs: _run(function, args, kwargs), "PrivateUse1", with_keyset=False)
_LIBRARY.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")


def _linear(x, weight, bias=None):
    """Under autocast, in its dtype."""
    dtype = torch.get_autocast_dtype("pretend")
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
        return torch.ops.aten.linear(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))


_ATEN = torch.library.Library("aten", "IMPL")
_ATEN.impl("linear", _linear, "AutocastPrivateUse1")
