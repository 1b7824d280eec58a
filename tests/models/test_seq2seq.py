"""Encoder-decoders as two programs, against transformers' own forward and generate."""

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

import fxopt
from fxopt.errors import UnknownNameError, UsageError
from fxopt.models.seq2seq import seq2seq
from fxopt.workload import find_workload

pytest.importorskip("transformers")
TEXT = (
    "t5",
    *(
        pytest.param(kind, marks=pytest.mark.slow)
        for kind in ("bart", "marian", "m2m_100", "umt5", "t5gemma", "nllb-moe")
    ),
    *(
        pytest.param(kind, marks=pytest.mark.zoo)
        for kind in ("pegasus", "mbart", "mt5", "blenderbot-small", "mvp", "plbart")
    ),
)
SOUND = ("whisper", "moonshine")
LENGTHS = (5, 9, 2)


def _parts(kind):
    encoder, decoder = (find_workload(f"seq2seq:{kind}(part='{part}')") for part in ("encoder", "decoder"))
    return encoder, decoder, encoder.model().model


def _sources():
    random = np.random.default_rng(1)
    return [random.integers(8, 200, n).tolist() for n in LENGTHS]


def _theirs(model, prompts, most, **source):
    """What transformers makes of one source, one token after the other, the most likely one each time."""
    ids = torch.tensor(prompts)
    for _ in range(most):
        with torch.no_grad():
            logits = model(decoder_input_ids=ids, use_cache=False, **source).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
    return ids[:, len(prompts[0]) :].tolist()


def _of_text(model, source, most):
    ids = torch.tensor([source])
    (made,) = _theirs(model, [[3]], most, input_ids=ids, attention_mask=torch.ones_like(ids))
    return made


@pytest.mark.parametrize("kind", TEXT)
def test_tokens_in_pieces_are_those_of_the_whole(kind):
    """A source with padding; the decoder's tokens one piece after the other."""
    encoder, decoder, model = _parts(kind)
    reads, makes = encoder.capture(), decoder.capture()
    random = torch.Generator().manual_seed(0)
    source, ids = (torch.randint(8, 200, (2, n), generator=random) for n in (11, 24))
    mask = torch.ones_like(source)
    mask[1, 7:] = 0
    with torch.no_grad():
        memory = reads(source, mask)
        state, pieces = pytree.tree_map(lambda t: t[:, :, :0], memory), []
        for piece in ids.split([13, 1, 1, 5, 4], 1):
            logits, state = makes(piece.clone(), state, memory, mask)
            pieces.append(logits)
        want = model(input_ids=source, attention_mask=mask, decoder_input_ids=ids).logits
    assert (torch.cat(pieces, 1) - want).abs().max() < 1e-5 * want.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["t5", "whisper"])
def test_each_weight_is_in_one_part_but_shared_embeddings(kind):
    encoder, decoder, model = _parts(kind)
    parts = [{name for name, _ in part.capture().module.named_parameters()} for part in (encoder, decoder)]
    table = model.get_input_embeddings().weight  # of t5 both parts read it
    stored = dict(encoder.capture().module.named_parameters())
    assert all(torch.equal(stored[name], table) for name in parts[0] & parts[1])
    crossed = {name for name in parts[0] | parts[1] if "EncDecAttention" in name or "encoder_attn." in name}
    assert {name for name in crossed if ".k" in name or ".v" in name} <= parts[0]
    assert {name for name in crossed if ".q" in name or ".o" in name} <= parts[1]
    assert sum(map(len, parts)) >= len(dict(model.named_parameters()))


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize(
    "kind", [pytest.param("t5", marks=pytest.mark.slow), pytest.param("bart", marks=pytest.mark.zoo)]
)
def test_artifacts_make_the_tokens_of_transformers(kind, backend, tmp_path):
    *_, model = _parts(kind)
    for part in ("encoder", "decoder"):
        recipe = fxopt.Recipe(model=f"seq2seq:{kind}(part='{part}')", passes=("clean_up",), backend=backend)
        fxopt.build(recipe, tmp_path / part, measure=False)
    both = fxopt.EncoderDecoder(fxopt.load(tmp_path / "encoder"), fxopt.load(tmp_path / "decoder"))
    made = both.generate(_sources(), [[3]] * len(LENGTHS), 24)
    assert made == [_of_text(model, source, 24) for source in _sources()]
    assert both.generate(_sources(), [[3]] * 3, 24, stop=[made[0][4]])[0] == made[0][: made[0].index(made[0][4]) + 1]
    drawn = [both.generate(_sources(), [[3]] * 3, 8, temperature=1.5, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.slow
@pytest.mark.parametrize("kind", SOUND)
def test_artifacts_write_down_sound_as_transformers_does(kind, tmp_path):
    """Prompts of several tokens, as those that choose a language and a task."""
    encoder, _, model = _parts(kind)
    (sound,) = encoder.inputs()[0]
    for part in ("encoder", "decoder"):
        recipe = fxopt.Recipe(model=f"seq2seq:{kind}(part='{part}')", passes=("clean_up",))
        fxopt.build(recipe, tmp_path / part, measure=False)
    both = fxopt.EncoderDecoder(fxopt.load(tmp_path / "encoder"), fxopt.load(tmp_path / "decoder"))
    prompts = [[3, 7, 12], [3, 9, 12]]
    assert both.generate(sound.numpy(), prompts, 20) == _theirs(model, prompts, 20, **{model.main_input_name: sound})


def test_what_is_no_encoder_decoder_is_refused():
    with pytest.raises(UsageError, match="Linear is no encoder-decoder"):
        seq2seq(lambda: torch.nn.Linear(2, 2), lambda: torch.ones(2, 3, dtype=torch.int64), "decoder").capture()
    with pytest.raises(UnknownNameError, match="did you mean 't5'"):
        find_workload("seq2seq:t6(part='decoder')")
