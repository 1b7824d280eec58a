"""A model cut in two: what comes before the cut as a program, what comes after it in torch; together they are the model."""

import numpy as np
import pytest
import torch
from torch import nn

from fxopt import Pipeline, Tail, capture, capture_split
from fxopt.errors import CaptureError, UnknownNameError, UsageError


class Detector(nn.Module):
    """Scores in a grid, of which those above a threshold go on: how many is known only at run time."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.head, self.grid, self.last = nn.Conv2d(8, 5, 1), nn.Identity(), nn.Linear(4, 2)

    def forward(self, x, scale=1.0):
        features = self.body(x)
        found = self.head(features)
        place = self.grid(torch.arange(features.shape[-1]) * scale)
        boxes, scores = (found + place)[:, :4].flatten(2)[0].T, found[:, 4].flatten()
        kept = scores > scores.mean()
        if kept.sum() > 3:
            boxes = boxes * 2
        return {"boxes": self.last(boxes[kept]), "scores": scores[kept], "side": features.shape[-1]}


@pytest.fixture
def detector():
    torch.manual_seed(0)
    return Detector().eval()


def _same(got, want):
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert torch.equal(got[name], value) if isinstance(value, torch.Tensor) else got[name] == value


def test_a_program_up_to_a_submodule_has_its_outputs_and_the_names_of_the_weights(detector):
    x = torch.randn(2, 3, 16, 16)
    program = capture(detector, (x,), until="head")
    assert program.signature() == "(x: f32[batch,3,16,16]) -> (f32[batch,5,4,4])"
    assert set(program.tensors()) == {f"{n}.{w}" for n in ("body.0", "body.2", "head") for w in ("weight", "bias")}
    torch.testing.assert_close(program(x), detector.head(detector.body(x)))
    both = capture(detector, (x,), until=("body", "head"))
    torch.testing.assert_close(both(x), (detector.body(x), detector.head(detector.body(x))))
    assert "forward" not in vars(detector)
    assert not detector.head._forward_hooks


def test_the_tail_finds_what_is_left_to_do_and_computes_only_that(detector):
    example, x = torch.randn(1, 3, 16, 16), torch.randn(1, 3, 16, 16)
    split = capture_split(detector, (example,))
    assert split.tail.until == ("head", "grid")  # not the body, of which only a size is read
    _same(split.tail(split.program(x), x), detector(x))
    _same(split.tail([value.numpy() for value in split.program(x)], x), detector(x))  # as an artifact gives them
    broken = Detector().eval()
    broken.load_state_dict(detector.state_dict())
    nn.init.constant_(broken.body[0].weight, float("nan"))
    _same(Tail(broken, split.tail.until)(split.program(x), x), detector(x))


def test_a_pruned_program_goes_into_the_same_tail(detector):
    x = torch.randn(1, 3, 16, 16)
    split = capture_split(detector, (x,))
    small = Pipeline.parse("prune_channels(ratio=0.5)").run(split.program).program
    assert len(small.tensor(next(small.find("aten.conv2d")).args[1])) == 4
    found = split.tail(small(x), x)
    assert found["boxes"].shape[1] == 2
    assert found["side"] == 4
    assert np.isfinite(found["scores"]).all()


def test_what_the_tail_reads_from_before_the_cut_is_said(detector):
    x = torch.randn(1, 3, 16, 16)
    with pytest.raises(UsageError, match=r"after 'grid', Detector fails(.|\n)*name more submodules"):
        Tail(detector, "grid")(torch.zeros(4), x)  # the head is read as well


class Twice(nn.Module):
    """A layer that runs twice, and a branch on values before any layer has run."""

    def __init__(self):
        super().__init__()
        self.fc, self.unused = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.fc(self.fc(x)) if x.sum() > 0 else self.fc(x)


def test_where_there_is_no_place_to_cut():
    model, x = Twice(), torch.ones(2, 3)
    with pytest.raises(CaptureError, match=r"cannot be cut in two(.|\n)*capture_parts"):
        capture_split(model, (x,))
    with pytest.raises(CaptureError, match=r"'0\.unused' is not called"):
        capture(nn.Sequential(model), (x,), until="0.unused")
    with pytest.raises(UnknownNameError, match="did you mean 'unused'"):
        capture(model, (x,), until="unsed")
    again = nn.Sequential(model.fc, nn.ReLU(), model.fc)
    with pytest.raises(UsageError, match="'0' runs several times"):
        Tail(again, "0")(torch.ones(2, 3), x)


def test_an_output_that_the_values_size_is_noted():
    class Kept(nn.Module):
        def forward(self, x):
            return x[x > 0], x.relu()

    (note,) = capture(Kept(), (torch.randn(2, 3),)).notes
    assert note.startswith("the values decide how large an output is: aten.index.Tensor (")
    assert "relu" not in note
