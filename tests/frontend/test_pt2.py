"""Programs survive the file, and a file never gets to run anything."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from fxopt import capture, load_program, save_program
from fxopt.errors import CaptureError, RecipeError, UsageError
from fxopt.frontend.pt2 import export_program
from fxopt.ir.program import Program


@dataclasses.dataclass
class Pair:
    left: torch.Tensor
    right: torch.Tensor


torch.export.register_dataclass(Pair, serialized_type_name="fxopt.tests.Pair")


class Calls(nn.Module):
    """A module of one function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor, *, extra: dict[str, torch.Tensor]) -> dict[str, Any]:
        y = torch.relu_(self.conv(x)).mean((2, 3))
        return {"logits": self.head(y), "same": (extra["k"] * 2,)}


@pytest.fixture
def program() -> Program:
    torch.manual_seed(0)
    made = capture(Net(), (torch.randn(1, 3, 8, 8),), {"extra": {"k": torch.randn(1, 3)}})
    made.history, made.notes = ("fold_batch_norm",), ("a note",)
    return made


@pytest.fixture
def saved(program: Program, tmp_path: Path) -> Path:
    save_program(program, tmp_path / "net.pt2")
    return tmp_path / "net.pt2"


def test_round_trip_keeps_numbers_interface_and_history(program: Program, saved: Path) -> None:
    again = load_program(saved)
    assert again.signature() == program.signature()
    assert again.ranges
    assert list(again.ranges.values()) == list(program.ranges.values())
    assert (again.history, again.notes) == (program.history, program.notes)
    assert again.args[0].shape == (1, 3, 8, 8), "the example is the user's own, not one widened for the export"
    assert set(again.tensors()) == {"conv.weight", "conv.bias", "head.weight", "head.bias"}
    x, k = torch.randn(5, 3, 8, 8), torch.randn(5, 3)
    want, got = (p(x, extra={"k": k}) for p in (program, again))
    assert torch.equal(want["logits"], got["logits"])
    assert torch.equal(want["same"][0], got["same"][0])


def test_saving_twice_gives_the_same_bytes(program: Program, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    save_program(program.copy(), tmp_path / "b" / "net.pt2")
    assert saved.read_bytes() == (tmp_path / "b" / "net.pt2").read_bytes()


def test_torch_reads_the_file_without_fxopt(program: Program, saved: Path) -> None:
    module = torch.export.load(saved).module()
    x, k = torch.randn(4, 3, 8, 8), torch.randn(4, 3)
    assert torch.equal(module(x, extra={"k": k})["logits"], program(x, extra={"k": k})["logits"])


def test_a_class_in_the_inputs_is_kept_without_a_pickle(tmp_path: Path) -> None:
    pair = Pair(torch.randn(1, 3), torch.randn(1, 3))

    class Add(nn.Module):
        def forward(self, p: Pair) -> torch.Tensor:
            return p.left + p.right

    save_program(capture(Add(), (pair,)), tmp_path / "add.pt2")
    again = load_program(tmp_path / "add.pt2")
    assert type(again.args[0]) is Pair
    assert torch.equal(again(pair), pair.left + pair.right)


@pytest.mark.parametrize("name", [None, "fxopt.tests.Named"])
def test_a_class_without_a_name_cannot_be_saved_and_says_how(name: str | None, tmp_path: Path) -> None:
    cls = dataclasses.make_dataclass("Box", [("x", torch.Tensor)])
    torch.export.register_dataclass(cls, serialized_type_name=name)
    program = capture(Calls(lambda box: cls(box.x * 2)), (cls(torch.ones(1, 3)),))
    if name is None:
        with pytest.raises(CaptureError, match=r"inputs hold a Box(.|\n)*serialized_type_name='my_package.Box'"):
            save_program(program, tmp_path / "box.pt2")
        return
    save_program(program, tmp_path / "box.pt2")
    assert torch.equal(load_program(tmp_path / "box.pt2")(cls(torch.ones(1, 3))).x, torch.full((1, 3), 2.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE, name)
        with pytest.raises(RecipeError, match=r"'fxopt.tests.Named', a class that is not registered"):
            load_program(tmp_path / "box.pt2")


def test_a_namedtuple_cannot_be_saved_and_says_how(tmp_path: Path) -> None:
    point = collections.namedtuple("point", "x y")
    program = capture(Calls(lambda x: {"p": point(x, x * 2)}), (torch.ones(1, 3),))
    with pytest.raises(CaptureError, match=r"outputs hold a point(.|\n)*a tuple or a dict"):
        save_program(program, tmp_path / "point.pt2")


def test_infinities_in_the_graph_survive(tmp_path: Path) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        y = torch.clamp(x, -math.inf, math.inf).masked_fill(x > 0, -math.inf)
        return y.softmax(-1).nan_to_num(math.nan)

    program = capture(Calls(function), (x := torch.tensor([[1.0, -1.0, -2.0]]),))
    save_program(program, tmp_path / "inf.pt2")
    assert torch.equal(load_program(tmp_path / "inf.pt2")(x), function(x))


def test_a_model_exported_in_training_mode_is_noted_once(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    torch.export.save(torch.export.export(module, (torch.randn(4, 3),)), tmp_path / "train.pt2")
    program = load_program(tmp_path / "train.pt2")
    (note,) = program.notes
    assert "in training mode: aten.batch_norm (in 1), aten.dropout (in 2)" in note
    save_program(program, tmp_path / "again.pt2")
    assert load_program(tmp_path / "again.pt2").notes == program.notes


def test_quantized_ops_and_tied_weights_survive(tmp_path: Path) -> None:
    import torch.ao.quantization.fx._decomposed

    class Quantized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4, bias=False)
            self.b = nn.Linear(4, 4, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q = torch.ops.quantized_decomposed
            y = q.quantize_per_tensor(self.a(x), 0.1, 3, -128, 127, torch.int8)
            return self.b(q.dequantize_per_tensor(y, 0.1, 3, -128, 127, torch.int8))

    program = capture(Quantized(), (torch.randn(1, 4),))
    save_program(program, tmp_path / "q.pt2")
    again = load_program(tmp_path / "q.pt2")
    x = torch.randn(3, 4)
    assert torch.equal(program(x), again(x))
    assert len({t.data_ptr() for t in again.tensors().values()}) == 1


def test_export_keeps_the_batch_dynamic_and_the_names(program: Program) -> None:
    exported = export_program(program)
    assert list(exported.state_dict) == ["conv.weight", "conv.bias", "head.weight", "head.bias"]
    (bounds,) = exported.range_constraints.values()
    assert int(bounds.lower) == 1
    assert bounds.upper > 2**31


def test_export_says_which_size_became_fixed() -> None:
    program = capture(nn.Flatten(), (torch.randn(2, 3, 4),))
    (node,) = program.find("aten.flatten")
    node.target, node.args = torch.ops.aten.view.default, (node.args[0], [2, 12])
    program.module.recompile()
    with pytest.raises(CaptureError, match=r"dim 0 of input .* is fixed to 2(.|\n)*f32\[batch,3,4\]"):
        export_program(program)


def test_a_multiple_of_a_size_stays_dynamic() -> None:
    class Halves(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.view(x.shape[0] // 2, 2, 3) * 2

    program = capture(Halves(), (torch.randn(4, 3),), dynamic=({0: torch.export.Dim("half", min=1) * 2},))
    again = export_program(program).module()
    assert again(torch.ones(10, 3)).shape == (5, 2, 3)


# ---- files that are no programs ------------------------------------------------------------------------------------


class Attack:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def _member(path: Path, name: str) -> zipfile.ZipInfo:
    with zipfile.ZipFile(path) as archive:
        return next(info for info in archive.infolist() if info.filename.endswith(f"/{name}"))


def _rewrite(path: Path, change: Callable[[str, bytes], bytes]) -> None:
    """Change members of the archive, as an attacker would."""
    with zipfile.ZipFile(path) as archive:
        members = {name: change(name, archive.read(name)) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def _replace(old: str, new: str) -> Callable[[Any, Path], None]:
    def apply(model: Any, mark: Path) -> None:
        text = json.dumps(model)
        assert old in text
        model.clear()
        model.update(json.loads(text.replace(old, new.replace("MARK", str(mark)))))

    return apply


def _spec(model: Any, mark: Path) -> None:
    signature = model["graph_module"]["module_call_graph"][0]["signature"]
    context = json.dumps(["extra': __import__('os').mkdir('" + str(mark) + "') or x, 'b"])
    signature["in_spec"] = signature["in_spec"].replace(json.dumps('["extra"]'), json.dumps(context))
    assert str(mark) in signature["in_spec"]


def _symbol(model: Any, mark: Path) -> None:
    for meta in model["graph_module"]["graph"]["tensor_values"].values():
        for size in meta["sizes"]:
            if "as_expr" in size:
                size["as_expr"]["expr_str"] = f"__import__('os').mkdir('{mark}') or 2"
                return


def _argument(model: Any, mark: Path) -> None:
    signature = model["graph_module"]["module_call_graph"][0]["signature"]
    signature["forward_arg_names"][0] = f"x=__import__('os').mkdir('{mark}')"


def _float(model: Any, mark: Path) -> None:
    arguments = [i["arg"] for node in model["graph_module"]["graph"]["nodes"] for i in node["inputs"]]
    argument = next(a for a in arguments if "as_ints" in a)
    argument.clear()
    argument["as_floats"] = [1.0, f"__import__('os').mkdir('{mark}')"]


def _module(model: Any, mark: Path) -> None:
    signature = model["graph_module"]["module_call_graph"][0]["signature"]
    context = json.dumps(json.dumps({"default_factory_module": "antigravity", "default_factory_name": "x"}))
    signature["out_spec"] = f'[1, {{"type": "collections.defaultdict", "context": {context}, "children_spec": []}}]'


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(_symbol, id="symbolic size"),
        pytest.param(_argument, id="argument name"),
        pytest.param(_spec, id="keyword"),
        pytest.param(_replace('"conv2d"', '"a=__import__(\'os\').mkdir(\'MARK\')"'), id="node name"),
        pytest.param(_replace("torch.ops.aten.relu.default", "torch.os.mkdir"), id="operator"),
        pytest.param(_float, id="number"),
        pytest.param(_module, id="module to import"),
    ],
)  # fmt: skip
def test_nothing_in_the_model_file_is_executed(
    saved: Path, tmp_path: Path, attack: Callable[[Any, Path], None]
) -> None:
    mark = tmp_path / "mark"

    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return data
        model = json.loads(data)
        attack(model, mark)
        return json.dumps(model).encode()

    _rewrite(saved, change)
    with pytest.raises(RecipeError, match="nothing was executed"):
        load_program(saved)
    assert not mark.exists()


def test_a_pickled_object_in_the_example_inputs_is_not_loaded(saved: Path, tmp_path: Path) -> None:
    torch.save(((Attack(tmp_path / "mark"),), {}), tmp_path / "inputs.pt")
    payload = (tmp_path / "inputs.pt").read_bytes()
    _rewrite(saved, lambda name, data: payload if "sample_inputs" in name else data)
    with pytest.raises(RecipeError, match="example inputs"):
        load_program(saved)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("change", [{"use_pickle": True}, {"path_name": "custom_obj_0"}])
@pytest.mark.parametrize("kind", ["weights", "constants"])
def test_a_pickled_weight_is_not_loaded(saved: Path, kind: str, change: dict[str, Any]) -> None:
    def pickled(name: str, data: bytes) -> bytes:
        if not name.endswith(f"model_{kind}_config.json"):
            return data
        return json.dumps(
            {"config": {"w": {"path_name": "tensor_0", "is_param": False, "tensor_meta": None} | change}}
        ).encode()

    _rewrite(saved, pickled)
    with pytest.raises(RecipeError, match="pickled object"):
        load_program(saved)


def test_compiled_code_in_the_archive_is_not_loaded(saved: Path) -> None:
    root = _member(saved, "models/model.json").filename.partition("/")[0]
    with zipfile.ZipFile(saved, "a") as archive:
        archive.writestr(f"{root}/data/aotinductor/model/evil.so", b"\x7fELF")
    with pytest.raises(RecipeError, match="machine code"):
        load_program(saved)


def test_other_files_are_named_for_what_they_are(saved: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    torch.save(Attack(mark), tmp_path / "zip.pt2")
    torch.save(Attack(mark), tmp_path / "old.pt2", _use_new_zipfile_serialization=False)
    (tmp_path / "short.pt2").write_bytes(saved.read_bytes()[:-3000])
    (tmp_path / "text.pt2").write_text("hello")
    (tmp_path / "empty.pt2").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as archive:
        archive.writestr("readme", "hello")
    torch.jit.trace(nn.Linear(2, 2), torch.randn(1, 2)).save(tmp_path / "script.pt2")
    expected = {
        "zip": "a pickle", "old": "a pickle", "short": "truncated or damaged", "text": "not a .pt2",
        "empty": "an empty file", "other": "a zip, but not", "script": "TorchScript", "absent": "no such file",
    }  # fmt: skip
    for name, words in expected.items():
        with pytest.raises(RecipeError, match=words):
            load_program(tmp_path / f"{name}.pt2")
    assert not mark.exists()


def test_a_flipped_byte_in_the_weights_is_noticed(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    info = _member(saved, "data/weights/weight_0")
    names = sum(struct.unpack("<HH", data[info.header_offset + 26 : info.header_offset + 30]))
    data[info.header_offset + 30 + names + info.file_size // 2] ^= 0xFF
    saved.write_bytes(data)
    with pytest.raises(RecipeError):
        load_program(saved)


def test_a_failed_save_leaves_nothing_behind(program: Program, saved: Path, tmp_path: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(UsageError, match=r"\.pt2"):
        save_program(program, tmp_path / "net.pth")
    with pytest.raises(UsageError, match="cannot write"):
        save_program(program, tmp_path / "absent" / "net.pt2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(UsageError, match="No space left"):
            save_program(program, saved)
    assert saved.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["net.pt2"]
