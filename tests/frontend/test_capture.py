"""Capture: what comes out equals the module, keeps its interface and leaves it alone; what cannot be says why."""

from __future__ import annotations

import collections
import dataclasses
import importlib.util
import inspect
import pkgutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim

import fxopt
from fxopt import CaptureWarning, Pipeline, capture, capture_parts, capture_split, load_program, save_program
from fxopt.errors import CaptureError, UnknownNameError, UsageError
from fxopt.frontend.diagnostics import is_users
from fxopt.ir.cost import cost
from fxopt.ir.program import Program
from fxopt.numerics.float64 import to_float64

Point = collections.namedtuple("Point", "x y")


class Fn(nn.Module):
    """A module of one function and one weight."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.fc = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor, y: Any = None) -> Any:
        return self.function(self, x) if y is None else self.function(self, x, y)


def _line_of(text: str) -> str:
    lines = inspect.getsource(inspect.getmodule(_line_of)).splitlines()  # type: ignore[arg-type]
    return f"test_capture.py:{next(i for i, line in enumerate(lines, 1) if text in line)}"


def _quiet(*args: Any, **kwargs: Any) -> Program:
    with warnings.catch_warnings():
        warnings.simplefilter("error", CaptureWarning)
        return capture(*args, **kwargs)


# ---- sizes that the user names -------------------------------------------------------------------------------------


class Doubles(nn.Module):
    """Halves the image and doubles it again, so that its sides must be even."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ConvTranspose2d(4, 3, 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(self.down(x)) + x


def test_height_and_width_are_dynamic_and_a_batch_of_one_is_no_constant() -> None:
    module = Doubles()
    shape = {0: Dim("batch", min=1), 2: 2 * Dim("h", min=4), 3: 2 * Dim("w", min=4)}
    for dynamic in ({"x": shape}, (shape,)):
        program = _quiet(module, (torch.randn(1, 3, 32, 32),), dynamic=dynamic)
        for size in ((1, 3, 8, 8), (3, 3, 10, 64)):
            x = torch.randn(size)
            torch.testing.assert_close(program(x), module(x), rtol=0, atol=0)
        for odd in ((1, 3, 7, 8), (1, 3, 16, 33)):
            with pytest.raises(UsageError, match="do not fit the program"):
                program(torch.randn(odd))


def test_sizes_of_one_in_nested_inputs_and_keywords_are_dynamic_too() -> None:
    class Net(nn.Module):
        def forward(self, x: Any, y: torch.Tensor, *, scale: torch.Tensor) -> torch.Tensor:
            return x["a"][0] * scale + y

    batch = Dim("batch", min=1)
    dims = {"x": {"a": [{0: batch}]}, "y": {0: batch}, "scale": {0: batch}}
    args = ({"a": [torch.randn(1, 3)]}, torch.randn(1, 3))
    program = _quiet(Net(), args, {"scale": torch.randn(1, 1)}, dynamic=dims)
    wide, scale = ({"a": [torch.randn(4, 3)]}, torch.randn(4, 3)), torch.randn(4, 1)
    torch.testing.assert_close(program(*wide, scale=scale), Net()(*wide, scale=scale))


def test_sizes_by_auto_are_noted_to_begin_at_two() -> None:
    auto = _quiet(Doubles(), (torch.randn(1, 3, 32, 32),), dynamic=({0: Dim.AUTO},))
    assert next(iter(auto.ranges.values())) == (2, None)
    assert "begin at 2" in auto.notes[0]
    assert "Dim(name, min=1)" in auto.notes[0]
    assert not _quiet(Doubles(), (torch.randn(1, 3, 32, 32),), dynamic=({0: Dim("batch", min=2)},)).notes


def test_torchs_guards_and_the_fixes_it_suggests_are_kept_whole() -> None:
    shape = {0: Dim("batch", min=1), 2: Dim("h", min=8), 3: Dim("w", min=8)}
    with pytest.raises(CaptureError) as caught:
        capture(Doubles(), (torch.randn(1, 3, 32, 32),), dynamic=(shape,))
    for text in (str(caught.value), caught.value.details, caught.value.to_dict()["details"]):
        assert "h = 2*_h" in text
        assert "w = 2*_w" in text
        assert "batch = 1" not in text, "of the example of one, which torch takes for a constant"


def test_commands_to_a_terminal_and_first_lines_that_end_at_a_colon() -> None:
    class Fails(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("\x1b[31mbad sizes:\x1b[0m\n  \x1b]0;title\x07three\x08 and four\n  five")

    with pytest.raises(CaptureError) as caught:
        capture(Fails(), (torch.randn(1, 3),))
    assert "ValueError: bad sizes: three and four" in str(caught.value)
    assert not set("\x1b\x07\x08") & set(str(caught.value) + str(caught.value.details))
    assert str(caught.value.details).endswith("five")


# ---- the batch -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 2, 4])
def test_batch_is_dynamic_whatever_the_example_has(size: int) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    program = _quiet(module, (torch.randn(size, 3),))
    assert program.signature() == "(input: f32[batch,3]) -> (f32[batch,2])"
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3)
        torch.testing.assert_close(program(x), module(x), rtol=0, atol=0)


def test_an_input_without_the_batch_is_fixed_and_noted() -> None:
    program = _quiet(Fn(lambda self, x, y: self.fc(x) + y), (torch.randn(2, 3), torch.randn(3)))
    assert program.signature() == "(x: f32[batch,3], y: f32[3]) -> (f32[batch,3])"
    assert program.notes == ("the batch is dynamic in input args[0] only; fixed: args[1]",)


def test_first_input_alone_is_tried_when_both_fail() -> None:
    program = _quiet(Fn(lambda self, x, y: self.fc(x) + y.view(1, 3).sum()), (torch.randn(1, 3), torch.randn(1, 3)))
    assert program.signature() == "(x: f32[batch,3], y: f32[1,3]) -> (f32[batch,3])"
    assert "fixed: args[1]" in program.notes[0]


def test_fixed_batch_warns_at_the_caller_with_the_users_line() -> None:
    module = Fn(lambda self, x: self.fc(x).view(1, 3))  # fixes the batch
    with pytest.warns(CaptureWarning, match="fixed batch of 1") as caught:
        program = capture(module, (torch.randn(1, 3),))
    assert caught[0].filename == __file__
    assert _line_of("# fixes the batch") in program.notes[0]
    assert program.signature() == "(x: f32[1,3]) -> (f32[1,3])"


def test_a_batch_with_a_limit_is_dynamic_up_to_there() -> None:
    module = Fn(lambda self, x: self.fc(x) if x.shape[0] < 64 else self.fc(x).relu())
    program = _quiet(module, (torch.randn(1, 3),))
    assert program.notes[0].startswith("captured for batches of 63 at most: ")
    assert list(program.ranges.values()) == [(1, 63)]
    for size in (1, 63):
        x = torch.randn(size, 3)
        torch.testing.assert_close(program(x), module(x))
    with pytest.raises(UsageError, match="from 1 to 63"):
        program(torch.randn(64, 3))


def test_an_op_in_place_whose_twin_has_another_name() -> None:
    program = _quiet(Fn(lambda self, x: self.fc(x).abs().add_(1).pow_(-0.5)), (torch.randn(2, 3),))
    assert "aten.pow.Tensor_Scalar" in program.text()


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda self, x: self.fc(x).view(4, 3), "takes this size only"),
        (lambda self, x: self.fc(x) if x.shape[0] < 7 else x, "unless batch < 7"),
        (lambda self, x: self.fc(x).view(x.shape[0] // 2, 6), "unless 3*batch == "),
        (lambda self, x, y: self.fc(x) + y.view(4, 3), "takes this size only"),
    ],
)
def test_the_reason_for_a_fixed_batch_is_in_our_words(function: Callable[..., Any], reason: str) -> None:
    x = torch.randn(4, 3)
    with pytest.warns(CaptureWarning, match="fixed batch of 4"):
        program = capture(Fn(function), (x,) if function.__code__.co_argcount == 2 else (x, x))
    assert reason in program.notes[0]
    assert f"test_capture.py:{function.__code__.co_firstlineno}: " in program.notes[0]
    assert "mark_dynamic" not in program.notes[0]


def test_a_reason_inside_torch_names_no_line_of_the_caller_or_of_ours() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Unflatten(0, (2, 2)))
    with pytest.warns(CaptureWarning, match="fixed batch of 4"):
        program = capture(module, (torch.randn(4, 3),))
    assert ".py:" not in program.notes[0]


def test_no_module_of_the_core_is_the_users_own() -> None:
    core = [module.name for module in pkgutil.walk_packages(fxopt.__path__, "fxopt.")]
    assert len(core) > 50
    for name in core:
        found = importlib.util.find_spec(name)
        assert found is not None
        assert found.origin is not None
        assert not is_users(found.origin), name
    assert is_users(__file__)


def test_the_batch_is_dynamic_with_variable_keywords() -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor, **k: torch.Tensor) -> torch.Tensor:
            return x * k["scale"]

    module, x = Scaled(), torch.randn(1, 3)
    program = _quiet(module, (x,), {"scale": x})
    assert program.signature() == "(x: f32[batch,3], scale: f32[batch,3]) -> (f32[batch,3])"
    assert torch.equal(program(torch.ones(5, 3), scale=torch.full((5, 3), 2.0)), torch.full((5, 3), 2.0))
    assert "forward" not in vars(module)


def test_a_batch_of_one_that_takes_another_way_is_found() -> None:
    module = Fn(lambda self, x: self.fc(x) if x.shape[0] > 1 else x)
    program = _quiet(module, (torch.randn(4, 3),))
    assert list(program.ranges.values()) == [(2, None)]
    with pytest.warns(CaptureWarning, match="a batch of 1 takes another way"):
        program = capture(module, (x := torch.randn(1, 3),))
    assert torch.equal(program(x), x)


def test_dynamic_none_and_torchs_own_form() -> None:
    x = torch.randn(4, 3)
    assert capture(nn.Linear(3, 3), (x,), dynamic=None).signature() == "(input: f32[4,3]) -> (f32[4,3])"
    program = capture(nn.Linear(3, 3), (x,), dynamic=({0: torch.export.Dim("n", min=2, max=16)},))
    assert list(program.ranges.values()) == [(2, 16)]
    with pytest.raises(UsageError, match="dynamic must be"):
        capture(nn.Linear(3, 3), (x,), dynamic="all")


# ---- the interface -------------------------------------------------------------------------------------------------


def test_nested_inputs_and_outputs_keep_their_types() -> None:
    def function(self: Fn, x: dict[str, Any], y: Any) -> Any:
        return collections.OrderedDict(b=self.fc(x["a"]), a=(y.x + 1, None, 3), p=Point(y.y, [x["c"][0]]))

    module = Fn(function)
    args = ({"a": torch.randn(1, 3), "c": [torch.randn(1, 3)]}, Point(torch.randn(1, 3), torch.randn(1, 3)))
    want, got = module(*args), _quiet(module, args)(*args)
    assert type(got) is collections.OrderedDict
    assert type(got["p"]) is Point
    assert list(got) == list(want)
    assert torch.equal(got["b"], want["b"])
    assert torch.equal(got["a"][0], want["a"][0])
    assert got["a"][1:] == (None, 3)


def test_keywords_in_any_order_none_and_numbers() -> None:
    class Keywords(nn.Module):
        def forward(self, a: torch.Tensor, b: Any = None, *, c: int = 2, d: Any = None) -> torch.Tensor:
            return a * c + b if d is None else a

    program = _quiet(Keywords(), (torch.ones(1, 3),), {"d": None, "b": torch.ones(1, 3), "c": 3})
    assert torch.equal(program(torch.ones(2, 3), c=3, b=torch.ones(2, 3), d=None), torch.full((2, 3), 4.0))


def test_variable_arguments() -> None:
    class Sum(nn.Module):
        def forward(self, *values: torch.Tensor) -> torch.Tensor:
            return values[0] * values[1]

    assert _quiet(Sum(), (torch.ones(1, 3), torch.ones(1, 3)))(torch.ones(4, 3), torch.ones(4, 3)).shape == (4, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    program = _quiet(nn.Linear(3, 3).to(dtype), (torch.randn(1, 3, dtype=dtype),))
    assert program(torch.randn(2, 3, dtype=dtype)).dtype is dtype


def test_integer_inputs_and_outputs() -> None:
    program = _quiet(nn.Embedding(10, 4), (torch.randint(0, 10, (1, 5)),))
    assert program.signature() == "(input: i64[batch,5]) -> (f32[batch,5,4])"


# ---- inputs that do not fit ----------------------------------------------------------------------------------------


def test_inputs_that_the_program_would_answer_wrongly_are_refused() -> None:
    class Flag(nn.Module):
        def forward(self, x: torch.Tensor, flag: bool, n: float = 1.0) -> torch.Tensor:
            return x + n if flag else x * n

    x = torch.ones(2, 3)
    program = capture(Flag(), (x, True), {"n": 2.0})
    assert torch.equal(program(x, True, n=2), x + 2)
    for args, words in [
        ((x, False), "flag = True, got False"),
        ((x.double(), True), r"x: f32\[batch,3\], got f64\[2,3\]"),
    ]:
        with pytest.raises(UsageError, match=words):
            program(*args, n=2.0)
    with pytest.raises(UsageError, match="other arguments"):
        program(x, True)


def test_sizes_outside_the_range_are_refused() -> None:
    x = torch.randn(3, 3)
    bounded = capture(nn.Linear(3, 3), (x,), dynamic=({0: torch.export.Dim("n", min=2, max=4)},))
    assert bounded(x[:2]).shape == (2, 3)
    with pytest.raises(UsageError, match=r"\(batch from 2 to 4\), got f32\[9,3\]"):
        bounded(torch.randn(9, 3))
    several = capture(Fn(lambda self, x: self.fc(x) if x.shape[0] > 1 else x), (x,))
    with pytest.raises(UsageError, match=r"\(batch from 2\), got f32\[1,3\]"):
        several(x[:1])
    with pytest.raises(UsageError, match=r"expected input: f32\[3,3\], got f32\[2,3\]"):
        capture(nn.Linear(3, 3), (x,), dynamic=None)(x[:2])
    with pytest.raises(UsageError, match=r"y: f32\[batch,3\] \(batch is 3 in another input\), got f32\[2,3\]"):
        capture(Fn(lambda self, x, y: x + y), (x, x))(x, x[:2])


def test_a_program_in_float64_takes_float64() -> None:
    x = torch.randn(2, 3)
    twin = to_float64(capture(nn.Linear(3, 3), (x,)))
    assert twin(x.double()).dtype == torch.float64
    with pytest.raises(UsageError, match="float64"):
        twin(x)


def test_a_dict_may_have_its_keys_in_any_order() -> None:
    x = torch.randn(2, 3)
    program = capture(Fn(lambda self, d: self.fc(d["x"]) - d["y"]), ({"x": x, "y": torch.ones(2, 3)},))
    assert torch.equal(program({"y": x, "x": x}), program({"x": x, "y": x}))
    with pytest.raises(UsageError, match="'y'"):
        program({"x": x, "z": x})


def test_the_examples_are_the_programs_own() -> None:
    x, y = torch.zeros(2, 3), torch.zeros(2, 3)
    program = capture(Fn(lambda self, x, y: x.add_(1) * y), (x,), {"y": y})
    program(*program.args, **program.kwargs)
    assert program.kwargs["y"] is not y
    assert torch.equal(x, torch.zeros(2, 3))


# ---- values as sizes and numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "output"),
    [
        pytest.param(lambda self, x: self.fc(x) * x.sum().item(), "f32[batch,3]", id="item of a float"),
        pytest.param(lambda self, x: self.fc(x) * x.sum().long().item(), "f32[batch,3]", id="item of an integer"),
        pytest.param(lambda self, x: self.fc(x) * x[0].long().tolist()[0], "f32[batch,3]", id="tolist"),
        pytest.param(lambda self, x: self.fc(x)[x.sum(1) > 0].relu(), "f32[u0,3]", id="mask"),
        pytest.param(lambda self, x: self.fc(x).sum() + x.nonzero(), "f32[u0,2]", id="nonzero"),
        pytest.param(lambda self, x: self.fc(x).unique(), "f32[u0]", id="unique"),
        pytest.param(lambda self, x: torch.cat([self.fc(x[x[:, 0] > 0]), x]), "f32[batch + u0,3]", id="joined"),
    ],
)
def test_what_depends_on_values_is_captured(function: Callable[..., Any], output: str, tmp_path: Path) -> None:
    module = Fn(function)
    program = _quiet(module, (torch.randn(4, 3),))
    assert program.signature() == f"(x: f32[batch,3]) -> ({output})"
    save_program(program, tmp_path / "values.pt2")
    rewritten = Pipeline.parse("fold_batch_norm, clean_up").run(load_program(tmp_path / "values.pt2")).program
    x = torch.randn(6, 3)
    assert torch.equal(rewritten(x), module(x))


def test_padded_rows_of_a_transformer_are_no_difference() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)

        def forward(self, x: torch.Tensor, padded: torch.Tensor) -> torch.Tensor:
            return self.layers(x, src_key_padding_mask=padded)

    padded = torch.tensor([[False] * 4, [False, False, True, True]])
    module, x = Encoder().eval(), torch.randn(2, 4, 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.mha, "_is_fastpath_enabled", True)
        program = capture(module, (x, padded))
        assert torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad():
        torch.testing.assert_close(program(x, padded)[~padded], module(x, padded)[~padded])


# ---- notes ---------------------------------------------------------------------------------------------------------


def test_a_graph_within_the_graph_is_named() -> None:
    class Mixed(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return nn.functional.linear(x, self.weight)  # in autocast

    program = capture(Mixed(3, 3), (torch.randn(1, 3),))
    assert cost(program).unknown == ()
    (note,) = program.notes
    assert "do not look into wrap_with_autocast" in note
    assert _line_of("# in autocast") in note


def test_dropout_that_is_always_active_is_named() -> None:
    module = Fn(lambda self, x: nn.functional.dropout(x, 0.5))
    (note,) = capture(module, (torch.randn(1, 3),)).notes
    assert "in training mode: aten.dropout (" in note


# ---- the module is left alone --------------------------------------------------------------------------------------


def test_train_mode_is_captured_as_evaluation_and_left() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.BatchNorm1d(3)).train()
    module[1].eval()
    x = torch.randn(4, 3)
    program = capture(module, (x,))
    assert [m.training for m in module.modules()] == [True, True, False, True]
    assert int(module[2].num_batches_tracked) == 0
    assert torch.equal(program(x), module.eval()(x))


@pytest.mark.parametrize("assign", [False, True])
def test_buffers_that_the_model_writes_are_the_programs_own(assign: bool) -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("n", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.n = self.n + 1 if assign else self.n.add_(1)
            return x + self.n

    module, x = Counter(), torch.zeros(1, 1)
    buffer = module.n
    program = capture(module, (x,))
    assert [float(program(x)) for _ in range(3)] == [1, 2, 3]
    assert module.n is buffer
    assert float(module.n) == 0
    assert float(module(x)) == 1


def test_training_the_model_on_does_not_change_the_program() -> None:
    module = nn.Linear(3, 3)
    module_tied = nn.Sequential(module, module)
    x = torch.randn(1, 3)
    program = capture(module_tied, (x,))
    before = program(x)
    with torch.no_grad():
        module.weight += 1
    assert torch.equal(program(x), before)
    assert len({t.data_ptr() for t in program.tensors().values()}) == 2, "tied weights stay tied"


def test_the_random_state_is_not_touched() -> None:
    module, x = Fn(lambda self, x: self.fc(x) + torch.rand_like(x)), torch.ones(1, 3)
    torch.manual_seed(3)
    want = torch.rand(1)
    torch.manual_seed(3)
    capture(module, (x,))
    assert torch.equal(torch.rand(1), want)


# ---- what cannot be captured ---------------------------------------------------------------------------------------


def _branch(self: Fn, x: torch.Tensor) -> torch.Tensor:
    if x.sum() > 0:  # data-dependent branch
        return x
    return self.fc(x)


def _sized(self: Fn, x: torch.Tensor) -> torch.Tensor:
    return torch.zeros(int(x.abs().sum().item())) + x.sum()  # sized by a value


def _numpy(self: Fn, x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.sort(x.numpy()))  # through numpy


@pytest.mark.parametrize(
    ("function", "text"),
    [(_branch, "# data-dependent branch"), (_sized, "# sized by a value"), (_numpy, "# through numpy")],
)
def test_the_line_that_stops_the_capture_is_named(
    function: Callable[..., Any], text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CaptureError) as caught:
        capture(Fn(function), (torch.full((2, 3), -2.0),))
    message = str(caught.value)
    assert _line_of(text) in message
    assert "runs, but cannot be captured" in message
    assert "capture_parts(model" in message
    assert capfd.readouterr() == ("", ""), "torch's dump of the graph so far is not the user's business"


@pytest.mark.parametrize("args", [(), (torch.randn(2, 5),), ("text",)])
def test_inputs_that_do_not_run_are_told_apart(args: tuple[Any, ...]) -> None:
    with pytest.raises(CaptureError, match="does not run on the example inputs") as caught:
        capture(Fn(lambda self, x: self.fc(x)), args)
    assert ("missing" in str(caught.value)) == (args == ())
    if args and isinstance(args[0], torch.Tensor):
        assert "f32[2,5]" in str(caught.value)


class Opaque:
    """A class that pytree does not know."""


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("text", "returns a str"),
        ((torch.ones(1), "text"), "returns a str"),
        (Opaque(), "register_pytree_node"),
        (3, "no tensor"),
        (None, "no tensor"),
    ],
)
def test_an_output_that_is_no_tensor(output: Any, words: str) -> None:
    with pytest.raises(CaptureError, match=words):
        capture(Fn(lambda self, x: output), (torch.randn(1, 3),))


def test_an_input_of_an_unknown_class_is_named() -> None:
    @dataclasses.dataclass
    class Box:
        x: torch.Tensor

    with pytest.raises(
        CaptureError, match=r"takes a Box \(input\[1\]\)(.|\n)*register_dataclass\(Box, serialized_type_name="
    ):
        capture(Fn(lambda self, x, box: self.fc(x + box.x)), (torch.ones(1, 3), Box(torch.ones(1, 3))))


def test_exported_and_scripted_models() -> None:
    module, x = nn.Linear(3, 3), torch.randn(2, 3)
    exported = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    program = _quiet(exported.module(), (x,))
    assert program.signature() == "(input: f32[batch,3]) -> (f32[batch,3])"
    assert torch.equal(program(x), module(x))
    around = nn.Sequential(exported.module(), nn.Dropout(0.5))
    assert torch.equal(capture(around, (x,))(x), module(x))
    assert around[1].training
    assert torch.equal(capture_parts(around, (x,)).install(around)(x), module(x))
    with pytest.raises(UsageError, match=r"exported already(.|\n)*torch.export.save"):
        capture(exported, (x,))  # type: ignore[arg-type]
    scripted = torch.jit.script(module)
    with pytest.raises(CaptureError, match=r"scripted module(.|\n)*the Python module"):
        capture(scripted, (x,))
    with pytest.raises(CaptureError, match="it holds scripted modules, which cannot be captured: '0'") as caught:
        capture(nn.Sequential(scripted, module), (x,))
    assert "at='1'" in str(caught.value)


def test_wrong_use() -> None:
    with pytest.raises(UsageError, match="got function"):
        capture(lambda x: x, (torch.ones(1),))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="must be a tuple"):
        capture(nn.Linear(3, 3), torch.ones(1, 3))  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="did you mean 'fc'"):
        capture(Fn(lambda self, x: self.fc(x)), (torch.ones(1, 3),), at="fcc")


def test_a_graph_that_differs_from_the_module_is_refused() -> None:
    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = [0]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls[0] += 1
            return x * self.calls[0]

    with pytest.raises(CaptureError, match=r"differs from the module(.|\n)*state between calls"):
        capture(Stateful(), (torch.ones(2, 3),), dynamic=None)


class MixedPrecision(nn.Module):
    """Regions as models write them: off inside on, off, and for a device that is not there."""

    def __init__(self, on):
        super().__init__()
        self.a, self.on = nn.Linear(4, 4), on
        self.a.weight.data.normal_()

    def forward(self, x):
        with torch.autocast("cuda", dtype=torch.float16):
            x = self.a(x)
        with torch.autocast("cpu", enabled=False):
            x, y = self.a(x.float()).chunk(2, -1)
            x = x.clone().mul_(2)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.on):
            with torch.autocast("cpu", enabled=False):
                y = torch.cat([x.float(), y.float()], -1)
            return y @ y.t()


def test_autocast_regions_that_change_nothing_are_part_of_the_graph():
    program = capture(MixedPrecision(False), (torch.randn(3, 4),), dynamic=None)
    assert "autocast" not in program.text()
    assert not any("mul_" in str(node.target) for node in program.graph.nodes)
    assert [str(n.target) for n in program.graph.nodes].count("aten.linear.default") == 2


def test_autocast_that_is_on_stays_a_call_and_computes_what_it_did():
    model = MixedPrecision(True)
    program = capture(model, (x := torch.randn(3, 4),), dynamic=None)
    assert program.text().count("wrap_with_autocast") == 1
    assert program(x).dtype is torch.bfloat16
    torch.testing.assert_close(program(x), model(x), rtol=0, atol=0)


def _copies(program):
    return [str(n.target) for n in program.graph.nodes if "copy" in str(n.target)]


def test_a_write_into_a_slice_of_everything_is_a_write_into_the_whole():
    class Whole(nn.Module):
        def forward(self, x):
            y = x * 2
            y[:, 0:, :] += y.exp().view(-1, 12).view(y.shape)
            y[:, :] = y.cos()
            return y.relu()

    x = torch.randn(2, 3, 4)
    program = capture(Whole(), (x,))
    assert not _copies(program)
    assert not any("slice" in str(n.target) for n in program.graph.nodes)
    torch.testing.assert_close(program(x), Whole()(x), rtol=0, atol=0)


@pytest.mark.parametrize("later", ["read", "write", "input"])
def test_a_copy_whose_source_lives_on_stays_a_copy(later):
    class Kept(nn.Module):
        def forward(self, x):
            y, v = x * 2, x + 1
            y.copy_(x if later == "input" else v)
            if later == "write":
                v.add_(1)
            return (y, v) if later != "input" else y

    x = torch.randn(2, 3)
    program = capture(Kept(), (x,))
    assert _copies(program)
    got, want = program(x), Kept()(x)
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    first = got if later == "input" else got[0]
    assert first.data_ptr() not in (x.data_ptr(), got[-1].data_ptr() if later != "input" else 0)


def test_an_example_that_is_a_part_of_a_larger_tensor_fixes_no_size():
    """Of five columns the first three: the strides say five."""
    rows = torch.export.Dim("rows", min=1)
    program = capture(nn.Linear(4, 2).eval(), (torch.randn(2, 5, 4)[:, :3],), dynamic=({1: rows},))
    assert program(torch.randn(2, 5, 4)).shape == (2, 5, 2)
    image = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    assert capture(nn.Conv2d(3, 2, 1).eval(), (image,)).args[0].stride() == image.stride()


def test_packed_sequences_are_refused_with_what_to_give_instead():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.GRU(4, 5, batch_first=True)

        def forward(self, x, lengths):
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            return self.layer(packed)[1]

    with pytest.raises(CaptureError, match=r"a packed sequence(.|\n)*self\.layer\(packed\)") as caught:
        capture(Packed().eval(), (torch.randn(3, 7, 4), torch.tensor([7, 3, 5])))
    assert "padded batch" in caught.value.way_out


def test_flex_attention_is_refused_with_what_to_write_instead():
    from torch.nn.attention.flex_attention import flex_attention

    def near(score, batch, head, row, column):
        return score - (row - column).abs() * 0.1

    module = Fn(lambda self, x: flex_attention(x, x, x, score_mod=near))
    args = (torch.randn(2, 2, 16, 16),)
    with pytest.raises(CaptureError, match=r"vmap(.|\n)*scaled_dot_product_attention with an attn_mask"):
        capture(module, args)
    with pytest.raises(CaptureError, match="cannot be cut in two"):  # it has no backward on a processor, and needs none
        capture_split(module, args)
