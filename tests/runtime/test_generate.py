"""Tokens from a step function that is written by hand, and what is refused; no model, no torch."""

import numpy as np
import pytest

from fxopt.backend.manifest import Interface
from fxopt.errors import OptionError, UsageError
from fxopt.runtime.generate import Decoder, Sampling, generate

GREEDY = Sampling()


def _counts(ids, mask, state):
    """Logits that name the number of tokens seen so far, padding left out: 7 behind seven tokens."""
    state = state + mask.sum(1)
    logits = np.zeros((*ids.shape, 20), np.float32)
    for row, count in enumerate(state):
        logits[row, -1, count] = 1.0
    return logits, state


def test_padding_is_not_seen_and_a_stop_ends_its_row_alone():
    made = generate(_counts, np.zeros(3, int), [[1], [1, 2, 3], [1, 2]], 4, [5], GREEDY, 0)
    assert made == [[1, 2, 3, 4], [3, 4, 5], [2, 3, 4, 5]]


def test_it_ends_when_all_rows_have_stopped():
    calls = []

    def step(ids, mask, state):
        calls.append((ids.tolist(), mask.tolist()))
        return _counts(ids, mask, state)

    assert generate(step, np.zeros(2, int), [[9], [9, 9]], 9, [2], GREEDY, 0) == [[1, 2], [2]]
    assert calls == [([[0, 9], [9, 9]], [[0, 1], [1, 1]]), ([[1], [0]], [[1], [0]])]


def test_tokens_are_drawn_as_often_as_their_softmax_says():
    logits, random = np.log(np.tile([0.5, 0.1, 0.3, 0.1], (8000, 1))), np.random.default_rng(0)

    def shares(**options):
        return np.bincount(Sampling(**options).draw(logits, random), minlength=4) / len(logits)

    assert shares(temperature=1.0) == pytest.approx([0.5, 0.1, 0.3, 0.1], abs=0.02)
    assert shares(temperature=0.5) == pytest.approx(np.array([25, 1, 9, 1]) / 36, abs=0.02)
    assert shares(temperature=1.0, top_k=2) == pytest.approx([0.625, 0, 0.375, 0], abs=0.02)
    assert shares(temperature=1.0, top_p=0.75) == pytest.approx([0.625, 0, 0.375, 0], abs=0.02)
    assert shares(temperature=1.0, top_p=0.45) == pytest.approx([1, 0, 0, 0])
    assert shares(temperature=0.0) == pytest.approx([1, 0, 0, 0])


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"temperature": float("nan")}])
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(OptionError, match="temperature >= 0"):
        Sampling(**wrong)


def _interface(**changed):
    def tensor(name, shape, dtype="int64"):
        return {"name": name, "shape": shape, "example": [2] * len(shape), "dtype": dtype}

    values = {
        "inputs": [
            tensor("ids", ["batch", "ids_1"]), tensor("mask", ["batch", "ids_1"]), tensor("seen", ["batch", "past"]),
            tensor("keys", ["batch", 4, "past", 8], "float32"),
        ],
        "in_tree": ["list", [["list", [0, 1, ["tuple", [2, 3]]]], ["dict", {}]]],
        "outputs": [
            {"dtype": "float32", "example": [2, 2, 20]}, {"dtype": "int64", "example": [2, 4]},
            {"dtype": "float32", "example": [2, 4, 4, 8]},
        ],
        "out_tree": ["tuple", [0, ["tuple", [1, 2]]]], "dims": {"batch": (1, None), "ids_1": (1, 16), "past": (0, 16)},
    }  # fmt: skip
    return Interface(**{**values, **changed})


def test_the_first_state_has_no_tokens_and_nests_as_the_model_says():
    seen, keys = Decoder.of(_interface()).empty(3)
    assert (seen.shape, seen.dtype, keys.shape, keys.dtype) == ((3, 0), np.int64, (3, 4, 0, 8), np.float32)


def test_a_model_of_another_kind_is_refused():
    plain = [{"name": "x", "shape": ["batch", 3], "example": [2, 3], "dtype": "float32"}]
    for changed in (
        {"inputs": plain, "outputs": [{"dtype": "float32", "example": [2, 3]}]},
        {"outputs": _interface().outputs[:2]},
        {
            "inputs": [
                *_interface().inputs[:3],
                {"name": "k", "shape": ["batch", 4], "example": [2, 4], "dtype": "float32"},
            ]
        },
    ):
        with pytest.raises(UsageError, match="does not generate"):
            Decoder.of(_interface(**changed))


@pytest.mark.parametrize(
    ("prompts", "most", "told"),
    [
        ([], 1, "one token or more"),
        ([[1], []], 1, "one token or more"),
        ([[1], [3, 20]], 1, "prompt 1: token 20 is not one of the model's 0 to 19"),
        ([[-1]], 1, "token -1"),
        ([[1]], 0, "1 or more, got 0"),
        ([[1] * 9], 9, r"9 tokens and 9 new ones are more than the 16 positions(.|\n)*max_new_tokens=8"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(prompts, most, told):
    with pytest.raises(UsageError, match=told):
        Decoder.of(_interface()).check(prompts, most)
    Decoder.of(_interface()).check([[1] * 9], 8)


def test_an_array_of_prompts_is_taken_as_they_are():
    prompts = np.array([[1, 2], [3, 4]])
    Decoder.of(_interface()).check(prompts, 2)
    assert generate(_counts, np.zeros(2, int), prompts, 2, [], GREEDY, 0) == [[2, 3], [2, 3]]
    with pytest.raises(UsageError, match="one token or more"):
        Decoder.of(_interface()).check(np.zeros((0, 4), np.int64), 1)
