"""Partial capture: the largest parts that can be captured, with the inputs they really receive, and back in place."""

from __future__ import annotations

import collections
import copy
from typing import Any

import pytest
import torch
from torch import nn

from fxopt import Pipeline, capture, capture_parts, graph_pass
from fxopt.errors import CaptureError, UnknownNameError, UsageError
from fxopt.frontend.submodule_calls import inputs_of
from fxopt.ir.input_check import misfit
from fxopt.ir.program import Program


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.b = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.width = 4

    def forward(self, x: torch.Tensor) -> collections.OrderedDict[str, torch.Tensor]:
        low = torch.relu_(self.a(x))
        return collections.OrderedDict(low=low, high=self.b(low))


class Selector(nn.Module):
    """Its own code depends on values; its children can be captured."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(4, 1)
        self.head = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True))

    def forward(self, rows: torch.Tensor, *, keep: float) -> torch.Tensor:
        kept = rows[self.score(rows).squeeze(1) > keep]
        if kept.shape[0] == 0:
            return kept
        return self.head(kept)


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.level = nn.Conv2d(4, 4, 1)
        self.selector = Selector()
        self.training_only = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        features = self.backbone(x)
        assert type(features) is collections.OrderedDict
        assert self.backbone.width == 4
        levels = [self.level(f) for f in features.values()]
        rows = torch.cat([f.flatten(2).transpose(1, 2).reshape(-1, 4) for f in levels])
        return {"found": self.selector(rows, keep=0.0), "levels": levels}


@pytest.fixture
def model() -> Detector:
    torch.manual_seed(0)
    model = Detector()
    with torch.no_grad():
        model.selector.score.bias.zero_()
    return model.eval()


def test_the_largest_parts_are_found_and_the_reasons_given(model: Detector) -> None:
    parts = capture_parts(model, (torch.randn(1, 3, 16, 16),))
    assert set(parts.programs) == {"backbone", "selector.score", "selector.head"}
    assert set(parts.failures) == {"", "level", "selector", "training_only"}
    assert "test_partial.py" in parts.failures[""]
    assert "call 2 of 2 does not fit" in parts.failures["level"]
    assert "not called" in parts.failures["training_only"]
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    held = sum(n for name, n in sizes.items() if not name.startswith(("level", "training_only")))
    assert parts.coverage == pytest.approx(held / sum(sizes.values()))


def test_installed_parts_give_the_same_outputs(model: Detector) -> None:
    x = torch.randn(1, 3, 16, 16)
    installed = capture_parts(model, (x,)).install(model)
    for batch in (x, torch.randn(1, 3, 16, 16), torch.randn(3, 3, 16, 16)):
        want, got = model(batch), installed(batch)
        assert torch.equal(want["found"], got["found"])
        assert len(want["found"]) > 0
        assert all(torch.equal(a, b) for a, b in zip(want["levels"], got["levels"], strict=True))
    assert isinstance(model.backbone, Backbone), "the model itself is left as it was"
    assert not any(isinstance(m, Backbone) for m in installed.modules())


def test_a_rewritten_part_is_installed(model: Detector) -> None:
    @graph_pass(kind="approx")
    def double(program: Program) -> None:
        for node in program.find("aten.relu"):
            new = program.call(torch.ops.aten.mul.Tensor, node, 2.0, like=node)
            node.replace_all_uses_with(new)
            new.replace_input_with(new, node)

    x = torch.randn(1, 3, 16, 16)
    parts = capture_parts(model, (x,))
    rewritten = Pipeline.of(double()).run(parts.programs["selector.head"]).program
    installed = parts.install(model, {"selector.head": rewritten})
    torch.testing.assert_close(installed(x)["found"], 2 * model(x)["found"], rtol=1e-6, atol=0)


def test_a_program_with_another_interface_is_refused(model: Detector) -> None:
    parts = capture_parts(model, (torch.randn(1, 3, 16, 16),))
    other = capture(nn.Linear(4, 7), (torch.randn(1, 4),))
    with pytest.raises(UsageError, match=r"expected .*f32\[batch,6\](.|\n)*got .*f32\[batch,7\]"):
        parts.install(model, {"selector.head": other})
    with pytest.raises(UnknownNameError, match="did you mean"):
        parts.install(model, {"selector.heads": other})
    with pytest.raises(UsageError, match="is it the model that was captured"):
        parts.install(nn.Linear(3, 3))


def test_other_shapes_than_captured_are_refused_in_the_installed_model(model: Detector) -> None:
    installed = capture_parts(model, (torch.randn(1, 3, 16, 16),)).install(model)
    with pytest.raises(UsageError, match=r"'backbone'.*\[batch,3,16,16\], got f32\[1,3,32,32\]"):
        installed(torch.randn(1, 3, 32, 32))


def test_a_part_answers_what_else_the_model_asks_of_it() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self._factor = 3.0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x)

        def extra(self) -> torch.Tensor:
            return self.fc.bias * self._factor

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.inner(x) + self.inner.fc.weight[0]
            return y + self.inner.extra() if y.sum() > -1e9 else y

    model, x = Outer(), torch.randn(2, 4)
    installed = capture_parts(model, (x,)).install(model)
    want = model(x)
    with torch.no_grad():
        model.inner.fc.bias += 1
    assert torch.equal(installed(x), want)
    assert torch.equal(copy.deepcopy(installed)(x), want)
    assert not any(isinstance(m, Inner) for m in installed.modules())
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = installed.inner.absent


def test_scripted_parts_are_left_alone() -> None:
    x = torch.randn(1, 4)
    scripted = torch.jit.script(nn.Linear(4, 4))
    assert set(capture_parts(nn.Sequential(scripted, nn.Linear(4, 4)), (x,)).programs) == {"1"}
    with pytest.raises(CaptureError, match="scripted module"):
        capture_parts(scripted, (x,))
    with pytest.raises(CaptureError, match="scripted module"):
        capture(nn.Sequential(scripted), (x,), at="0")


def test_a_model_that_can_be_captured_is_one_part() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True)), torch.randn(1, 3)
    parts = capture_parts(model, (x,))
    assert (list(parts.programs), parts.coverage, parts.failures) == ([""], 1.0, {})
    assert torch.equal(parts.install(model)(x), model(x))


def test_a_shared_submodule_is_replaced_everywhere() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(4, 4)
            self.two = self.one

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.one(x)
            return self.two(x) if x.sum() > -1e9 else x

    model, x = Shared(), torch.randn(1, 4)
    parts = capture_parts(model, (x,))
    installed = parts.install(model)
    assert list(parts.programs) == ["one"]
    assert installed.one is installed.two
    assert torch.equal(installed(x), model(x))


def test_a_part_with_state_between_calls_is_left_alone() -> None:
    class Count(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.register_buffer("n", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.n.add_(1)
            return x * self.scale * self.n

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.count = Count()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.count(self.count(x)) if x.sum() > -1e9 else x

    parts = capture_parts(Twice(), (torch.ones(1, 3),))
    assert parts.programs == {}
    assert "keep state between calls" in parts.failures["count"]


# ---- one part ------------------------------------------------------------------------------------------------------


def test_capture_at_a_submodule_takes_what_it_receives(model: Detector) -> None:
    x = torch.randn(1, 3, 16, 16)
    program = capture(model, (x,), at="backbone")
    assert program.signature() == "(x: f32[batch,3,16,16]) -> (f32[batch,4,8,8], f32[batch,4,4,4])"
    assert type(program(x)) is collections.OrderedDict
    assert "level runs 2 times" in capture(model, (x,), at="level").notes[0]
    with pytest.raises(UnknownNameError, match="did you mean 'backbone'"):
        capture(model, (x,), at="backbones")
    with pytest.raises(CaptureError, match="is not called"):
        capture(model, (x,), at="training_only")


def test_recorded_inputs_are_those_before_the_module_wrote_into_them() -> None:
    class Writes(nn.Module):
        def forward(self, x: torch.Tensor, *, by: float) -> torch.Tensor:
            return x.mul_(by)

    module, x = nn.ModuleDict({"w": Writes()}), torch.ones(1, 3)
    module.forward = lambda x: module["w"](x + 0, by=3.0)  # type: ignore[method-assign]
    part, args, kwargs, notes = inputs_of(module, "w", (x,), {})
    assert part is module["w"]
    assert torch.equal(args[0], x)
    assert (kwargs, notes) == ({"by": 3.0}, ())
    assert not module["w"]._forward_pre_hooks
    assert not module["w"]._forward_hooks


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((torch.ones(2, 3), torch.ones(2, 3), 2), None),
        ((torch.ones(2, 3), torch.ones(4, 3), 2), "expected y"),
        ((torch.ones(2, 4), torch.ones(2, 3), 2), "expected x"),
        ((torch.ones(2, 3).double(), torch.ones(2, 3), 2), "expected x"),
        ((torch.ones(2, 3), torch.ones(2, 3), 5), "expected n = 2, got 5"),
        ((torch.ones(2, 3),), "other arguments"),
    ],
)
def test_misfit(args: tuple[Any, ...], words: str | None) -> None:
    class Three(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor, n: int) -> torch.Tensor:
            return x + y * n

    problem = misfit(capture(Three(), (torch.ones(1, 3), torch.ones(1, 3), 2)), args, {})
    assert problem is None if words is None else words in str(problem)
