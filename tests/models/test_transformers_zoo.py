"""Small models of transformers as workloads: captured with a dynamic batch, equal to eager, with outputs that vary."""

import importlib.util
import sys

import pytest
import torch
from torch.utils import _pytree as pytree

from fxopt.errors import OptionError, UnknownNameError, UsageError
from fxopt.ir.cost import cost
from fxopt.workload import find_workload

if importlib.util.find_spec("transformers") is None:
    pytest.skip("transformers is not installed", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("one_thread")

FAST = ["bert", "llama"]
SLOW = [
    "bert(attention='eager')", "llama(attention='eager', length=9)", "vit", "vit(attention='eager')", "swin", "convnext",
    "t5", "whisper", "segformer", "clip", "gpt2", "mistral", "qwen3", "gemma2", "mixtral", "bart", "roberta", "albert",
    "deberta-v2", "mamba", "beit", "dinov2", "wav2vec2", "resnet", "mobilevit",
]  # fmt: skip
MODELS = [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def _batch(inputs, size, seed=0):
    """Inputs of the same kind: tokens and values of the example in another order, so that each example differs."""
    generator = torch.Generator().manual_seed(seed)

    def shuffled(value):
        rows = [value[0].flatten()[torch.randperm(value[0].numel(), generator=generator)] for _ in range(size)]
        return torch.stack(rows).view(size, *value.shape[1:])

    return {key: shuffled(value) for key, value in inputs.items()}


@pytest.mark.parametrize("name", MODELS)
def test_captured_with_a_dynamic_batch_and_equal_to_eager(name):
    workload = find_workload(f"transformers:{name}")
    model, (args, inputs) = workload.model(), workload.inputs()
    assert args == ()
    program = workload.capture()
    assert program.dims(), program.notes
    assert cost(program).macs > 0
    for kwargs in (inputs, _batch(inputs, 3)):
        with torch.no_grad():
            want = model(**kwargs)
        got = program(**kwargs)
        assert type(got) is tuple, "a class of transformers in a saved program would have to be imported to load it"
        for a, b in zip(want, got, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(a.abs().max()))


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_finite_and_depend_on_the_inputs(name):
    workload = find_workload(f"transformers:{name}")
    model, (_, inputs) = workload.model(), workload.inputs()
    with torch.no_grad():
        outputs = [v for v in pytree.tree_leaves(model(**_batch(inputs, 4))) if v.is_floating_point()]
    assert all(output.isfinite().all() for output in outputs)
    assert outputs[0].std(0).mean() > 0.01 * outputs[0].abs().mean(), "the examples differ, so should the outputs"


@pytest.mark.parametrize("name", MODELS)
def test_no_parameter_is_constant_and_the_model_is_small(name):
    model = find_workload(f"transformers:{name}").model()
    constant = [n for n, p in model.named_parameters() if p.numel() > 1 and p.min() == p.max()]
    assert constant == []
    assert not any(module.training for module in model.modules())
    assert sum(parameter.numel() for parameter in model.parameters()) < 12e6


def test_random_weights_and_inputs_are_the_same_whatever_came_before():
    torch.manual_seed(1)
    first = find_workload("transformers:bert")
    states, inputs = first.model().state_dict(), first.inputs()[1]
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = find_workload("transformers:bert")
    assert all(torch.equal(states[key], value) for key, value in again.model().state_dict().items())
    assert all(torch.equal(inputs[key], value) for key, value in again.inputs()[1].items())
    assert torch.equal(torch.get_rng_state(), before)


def test_llama_shares_keys_and_values_between_heads():
    weights = find_workload("transformers:llama").model().state_dict()
    query, key = (weights[f"layers.0.self_attn.{name}_proj.weight"] for name in "qk")
    assert query.shape[0] == 2 * key.shape[0]


def test_attention_is_the_one_that_was_asked_for():
    for kind in ("eager", "sdpa"):
        program = find_workload(f"transformers:bert(attention={kind!r})").capture()
        assert any(program.find("aten.scaled_dot_product_attention")) == (kind == "sdpa")


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("bretr", UnknownNameError, "transformers model type 'bretr'; did you mean"),
        ("bert(attention='flash')", OptionError, "attention=…"),
        ("bert(length=0)", OptionError, "length=…"),
        ("bert(length=65)", OptionError, "bert does not run when it is made small"),
    ],
)
def test_what_does_not_fit_is_refused(spec, error, words):
    with pytest.raises(error, match=words):
        find_workload(f"transformers:{spec}").model()


def test_without_transformers_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"transformers, which is not installed\n  pip install 'fxopt\[zoo\]'"):
        find_workload("transformers:bert")
