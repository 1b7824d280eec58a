"""Causal language models with their cache handed in and out, against transformers' own forward and generate."""

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

import fxopt
from fxopt.errors import UnknownNameError, UsageError
from fxopt.models.causal_lm import causal_lm
from fxopt.models.vision_import import import_transformers
from fxopt.runtime.generate import Sampling, generate
from fxopt.workload import find_workload

pytest.importorskip("transformers")
KINDS = ("llama", "gpt2", "qwen3", "gemma3_text", "mistral", "phi", "opt", "gpt_neox", "bloom", "olmo2", "falcon")
LENGTHS = (5, 9, 2)


def _prompts():
    random = np.random.default_rng(1)
    return [random.integers(8, 200, n).tolist() for n in LENGTHS]


def _theirs(model, prompt, most):
    """What transformers makes of one prompt, one token after the other."""
    ids = torch.tensor([prompt])
    made = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=False, eos_token_id=None
    )
    return made[0, len(prompt) :].tolist()


def _empty(workload, batch):
    _, _, (seen, layers) = workload.inputs()[0]
    return seen[:0].new_zeros(batch, 0), tuple((k.new_zeros(batch, k.shape[1], 0, k.shape[3]),) * 2 for k, _ in layers)


@pytest.mark.parametrize("kind", [*KINDS[:2], *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[2:])])
def test_tokens_in_pieces_are_those_of_the_whole_and_of_transformers(kind):
    """One program for a prompt, for single tokens, and for a few at once; prompts of different lengths together."""
    workload = find_workload(f"causal_lm:{kind}")
    program, model = workload.capture(), workload.model().model
    ids = torch.randint(8, 200, (2, 24), generator=torch.Generator().manual_seed(0))
    state, pieces = _empty(workload, 2), []
    with torch.no_grad():
        for piece in ids.split([13, 1, 1, 5, 4], 1):
            logits, state = program(piece.clone(), torch.ones_like(piece), state)
            pieces.append(logits)
        want = model(input_ids=ids).logits
    assert (torch.cat(pieces, 1) - want).abs().max() < 1e-5 * want.abs().max()

    def step(ids, mask, state):
        tensors = pytree.tree_map(torch.from_numpy, (ids, mask, state))
        with torch.no_grad():
            return pytree.tree_map(lambda t: t.numpy(), program(*tensors))

    state = pytree.tree_map(lambda t: t.numpy(), _empty(workload, len(LENGTHS)))
    made = generate(step, state, _prompts(), 24, (), Sampling(), 0)
    assert made == [_theirs(model, prompt, 24) for prompt in _prompts()]


def _rounded(tensor):
    """By numpy: int8 codes with a scale for each token of each head, and back."""
    values = tensor.numpy()
    scales = np.abs(values).max(-1, keepdims=True) / np.float32(127)
    return torch.from_numpy(np.rint(values / scales).astype(np.int8) * scales)


def test_a_cache_in_int8_gives_what_transformers_gives_on_rounded_keys_and_values():
    workload = find_workload("causal_lm:llama(cache='int8')")
    program, model = workload.capture(), workload.model().model
    ids = torch.randint(8, 200, (2, 20), generator=torch.Generator().manual_seed(0))
    _, _, (_, layers) = workload.inputs()[0]
    state = pytree.tree_map(lambda t: t[:, :, :0], layers)
    state, held, past = (torch.zeros(2, 0, dtype=torch.int64), state), [], 0
    empty = [(torch.zeros(2, 2, 0, 16),) * 2] * 2
    for piece in ids.split([13, 1, 1, 5], 1):
        cache = import_transformers().DynamicCache()
        for i, pair in enumerate(held):
            cache.update(*pair, i)
        with torch.no_grad():
            out = model(input_ids=piece, past_key_values=cache, use_cache=True)
            logits, state = program(piece.clone(), torch.ones_like(piece), state)
        assert (logits - out.logits).abs().max() < 1e-3 * out.logits.abs().max()
        new = [tuple(_rounded(t[:, :, past:]) for t in (layer.keys, layer.values)) for layer in cache.layers]
        held = [
            tuple(torch.cat(p, 2) for p in zip(*both, strict=True)) for both in zip(held or empty, new, strict=True)
        ]
        past += piece.shape[1]
    (codes, scales), _ = state[1][1]
    assert (codes.dtype, tuple(codes.shape), tuple(scales.shape)) == (torch.int8, (2, 2, 20, 16), (2, 2, 20, 1))
    assert (codes * scales - held[1][0]).abs().max() <= 1.01 * scales.max()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_an_artifact_makes_the_tokens_of_transformers(backend, tmp_path):
    """64 positions in all; int8 gives the same numbers up to its noise."""
    kind = "causal_lm:llama"
    recipe = fxopt.Recipe(model=kind, passes=("clean_up",), backend=backend)
    fxopt.build(recipe, tmp_path / "float", measure=False)
    artifact, model = fxopt.load(tmp_path / "float"), find_workload(kind).model().model
    made = artifact.generate(_prompts(), 56)
    assert made == [_theirs(model, prompt, 56) for prompt in _prompts()]
    assert artifact.generate(_prompts()[:1], 20, stop=[made[0][4]])[0] == made[0][: made[0].index(made[0][4]) + 1]
    drawn = [artifact.generate(_prompts(), 8, temperature=1.5, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    fxopt.build(
        fxopt.Recipe(model=kind, passes=("quantize_dynamic",), backend=backend), tmp_path / "int8", measure=False
    )
    assert len(fxopt.load(tmp_path / "int8").generate(_prompts(), 8)[0]) == 8


def test_a_cache_of_another_kind_is_refused():
    with pytest.raises(UsageError, match="and not keys and values of each layer alone"):
        find_workload("causal_lm:mamba").capture()


def test_what_is_no_language_model_is_refused():
    with pytest.raises(UsageError, match="Linear is no causal language model"):
        causal_lm(lambda: torch.nn.Linear(2, 2)).capture()
    with pytest.raises(UnknownNameError, match="did you mean 'llama'"):
        find_workload("causal_lm:lama")
