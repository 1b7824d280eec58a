"""Tokens from two artifacts whose runners are written by hand, and what is refused; no model, no torch."""

from pathlib import Path

import numpy as np
import pytest
from cases.manifests import bare_manifest

from fxopt.backend.manifest import Output, TensorInput
from fxopt.errors import UsageError
from fxopt.runtime.artifact import Artifact
from fxopt.runtime.encoder_decoder import EncoderDecoder

LAYER = (("keys", 8), ("values", 8))


def _input(name, shape, dtype="float32"):
    return TensorInput(
        name=name, shape=list(shape), example=[n if isinstance(n, int) else 3 for n in shape], dtype=dtype
    )


def _output(shape, dtype="float32"):
    return Output(dtype=dtype, example=list(shape))


def _artifact(run, inputs, in_tree, outputs, out_tree, dims):
    changed = {"inputs": inputs, "in_tree": in_tree, "outputs": outputs, "out_tree": out_tree, "dims": dims}
    return Artifact(Path("nowhere"), bare_manifest().model_copy(update=changed), run)


def _encoder(run=None, *, mask=True, depth=8):
    source = [_input("source", ["batch", "source"], "int64"), _input("mask", ["batch", "source"], "int64")]
    given = source if mask else [_input("sound", ["batch", 4, 3])]
    return _artifact(
        run, given, ["list", [["list", list(range(len(given)))], ["dict", {}]]],
        [_output([3, 2, 3, depth])] * 2, ["tuple", [["tuple", [0, 1]]]],
        {"batch": (1, None), "source": (1, 16)},
    )  # fmt: skip


def _decoder(run=None, *, mask=True):
    state = [_input(f"state_{name}", ["batch", 2, "past", n]) for name, n in LAYER]
    memory = [_input(f"memory_{name}", ["batch", 2, "source" if mask else 3, n]) for name, n in LAYER]
    masks = [_input("mask", ["batch", "source"], "int64")] if mask else []
    pair = [["tuple", [["tuple", [1, 2]]]], ["tuple", [["tuple", [3, 4]]]]]
    return _artifact(
        run, [_input("ids", ["batch", "tokens"], "int64"), *state, *memory, *masks],
        ["list", [["list", [0, *pair, *([5] if mask else [])]], ["dict", {}]]],
        [_output([3, 3, 40]), _output([3, 2, 6, 8]), _output([3, 2, 6, 8])],
        ["tuple", [0, ["tuple", [["tuple", [1, 2]]]]]],
        {"batch": (1, None), "tokens": (1, 8), "past": (0, 8), "source": (1, 16)},
    )  # fmt: skip


def _spread(ids, mask):
    """Keys and values that hold the tokens of the source where they are not masked."""
    kept = (ids * mask).astype(np.float32)[:, None, :, None]
    return [np.broadcast_to(kept, (len(ids), 2, ids.shape[1], 8)).copy()] * 2


def _counts(arrays):
    """Logits that name the sum of the source, and how many tokens the decoder has read."""
    ids, keys, _, memory, _, mask = arrays
    keys = np.concatenate([keys, np.zeros((len(ids), 2, ids.shape[1], 8), np.float32)], 2)
    logits = np.zeros((*ids.shape, 40), np.float32)
    for row, total in enumerate((memory[:, 0, :, 0] * mask).sum(1).astype(int)):
        logits[row, -1, total + keys.shape[2]] = 1.0
    return [logits, keys, keys]


def test_a_source_is_read_once_and_padding_is_not_seen():
    calls = []
    encoder = _encoder(lambda arrays: calls.append(arrays[1].tolist()) or _spread(*arrays))
    both = EncoderDecoder(encoder, _decoder(_counts))
    assert both.generate([[4, 5], [1], [2, 2, 3]], [[0, 1]] * 3, 3) == [[11, 12, 13], [3, 4, 5], [9, 10, 11]]
    assert calls == [[[1, 1, 0], [1, 0, 0], [1, 1, 1]]]
    assert both.generate([[4, 5], [1]], [[0], [0]], 5, stop=[4, 11]) == [[10, 11], [2, 3, 4]]


def test_features_go_in_as_they_are():
    def run(arrays):
        logits, *state = _counts([*arrays, np.ones((len(arrays[0]), 3), np.int64)])
        return [logits, *state]

    encoder = _encoder(lambda arrays: _spread(arrays[0][:, 0], np.ones((2, 3))), mask=False)
    sound = np.arange(12, dtype=np.float32).reshape(2, 2, 3).repeat(2, 1)
    both = EncoderDecoder(encoder, _decoder(run, mask=False))
    assert both.generate(sound, [[1], [1]], 2) == [[4, 5], [22, 23]]  # 0 + 1 + 2 and 6 + 7 + 8, and the tokens


@pytest.mark.parametrize(
    ("source", "prompts", "told"),
    [
        ([[1], []], [[0], [0]], "each source takes one token"),
        ([], [], "each source takes one token"),
        ([[1], [2]], [[0]], "2 sources take as many prompts, got 1"),
        ([[1], [2]], [[0], [0, 1]], r"of one length, got \[1, 2\]"),
        ([[1]], [[40]], "token 40 is not one of the model's 0 to 39"),
        ([[1]], [[0] * 7], "7 tokens and 3 new ones are more than the 8 positions"),
        ([[1] * 17], [[0]], "17"),
    ],
)
def test_what_does_not_fit_is_refused(source, prompts, told):
    both = EncoderDecoder(_encoder(lambda arrays: _spread(*arrays)), _decoder(_counts))
    with pytest.raises(UsageError, match=told):
        both.generate(source, prompts, 3)


def test_parts_of_different_models_are_refused():
    with pytest.raises(UsageError, match="output 0 of the encoder is not what the decoder takes as 'memory_keys'"):
        EncoderDecoder(_encoder(depth=4), _decoder())
    with pytest.raises(UsageError, match="not the encoder and the decoder of one model"):
        EncoderDecoder(_decoder(), _encoder())
    with pytest.raises(UsageError, match="not the encoder and the decoder of one model"):
        EncoderDecoder(_encoder(), _encoder())
