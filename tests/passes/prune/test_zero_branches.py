"""drop_zero_branches as text before and after. Verification is left out, so that nothing here leans on it."""

import pytest
import torch
from torch import nn

from fxopt import Pipeline, capture
from fxopt.ir.parser import canonical_text, parse_program
from fxopt.models.vision_import import import_torchvision
from fxopt.pass_manager.step import tidy

pytestmark = pytest.mark.usefixtures("one_thread")

ZERO = "%x : f32[batch,4]\n%h = aten.exp(%x); %n = aten.neg(%x); %z = aten.mul.Tensor(%n, 0)\n"


def drop(program):
    outcome = Pipeline.parse("drop_zero_branches").run(program, watchers=())
    return outcome.program, [skip.reason for step in outcome.steps for skip in step.skips]


def assert_becomes(before, after):
    got, reasons = drop(parse_program(before))
    assert canonical_text(got) == canonical_text(parse_program(after))
    assert not reasons


def assert_kept(text, *wanted):
    program = parse_program(text)
    got, reasons = drop(program)
    tidy(program)
    assert canonical_text(got) == canonical_text(program)
    assert len(reasons) == len(wanted)
    assert all(want in reason for want, reason in zip(wanted, reasons, strict=True)), reasons


@pytest.mark.parametrize(
    "line",
    [
        "%y = aten.add.Tensor(%h, %z)", "%y = aten.add.Tensor(%z, %h)", "%y = aten.add.Tensor(%h, %z, alpha=3)",
        "%y = aten.sub.Tensor(%h, %z)", "%y = aten.sub.Tensor(%h, %z, alpha=2)", "%y = aten.add_.Tensor(%h, %z)",
        "%y = aten.sub_.Tensor(%h, %z)", "%a = aten.add.Tensor(%h, %z); %y = aten.add.Tensor(%z, %a)",
        "%a = aten.add.Tensor(%z, %z); %y = aten.sub.Tensor(%h, %a)",
    ],
)  # fmt: skip
def test_a_sum_with_zeros_is_the_other_operand(line):
    assert_becomes(f"{ZERO}{line}\nreturn %y", "%x : f32[batch,4]\n%h = aten.exp(%x)\nreturn %h")


@pytest.mark.parametrize(
    "line",
    [
        "%y = aten.sub.Tensor(%z, %h)", "%y = aten.add.Tensor(%z, %h, alpha=2)", "%y = aten.mul.Tensor(%h, %z)",
        "%y = aten.add.Tensor(%h, %n)", "%y = aten.add.Tensor(%h, 0)", "%c = aten.cos(%z); "
        "%y = aten.add.Tensor(%h, %c)",
        "%s = aten.slice.Tensor(%z, 1, 0, 2); %t = aten.slice.Tensor(%n, 1, 0, 2); %c = aten.cat([%s, %t], 1); "
        "%y = aten.add.Tensor(%h, %c)",
        "%y = aten.rsub.Tensor(%h, %z)",
    ],
)  # fmt: skip
def test_the_nearest_that_is_another_value_is_kept(line):
    assert_kept(f"{ZERO}{line}\nreturn %y")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("%s = aten.sum.dim_IntList(%h, [1], True); %y = aten.add.Tensor(%s, %z)", "the sum broadcasts the other one"),
        ("%d = aten.to.dtype(%z, f64); %y = aten.add.Tensor(%h, %d)", "the sum casts the other one"),
        ("%y = aten.add_.Tensor(%z, %h)", "it is the one that the sum is written into"),
        ("%y = aten.add.Tensor(%x, %z)", "an output would share memory with an input"),
        ("%y = aten.add.Tensor(%h, %z)\nreturn %y, %h", "an output would share memory with an input, a weight or another"),
        ("%a = aten.add.Tensor(%h, %z); %b = aten.add_.Tensor(%a, 1); "
         "%y = aten.mul.Tensor(%b, %h)", "is written to in place"),
        ("%a = aten.add.Tensor(%h, %z); %b = aten.add_.Tensor(%h, 1); "
         "%y = aten.mul.Tensor(%b, %a)", "is written to in place"),
    ],
)  # fmt: skip
def test_what_has_to_stay_has_a_reason(line, reason):
    assert_kept(ZERO + line + ("" if "return" in line else "\nreturn %y"), reason)


def test_a_small_zero_is_dropped_and_a_big_one_that_broadcasts_is_not():
    bias = '%b = param "b" : f32[4]; %o = aten.mul.Tensor(%b, 0)\n'
    assert_becomes(
        f"{ZERO}{bias}%y = aten.add.Tensor(%h, %o)\nreturn %y", "%x : f32[batch,4]\n%h = aten.exp(%x)\nreturn %h"
    )
    assert_kept(f"{ZERO}{bias}%c = aten.exp(%b); %y = aten.add.Tensor(%c, %z)\nreturn %y", "the sum broadcasts")


def test_a_view_that_other_strides_do_not_allow():
    square = "%x : f32[4,4]\n%h = aten.exp(%x); %t = aten.t(%h); %n = aten.neg(%x); %z = aten.mul.Tensor(%n, 0)\n"
    text = square + "%y = aten.add.Tensor(%z, %t); {}\nreturn %v"
    assert_kept(text.format("%v = aten.view(%y, [16])"), "laid out differently")
    got, reasons = drop(parse_program(text.format("%v = aten.reshape(%y, [16])")))
    assert not reasons
    assert not any(got.find("aten.add"))


def test_a_sum_in_place_that_is_gone_says_nothing_of_what_is_written_later():
    """%z holds zeros until %b; who read %a afterwards, reads %z now, and that is no zero."""
    text = (
        ZERO + "%k = aten.mul.Tensor(%x, 0); %a = aten.add_.Tensor(%z, %k); %b = aten.add_.Tensor(%a, %h)\n"
        "%y = aten.add.Tensor(%a, %x); %w = aten.neg(%y)\nreturn %w, %b"
    )
    program = parse_program(text)
    got, _ = drop(program)
    x = torch.randn(3, 4)
    for a, b in zip(got(x), program(x), strict=True):
        assert torch.equal(a, b)


def test_a_check_and_a_dropout_do_not_keep_a_branch_alive_and_random_numbers_do():
    text = (
        "%x : f32[batch,4]\n%h = aten.exp(%x); %d = aten.dropout(%h, 0.5, {}); "
        "%c = aten._assert_tensor_metadata(%d, None, None, f32)\n"
        "%z = aten.mul.Tensor(%d, 0); %k = aten._assert_tensor_metadata(%x, None, None, f32); %e = aten.neg(%x)\n"
        "%y = aten.add.Tensor(%e, %z)\nreturn %y"
    )
    got, _ = drop(parse_program(text.format(False)))
    assert [node.op for node in got.graph.nodes] == [
        "placeholder",
        "call_function",
        "call_function",
        "output",
    ]  # %k, %e
    got, _ = drop(parse_program(text.format(True)))
    assert any(got.find("aten.dropout"))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)
        )
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.norm(self.body(x))
        y += x
        return self.relu(y)


def test_a_zeroed_block_of_a_network_disappears_and_the_rest_stays():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), *(Block() for _ in range(3))).eval()
    with torch.no_grad():
        model[2].norm.weight.zero_()
    program = capture(model, (torch.randn(2, 3, 8, 8),))
    outcome = Pipeline.parse("drop_zero_branches").run(program)  # with the proof
    assert len(list(outcome.program.find("aten.conv2d"))) == 5
    assert outcome.steps[0].findings.error == 0.0
    x = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(outcome.program(x), model(x))


def test_depth_of_a_vision_transformer():
    torchvision = import_torchvision()
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(32, 16, 3, 2, 8, 16, num_classes=5).eval()
    with torch.no_grad():
        nn.init.normal_(model.heads.head.weight)
        for part in (model.encoder.layers[1].self_attention.out_proj, model.encoder.layers[1].mlp[3]):
            part.weight.zero_()
            part.bias.zero_()
    program = capture(model, (torch.randn(2, 3, 32, 32),))
    outcome = Pipeline.parse("drop_noop, drop_zero_branches").run(program)
    assert len(list(outcome.program.find("aten.scaled_dot_product_attention"))) == 2
    assert len(list(program.find("aten.scaled_dot_product_attention"))) == 3
    assert not any(outcome.steps[1].skips)
